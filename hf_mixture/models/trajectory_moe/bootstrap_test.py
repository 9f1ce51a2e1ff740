"""The bootstrap likelihood-ratio test of K - 1 against K classes (McLachlan, 1987).

Letters: K classes, B draws.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from os import PathLike
from pathlib import Path
from typing import Any

from hf_mixture.hub.atomic import write_atomic
from hf_mixture.hub.damage import reading
from hf_mixture.hub.reading import read_document
from hf_mixture.models.trajectory_moe.data import TrajectoryData
from hf_mixture.models.trajectory_moe.fit import MixtureFit, fit_mixture
from hf_mixture.models.trajectory_moe.simulate import simulate


FORMAT = "hf_mixture.trajectory_bootstrap"
VERSION = 1


@dataclass(frozen=True, kw_only=True)
class BootstrapTest:
    """The outcome of a test.

    Args:
        statistic: -2 log-likelihood of the smaller model less that of the larger one.
        draws: The same on data drawn from the smaller model; a draw whose fits failed is left out.
        num_failed: Draws that are left out.
    """

    statistic: float
    draws: list[float]
    num_failed: int

    @property
    def p_value(self) -> float:
        """Share of draws, the data themselves among them, that are at least as far apart as the data."""
        return (1 + sum(draw >= self.statistic for draw in self.draws)) / (1 + len(self.draws))


def bootstrap_test(
    smaller: MixtureFit,
    larger: MixtureFit,
    data: TrajectoryData,
    *,
    num_draws: int = 99,
    num_starts: int = 5,
    seed: int = 0,
    journal: str | PathLike[str] | None = None,
) -> BootstrapTest:
    """Test whether data ask for one more class.

    Args:
        smaller: The fit with K - 1 classes.
        larger: The fit with K.
        data: The data of both.
        num_draws: B, data sets drawn from the smaller model. Default: 99.
        num_starts: Starts of each fit to a drawn data set. Default: 5.
        seed: Seed. Default: 0.
        journal: File in which finished draws are kept, to continue a test that is killed. Default: none.

    Returns:
        The test.

    Raises:
        ValueError: If the fits do not differ by one class and nothing else, or the journal is of another test.
    """
    from tqdm.auto import tqdm

    if replace(smaller.layout, num_classes=larger.layout.num_classes) != larger.layout or (
        larger.layout.num_classes != smaller.layout.num_classes + 1
    ):
        raise ValueError(
            f"the fits have {smaller.layout} and {larger.layout}; they must differ by one class and nothing else"
        )
    statistic = 2 * (larger.log_likelihood - smaller.log_likelihood)
    identity = [smaller.layout.num_classes, seed, num_starts, round(smaller.log_likelihood, 6)]
    path = None if journal is None else Path(journal)
    known: dict[str, float | None] = {}
    if path is not None and path.exists():
        known = _known_draws(path, identity)
    for draw in tqdm(range(num_draws), desc="bootstrap", unit="draw", delay=2.0):
        if str(draw) in known:
            continue
        known[str(draw)] = _one_draw(smaller, larger, data, num_starts, [seed, draw])
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(
                path, json.dumps({"format": FORMAT, "version": VERSION, "identity": identity, "draws": known})
            )
    values = [known[str(draw)] for draw in range(num_draws)]
    finished = [value for value in values if value is not None]
    return BootstrapTest(statistic=statistic, draws=finished, num_failed=num_draws - len(finished))


def _known_draws(path: Path, identity: list[Any]) -> dict[str, float | None]:
    remedy = "choose another file, or remove it"
    content = read_document(path, FORMAT, VERSION, allow_nan=True, remedy=remedy)
    if content.get("identity") != identity:
        raise ValueError(f"journal={str(path)!r} is of another test; {remedy}")
    with reading(path, remedy):
        return {draw: None if value is None else float(value) for draw, value in content["draws"].items()}


def _one_draw(
    smaller: MixtureFit, larger: MixtureFit, data: TrajectoryData, num_starts: int, seed: list[int]
) -> float | None:
    drawn, classes = simulate(smaller.parameters, data, smaller.layout, seed=seed)
    null = fit_mixture(
        drawn,
        smaller.layout,
        num_starts=num_starts,
        first_classes=classes if smaller.layout.num_classes > 1 else None,
        progress=False,
    )
    more = fit_mixture(drawn, larger.layout, num_starts=num_starts, progress=False)
    if null.faults or more.faults:
        return None
    return 2 * (more.log_likelihood - null.log_likelihood)
