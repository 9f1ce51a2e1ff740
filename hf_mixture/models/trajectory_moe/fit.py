"""A fit of many starts: one class first, ECM of all starts at once, hopeless ones dropped, the others polished.

A start is dropped when ECM leaves it degenerate or its log-likelihood more than the number of parameters below the
best: polishing gains a few units where ECM has nearly stopped, so such a start is at another, worse optimum.
Everything that is finished is in the journal, if there is one, so a fit that is killed continues.

Letters: S starts, K classes, N people, V numbers of the unconstrained vector.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from os import PathLike
from typing import Any

import numpy as np

from hf_mixture.models.trajectory_moe.data import TrajectoryData
from hf_mixture.models.trajectory_moe.degenerate import check_support, faults_of
from hf_mixture.models.trajectory_moe.ecm import ecm
from hf_mixture.models.trajectory_moe.fit_journal import FitJournal
from hf_mixture.models.trajectory_moe.layout import Layout, Parameters, pack, unpack
from hf_mixture.models.trajectory_moe.optima import OptimumGroup, StartRecord, group_optima, match_classes
from hf_mixture.models.trajectory_moe.polish import polish
from hf_mixture.models.trajectory_moe.products import Observations, observations_of
from hf_mixture.models.trajectory_moe.scores import evaluate
from hf_mixture.models.trajectory_moe.starts import draw_starts, from_classes, one_class_starts, soft_classes
from hf_mixture.models.trajectory_moe.units import Units, in_user_units, units_of


SCREENING_ITERATIONS = 12
ECM_ITERATIONS = 40
# Starts in one batch of ECM, which bounds memory.
BATCH = 20


@dataclass(frozen=True, kw_only=True)
class MixtureFit:
    """An estimated trajectory mixture of experts.

    Args:
        layout: The sizes.
        units: The units of the estimation.
        vector: The unconstrained vector [V].
        log_likelihood: Log-likelihood of the data, on the user's units.
        posterior: Class probabilities of each person [N, K].
        starts: What became of each start.
        optima: The distinct optima, best first.
        faults: Why the best estimate is degenerate; empty where it is not.
        num_people: N.
    """

    layout: Layout
    units: Units
    vector: Any
    log_likelihood: float
    posterior: Any
    starts: list[StartRecord]
    optima: list[OptimumGroup]
    faults: list[str]
    num_people: int

    @property
    def parameters(self) -> Parameters:
        """The parameters on the user's units, as a batch of one."""
        return in_user_units(unpack(self.vector[None], self.layout), self.units, self.layout)


def fit_mixture(
    data: TrajectoryData,
    layout: Layout,
    *,
    num_starts: int = 20,
    seed: int = 0,
    first_classes: Any = None,
    journal: str | PathLike[str] | None = None,
    progress: bool = True,
    units: Units | None = None,
) -> MixtureFit:
    """Maximise the likelihood from many starts.

    Args:
        data: The trajectories.
        layout: The sizes.
        num_starts: Random starts, at least 1. With one class, knots or rates to start from, at most 5. Default: 20.
        seed: Seed of the starts. Default: 0.
        first_classes: A class for each person [N], from which one more start is made; the classes keep their numbers.
            Default: none, and classes are ordered by size.
        journal: File in which finished work is kept, to continue a fit that is killed. Default: none.
        progress: Whether to show a progress bar after two seconds. Default: True.
        units: Units of the estimation. Default: those of the data.

    Returns:
        The best usable optimum, or the best one with its faults where all are degenerate.

    Raises:
        ValueError: If the data cannot support the model, or the journal is of another fit.
    """
    from tqdm.auto import tqdm

    if num_starts < 1:
        raise ValueError(f"num_starts={num_starts} must be at least 1")
    check_support(data, layout)
    units = units or units_of(data)
    observations = observations_of(units.standardise(data))
    log = FitJournal.open(journal, data, layout, {"num_starts": num_starts, "seed": seed}, first_classes)
    batches = _batches(layout, num_starts, is_given=first_classes is not None)
    total = sum(len(batch) for batch in batches)
    with tqdm(total=total, desc=f"{layout.num_classes} classes", unit="start", delay=2.0, disable=not progress) as bar:
        ends, records = _run_ecm(
            observations, layout, log=log, batches=batches, seed=seed, first_classes=first_classes, bar=bar
        )
        found = _polish_all(ends, records, observations, layout, log=log, bar=bar)
    shift = float(units.log_density_shifts(data, layout).sum())
    return _conclude(found, observations, layout, units, shift, first_classes=first_classes)


def fit_one_class(observations: Observations, layout: Layout) -> Parameters:
    """The model of one class, near enough to its optimum to start from.

    Args:
        observations: The data, standardised.
        layout: The sizes; its number of classes is taken as 1.
    """
    single = replace(layout, num_classes=1)
    plain = replace(observations, labels=None)
    estimates, trace = ecm(one_class_starts(plain, single), plain, single, num_iterations=ECM_ITERATIONS)
    return estimates.starts([int(np.nanargmax(trace[-1]))])


def _batches(layout: Layout, num_starts: int, *, is_given: bool) -> list[list[int]]:
    """Indices of the starts of each batch; -1 is the start that is given."""
    if layout.num_classes == 1:
        return [list(range(min(num_starts, 5) if layout.family.num_shapes else 1))]
    drawn = [list(range(at, min(at + BATCH, num_starts))) for at in range(0, num_starts, BATCH)]
    return [*drawn, [-1]] if is_given else drawn


def _run_ecm(
    observations: Observations,
    layout: Layout,
    *,
    log: FitJournal,
    batches: list[list[int]],
    seed: int,
    first_classes: Any,
    bar: Any,
) -> tuple[Any, list[StartRecord]]:
    """The vectors after ECM [S, V], and what is known of the starts so far."""
    vectors: list[Any] = []
    records: list[StartRecord] = []
    one_class = None
    for place, batch in enumerate(batches):
        known = log.ecm(place)
        if known is None:
            if layout.num_classes == 1:
                starts = one_class_starts(observations, layout, num_starts=len(batch))
            else:
                one_class = one_class or fit_one_class(observations, layout)
                if batch == [-1]:
                    starts = _given_start(first_classes, one_class, observations, layout)
                else:
                    starts = draw_starts(one_class, observations, layout, seed=seed, indices=batch)
            estimates, likelihoods = _screened_ecm(starts, observations, layout)
            known = pack(estimates, layout), likelihoods
            log.keep_ecm(place, *known)
        vectors.append(known[0])
        records += [
            StartRecord(index=index, ecm_log_likelihood=float(value))
            for index, value in zip(batch, known[1], strict=True)
        ]
        bar.set_postfix_str(f"ECM of batch {place + 1} of {len(batches)}", refresh=False)
    return np.concatenate(vectors), records


def _given_start(first_classes: Any, one_class: Parameters, observations: Observations, layout: Layout) -> Parameters:
    classes = np.asarray(first_classes)
    if classes.shape != (observations.num_people,) or not ((classes >= 0) & (classes < layout.num_classes)).all():
        raise ValueError(
            f"first_classes must give each of {observations.num_people} people a class from 0 to "
            f"{layout.num_classes - 1}"
        )
    shape = np.repeat(one_class.shape, layout.num_classes, axis=1)
    return from_classes(soft_classes(classes, layout.num_classes)[None], shape, observations, layout)


def _screened_ecm(starts: Parameters, observations: Observations, layout: Layout) -> tuple[Parameters, Any]:
    """Two rounds of ECM; a start that is hopeless after the first one is not taken through the second."""
    first, trace = ecm(starts, observations, layout, num_iterations=SCREENING_ITERATIONS)
    value = np.where(np.isfinite(trace[-1]), trace[-1], -np.inf)
    # Early on a start may still gain much, so the margin is wide: what the slowest recent gain would sum up to, and
    # more.
    recent = np.nan_to_num(trace[-1] - trace[-2], nan=0.0)
    hopeful = value + ECM_ITERATIONS * recent >= value.max() - layout.num_parameters
    second, later = ecm(
        first.starts(hopeful), observations, layout, num_iterations=ECM_ITERATIONS - SCREENING_ITERATIONS
    )

    def merged(one: Any, two: Any) -> Any:
        whole = one.copy()
        whole[hopeful] = two
        return whole

    value[hopeful] = later[-1]
    pairs = {name: (getattr(first, name), getattr(second, name)) for name in vars(first)}
    return Parameters(**{n: None if one is None else merged(one, two) for n, (one, two) in pairs.items()}), value


def _polish_all(
    ends: Any, records: list[StartRecord], observations: Observations, layout: Layout, *, log: FitJournal, bar: Any
) -> list[tuple[StartRecord, Any, Any]]:
    """Polish what is worth it: record, vector and class probabilities [K, N] of each start."""
    best = max(record.ecm_log_likelihood for record in records)
    found = []
    for record, vector in zip(records, ends, strict=True):
        bar.update(1)
        if record.ecm_log_likelihood < best - layout.num_parameters:
            found.append((replace(record, state="dropped: far below the best after ECM"), vector, None))
            continue
        known = log.polished(record.index)
        if known is None:
            known = polish(vector, observations, layout)
            log.keep_polished(record.index, known)
        posterior = evaluate(known.vector[None], observations, layout).posterior[0]
        faults = faults_of(unpack(known.vector[None], layout), posterior, layout)
        state = "converged" if known.is_converged else "not converged"
        polished = replace(
            record,
            log_likelihood=known.log_likelihood,
            criterion=known.criterion,
            num_pinned=len(known.pinned),
            faults=faults,
            state=f"degenerate: {faults[0]}" if faults else state,
        )
        found.append((polished, known.vector, posterior))
        best_so_far = max(item.end for item, _, _ in found)
        bar.set_postfix_str(f"best {best_so_far:.3f}", refresh=False)
    return found


def _conclude(
    found: list[tuple[StartRecord, Any, Any]],
    observations: Observations,
    layout: Layout,
    units: Units,
    shift: float,
    *,
    first_classes: Any,
) -> MixtureFit:
    polished = [entry for entry in found if entry[0].log_likelihood is not None]
    usable = [entry for entry in polished if not entry[0].faults] or polished
    record, vector, posterior = max(usable, key=lambda entry: entry[0].end)
    if first_classes is None:
        order = [int(k) for k in np.argsort(-posterior.sum(axis=1), kind="stable")]
    else:
        order = match_classes(soft_classes(np.asarray(first_classes), layout.num_classes), posterior)
    vector = pack(unpack(vector[None], layout).relabelled(order), layout)[0]
    posterior = posterior[order]
    in_user = [
        replace(
            item,
            ecm_log_likelihood=item.ecm_log_likelihood + shift,
            log_likelihood=None if item.log_likelihood is None else item.log_likelihood + shift,
        )
        for item, _, _ in found
    ]
    groups = group_optima(
        [item for item in in_user if item.log_likelihood is not None], [entry[2] for entry in polished]
    )
    return MixtureFit(
        layout=layout,
        units=units,
        vector=vector,
        log_likelihood=record.end + shift,
        posterior=posterior.T,
        starts=in_user,
        optima=groups,
        faults=record.faults,
        num_people=observations.num_people,
    )
