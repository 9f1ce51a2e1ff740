"""The scenes of a TaskExpert run, as the rows that its Trainer reads."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch.utils.data import Dataset

from hf_mixture.models.taskexpert.tasks import TASKS
from hf_mixture.training.taskexpert.recipe import TaskExpertRecipe


class SceneRows(Dataset[dict[str, Any]]):
    """Prepared images, and label maps as small as they were stored.

    Args:
        pixel_values: [rows, 3, H, W].
        labels: Label maps by task.
        domains: Domain of each row.
    """

    def __init__(self, pixel_values: Any, labels: dict[str, Any], domains: list[int]) -> None:
        self.pixel_values = pixel_values
        self.labels = labels
        self.domains = domains

    def __len__(self) -> int:
        return len(self.pixel_values)

    def __getitem__(self, place: int) -> dict[str, Any]:
        return {
            "pixel_values": self.pixel_values[place],
            "labels": {task: maps[place] for task, maps in self.labels.items()},
        }


def load_data(recipe: TaskExpertRecipe) -> Any:
    """Draw the scenes, or read them from the cache.

    Args:
        recipe: The recipe.

    Returns:
        The splits, as `load_scenes` gives them.
    """
    import dataclasses

    from hf_mixture.data.images.scenes import load_scenes

    return load_scenes(**dataclasses.asdict(recipe.scenes))


def scene_rows(split: Any, processor: Any, tasks: Sequence[str]) -> SceneRows:
    """Prepare a split.

    Args:
        split: A split of `load_scenes`.
        processor: The image processor.
        tasks: Tasks whose labels are kept.

    Returns:
        Its rows.
    """
    import torch

    small = {"class": torch.uint8, "binary": torch.uint8}
    pixels, maps = [], {task: [] for task in tasks}  # type: ignore[var-annotated]
    for batch in split.with_format("numpy").iter(batch_size=64):
        rows = [{task: batch[task][place] for task in tasks} for place in range(len(batch["image"]))]
        prepared = processor(list(batch["image"]), labels=rows, return_tensors="pt")
        pixels.append(prepared["pixel_values"])
        for task, values in prepared["labels"].items():
            maps[task].append(values.to(small.get(TASKS[task].kind, torch.float32)))
    labels = {task: torch.cat(parts) for task, parts in maps.items()}
    return SceneRows(torch.cat(pixels), labels, list(split["domain"]))
