"""Training runs as trajectories: which runs diverge, stall or converge, and what decides it.

A run is a person, a logged step an occasion and the loss the outcome; hyper-parameters or the weights of a data
mixture are cluster covariates. Time is the logarithm of the step, on which learning curves are close to two straight
lines.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from hf_mixture.hub.damage import naming, reading
from hf_mixture.hub.reading import read_log, read_object


CONVERGING, PLATEAU, DIVERGING = "converging", "plateau", "diverging"
# A class whose mean curve falls by less than this share of the largest fall has stalled.
STALLED = 1 / 3


def load_training_curves(
    sources: Mapping[str, Any] | Sequence[str | PathLike[str]],
    *,
    metric: str = "loss",
    covariates: Mapping[str, Mapping[str, float]] | None = None,
    max_points: int = 10,
    log_values: bool = True,
    non_finite: str = "ceiling",
) -> Any:
    """Read the logs of Trainer runs as a data set that `TrajectoryMoEModel.fit` takes.

    Args:
        sources: For each run its name and a `trainer_state.json`, a folder with one (of a run, or of its checkpoints,
            of which the last is read), a file of JSON lines, or the `log_history` itself; or a list of such files and
            folders, named by their paths.
        metric: Entry of the log that is followed. Default: `"loss"`.
        covariates: For each run the numbers that may decide its class, each run the same names. Default: none.
        max_points: Most occasions of a run, at least 3: entries are averaged over equal intervals of log step.
            Default: 10.
        log_values: Whether to follow the logarithm of the metric. Default: True.
        non_finite: What an entry that is not finite becomes: `"ceiling"`, the largest finite value of all runs,
            because a loss that is NaN is not missing by chance; or `"missing"`. Default: `"ceiling"`.

    Returns:
        A `datasets.Dataset` with `run`, `values`, `times` (log10 of the step), `peak_learning_rate` (log10, where it
        is logged) and one column for each covariate.

    Raises:
        ValueError: If a source cannot be read, a run has fewer than two entries of the metric, a value cannot be taken
            the logarithm of, or runs differ in their covariates.

    Example:
        >>> from hf_mixture import load_training_curves
        >>> log = [{"step": step, "loss": 3.0 / step, "learning_rate": 1e-3} for step in (1, 2, 4, 8)]
        >>> curves = load_training_curves({"a": log, "b": log}, covariates={"a": {"width": 64}, "b": {"width": 128}})
        >>> curves.column_names
        ['run', 'values', 'times', 'peak_learning_rate', 'width']
    """
    from datasets import Dataset

    if max_points < 3:
        raise ValueError(f"max_points={max_points} must be at least 3")
    if non_finite not in ("ceiling", "missing"):
        raise ValueError(f"non_finite={non_finite!r} must be 'ceiling' or 'missing'")
    named = sources if isinstance(sources, Mapping) else {str(source): source for source in sources}
    if not named:
        raise ValueError("sources is empty; give at least one run")
    logs = {name: _read_log(name, source) for name, source in named.items()}
    series = {}
    for name, log in logs.items():
        with naming(_place_of(name, named[name])):
            series[name] = _series(name, log, metric)
            values = series[name][1]
            lowest = values[np.isfinite(values)].min(initial=np.inf)
            if log_values and lowest <= 0:
                raise ValueError(f"{metric!r} has the value {lowest:g}, which has no logarithm; use log_values=False")
    finite = np.concatenate([values[np.isfinite(values)] for _, values in series.values()])
    if not len(finite):
        raise ValueError(f"no run has a finite {metric!r}; nothing can be followed")
    columns: dict[str, list[Any]] = {"run": list(named), "values": [], "times": []}
    for name, (steps, values) in series.items():
        times, means = _averaged(steps, values, finite.max() if non_finite == "ceiling" else None, max_points)
        if len(times) < 2:
            raise ValueError(f"run {name!r} has {len(times)} usable entries of {metric!r}; a curve needs two")
        columns["values"].append(np.log(means).tolist() if log_values else means.tolist())
        columns["times"].append(times.tolist())
    peaks = []
    for name, log in logs.items():
        with naming(_place_of(name, named[name])):
            peaks.append(max((float(entry.get("learning_rate") or 0.0) for entry in log), default=0.0))
    if min(peaks) > 0:
        columns["peak_learning_rate"] = [math.log10(peak) for peak in peaks]
    return Dataset.from_dict(columns | _covariate_columns(list(named), covariates))


def name_run_classes(model: Any) -> list[str]:
    """Name the classes of a model of training curves by their mean curves.

    A class whose mean ends above its start is diverging; of the others, one that falls by less than a third of the
    largest fall is on a plateau.

    Args:
        model: A fitted `TrajectoryMoEModel` of one outcome.

    Returns:
        A name for each class; two classes may have the same.
    """
    start, end = mean_curves(model, np.array([0.0, 1.0])).T
    largest = max(float((start - end).max()), 0.0)
    return [
        DIVERGING if fall < 0 else PLATEAU if fall < STALLED * largest else CONVERGING
        for fall in (start - end).tolist()
    ]


def mean_curves(model: Any, places: Any, outcome: int = 0) -> Any:
    """Mean curve of each class at places of the observed range of time, at the mean growth covariates.

    Args:
        model: A `TrajectoryMoEModel`.
        places: From 0, the first time, to 1, the last one [T].
        outcome: The outcome. Default: the first.

    Returns:
        Means on the units of the data [K, T].
    """
    from hf_mixture.models.trajectory_moe.layout import unpack

    # On standardised units the mean growth covariates are 0.
    parameters = unpack(model.vector.detach().cpu().numpy(), model.layout)
    curve, units = model.layout.family, model.units
    shape = parameters.shape[0, :, outcome, None] if curve.num_shapes else np.zeros((model.layout.num_classes, 1))
    columns = curve.columns(np.asarray(places, dtype=np.float64)[None] + 0 * shape, shape)
    alpha = parameters.alpha[0, :, outcome * curve.num_factors : (outcome + 1) * curve.num_factors]
    total = alpha[:, :1] + sum(alpha[:, a, None] * column for a, column in enumerate(columns, start=1))
    return units.values[0, outcome] + units.values[1, outcome] * total


def _place_of(name: str, source: Any) -> str:
    """What an error is about: the file or folder of a run, or its name."""
    return str(source) if isinstance(source, str | PathLike) else f"run {name!r}"


def _read_log(name: str, source: Any) -> list[dict[str, Any]]:
    if isinstance(source, Sequence) and not isinstance(source, str):
        return list(source)
    path = Path(source)
    if path.is_dir():
        checkpoints = sorted(path.glob("checkpoint-*"), key=lambda folder: int(folder.name.rpartition("-")[2]))
        places = [path / "trainer_state.json", path / "trainer_log.jsonl"]
        places += [folder / "trainer_state.json" for folder in reversed(checkpoints)]
        path = next((place for place in places if place.is_file()), path / "trainer_state.json")
    if not path.is_file():
        raise ValueError(
            f"run {name!r}: {str(source)!r} has no trainer_state.json; give a file, a folder or a log_history"
        )
    remedy = "give the state of a Trainer, with a log_history, or a log with one entry a line"
    with reading(path, remedy):
        log = read_log(path) if path.suffix == ".jsonl" else read_object(path, allow_nan=True)["log_history"]
        if not all(isinstance(entry, dict) for entry in log):
            raise ValueError("the entries of a log are objects")
        return list(log)


def _series(name: str, log: list[dict[str, Any]], metric: str) -> tuple[Any, Any]:
    pairs = {int(entry["step"]): float(entry[metric]) for entry in log if metric in entry and entry.get("step", 0) > 0}
    if len(pairs) < 2:
        found = sorted({key for entry in log for key in entry})
        raise ValueError(f"run {name!r} has {len(pairs)} entries of {metric!r}, two are needed; its log has {found}")
    steps = sorted(pairs)
    return np.array(steps, dtype=np.float64), np.array([pairs[step] for step in steps])


def _averaged(steps: Any, values: Any, ceiling: float | None, max_points: int) -> tuple[Any, Any]:
    """Means of log step and value over equal intervals of log step."""
    if ceiling is None:
        steps, values = steps[np.isfinite(values)], values[np.isfinite(values)]
    else:
        values = np.where(np.isfinite(values), np.minimum(values, ceiling), ceiling)
    times = np.log10(steps)
    if len(times) <= max_points:
        return times, values
    edges = np.linspace(times[0], times[-1], max_points + 1)
    bins = np.clip(np.searchsorted(edges, times, side="right") - 1, 0, max_points - 1)
    used = np.unique(bins)
    return (
        np.array([times[bins == place].mean() for place in used]),
        np.array([values[bins == place].mean() for place in used]),
    )


def _covariate_columns(
    names: list[str], covariates: Mapping[str, Mapping[str, float]] | None
) -> dict[str, list[float]]:
    if covariates is None:
        return {}
    missing = [name for name in names if name not in covariates]
    if missing:
        raise ValueError(f"covariates has no entry for run {missing[0]!r}; give every run the same covariates")
    keys = list(covariates[names[0]])
    for name in names:
        if list(covariates[name]) != keys:
            raise ValueError(f"run {name!r} has the covariates {list(covariates[name])}, the first run has {keys}")
    return {key: [float(covariates[name][key]) for name in names] for key in keys}
