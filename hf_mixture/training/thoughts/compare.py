"""The systems of a run side by side: bits per byte, differences with intervals, and what they say.

Letters: N test documents, M experts, S seeds.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hf_mixture.training.bootstrap import paired_bootstrap


Nats = NDArray[np.float64]
# What the peers must have been good for: wrong ones lose at least this share of the gain over one active expert.
ERASED = 0.8


def best_by_kind(nats: Nats, kinds: Sequence[str], num_bytes: NDArray[np.int64]) -> dict[str, int]:
    """Choose the best expert of each kind of document.

    Args:
        nats: Nats of each document under each expert [N, M].
        kinds: Kind of each document.
        num_bytes: Bytes of each document [N].

    Returns:
        Kind to the index of the expert with the fewest bits per byte.
    """
    of = np.array(kinds)
    return {
        kind: int((nats[of == kind].sum(0) / num_bytes[of == kind].sum()).argmin()) for kind in dict.fromkeys(kinds)
    }


def routed(nats: Nats, choice: Sequence[int] | NDArray[np.int64]) -> Nats:
    """Nats of each document [N] under the expert that is chosen for it, of those under all experts [N, M]."""
    found: Nats = nats[np.arange(len(nats)), np.asarray(choice)]
    return found


def row_of(
    name: str, nats: Sequence[Nats], kinds: Sequence[str], num_bytes: NDArray[np.int64], seeds: Sequence[int] = ()
) -> dict[str, Any]:
    """Describe one system.

    Args:
        name: Its name.
        nats: Nats of each document [N], once for each seed.
        kinds: Kind of each document.
        num_bytes: Bytes of each document [N].
        seeds: The seeds; none for what does not depend on one.

    Returns:
        `name`; `bits_per_byte` on all documents together and `by_kind`, means over the seeds; `sd` over the seeds, or
        None; `runs`, one value for each seed.
    """
    of = np.array(kinds)
    each = [_bits(values, num_bytes) for values in nats]
    by_kind = {
        kind: statistics.fmean(_bits(values[of == kind], num_bytes[of == kind]) for values in nats)
        for kind in dict.fromkeys(kinds)
    }
    return {
        "name": name,
        "bits_per_byte": statistics.fmean(each),
        "sd": statistics.stdev(each) if len(each) > 1 else None,
        "by_kind": by_kind,
        "runs": [{"seed": seed, "bits_per_byte": value} for seed, value in zip(seeds, each, strict=False)],
    }


def difference(ours: Sequence[Nats], theirs: Sequence[Nats], num_bytes: NDArray[np.int64]) -> dict[str, Any]:
    """Bits per byte of one system less those of another, averaged over the seeds, with an interval over documents.

    Args:
        ours: Nats [N], once for each seed.
        theirs: The same of the other system.
        num_bytes: Bytes of each document [N].

    Returns:
        `mean`, `low`, `high` (95%), and the `verdict`: `better` or `worse` where the interval leaves out zero, else
        `undecided`.
    """
    bits = [np.mean(values, axis=0) / math.log(2) for values in (ours, theirs)]
    found: dict[str, Any] = paired_bootstrap(bits[0], bits[1], num_bytes)
    verdict = "better" if found["high"] < 0 else "worse" if found["low"] > 0 else "undecided"
    return found | {"verdict": verdict}


def erased_share(mixture: float, wrong: float, control: float) -> float | None:
    """Share of the mixture's gain over a control that is lost when its peers read the wrong text.

    Args:
        mixture: Bits per byte of the mixture.
        wrong: Of the mixture with wrong peers.
        control: Of the control.

    Returns:
        The share; None where there is no gain that could be lost.

    Example:
        >>> from hf_mixture.training.thoughts.compare import erased_share
        >>> erased_share(1.5, 1.75, 2.0)
        0.5
    """
    return (wrong - mixture) / (control - mixture) if mixture < control else None


def requirements(differences: Mapping[str, Mapping[str, Any]], erased: float | None) -> list[dict[str, Any]]:
    """What the method promises, and whether this run shows it."""
    share = "there is no gain" if erased is None else f"{erased:.0%}"
    return [
        {
            "requirement": "better than domain-oracle routing, the interval leaves out zero",
            "met": differences["domain oracle"]["verdict"] == "better",
            "found": interval(differences["domain oracle"]),
        },
        {
            "requirement": "better than the control with one active expert, the interval leaves out zero",
            "met": differences["self_only"]["verdict"] == "better",
            "found": interval(differences["self_only"]),
        },
        {
            "requirement": f"wrong peers erase at least {ERASED:.0%} of the gain over that control",
            "met": erased is not None and erased >= ERASED,
            "found": share,
        },
    ]


def interval(values: Mapping[str, Any]) -> str:
    """Format a difference with its interval."""
    return f"{values['mean']:+.4f} [{values['low']:+.4f}, {values['high']:+.4f}]"


def _bits(nats: Nats, num_bytes: NDArray[np.int64]) -> float:
    return float(nats.sum() / math.log(2) / num_bytes.sum())
