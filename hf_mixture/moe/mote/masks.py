"""The edits of one router as tensors of fixed shape, which change in place.

A compiled model reads them as inputs, so that other edits of the same kinds do not compile it anew.

Letters: C classes that the selection ranks (experts, and identity or skip classes).
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import torch
from torch import Tensor

from hf_mixture.moe.mote.edit import ExpertEdit
from hf_mixture.moe.mote.edits import ExpertEdits


class RouterMasks:
    """What is switched off, forced, biased and scaled in one router.

    Args:
        num_choices: C.
        device: Where the tensors lie; they follow the router when it moves.

    Attributes:
        off: Experts that are switched off, bool [C].
        on: Experts that are forced, bool [C].
        delta: Terms of the choice, float32 [C].
        scale: Factors of the weights, float32 [C].
        gate: Gates of the forced experts, for `force_weight="const"`, float32 [C].
    """

    def __init__(self, num_choices: int, device: torch.device | None = None) -> None:
        self.off = torch.zeros(num_choices, dtype=torch.bool, device=device)
        self.on = torch.zeros_like(self.off)
        self.delta = torch.zeros(num_choices, device=device)
        self.scale = torch.ones(num_choices, device=device)
        self.gate = torch.zeros(num_choices, device=device)
        self.mode: str = "reroute"
        self.force_weight: str = "max"
        self.has_off = self.has_on = self.has_delta = self.has_scale = False

    @torch.no_grad()
    def write(self, edits: Sequence[ExpertEdit], meaning: ExpertEdits, kinds: Collection[str] = ()) -> None:
        """Put other edits in the place of the present ones.

        A kind of edit that was there stays part of the computation, with neutral values.

        Args:
            edits: Edits of this router, checked.
            meaning: The set they belong to, which has the mode and the weight of forced experts.
            kinds: Operations that become part of the computation even without an edit.
        """
        self.mode, self.force_weight = meaning.mode, meaning.force_weight
        of = {op: [edit for edit in edits if edit.op == op] for op in ("off", "on", "bias", "scale")}
        size = len(self.off)
        self.off.copy_(_marked(of["off"], size))
        self.on.copy_(_marked(of["on"], size))
        self.delta.copy_(_valued(of["bias"], torch.zeros(size)))
        self.scale.copy_(_valued(of["scale"], torch.ones(size)))
        self.gate.copy_(_valued(of["on"], torch.zeros(size)))
        self.has_off |= bool(of["off"]) or "off" in kinds
        self.has_on |= bool(of["on"]) or "on" in kinds
        self.has_delta |= bool(of["bias"]) or "bias" in kinds
        self.has_scale |= bool(of["scale"]) or "scale" in kinds

    @property
    def reroutes(self) -> bool:
        """Whether what is off must not be chosen."""
        return self.has_off and self.mode in ("reroute", "logit_mask")

    @property
    def chooses(self) -> bool:
        """Whether the selection changes."""
        return self.reroutes or self.has_on or self.has_delta

    @property
    def reweighs(self) -> bool:
        """Whether weights change after the selection."""
        return self.has_scale or (self.has_off and self.mode in ("zero", "zero_renorm"))

    def follow(self, device: torch.device) -> None:
        """Move to where the router computes."""
        if self.off.device != device:
            self.off, self.on = self.off.to(device), self.on.to(device)
            self.delta, self.scale, self.gate = (tensor.to(device) for tensor in (self.delta, self.scale, self.gate))


def _marked(edits: Sequence[ExpertEdit], size: int) -> Tensor:
    mask = torch.zeros(size, dtype=torch.bool)
    mask[[edit.expert for edit in edits]] = True
    return mask


def _valued(edits: Sequence[ExpertEdit], values: Tensor) -> Tensor:
    for edit in edits:
        values[edit.expert] = values[edit.expert] if edit.value is None else edit.value
    return values
