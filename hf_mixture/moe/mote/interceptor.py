"""Edits inside a router that is a closed box: its own calls of topk, max, argmax and sort see edited scores.

Whatever the family computes around them stays its own code. A call counts as the selection if its last dimension has
C entries, and as the ranking of groups if its last two dimensions are [G, C / G].

Letters: T tokens, C classes that the selection ranks, K chosen, G groups.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from hf_mixture.moe.anatomy import UnsupportedRouterError
from hf_mixture.moe.mote.masks import RouterMasks


# In the ranking of groups, where infinities of both signs would add up to NaN.
_FAR = 1e4
# Position of the argument `dim`, and its default; None reduces all dimensions.
_SELECTIONS: dict[Callable[..., Any], tuple[int, int | None]] = {
    torch.topk: (2, -1),
    Tensor.topk: (2, -1),
    torch.max: (1, None),
    Tensor.max: (1, None),
    torch.argmax: (1, None),
    Tensor.argmax: (1, None),
    torch.sort: (1, -1),
    Tensor.sort: (1, -1),
    torch.argsort: (1, -1),
    Tensor.argsort: (1, -1),
}


class InterceptedForward:
    """The forward of one module instance, in which selections see edited scores.

    Args:
        module: The module in which the selection happens.
        path: Its path, for messages.
        masks: The edits.
    """

    def __init__(self, module: nn.Module, path: str, masks: RouterMasks) -> None:
        self.module, self.path, self.masks = module, path, masks
        # Another wrapper, such as that of accelerate, stays inside.
        self.inner = module.__dict__.get("forward")

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        inner = self.inner
        if not self.masks.chooses:
            return type(self.module).forward(self.module, *args, **kwargs) if inner is None else inner(*args, **kwargs)
        with _EditedSelections(self.masks) as selections:
            output = (
                type(self.module).forward(self.module, *args, **kwargs) if inner is None else inner(*args, **kwargs)
            )
        if not selections.num_hits:
            raise UnsupportedRouterError(
                f"{self.path} ({type(self.module).__name__}) chose no expert by topk, max, argmax or sort over its "
                f"{len(self.masks.off)} choices, so the edits had no effect; remove them"
            )
        return output

    def install(self) -> None:
        """Take the place of the forward of the instance."""
        self.module.__dict__["forward"] = self

    def remove(self, name: str = "forward") -> None:
        """Give the place back, and do nothing from now on in wrappers that hold this one.

        Args:
            name: The attribute of the module that it is in.
        """
        self.masks = RouterMasks(len(self.masks.off))
        if self.inner is not None:
            self.module.__dict__[name] = self.inner
        elif name == "forward":
            del self.module.__dict__[name]
        else:
            self.module.__dict__[name] = MethodType(type(self.module).forward, self.module)


class _EditedSelections(TorchFunctionMode):
    def __init__(self, masks: RouterMasks) -> None:
        super().__init__()
        self.masks, self.num_hits = masks, 0

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        scores = args[0] if args else kwargs.get("input")
        place = _SELECTIONS.get(func)
        if place is None or not isinstance(scores, Tensor) or not scores.is_floating_point():
            return func(*args, **kwargs)
        position, default = place
        dim = args[position] if len(args) > position else kwargs.get("dim", default)
        if not isinstance(dim, int) or dim not in (-1, scores.dim() - 1):
            return func(*args, **kwargs)
        rest = args[1:]
        size = len(self.masks.off)
        self.masks.follow(scores.device)
        if scores.shape[-1] == size:
            self.num_hits += 1
            return _with_own_values(func(self._edit(scores), *rest, **_without_input(kwargs)), scores)
        if scores.dim() == 3 and scores.shape[-1] * scores.shape[-2] == size:
            return func(self._edit_groups(scores), *rest, **_without_input(kwargs))
        return func(*args, **kwargs)

    def _edit(self, scores: Tensor) -> Tensor:
        masks = self.masks
        if masks.has_delta:
            scores = scores + masks.delta.to(scores.dtype)
        if masks.has_on:
            scores = scores.masked_fill(masks.on, float("inf"))
        return scores.masked_fill(masks.off, float("-inf")) if masks.reroutes else scores

    def _edit_groups(self, scores: Tensor) -> Tensor:
        masks, shape = self.masks, scores.shape[-2:]
        if masks.has_delta:
            scores = scores + masks.delta.to(scores.dtype).view(shape)
        if masks.reroutes:
            scores = scores.masked_fill(masks.off.view(shape), -_FAR)
        return scores.masked_fill(masks.on.view(shape), 4 * _FAR) if masks.has_on else scores


def _without_input(kwargs: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in kwargs.items() if key != "input"}


def _with_own_values(result: Any, scores: Tensor) -> Any:
    """Give the unedited scores of what was chosen in the place of the edited ones."""
    if isinstance(result, Tensor):
        return result
    indices = result[1]
    full = indices if indices.dim() == scores.dim() else indices.unsqueeze(-1)
    return type(result)((scores.gather(-1, full).view(indices.shape), indices))
