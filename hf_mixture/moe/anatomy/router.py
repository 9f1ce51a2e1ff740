"""One router of one model: where it is, what it computes, and how to read and rewrite what it returns."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from accelerate.utils import align_module_device
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from hf_mixture.moe.anatomy.families import Layout
from hf_mixture.moe.anatomy.outputs import read_output, replace_output
from hf_mixture.moe.anatomy.rule import SelectionRule, UnsupportedRouterError
from hf_mixture.moe.anatomy.selection import RouterOutput, select


def in_memory(module: nn.Module, name: str) -> Tensor:
    """Return a tensor of a module, also where accelerate has offloaded it to the CPU or the disk.

    Hooks see a module after its forward, when what was loaded for it is gone again.

    Args:
        module: The module that owns the tensor.
        name: Its name there.

    Returns:
        The tensor; on the device "meta" if it has no values anywhere.
    """
    tensor: Tensor = getattr(module, name)
    if tensor.is_meta:
        with align_module_device(module):
            tensor = getattr(module, name)
    return tensor


@dataclass(frozen=True)
class SelectionBias:
    """The tensor that a family adds to its scores, or logits, before the top k.

    Args:
        module: The module that owns it.
        name: Its name there.
        path: Its name in the model, as in the state dict.
    """

    module: nn.Module
    name: str
    path: str

    @property
    def tensor(self) -> Tensor:
        """The bias itself [C], or [1, C], looked up anew: loading and moving replace it."""
        tensor: Tensor = getattr(self.module, self.name)
        return tensor


@dataclass(frozen=True, kw_only=True)
class MoeRouter:
    """One router of one model.

    Args:
        path: Path of the router in the model without wrappers, such as `"model.layers.3.mlp.gate"`.
        layer: Index of the model layer it lies in, the first number of the path.
        ordinal: Position among the routers of the model.
        module: The live router.
        block: The live module around it, the path of which is that of the router without its last part.
        num_experts: E, number of routed experts.
        num_choices: C, number of classes that the selection ranks: E, plus identity or skip classes.
        top_k: K, number of experts for a token.
        rule: What the router computes; None where that has no explicit form here.
        reason: Why there is no rule, or why the output cannot be rewritten.
        layout: Form of the output.
        bias: The selection bias.
        weight_path: Name of the weight that makes the logits.
        weight_module: The module that owns that weight, as its attribute `weight`.
        expert_scale_name: Attribute of the router with a factor for each expert.
        experts_path: Path of the experts module of the same block.
        experts: The live experts module.
        defect: Why the experts that compute are not those that the router chooses; empty where they are.
    """

    path: str
    layer: int | None
    ordinal: int
    module: nn.Module = field(repr=False)
    block: nn.Module = field(repr=False)
    num_experts: int
    num_choices: int
    top_k: int
    rule: SelectionRule | None
    reason: str = ""
    layout: Layout = "uniform"
    bias: SelectionBias | None = field(default=None, repr=False)
    weight_path: str | None = None
    weight_module: nn.Module | None = field(default=None, repr=False)
    expert_scale_name: str = ""
    experts_path: str | None = None
    experts: nn.Module | None = field(default=None, repr=False)
    defect: str = ""

    @property
    def weight(self) -> Tensor | None:
        """The weight that makes the logits [C, H], where one matrix does."""
        return None if self.weight_module is None else self.weight_module.weight  # type: ignore[return-value]

    @property
    def expert_scale(self) -> Tensor | None:
        """Factor of the weight of each expert [E]."""
        return in_memory(self.module, self.expert_scale_name) if self.expert_scale_name else None

    @property
    def rewritable(self) -> bool:
        """Whether `replace` works on the output of the router."""
        return self.layout in ("uniform", "skip_class", "dense_scores", "grouped")

    def read(self, output: Any) -> RouterOutput:
        """Read logits [T, C], weights [T, K] and indices [T, K] from the output of the router.

        An index E stands for no expert, as in the sentinel of the experts modules.
        """
        if self.layout == "logits_only":
            return self.select(output)
        return read_output(self.layout, output, num_experts=self.num_experts, top_k=self.top_k)

    def replace(self, output: Any, *, weights: Tensor, indices: Tensor) -> Any:
        """Put other weights and indices [T, K] into an output of the router."""
        return replace_output(self.layout, output, weights, indices, num_experts=self.num_experts)

    def select(
        self, logits: Tensor, *, off: Tensor | None = None, on: Tensor | None = None, delta: Tensor | None = None
    ) -> RouterOutput:
        """Route by the explicit rule, with the bias of this router: see `hf_mixture.moe.anatomy.selection.select`."""
        if self.rule is None:
            raise UnsupportedRouterError(f"{self.path} has no explicit rule: {self.reason}")
        bias = None
        if self.bias is not None and self.rule.bias_on == "scores":
            bias = in_memory(self.bias.module, self.bias.name)
        return select(self.rule, logits, self.top_k, bias, expert_scale=self.expert_scale, off=off, on=on, delta=delta)

    def observe(self, callback: Callable[[RouterOutput], None]) -> list[RemovableHandle]:
        """Call a function with what the router decides in each forward pass, edits included.

        Args:
            callback: Called with logits, weights and indices.

        Returns:
            Handles; the `remove` of each ends the observation.
        """
        if self.layout != "logits_only":
            return [self.module.register_forward_hook(lambda _, __, output: callback(self.read(output)))]
        # The block chooses, so that the choice shows only where it enters the experts.
        assert self.experts is not None  # noqa: S101 - such a block exists only around experts
        seen: list[Tensor] = []

        def at_experts(_: nn.Module, args: tuple[Any, ...]) -> None:
            callback(RouterOutput(seen.pop(), args[2], args[1]))

        return [
            self.module.register_forward_hook(lambda _, __, output: seen.append(output)),
            self.experts.register_forward_pre_hook(at_experts),
        ]
