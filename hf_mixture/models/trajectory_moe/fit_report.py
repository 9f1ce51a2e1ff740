"""The report of a fit: what `fit_report.json` holds, and the table of estimates made from it.

Letters: K classes, V parameters.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np

from hf_mixture.hub.atomic import write_atomic
from hf_mixture.hub.damage import shorten_middle
from hf_mixture.hub.reading import read_object
from hf_mixture.models.trajectory_moe.criteria import information_criteria
from hf_mixture.models.trajectory_moe.data import TrajectoryData
from hf_mixture.models.trajectory_moe.degenerate import boundaries_of
from hf_mixture.models.trajectory_moe.fit import MixtureFit
from hf_mixture.models.trajectory_moe.layout import unpack
from hf_mixture.models.trajectory_moe.natural import natural_names
from hf_mixture.models.trajectory_moe.standard_errors import Uncertainty, estimate_uncertainty


FORMAT = "hf_mixture.trajectory_fit"
VERSION = 1
FILE = "fit_report.json"
# Quantile of the normal distribution for 95 %.
Z95 = 1.959963984540054


def make_report(
    fit: MixtureFit, data: TrajectoryData, *, growth: Sequence[str] = (), cluster: Sequence[str] = ()
) -> dict[str, Any]:
    """Everything that is worth keeping of a fit, with standard errors.

    Args:
        fit: The fit.
        data: Its data.
        growth: Names of the growth covariates.
        cluster: Names of the cluster covariates.

    Returns:
        The content of `fit_report.json`.
    """
    layout, parameters = fit.layout, fit.parameters
    best = fit.optima[0]
    usable = [group for group in fit.optima if not group.fault] or [best]
    estimates: dict[str, Any] = {}
    condition, is_positive = None, False
    for kind in ("estimated", "reported"):
        is_reported = kind == "reported"
        found = estimate_uncertainty(parameters, data, layout, reported=is_reported)
        condition, is_positive = found.condition, found.is_positive
        estimates[kind] = _rows(found, natural_names(layout, tuple(growth), tuple(cluster), reported=is_reported))
    warnings = [*fit.faults, *boundaries_of(unpack(fit.vector[None], layout), layout)]
    if not is_positive:
        warnings.append("the observed information is not positive definite here, so there are no standard errors")
    if layout.num_classes > 1 and usable[0].hits < 2:
        warnings.append("one start only found the best optimum; use more starts")
    return {
        "format": FORMAT,
        "version": VERSION,
        "num_people": data.num_people,
        "num_values": int(data.mask.sum()),
        "num_parameters": layout.num_parameters,
        "log_likelihood": fit.log_likelihood,
        "minus2ll": -2 * fit.log_likelihood,
        "criteria": information_criteria(fit.log_likelihood, layout.num_parameters, fit.posterior),
        "shares": [float(share) for share in fit.posterior.mean(axis=0)],
        "modal_shares": [
            float(share)
            for share in np.bincount(fit.posterior.argmax(axis=1), minlength=layout.num_classes) / len(fit.posterior)
        ],
        "is_degenerate": bool(fit.faults),
        "warnings": warnings,
        "hessian_condition": condition if condition is not None and np.isfinite(condition) else None,
        "optima": [
            {
                "minus2ll": group.minus2ll,
                "hits": group.hits,
                "starts": group.starts,
                "shares": group.shares,
                "fault": group.fault,
            }
            for group in fit.optima
        ],
        "starts": [
            {
                "index": start.index,
                "state": start.state,
                "ecm_minus2ll": -2 * start.ecm_log_likelihood if np.isfinite(start.ecm_log_likelihood) else None,
                "minus2ll": None if start.log_likelihood is None else -2 * start.log_likelihood,
                "criterion": start.criterion,
                "num_pinned": start.num_pinned,
            }
            for start in fit.starts
        ],
        "estimates": estimates,
    }


def _rows(found: Uncertainty, names: list[tuple[str, str]]) -> list[dict[str, Any]]:
    robust = found.robust_standard_errors
    return [
        {
            "class": where,
            "parameter": name,
            "estimate": float(found.values[place]),
            "standard_error": _finite(found.standard_errors[place]),
            "robust_standard_error": _finite(robust[place]),
        }
        for place, (where, name) in enumerate(names)
    ]


def _finite(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def summary_table(report: Mapping[str, Any], *, reported: bool = True, robust: bool = False) -> Any:
    """The estimates as a `pandas.DataFrame`, with 95 % intervals.

    Args:
        report: The content of `fit_report.json`.
        reported: Whether growth factors are the reported ones. Default: True.
        robust: Whether to use sandwich standard errors. Default: False.
    """
    import pandas as pd

    table = pd.DataFrame(report["estimates"]["reported" if reported else "estimated"])
    error = table.pop("robust_standard_error").astype(float)
    plain = table.pop("standard_error").astype(float)
    table["standard_error"] = error if robust else plain
    table["z"] = table["estimate"] / table["standard_error"]
    table["low"] = table["estimate"] - Z95 * table["standard_error"]
    table["high"] = table["estimate"] + Z95 * table["standard_error"]
    return table


def write_fit_report(folder: Path, report: Mapping[str, Any]) -> None:
    """Write `fit_report.json`.

    Args:
        folder: The model folder.
        report: The report.
    """
    write_atomic(folder / FILE, json.dumps(report, indent=1, allow_nan=False) + "\n")


def read_fit_report(path: Path) -> dict[str, Any]:
    """Read and check a `fit_report.json`.

    Args:
        path: The file.

    Raises:
        ValueError: If it is not such a report.
    """
    import jsonschema

    schema = json.loads(
        files("hf_mixture.models.trajectory_moe").joinpath("fit_report_schema.json").read_text("utf-8")
    )
    remedy = "fit the model again, or remove it"
    content = read_object(path, remedy=remedy)
    try:
        jsonschema.validate(content, schema)
    except jsonschema.ValidationError as error:
        reason = shorten_middle(error.message, 300)
        raise ValueError(f"{path} is not the report of a fit: {reason}; {remedy}") from None
    return content
