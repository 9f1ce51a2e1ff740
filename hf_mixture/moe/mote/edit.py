"""One edit of one expert, and which edits can stand together.

Letters: E experts of a router.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args


Op = Literal["off", "on", "scale", "bias"]
Mode = Literal["reroute", "zero_renorm", "zero", "logit_mask", "force", "scale", "bias"]
ForceWeight = Literal["own", "max", "const"]

OPS: tuple[str, ...] = get_args(Op)
MODES: tuple[str, ...] = get_args(Mode)
FORCE_WEIGHTS: tuple[str, ...] = get_args(ForceWeight)
# These modes say what "off" means; the other operations mean the same in each of them.
OFF_MODES: tuple[str, ...] = ("reroute", "zero_renorm", "zero", "logit_mask")
_ONLY_OP = {"force": "on", "scale": "scale", "bias": "bias"}


@dataclass(frozen=True)
class ExpertEdit:
    """One operation on one expert.

    Args:
        module: Path of its router in the base model, such as `"model.layers.48.mlp.gate"`.
        expert: Index of the expert, in [0, E).
        op: `"off"`, `"on"` (always chosen), `"scale"` (its weight times `value` where it is chosen) or `"bias"`
            (`value` is added to what it is chosen by).
        value: The factor, >= 0, of `"scale"`; the term of `"bias"`; for `"on"` the gate under
            `force_weight="const"`. Default: None.
        layer: Index of the layer, as a label for readers; `module` decides. Default: None.

    Raises:
        ValueError: If a field is out of its range, or `value` is missing or has no meaning.

    Example:
        >>> from hf_mixture.moe.mote.edits import ExpertEdit
        >>> ExpertEdit("model.layers.48.mlp.gate", 176, "off").expert
        176
    """

    module: str
    expert: int
    op: Op
    value: float | None = None
    layer: int | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.module, str) or not self.module:
            raise ValueError(f"module={self.module!r} must be the path of a router; see describe_moe(model)")
        for name, number in (("expert", self.expert), ("layer", self.layer)):
            if number is None and name == "layer":
                continue
            if not isinstance(number, int) or isinstance(number, bool) or number < 0:
                raise ValueError(f"{name}={number!r} of {self.module} must be an integer >= 0")
        if self.op not in OPS:
            raise ValueError(f"op={self.op!r} of {self.place} must be one of {', '.join(OPS)}")
        if self.op in ("scale", "bias") and self.value is None:
            raise ValueError(f"value=None of {self.place}: op={self.op!r} needs a number")
        if self.op == "off" and self.value is not None:
            raise ValueError(f"value={self.value!r} of {self.place}: op='off' takes none; use op='scale' or remove it")
        if self.value is None:
            return
        if isinstance(self.value, bool) or not isinstance(self.value, int | float) or not math.isfinite(self.value):
            raise ValueError(f"value={self.value!r} of {self.place} must be a finite number")
        if self.op in ("scale", "on") and self.value < 0:
            raise ValueError(f"value={self.value!r} of {self.place}: op={self.op!r} needs a number >= 0")

    @property
    def place(self) -> str:
        """The expert, for messages."""
        return f"expert {self.expert} of {self.module}"


def check_together(edits: Sequence[ExpertEdit], mode: str, force_weight: str) -> None:
    seen: dict[tuple[str, int], list[str]] = {}
    for edit in edits:
        if not isinstance(edit, ExpertEdit):
            raise TypeError(f"edits holds a {type(edit).__name__}; each must be an ExpertEdit")
        wanted = _ONLY_OP.get(mode, edit.op)
        if edit.op != wanted:
            raise ValueError(
                f"mode={mode!r} takes only op={wanted!r}, and {edit.place} has op={edit.op!r}; use mode='reroute', "
                "which takes all operations"
            )
        if edit.op == "on" and (edit.value is None) == (force_weight == "const"):
            raise ValueError(
                f"value={edit.value!r} of {edit.place}: op='on' needs a value with force_weight='const' and takes "
                f"none otherwise; force_weight is {force_weight!r}"
            )
        others = seen.setdefault((edit.module, edit.expert), [])
        if edit.op in others:
            raise ValueError(f"op={edit.op!r} of {edit.place} is given twice; keep one")
        clash = [other for other in others if "scale" not in (edit.op, other) or "off" in (edit.op, other)]
        if clash:
            raise ValueError(f"{edit.place} has op={clash[0]!r} and op={edit.op!r}, which contradict; keep one")
        others.append(edit.op)
