"""What the routers of the registry have in common.

Letters: T tokens, H hidden, E experts, K chosen.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from hf_mixture.moe.anatomy import MoeRouter, RouterOutput, SelectionRule
from hf_mixture.moe.routers.registry import RouterInfo, router_info


if TYPE_CHECKING:
    from hf_mixture.moe.routers.context import RouterContext


@dataclass(frozen=True, kw_only=True)
class RouterShape:
    """The numbers that a model gives its routers.

    Args:
        num_experts: E.
        hidden_size: H.
        top_k: K, number of experts for a token.
        layer: Index of the model layer, 0 where it has none.

    Example:
        >>> from hf_mixture.moe.routers import RouterShape
        >>> RouterShape(num_experts=8, hidden_size=64, top_k=2)
        RouterShape(num_experts=8, hidden_size=64, top_k=2, layer=0)
    """

    num_experts: int
    hidden_size: int
    top_k: int
    layer: int = 0


class RegistryRouter(nn.Module):
    """A router of the registry in the place of the router of a model.

    Instances in a model also are instances of its own router class (`router_class`), so that the model records their
    first output as `router_logits`.

    Args:
        shape: Numbers of experts, of hidden features and of choices.

    Attributes:
        info: The entry of the registry.
        stock_class: The router class of the model.
        float32_tensors: Names of tensors that stay in float32 whatever the type of the model.
        selection_bias: Name of the tensor that moves the choice, whatever the token; "" where there is none.
        linear_gate: Whether the logits are the product of the hidden states and `weight` [E, H].
        options: Values of all options.
        context: The batch tensors that the entry asks for; None where it asks for none.

    Example:
        >>> import torch
        >>> from hf_mixture.moe.anatomy import RouterOutput
        >>> from hf_mixture.moe.routers import RegistryRouter, RouterShape
        >>> class FirstRouter(RegistryRouter):
        ...     "Every token to the first K experts."
        ...     def route(self, hidden):
        ...         indices = torch.arange(self.top_k).expand(len(hidden), -1)
        ...         logits = torch.zeros(len(hidden), self.num_experts)
        ...         return RouterOutput(logits, torch.full(indices.shape, 1 / self.top_k), indices)
        >>> router = FirstRouter(RouterShape(num_experts=4, hidden_size=8, top_k=2))
        >>> logits, weights, indices = router(torch.randn(1, 3, 8))
        >>> indices.tolist()
        [[0, 1], [0, 1], [0, 1]]
    """

    info: ClassVar[RouterInfo]
    stock_class: ClassVar[type[nn.Module]] = nn.Module
    float32_tensors: ClassVar[tuple[str, ...]] = ()
    selection_bias: str = ""
    linear_gate: ClassVar[bool] = False
    initialises_itself: ClassVar[bool] = True

    def __init__(self, shape: RouterShape) -> None:
        # The class of the model, which comes next among the bases, would create its own parameters.
        nn.Module.__init__(self)
        self.shape = shape
        self.num_experts = shape.num_experts
        self.hidden_dim = shape.hidden_size
        self.top_k = shape.top_k
        self.options: dict[str, Any] = {}
        self.context: RouterContext | None = None

    @property
    def pads(self) -> bool:
        """Whether a token may get fewer than K experts: index E and weight 0 in the free places."""
        return False

    @classmethod
    def stock_options(cls, stock: MoeRouter) -> dict[str, Any]:
        """Defaults of options that follow the router that is replaced.

        Args:
            stock: That router.

        Returns:
            Values of some options; those that the class does not have are ignored.
        """
        return {}

    def route(self, hidden: Tensor) -> RouterOutput:
        """Choose experts.

        Args:
            hidden: Hidden states [T, H].

        Returns:
            Raw logits [T, E], weights [T, K] and indices [T, K].

        Raises:
            NotImplementedError: Here; entries of the registry choose.
        """
        raise NotImplementedError

    def reset_parameters(self, std: float) -> None:
        """Draw the initial values of all parameters.

        Args:
            std: Standard deviation that the configuration of the model gives for its weights.
        """

    def selection_rule(self) -> SelectionRule | None:
        """Return the selection formula as data, None where it has no such form."""
        return None

    def keep(self, stock: MoeRouter) -> tuple[str, ...]:
        """Take over the values of tensors of the router that is replaced.

        Args:
            stock: That router.

        Returns:
            Names of the tensors taken over.
        """
        return ()

    def block_problem(self, stock: MoeRouter) -> str | None:
        """Say why the entry cannot work in a block.

        Args:
            stock: The router that is to be replaced, which knows the experts.

        Returns:
            The reason, or None if it can.
        """
        return None

    def connect(self, stock: MoeRouter) -> list[RemovableHandle]:
        """Hook into the block, for entries that change more than the choice; called when the router is in its place.

        Args:
            stock: The router that is replaced, which knows the experts.

        Returns:
            Handles; the `remove` of each takes a hook back.
        """
        return []

    def forward(self, hidden_states: Tensor, *_: Any) -> tuple[Tensor, Tensor, Tensor]:
        """Route hidden states [..., H].

        Args:
            hidden_states: Input of the block. What some blocks pass besides, their selection bias, is not used.

        Returns:
            The contract of transformers: raw logits [T, E], weights [T, K] in the type of the input, indices [T, K].
        """
        logits, weights, indices = self.route(hidden_states.reshape(-1, self.hidden_dim))
        return logits, weights.to(hidden_states.dtype), indices

    def extra_repr(self) -> str:
        """The name and the options, for `print(model)`."""
        return ", ".join([repr(self.info.name), *(f"{name}={value!r}" for name, value in self.options.items())])

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        before = {name: getattr(self, name) for name in self.float32_tensors}
        super()._apply(fn, recurse)
        for name, tensor in before.items():
            after = getattr(self, name)
            if after.dtype != tensor.dtype:
                setattr(self, name, tensor.to(after.device))
        return self

    def __reduce_ex__(self, protocol: Any) -> Any:
        # The class is made for one model class and has no name that pickle could look up.
        reduced: Any = super().__reduce_ex__(protocol)
        return (_empty_router, (self.info.name, self.stock_class), *reduced[2:])


class LinearRouter(RegistryRouter):
    """A router whose logits are a linear function of the hidden states: z = x Wᵀ (+ b).

    Args:
        shape: Numbers of experts, of hidden features and of choices.
        bias: Whether there is a vector b, which takes part in the logits.

    Example:
        >>> import torch
        >>> from hf_mixture.moe.routers import LinearRouter, RouterShape
        >>> router = LinearRouter(RouterShape(num_experts=4, hidden_size=8, top_k=2))
        >>> router.reset_parameters(0.02)
        >>> router.logits(torch.randn(3, 8)).shape
        torch.Size([3, 4])
    """

    linear_gate = True

    def __init__(self, shape: RouterShape, *, bias: bool = False) -> None:
        super().__init__(shape)
        self.weight = nn.Parameter(torch.empty(shape.num_experts, shape.hidden_size))
        self.bias = nn.Parameter(torch.empty(shape.num_experts)) if bias else None
        if bias:
            self.selection_bias = "bias"

    @classmethod
    def stock_options(cls, stock: MoeRouter) -> dict[str, Any]:
        """Return a bias where the router that is replaced has one.

        Args:
            stock: That router.
        """
        return {"bias": isinstance(getattr(stock.module, "bias", None), nn.Parameter)}

    def reset_parameters(self, std: float) -> None:
        """Draw W from a normal distribution, and set b to zero.

        Args:
            std: Standard deviation of W.
        """
        nn.init.normal_(self.weight, std=std)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def keep(self, stock: MoeRouter) -> tuple[str, ...]:
        """Take over W, and b where both have one.

        Args:
            stock: The router that is replaced.

        Returns:
            Names of the tensors taken over.
        """
        if not getattr(stock.module, "linear_gate", True):
            return ()
        names = ("weight",) if self.bias is None else ("weight", "bias")
        return tuple(name for name in names if copy_values(getattr(self, name), getattr(stock.module, name, None)))

    def logits(self, hidden: Tensor) -> Tensor:
        """Return the raw logits [T, E].

        Args:
            hidden: Hidden states [T, H].
        """
        return F.linear(hidden, self.weight, self.bias)


_CLASSES: dict[tuple[type[RegistryRouter], type[nn.Module]], type[RegistryRouter]] = {}


def router_class(name: str, stock_class: type[nn.Module]) -> type[RegistryRouter]:
    """Derive the class of a registry router for one model: below the entry, and below the model's own router class.

    Args:
        name: Name of the router.
        stock_class: Router class of the model.

    Returns:
        The class, the same for the same arguments.
    """
    base = router_info(name).router_class
    if (base, stock_class) in _CLASSES:
        return _CLASSES[base, stock_class]
    members = {"stock_class": stock_class, "__module__": base.__module__, "__doc__": base.__doc__}
    made = type(f"{base.__name__}As{stock_class.__name__}", (base, stock_class), members)
    _CLASSES[base, stock_class] = made
    return made


def _empty_router(name: str, stock_class: type[nn.Module]) -> RegistryRouter:
    made = router_class(name, stock_class)
    return made.__new__(made)


def copy_values(tensor: Tensor, source: Any) -> bool:
    """Copy a tensor where the shapes agree.

    Args:
        tensor: Gets the values.
        source: Has them, or is no tensor.

    Returns:
        Whether they were copied.
    """
    if not isinstance(source, Tensor) or source.shape != tensor.shape:
        return False
    with torch.no_grad():
        tensor.copy_(source)
    tensor.requires_grad_(source.requires_grad)
    return True


def full_precision(tensor: Tensor) -> Tensor:
    """Raise half precision to float32; scores and sums of low precision change the choice.

    Args:
        tensor: Any floating point tensor.

    Returns:
        The tensor in float32, or in float64 where it is.
    """
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))
