"""How often a mixture reads each source at a budget, without reading anything.

The stream is followed as a fluid: every source flows at its share of the positions, a schedule changes the shares, and
a cap that is reached stops its source (the others take over), the stream, or is reported. A plan rounds this flow to
whole examples: its counts lie within one example of it, and within a few where a cap is reached inside a block.

Letters: K sources; r_i share of source i in the positions; d_i examples of it that were drawn.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from hf_mixture.data.mixture_plan import MeanLengths, drawn, exact_positions, mean_array, row_shares
from hf_mixture.data.schedule import Segment, SourcePolicy
from hf_mixture.data.source import UNITS


if TYPE_CHECKING:
    from hf_mixture.data.mixture import Mixture

Float = NDArray[np.float64]

# A linear change is followed in steps; their mean weights make the sum exact in examples and good to 1e-6 in tokens.
_STEPS = 256


@dataclass(frozen=True)
class DryRun:
    """What a mixture reads at a budget.

    Args:
        amount: Length of the run that was asked for.
        unit: What `amount` counts.
        counted_in: What `drawn` and `sizes` count: examples, or the unit of the mixture where no mean length is known.
        drawn: How much of each source is read.
        sizes: How much of each source there is, or None where it is not known.
        epochs: `drawn` over `sizes`, or None.
        exceeded: Sources that pass a cap which must not be passed.
        capped: Sources that reach their cap and are drawn no more.
        stopped: The source whose cap ends the stream before the budget, or None.
        reached: Length of the run, in `unit`; below `amount` when the stream ends early.

    Example:
        ```python
        >>> from hf_mixture import Mixture
        >>> from hf_mixture.data.dry_run import dry_run
        >>> mixture = Mixture({"wiki": 0.75, "code": 0.25}, unit="tokens")
        >>> dry_run(mixture, 1000, "tokens", sizes={"wiki": {"tokens": 500}}).epochs
        {'wiki': 1.5, 'code': None}

        ```
    """

    amount: int
    unit: str
    counted_in: str
    drawn: Mapping[str, float]
    sizes: Mapping[str, int | None]
    epochs: Mapping[str, float | None]
    exceeded: tuple[str, ...]
    capped: tuple[str, ...]
    stopped: str | None
    reached: float


def dry_run(
    mixture: Mixture,
    amount: int,
    unit: str,
    *,
    sizes: Mapping[str, Mapping[str, int]] | None = None,
) -> DryRun:
    """Follow a mixture to a budget.

    Args:
        mixture: The mixture.
        amount: Length of the run, >= 1.
        unit: What `amount` counts: "examples", "tokens" or "bytes".
        sizes: By name and unit, how much there is of a source. Default: what the sources record.

    Returns:
        Draws, epochs and caps.

    Raises:
        ValueError: `amount` or `unit` is wrong, a source with a cap has no size, or a mean length is needed and not
            known.
    """
    if unit not in UNITS:
        raise ValueError(f"unit={unit!r} is not one of {list(UNITS)}; choose what the budget counts")
    if isinstance(amount, bool) or not isinstance(amount, int) or amount < 1:
        raise ValueError(f"amount={amount!r} is not an integer >= 1; correct it")
    known = _sizes(mixture, sizes)
    means = {
        key: {
            name: size[key] / size["examples"] for name, size in known.items() if size.get("examples") and key in size
        }
        for key in ("tokens", "bytes")
    }
    counted_in = "examples"
    # A constant mixture that is measured in its own unit needs no examples.
    convertible = unit == "examples" or all(means[unit].get(name) for name in drawn(mixture))
    if mixture.schedule is None and unit == mixture.unit and not convertible:
        counted_in = unit
    totals = {name: known[name].get(counted_in) for name in mixture.names}
    flow = _Flow(mixture, totals, counted_in, means)
    reached = flow.run(amount, unit)
    amounts = dict(zip(mixture.names, flow.drawn.tolist(), strict=True))
    epochs = {name: amounts[name] / total if (total := totals[name]) else None for name in mixture.names}
    return DryRun(
        amount, unit, counted_in, amounts, totals, epochs, flow.exceeded(), flow.capped(), flow.stopped, reached
    )


def _sizes(mixture: Mixture, sizes: Mapping[str, Mapping[str, int]] | None) -> dict[str, dict[str, int]]:
    known: dict[str, dict[str, int]] = {name: {} for name in mixture.names}
    for name, source in mixture.sources.items():
        known[name].update(source.size or ())
    for name, size in (sizes or {}).items():
        if name not in known:
            raise ValueError(f"sizes names {name!r}; the sources are {list(mixture.names)}: correct it")
        for key, value in size.items():
            if key not in UNITS or isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(
                    f"size of {name!r}: {key}={value!r} must be an integer >= 1 of {list(UNITS)}: correct it"
                )
        known[name].update(size)
    return known


class _Flow:
    """The draws of each source so far, and how they go on."""

    def __init__(
        self, mixture: Mixture, totals: Mapping[str, int | None], counted_in: str, means: MeanLengths
    ) -> None:
        self.mixture = mixture
        self.means = means
        self.direct = counted_in != "examples"
        self.policies = [mixture.policies.get(name, SourcePolicy()) for name in mixture.names]
        self.caps = np.full(len(mixture.names), math.inf)
        for i, (name, policy) in enumerate(zip(mixture.names, self.policies, strict=True)):
            if policy.max_epochs is None:
                continue
            if not (total := totals[name]):
                raise ValueError(
                    f"source {name!r} has max_epochs={policy.max_epochs:g} and its size in {counted_in} is not known; "
                    "pass sizes, or record size in its Source"
                )
            self.caps[i] = policy.max_epochs * total
        self.drawn = np.zeros(len(mixture.names))
        self.stopped: str | None = None

    def exceeded(self) -> tuple[str, ...]:
        """Sources past a cap that must not be passed; a plan may round up by one example."""
        return tuple(
            name
            for name, policy, drawn, cap in zip(self.mixture.names, self.policies, self.drawn, self.caps, strict=True)
            if policy.overflow == "error" and drawn > cap * (1 + 1e-9)
        )

    def capped(self) -> tuple[str, ...]:
        """Sources that are drawn no more."""
        return tuple(
            name
            for name, policy, drawn, cap in zip(self.mixture.names, self.policies, self.drawn, self.caps, strict=True)
            if policy.overflow == "renormalise" and drawn >= cap
        )

    def run(self, amount: int, unit: str) -> float:
        """Draw until the budget is spent or a cap ends the stream; return how much was spent."""
        means = np.ones(len(self.drawn)) if self.direct else mean_array(self.mixture, self.mixture.unit, self.means)
        counts = np.ones(len(self.drawn)) if self.direct else mean_array(self.mixture, unit, self.means)
        spent = 0.0
        for length, weights in self._pieces(unit, amount):
            rest = length
            while rest > 0 and self.stopped is None:
                open_weights = np.where(self._is_open(), weights, 0.0)
                if not open_weights.any():
                    self.stopped = self.mixture.names[int(np.argmax(weights))]
                    break
                rows = row_shares(open_weights, means)
                per_position = float(rows @ counts)
                step, event = min(rest, (amount - spent) / per_position), -1
                for i, policy in enumerate(self.policies):
                    left = self.caps[i] - self.drawn[i]
                    if policy.overflow != "error" and rows[i] > 0 and left < step * rows[i]:
                        step, event = left / rows[i], i
                self.drawn += step * rows
                spent += step * per_position
                rest -= step
                if event >= 0:
                    self.drawn[event] = self.caps[event]
                    if self.policies[event].overflow == "stop":
                        self.stopped = self.mixture.names[event]
                elif spent >= amount * (1 - 1e-12):
                    return float(amount)
            if self.stopped is not None:
                return spent
        return spent

    def _is_open(self) -> NDArray[np.bool_]:
        """Whether each source may still be drawn."""
        strict = np.array([policy.overflow == "error" for policy in self.policies])
        return strict | (self.drawn < self.caps)

    def _pieces(self, unit: str, amount: int) -> Iterator[tuple[float, Float]]:
        """The schedule as (number of positions, weights), linear changes cut into steps."""
        segments: tuple[Segment, ...] = self.mixture.schedule or (Segment(0, self.mixture.shares),)
        if self.mixture.schedule is None:
            starts = [0.0]
        elif self.mixture.schedule_unit == "fraction":
            num = self._num_positions(unit, amount)
            starts = [segment.start * num for segment in segments]
        else:
            starts = exact_positions(self.mixture, self.means)
        lengths = np.diff([*starts, math.inf])
        for i, (segment, length) in enumerate(zip(segments, lengths.tolist(), strict=True)):
            first = np.asarray(segment.weights, dtype=np.float64)
            if segment.interpolation == "constant":
                yield length, first
                continue
            last = np.asarray(segments[i + 1].weights)
            for step in range(_STEPS):
                yield length / _STEPS, first + (step + 0.5) / _STEPS * (last - first)

    def _num_positions(self, unit: str, amount: int) -> float:
        """Positions of the whole run, from which fractions are taken, caps left out of account."""
        from hf_mixture.data.mixture_plan import expected_amounts

        if unit == "examples":
            return float(amount)
        amounts: dict[str, Any] = expected_amounts(self.mixture, amount, unit, self.means)
        return float(
            (np.array(list(amounts.values())) / mean_array(self.mixture, self.mixture.unit, self.means)).sum()
        )
