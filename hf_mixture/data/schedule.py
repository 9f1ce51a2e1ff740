"""What a mixture says about time and repetition: segments of a schedule, and the policy of a source."""

from __future__ import annotations

import math
import numbers
from dataclasses import dataclass
from typing import Literal


Interpolation = Literal["constant", "linear"]
Overflow = Literal["renormalise", "stop", "error"]

INTERPOLATIONS = ("constant", "linear")
OVERFLOWS = ("renormalise", "stop", "error")


@dataclass(frozen=True)
class Segment:
    """The weights of a mixture from one point of the stream on.

    Args:
        start: Where the segment begins, >= 0, in the unit of the schedule: a position, a number of tokens, or a
            fraction of the stream in [0, 1).
        weights: Share of each source, in the order of the mixture; finite, >= 0, sum 1.
        interpolation: `"constant"`: the weights hold to the end of the segment. `"linear"`: they move in a straight
            line to those of the next segment. Default: `"constant"`.

    Raises:
        ValueError: `start` or a weight is not a finite number >= 0, or the interpolation is unknown.

    Example:
        ```python
        >>> from hf_mixture.data.schedule import Segment
        >>> Segment(0, (0.9, 0.1), "linear").weights
        (0.9, 0.1)

        ```
    """

    start: float
    weights: tuple[float, ...]
    interpolation: Interpolation = "constant"

    def __post_init__(self) -> None:
        object.__setattr__(self, "weights", tuple(self.weights))
        for field, values in (("start", (self.start,)), ("weights", self.weights)):
            for value in values:
                if isinstance(value, bool) or not isinstance(value, numbers.Real) or not 0 <= value < math.inf:
                    raise ValueError(f"segment.{field}={value!r} is not a finite number >= 0; correct it")
        if self.interpolation not in INTERPOLATIONS:
            raise ValueError(
                f"segment.interpolation={self.interpolation!r} is not one of {list(INTERPOLATIONS)}; choose one"
            )


@dataclass(frozen=True)
class SourcePolicy:
    """How often a source may be repeated, and what holds for its share.

    Args:
        max_epochs: Most passes over the source, > 0; fractions are allowed. Default: None, no cap.
        overflow: What happens at the cap. `"error"`: a stream that would pass it is refused. `"renormalise"`: the
            source is drawn no more and the other weights grow. `"stop"`: the stream ends. Default: `"error"`.
        min_weight: Smallest share that the source may be given, in [0, 1]. Default: 0.
        shuffle: Whether each pass over the source has an order of its own; otherwise rows come as they stand.
            Default: True.

    Raises:
        ValueError: A field breaks its rule.

    Example:
        ```python
        >>> from hf_mixture.data.schedule import SourcePolicy
        >>> SourcePolicy(max_epochs=4, overflow="renormalise").shuffle
        True

        ```
    """

    max_epochs: float | None = None
    overflow: Overflow = "error"
    min_weight: float = 0.0
    shuffle: bool = True

    def __post_init__(self) -> None:
        cap = self.max_epochs
        if cap is not None and (isinstance(cap, bool) or not isinstance(cap, numbers.Real) or not 0 < cap < math.inf):
            raise ValueError(f"max_epochs={cap!r} is not a finite number > 0; correct it, or leave it out for no cap")
        if self.overflow not in OVERFLOWS:
            raise ValueError(f"overflow={self.overflow!r} is not one of {list(OVERFLOWS)}; choose one")
        share = self.min_weight
        if isinstance(share, bool) or not isinstance(share, numbers.Real) or not 0 <= share <= 1:
            raise ValueError(f"min_weight={share!r} is not a number in [0, 1]; correct it")
        if not isinstance(self.shuffle, bool):
            raise ValueError(f"shuffle={self.shuffle!r} must be True or False; correct it")
