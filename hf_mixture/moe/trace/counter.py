"""Counting the choices of all routers of a model while it trains.

Letters: L routers, T tokens, E experts, K chosen.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from hf_mixture.moe.anatomy import MoeRouter, RouterOutput, find_routers
from hf_mixture.moe.anatomy.call_inputs import named_inputs, padding_mask_of


class RouterCounter:
    """Counts in integers, on the device of each router, without waiting for it.

    Only what happens inside a forward of the model in training mode counts: gradient checkpointing runs layers again
    during the backward, after that forward has ended.

    Args:
        model: The model that is called, not wrapped by DDP or the like.

    Attributes:
        routers (`tuple[MoeRouter, ...]`): The routers of the model.
    """

    def __init__(self, model: nn.Module) -> None:
        self.routers: tuple[MoeRouter, ...] = find_routers(model)
        self._model = model
        self._handles: list[RemovableHandle] = []
        self._sums: list[Tensor | None] = []
        self._mask: Tensor | None = None
        self._inside = False

    def attach(self) -> None:
        """Begin to count, from zero."""
        self._sums = [None] * len(self.routers)
        for place, router in enumerate(self.routers):
            self._handles += router.observe(lambda output, place=place: self._count(place, output))  # type: ignore[misc]
        self._handles.append(self._model.register_forward_pre_hook(self._begin, with_kwargs=True))
        self._handles.append(self._model.register_forward_hook(self._end))

    def remove(self) -> None:
        """End counting, and leave the model as it was."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self._inside, self._mask = False, None

    def take(self, device: torch.device) -> Tensor:
        """Return what was counted since `attach`, int64 [sum of E + 2 over routers].

        Args:
            device: Where the counts are wanted.

        Returns:
            For each router the counts of its experts, then of the choices that are no expert, then its tokens.

        Raises:
            ValueError: If a router was not called.
        """
        for router, sums in zip(self.routers, self._sums, strict=True):
            if sums is None:
                raise ValueError(
                    f"{router.path} was not called, or its hooks were not run, in a traced step; a model compiled "
                    "with torch.compile runs no hooks that come later: train it without, or leave the trace out"
                )
        return torch.cat([sums.to(device) for sums in self._sums if sums is not None])

    def _begin(self, model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._inside = model.training
        self._mask = padding_mask_of(named_inputs(model, args, kwargs)) if model.training else None

    def _end(self, *_: Any) -> None:
        self._inside, self._mask = False, None

    @torch.no_grad()
    def _count(self, place: int, output: RouterOutput) -> None:
        if not self._inside:
            return
        router, indices = self.routers[place], output.indices
        if self._mask is None:
            valid = torch.ones(len(indices), dtype=torch.int64, device=indices.device)
        elif self._mask.numel() != len(indices):
            raise ValueError(
                f"{router.path} routed {len(indices)} tokens, but attention_mask has {self._mask.numel()} positions "
                f"{list(self._mask.shape)}, so that padding cannot be left out; only routers that see every position "
                "of input_ids once can be traced with padding"
            )
        else:
            valid = (self._mask.reshape(-1) != 0).to(indices.device, torch.int64)
        sums = self._sums[place]
        if sums is None:
            sums = self._sums[place] = torch.zeros(router.num_experts + 2, dtype=torch.int64, device=indices.device)
        classes = indices.to(torch.int64).clamp(max=router.num_experts).reshape(-1)
        sums.index_add_(0, classes, valid.repeat_interleave(indices.shape[-1]))
        sums[-1] += valid.sum()
