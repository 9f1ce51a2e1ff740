"""What every exporter works on: the mixture, conversions, and the lists of losses and notes."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from hf_mixture.data.mixture_plan import MeanLengths, drawn, shares_in, starts_in
from hf_mixture.data.mixture_report import is_on_hub, limits
from hf_mixture.data.source import Source


if TYPE_CHECKING:
    from hf_mixture.data.mixture import Mixture

# Facts about the data that do not decide which rows are read.
_DESCRIPTIVE = ("license", "size", "fingerprint", "length_column")


class Draft:
    """A mixture on its way to a target.

    Args:
        mixture: The mixture.
        target: Name of the target, for messages.
        mean_lengths: Mean tokens or bytes of an example, by unit.
        digits: Decimals to round shares to, in [1, 15]; None keeps them exact.

    Attributes:
        losses (`list[str]`): What the target cannot express.
        notes (`list[str]`): What is worth knowing and loses nothing.

    Raises:
        ValueError: `digits` lies outside its range.
    """

    def __init__(
        self, mixture: Mixture, target: str, *, mean_lengths: MeanLengths | None = None, digits: int | None = None
    ) -> None:
        if digits is not None and (isinstance(digits, bool) or not isinstance(digits, int) or not 1 <= digits <= 15):
            raise ValueError(f"digits={digits!r} is not an integer in [1, 15]; correct it, or leave it out")
        self.mixture = mixture
        self.target = target
        self.mean_lengths = mean_lengths
        self.digits = digits
        self.losses: list[str] = []
        self.notes: list[str] = []

    def shares(self, unit: str, weights: Sequence[float] | None = None) -> dict[str, float]:
        """Return the share of each source in a unit, rounded as asked; the weights are those of the start by default.

        Raises:
            ValueError: A mean length is needed and not known.
        """
        values = shares_in(self.mixture, unit, self.mean_lengths, weights)
        if unit != self.mixture.unit:
            self.note(f"shares of {self.mixture.unit} were converted to shares of {unit} by the mean lengths")
        exact = dict(zip(self.mixture.names, values, strict=True))
        if self.digits is None:
            return exact
        rounded = dict(zip(exact, round_shares(values, self.digits), strict=True))
        error = max(abs(rounded[name] - exact[name]) for name in exact)
        self.note(
            f"weights are rounded to {self.digits} decimals by largest remainder; the largest error is {error:.3g}"
        )
        for name, share in exact.items():
            if share > 0 and rounded[name] == 0:
                self.lose(f"source {name!r}: its weight {share:.3g} rounds to 0")
        return rounded

    def lose(self, text: str) -> None:
        """Record a loss, once."""
        if text not in self.losses:
            self.losses.append(text)

    def note(self, text: str) -> None:
        """Record a note, once."""
        if text not in self.notes:
            self.notes.append(text)

    def lose_schedule(self) -> None:
        """Record that the weights of the start are written for the whole run."""
        if schedule := self.mixture.schedule:
            self.lose(f"schedule of {len(schedule)} segments: the weights at the start are written for the whole run")

    def lose_policies(self) -> None:
        """Record the caps, minimum shares and orders that are left out."""
        for name, policy in self.mixture.policies.items():
            self.lose(f"source {name!r}: {limits(policy)}")

    def without_zeros(self, shares: Mapping[str, float], where: str = "") -> dict[str, float]:
        """Return the shares above 0, and record the sources that are dropped."""
        for name, share in shares.items():
            if share == 0:
                self.lose(f"source {name!r}: weight 0{where} is not allowed, so it is dropped")
        return {name: share for name, share in shares.items() if share > 0}

    def sources(self, kept: Sequence[str], *, names: Sequence[str] | None = None) -> dict[str, Source]:
        """Return the sources by name, and record the fields that the target has no place for.

        Args:
            kept: Fields of `Source` that the target writes.
            names: The sources that are written. Default: those that are drawn.

        Raises:
            ValueError: A source has no path, or one that only hf_mixture can read.
        """
        sources = self.mixture.sources
        chosen = drawn(self.mixture) if names is None else names
        for name in chosen:
            if name not in sources:
                raise ValueError(
                    f"source {name!r} has no path, and {self.target} loads data by path: give it a Source"
                )
            if sources[name].path.startswith("installed:"):
                raise ValueError(
                    f"source {name!r} is {sources[name].path!r}, which only hf_mixture can read; write its rows to "
                    "files and name those in its Source"
                )
            for field in dataclasses.fields(Source):
                value = getattr(sources[name], field.name)
                if field.name not in (*kept, *_DESCRIPTIVE) and value not in (field.default, None):
                    self.lose(f"source {name!r}: no field for {field.name} {value!r}")
        return {name: sources[name] for name in chosen}

    def paths(self, paths: Mapping[str, str] | str | None, names: Sequence[str], what: str) -> dict[str, str]:
        """Return the prepared files of each source.

        Args:
            paths: A map from name to path, or one text with `{name}` in it.
            names: The sources that need one.
            what: What the paths lead to, for messages.

        Raises:
            ValueError: A source has no path.
        """
        if isinstance(paths, str):
            if "{name}" not in paths:
                raise ValueError(f"paths={paths!r} has no {{name}} in it; write for example 'data/{{name}}'")
            given = {name: paths.replace("{name}", name) for name in names}
        else:
            given = dict(paths or {})
        if missing := [name for name in names if not given.get(name)]:
            raise ValueError(
                f"paths has none for {missing}; {self.target} reads {what}, so pass paths={{name: path}} or one text "
                "with {name} in it"
            )
        if unknown := [name for name in given if name not in self.mixture.names]:
            raise ValueError(f"paths names {unknown}; the sources are {list(self.mixture.names)}: correct them")
        if described := [name for name in names if name in self.mixture.sources]:
            self.note(f"{what} stands for the path, split and revision of {described}; it is not checked")
        return {name: given[name] for name in names}

    def phases(self, iterations: int | None, tokens_per_iteration: int | None) -> list[tuple[int, dict[str, float]]]:
        """Return the schedule as (first iteration counted from 0, shares of tokens), one for each segment.

        Args:
            iterations: Length of the run; needed for a schedule in fractions.
            tokens_per_iteration: Tokens of an optimizer step; needed for a schedule in examples, tokens or bytes.

        Raises:
            ValueError: One of them is needed and missing, or a segment is shorter than one iteration.
        """
        mixture, segments = self.mixture, self.mixture.schedule
        if segments is None:
            return [(0, self.shares("tokens"))]
        if mixture.schedule_unit == "fraction":
            scale = float(_needed("train_iterations", iterations, "the schedule counts fractions of the run"))
        else:
            tokens = _needed(
                "sequence_length and global_batch_size",
                tokens_per_iteration,
                f"the schedule counts {mixture.schedule_unit} and {self.target} counts iterations",
            )
            scale = 1 / tokens
        exact = [start * scale for start in starts_in(mixture, "tokens", self.mean_lengths)]
        starts = [round(start) for start in exact]
        phases = []
        for i, segment in enumerate(segments):
            if i and starts[i] <= starts[i - 1]:
                raise ValueError(
                    f"segments {i - 1} and {i} of the schedule both begin at iteration {starts[i]}; a segment must "
                    "last an iteration: use a smaller batch, a longer run, or fewer segments"
                )
            if abs(exact[i] - starts[i]) > 1e-9:
                self.note(f"segment {i} begins at iteration {starts[i]}, rounded from {exact[i]:.6g}")
            weights = segment.weights
            if segment.interpolation == "linear":
                weights = tuple(np.mean([segment.weights, segments[i + 1].weights], axis=0).tolist())
                self.lose(f"segment {i} of the schedule: its linear change is written as its mean weights")
            phases.append((starts[i], self.shares("tokens", weights)))
        return phases

    def samples(self, samples: str | None) -> str:
        """Return the unit that the samples of a target count: tokens for blocks of a fixed length, else examples.

        Raises:
            ValueError: `samples` is unknown, or needed because the mixture counts bytes.
        """
        choices = {"blocks": "tokens", "examples": "examples"}
        if samples is None and self.mixture.unit in ("tokens", "examples"):
            return self.mixture.unit
        if samples not in choices:
            raise ValueError(
                f"samples={samples!r} is not one of {list(choices)}; say whether a sample is a block of a fixed "
                "number of tokens or one example"
            )
        return choices[samples]


def _needed(name: str, value: int | None, reason: str) -> int:
    if value is None:
        raise ValueError(f"{name} is missing, and {reason}; pass it")
    return value


def tokens_per_iteration(sequence_length: Any, global_batch_size: Any) -> int | None:
    """Return the tokens of an optimizer step, or None when a factor is not given.

    Raises:
        ValueError: A factor is not an integer >= 1.
    """
    for name, value in (("sequence_length", sequence_length), ("global_batch_size", global_batch_size)):
        if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
            raise ValueError(f"{name}={value!r} is not an integer >= 1; correct it")
    return int(sequence_length * global_batch_size) if sequence_length and global_batch_size else None


def round_shares(shares: Sequence[float], digits: int) -> list[float]:
    """Round shares to decimals so that they sum to 1: the largest remainders are rounded up.

    Args:
        shares: K numbers that sum to 1.
        digits: Decimals.

    Returns:
        K numbers.

    Example:
        ```python
        >>> from hf_mixture.data.export.draft import round_shares
        >>> round_shares([1 / 3, 1 / 3, 1 / 3], 2)
        [0.34, 0.33, 0.33]

        ```
    """
    scaled = np.asarray(shares) * 10**digits
    counts = np.floor(scaled).astype(np.int64)
    left = 10**digits - int(counts.sum())
    counts[np.argsort(counts - scaled, kind="stable")[:left]] += 1
    return [float(f"{count}e-{digits}") for count in counts]


def local_files(source: Source) -> list[str] | None:
    """Return the files of a source that a builder of datasets reads ("json", "text" ...), else None."""
    if is_on_hub(source) or source.data_files is None:
        return None
    if isinstance(source.data_files, str):
        return [source.data_files]
    if all(isinstance(name, str) for name in source.data_files):
        return [str(name) for name in source.data_files]
    return None
