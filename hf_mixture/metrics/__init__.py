"""Metrics as `evaluate` modules: one folder each, which is also a Space as it stands."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_mixture._extras import require


if TYPE_CHECKING:
    import evaluate

METRICS = (
    "capacity_drop_rate",
    "cluster_coverage",
    "depth_rmse",
    "edges_odsf",
    "intra_list_diversity",
    "moe_load",
    "moe_specialisation",
    "ndcg_at_k",
    "normals_mean_angle",
    "one_shot_retrieval",
    "path_ranking",
    "recall_at_k",
    "router_drift",
    "saliency_maxf",
    "segmentation_miou",
)


def load_metric(name: str, **options: Any) -> evaluate.Metric:
    """Load one of the packaged metrics; nothing is downloaded.

    Args:
        name: One of `METRICS`, for example `"moe_load"` or `"recall_at_k"`.
        options: Options of `evaluate.load`, such as `experiment_id`.

    Returns:
        The metric.

    Raises:
        ImportError: If the package evaluate is missing.
        ValueError: If there is no metric of that name.

    Example:
        >>> from hf_mixture.metrics import load_metric
        >>> load = load_metric("moe_load").compute(layer=[0], counts=[[6, 2, 0, 0]])
        >>> load["max_over_mean"], load["gini"], load["dead_share"]
        (3.0, 0.625, 0.5)
    """
    if name not in METRICS:
        raise ValueError(f"name={name!r} is no metric of hf_mixture; choose one of {', '.join(METRICS)}")
    library = require("evaluate", used_for="load_metric", extra="metrics")
    metric: evaluate.Metric = library.load(str(Path(__file__).parent / name / f"{name}.py"), **options)
    return metric
