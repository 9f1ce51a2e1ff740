"""`MwqConfig`: what nested quantisation of a model does, as `quantization_config` of `from_pretrained` takes it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from transformers.utils.quantization_config import QuantizationConfigMixin


FORMAT_VERSION = 1
# What says how to load a quantised model, and is not saved.
_LOADING = ("max_width", "expert_budget", "dequantize")
# Widths of the two presets of the paper, and the parts of the tokens that each takes while bit routers are trained.
PRESETS: dict[str, dict[int, float]] = {
    "v1": {2: 0.3, 3: 0.4, 4: 0.3},
    "v2": {5: 0.25, 6: 0.25, 7: 0.25, 8: 0.25},
}


class MwqConfig(QuantizationConfigMixin):
    """Nested quantisation of the experts of a mixture (MWQ of D2MoE, arXiv 2504.15299): one file, every bit width.

    Args:
        widths: Bits that a weight can be read at, ascending by one: the first is stored as a base, each further one as
            one bit. 1 to 8. `"v1"` stands for (2, 3, 4) and `"v2"` for (5, 6, 7, 8). Default: (2, 3, 4).
        group_size: Input columns that share a scale; a multiple of 8 that divides the inputs of every expert matrix.
            Default: 128.
        linears: Whether dense linear layers are quantised too, except the output head and routers. Default: False.
        modules_to_not_convert: Names of modules, or ends of names, that stay as they are.
        level_weights: How much the error of each width counts when the base is chosen, by width. Default: 1, 4 and 16
            for the first three, so that their errors count alike.
        max_width: Of a quantised model that is loaded, the planes up to this width only; the others are not read.
            Default: all.
        expert_budget: Of a quantised model that is loaded with `experts_implementation="mwq_offload"`, most bytes of
            experts in memory at a time. Default: no limit.
        dequantize: Of a quantised model that is loaded, ordinary weights instead of planes. Default: False.
        parts: Folder that keeps what is quantised, tensor by tensor, so that a run that was killed goes on; for models
            that are quantised while they are loaded. Not saved.
        bit_policy: What chooses the width of a token in an expert, set by the functions that make a policy. Saved.
        format_version: Version of the file format.
        kwargs: None but `quant_method`, which saved configurations have.

    Raises:
        ValueError: If a value is out of range.

    Example:
        >>> from hf_mixture import MwqConfig
        >>> MwqConfig(widths="v1").widths
        (2, 3, 4)
    """

    def __init__(
        self,
        widths: Sequence[int] | Literal["v1", "v2"] = (2, 3, 4),
        group_size: int = 128,
        *,
        linears: bool = False,
        modules_to_not_convert: Sequence[str] | None = None,
        level_weights: Mapping[int, float] | Mapping[str, float] | None = None,
        max_width: int | None = None,
        expert_budget: int | None = None,
        dequantize: bool = False,
        parts: str | None = None,
        bit_policy: dict[str, Any] | None = None,
        format_version: int = FORMAT_VERSION,
        **kwargs: Any,
    ) -> None:
        kwargs.pop("quant_method", None)
        if kwargs:
            raise ValueError(
                f"MwqConfig has no argument {next(iter(kwargs))!r}; see its documentation for those it has"
            )
        self.quant_method = "mwq"
        self.widths = _check_widths(widths)
        self.group_size = group_size
        self.linears = linears
        self.modules_to_not_convert = list(modules_to_not_convert or ())
        # JSON has text keys.
        self.level_weights = None if level_weights is None else {int(k): float(v) for k, v in level_weights.items()}
        self.max_width = max_width
        self.expert_budget = expert_budget
        self.dequantize = dequantize
        self.parts = parts
        self.bit_policy = bit_policy
        self.format_version = format_version
        self._check()

    def _check(self) -> None:
        if self.format_version != FORMAT_VERSION:
            raise ValueError(
                f"format_version={self.format_version!r} of the planes is not known; this version of hf_mixture reads "
                f"{FORMAT_VERSION}: update hf_mixture"
            )
        if type(self.group_size) is not int or self.group_size < 8 or self.group_size % 8:
            raise ValueError(f"group_size={self.group_size!r} is not a positive multiple of 8; give one, such as 128")
        if self.max_width is not None and self.max_width not in self.widths:
            raise ValueError(f"max_width={self.max_width!r} is none of the widths {self.widths}; give one of them")
        levels = self.level_weights
        if levels is None:
            return
        allowed = range(self.widths[0], 9)
        if not levels or any(width not in allowed or not 0 <= value < float("inf") for width, value in levels.items()):
            raise ValueError(
                f"level_weights={levels} must give numbers of at least 0 to widths from {self.widths[0]} to 8"
            )
        if not any(levels.values()):
            raise ValueError("level_weights are all 0; let the error of one width count")

    def get_loading_attributes(self) -> dict[str, Any]:
        """Return the arguments that apply when a quantised model is loaded: what is not the default."""
        given = {name: getattr(self, name) for name in _LOADING}
        return {name: value for name, value in given.items() if value}

    def at_width(self, max_width: int | None) -> MwqConfig:
        """Return the configuration of the planes up to a width.

        Args:
            max_width: One of the widths; None for all.

        Raises:
            ValueError: If it is none of the widths.
        """
        if max_width is not None and max_width not in self.widths:
            raise ValueError(f"max_width={max_width!r} is none of the widths {self.widths}; give one of them")
        kept = [width for width in self.widths if max_width is None or width <= max_width]
        return MwqConfig(**{**self.to_dict(), "widths": kept, "expert_budget": self.expert_budget})

    def to_dict(self) -> dict[str, Any]:
        """Return the values as JSON takes them, without those that say only how to load."""
        values = {**super().to_dict(), "widths": list(self.widths)}
        if self.level_weights is not None:
            values["level_weights"] = {str(width): value for width, value in self.level_weights.items()}
        for name in (*_LOADING, "parts"):
            values.pop(name)
        return values


def _check_widths(widths: Sequence[int] | str) -> tuple[int, ...]:
    if isinstance(widths, str):
        if widths not in PRESETS:
            raise ValueError(f"widths={widths!r} is no preset; the presets are {', '.join(map(repr, PRESETS))}")
        return tuple(PRESETS[widths])
    values = tuple(widths)
    if not values or any(type(width) is not int or not 1 <= width <= 8 for width in values):
        raise ValueError(f"widths={values} must be whole numbers from 1 to 8, such as (2, 3, 4)")
    if values != tuple(range(values[0], values[0] + len(values))):
        raise ValueError(f"widths={values} must ascend by one, since each width adds one bit, such as (2, 3, 4)")
    return values
