"""What a TaskExpert run measures of a model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hf_mixture.models.taskexpert.tasks import TASKS
from hf_mixture.training.taskexpert.data import SceneRows
from hf_mixture.training.taskexpert.recipe import EvaluationSpec


def predict(model: Any, rows: SceneRows, *, batch_size: int) -> tuple[dict[str, Any], Any]:
    """Predict all tasks of all rows.

    Args:
        model: The model, in evaluation mode.
        rows: The rows.
        batch_size: Images predicted at once.

    Returns:
        Predictions by task [rows, ...], and gates [L, rows, T, E + 1]; None where the model has none.
    """
    import torch

    from hf_mixture.models.taskexpert.image_processing_taskexpert import prediction_of

    found: dict[str, list[Any]] = {task: [] for task in model.config.tasks}
    gates = []
    with torch.no_grad():
        for images in rows.pixel_values.split(batch_size):
            out = model(images.to(model.device))
            for task, logits in out.logits.items():
                found[task].append(prediction_of(task, logits).cpu())
            if out.gate_scores is not None:
                gates.append(out.gate_scores.cpu())
    return {task: torch.cat(parts) for task, parts in found.items()}, torch.cat(gates, dim=1) if gates else None


def score(predictions: Mapping[str, Any], rows: SceneRows, config: Any, spec: EvaluationSpec) -> dict[str, float]:
    """Measure predictions by the metrics of `hf_mixture.metrics`.

    Args:
        predictions: Predictions by task.
        rows: The rows.
        config: The configuration of the model.
        spec: How predictions are measured.

    Returns:
        A score for each task, in the unit of its metric.
    """
    from hf_mixture.metrics import load_metric

    scores = {}
    for task, predicted in predictions.items():
        options: dict[str, Any] = {"ignore_value": config.ignore_value}
        if TASKS[task].kind == "class":
            options["num_classes"] = config.num_channels_of(task)
        if task == "edges":
            options |= {"max_distance": spec.edge_max_distance, "num_thresholds": spec.edge_thresholds}
        metric = load_metric(TASKS[task].metric)
        metric.add_batch(predictions=predicted.numpy(), references=rows.labels[task].numpy())
        scores[task] = float(metric.compute(**options)[TASKS[task].score])
    return scores


def delta_m(scores: Mapping[str, float], baseline: Mapping[str, float]) -> float:
    """Mean relative improvement over a baseline, in percent: of each task, with the sign of its metric.

    Args:
        scores: Scores by task.
        baseline: Those of the baseline.

    Returns:
        Above 0 where the scores are better.

    Example:
        >>> from hf_mixture.training.taskexpert.measure import delta_m
        >>> delta_m({"semseg": 0.55, "depth": 0.9}, {"semseg": 0.5, "depth": 1.0})
        10.0
    """
    gains = [
        (1 if TASKS[task].higher_is_better else -1) * (value - baseline[task]) / baseline[task]
        for task, value in scores.items()
    ]
    return round(100 * sum(gains) / len(gains), 6)


def gates_by_domain(gates: Any, domains: list[int], tasks: list[str]) -> dict[str, Any]:
    """Read the gates of all rows, and those of each domain.

    Args:
        gates: [L, rows, T, E + 1].
        domains: Domain of each row.
        tasks: Names of the tasks.

    Returns:
        `all`, and each domain by its name: occupancy, spread and entropy by task.
    """
    import torch

    from hf_mixture.data.images.scene_rendering import DOMAINS
    from hf_mixture.models.taskexpert.readouts import read_gates

    of_row = torch.tensor(domains)
    found = {"all": read_gates(gates, tasks).to_dict()}
    for number, name in enumerate(DOMAINS):
        if (of_row == number).any():
            found[name] = read_gates(gates[:, of_row == number], tasks).to_dict()
    return found
