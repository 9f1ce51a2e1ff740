"""Batches of images and label maps, in which any row may lack any task.

Letters: B images, H x W pixels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from hf_mixture.models.taskexpert.tasks import TASKS


def collate_scenes(rows: Sequence[Mapping[str, Any]], *, ignore_value: int = 255) -> dict[str, Any]:
    """Make a batch; a task that some rows lack is masked there, and one that all lack is left out.

    Args:
        rows: Rows with `pixel_values` [channels, H, W], and `labels`, a mapping from task to a map [H, W], or
            [3, H, W] for normals, or None.
        ignore_value: Value of label maps that are missing.

    Returns:
        `pixel_values` [B, channels, H, W], and, unless no row has `labels`, `labels` and `task_masks` [B] by task;
        both are empty where all tasks are missing, so that such a batch has a loss of 0.

    Raises:
        ValueError: If sizes or tasks do not fit; the message names the row.

    Example:
        >>> import torch
        >>> from hf_mixture import collate_scenes
        >>> image = torch.zeros(3, 8, 8)
        >>> batch = collate_scenes([
        ...     {"pixel_values": image, "labels": {"depth": torch.ones(8, 8)}},
        ...     {"pixel_values": image, "labels": {"depth": None}},
        ... ])
        >>> batch["task_masks"]["depth"], batch["labels"]["depth"][1].unique()
        (tensor([ True, False]), tensor([255.]))
    """
    for number, row in enumerate(rows):
        if row.get("pixel_values") is None:
            raise ValueError(f"row {number}: there is no 'pixel_values'; add the image, or remove the row")
    images = [torch.as_tensor(row["pixel_values"]) for row in rows]
    for number, image in enumerate(images):
        if image.shape != images[0].shape:
            raise ValueError(
                f"row {number}: pixel_values has the shape {tuple(image.shape)}, and row 0 {tuple(images[0].shape)}; "
                "bring all images of a batch to one size"
            )
        if not image.isfinite().all():
            raise ValueError(f"row {number}: pixel_values has values that are not finite; repair the image")
    batch: dict[str, Any] = {"pixel_values": torch.stack(images)}
    given = [row.get("labels") or {} for row in rows]
    tasks = [task for task in TASKS if any(labels.get(task) is not None for labels in given)]
    for number, labels in enumerate(given):
        for task in labels:
            if task not in TASKS:
                raise ValueError(f"row {number}: labels has {task!r}; the tasks are {', '.join(TASKS)}")
    if any("labels" in row for row in rows):
        size = tuple(images[0].shape[-2:])
        batch["labels"] = {task: _stack(task, given, size, ignore_value) for task in tasks}
        batch["task_masks"] = {
            task: torch.tensor([labels.get(task) is not None for labels in given]) for task in tasks
        }
    return batch


def missing_map(task: str, size: tuple[int, ...], ignore_value: int) -> Tensor:
    """Label map of an image that lacks a task.

    Args:
        task: Name of the task.
        size: Height and width.
        ignore_value: Label of all of its pixels.

    Returns:
        The map [H, W], or [3, H, W] for normals.
    """
    kind = TASKS[task]
    dtype = torch.int64 if kind.kind in ("class", "binary") else torch.float32
    return torch.full(size if kind.label_channels is None else (kind.label_channels, *size), ignore_value, dtype=dtype)


def _stack(task: str, given: Sequence[Mapping[str, Any]], size: tuple[int, ...], ignore_value: int) -> Tensor:
    missing = missing_map(task, size, ignore_value)
    wanted = tuple(missing.shape)
    maps = []
    for number, labels in enumerate(given):
        label = labels.get(task)
        if label is None:
            maps.append(missing)
            continue
        found = torch.as_tensor(label)
        if tuple(found.shape) != wanted:
            raise ValueError(
                f"row {number}: labels[{task!r}] has the shape {tuple(found.shape)}; for images of {size} it must be "
                f"{wanted}"
            )
        _check_values(f"row {number}: labels[{task!r}]", task, found, ignore_value)
        maps.append(found.to(missing.dtype))
    return torch.stack(maps)


def _check_values(where: str, task: str, label: Tensor, ignore_value: int) -> None:
    if not label.isfinite().all():
        raise ValueError(
            f"{where} has values that are not finite; give pixels without a label the value {ignore_value}"
        )
    if TASKS[task].kind in ("class", "binary") and label.is_floating_point() and (label != label.round()).any():
        raise ValueError(f"{where} has values that are no whole numbers; give the indices of the classes")
    if task == "depth" and (label <= 0).any():
        raise ValueError(
            f"{where} has a depth of {float(label.min()):g}, and depths are above 0; give pixels without one the "
            f"value {ignore_value}"
        )
