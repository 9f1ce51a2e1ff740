"""Exporters: a `Mixture` as the configuration of another trainer, one target per file of this folder.

A target never loses a meaning silently. What it cannot express is a loss, and the export is refused until the losses
are accepted.
"""

from __future__ import annotations

import importlib
import inspect
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_mixture.hub.atomic import write_atomic


if TYPE_CHECKING:
    from hf_mixture.data.mixture import Mixture

# Target to (module, function) of this folder.
_TARGETS = {
    "trl": ("trl", "export"),
    "axolotl": ("axolotl", "export"),
    "llamafactory": ("llamafactory", "export"),
    "megatron": ("megatron", "export"),
    "streaming": ("streaming", "export"),
    "nanotron": ("nanotron", "export"),
    "torchtitan": ("torchtitan", "export"),
    "fast-llm": ("fast_llm", "export"),
    "csv": ("lists", "export_csv"),
    "json": ("lists", "export_json"),
    "probabilities": ("lists", "export_probabilities"),
}


@dataclass(frozen=True)
class ExportResult:
    """What an export wrote, and what it could not.

    Args:
        target: Name of the target.
        files: Text of each file, by name.
        losses: What the target cannot express, one sentence each.
        unit_note: Which kind of number the weights became (fraction, probability, repeat, proportion) and what it
            counts.
        notes: What is worth knowing and loses nothing: rounding errors, fields that are left to the user.

    Example:
        ```python
        >>> from hf_mixture import Mixture
        >>> from hf_mixture.data.export import export_mixture
        >>> result = export_mixture(Mixture({"a": 0.75, "b": 0.25}, unit="tokens"), "csv")
        >>> result.files["mixture.csv"].split()
        ['name,weight', 'a,0.75', 'b,0.25']

        ```
    """

    target: str
    files: Mapping[str, str]
    losses: tuple[str, ...]
    unit_note: str
    notes: tuple[str, ...] = ()

    def save(self, folder: str | os.PathLike[str]) -> list[str]:
        """Write the files into a folder, which is created when absent, and return their paths."""
        directory = Path(folder)
        directory.mkdir(parents=True, exist_ok=True)
        for name, text in self.files.items():
            write_atomic(directory / name, text)
        return [str(directory / name) for name in self.files]


def list_export_targets() -> list[str]:
    """Return the names that `export_mixture` takes as `target`.

    Example:
        ```python
        >>> from hf_mixture.data.export import list_export_targets
        >>> list_export_targets()[:4]
        ['trl', 'axolotl', 'llamafactory', 'megatron']

        ```
    """
    return list(_TARGETS)


def target_options(target: str) -> dict[str, Any]:
    """Return the options of a target and their defaults.

    Raises:
        ValueError: The target is unknown.
    """
    parameters = inspect.signature(_exporter(target)).parameters.values()
    return {item.name: item.default for item in parameters if item.kind is inspect.Parameter.KEYWORD_ONLY}


def _exporter(target: str) -> Any:
    if target not in _TARGETS:
        raise ValueError(f"target={target!r} is not one of {list(_TARGETS)}; choose one")
    module, function = _TARGETS[target]
    return getattr(importlib.import_module(f"hf_mixture.data.export.{module}"), function)


def export_mixture(
    mixture: Mixture,
    target: str,
    *,
    accept_losses: bool = False,
    mean_lengths: Mapping[str, float | Mapping[str, float]] | None = None,
    digits: int | None = None,
    **options: Any,
) -> ExportResult:
    """Write a mixture in the form that another trainer reads.

    Args:
        mixture: The mixture.
        target: `"trl"`, `"axolotl"`, `"llamafactory"`, `"megatron"`, `"streaming"`, `"nanotron"`, `"torchtitan"`,
            `"fast-llm"`, or the lists `"csv"`, `"json"`, `"probabilities"`.
        accept_losses: Export although the target cannot express everything. Default: False.
        mean_lengths: Mean tokens or bytes of an example, by unit: a number for all sources or a map from name to
            number. Needed where the target counts another unit than the mixture. Default: from the sizes that the
            sources record.
        digits: Decimals that weights are rounded to, by largest remainder, so that they still sum to 1. Default: None,
            exact.
        options: Of the target; its module says which.

    Returns:
        Files, losses, and what the numbers are.

    Raises:
        ValueError: The target cannot express something and `accept_losses` is False; the target or an option is
            unknown; or something that the target needs is missing.

    Example:
        ```python
        >>> from hf_mixture import Mixture
        >>> from hf_mixture.data.export import export_mixture
        >>> mixture = Mixture({"wiki": 0.75, "code": 0.25}, unit="tokens")
        >>> result = export_mixture(mixture, "megatron", paths="data/{name}")
        >>> result.files["data_args.txt"]
        '0.75 data/wiki 0.25 data/code\\n'

        ```
    """
    from hf_mixture.data.export.draft import Draft

    known = target_options(target)
    if unknown := sorted(set(options) - set(known)):
        raise ValueError(f"target {target!r} has no option {unknown}; it has {sorted(known)}: remove or rename it")
    draft = Draft(mixture, target, mean_lengths=mean_lengths, digits=digits)
    files, unit_note = _exporter(target)(draft, **options)
    if draft.losses and not accept_losses:
        raise ValueError(
            f"{target} cannot express {len(draft.losses)} part(s) of the mixture: {'; '.join(draft.losses)}. "
            "Change the mixture, or pass accept_losses=True"
        )
    return ExportResult(target, files, tuple(draft.losses), unit_note, tuple(draft.notes))
