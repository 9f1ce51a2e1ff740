"""What a batch must be, checked before anything is computed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from hf_mixture.models.taskexpert.tasks import TASKS


if TYPE_CHECKING:
    from hf_mixture.models.taskexpert.configuration_taskexpert import TaskExpertConfig


def check_pixels(pixel_values: Tensor, backbone_config: Any) -> None:
    """Refuse images of a wrong shape.

    Args:
        pixel_values: Images [B, channels, H, W].
        backbone_config: Configuration of the backbone.

    Raises:
        ValueError: If the number of dimensions or channels is wrong, or a side is no multiple of the patch size, where
            the backbone has patches.
    """
    channels = getattr(backbone_config, "num_channels", 3)
    if pixel_values.dim() != 4 or pixel_values.shape[1] != channels:
        raise ValueError(
            f"pixel_values has the shape {tuple(pixel_values.shape)}; it must be [images, {channels}, height, width]"
        )
    patch = getattr(backbone_config, "patch_size", None)
    sides = [patch, patch] if isinstance(patch, int) else patch
    if sides and any(size % side for size, side in zip(pixel_values.shape[2:], sides, strict=True)):
        raise ValueError(
            f"images of {tuple(pixel_values.shape[2:])} are no multiples of the backbone's patches of {tuple(sides)}; "
            "resize them (the image processor's size)"
        )


def check_labels(
    labels: Mapping[str, Tensor], masks: Mapping[str, Tensor], pixel_values: Tensor, config: TaskExpertConfig
) -> None:
    """Refuse labels of unknown tasks or wrong shapes.

    Args:
        labels: Label maps by task.
        masks: Booleans [B] by task.
        pixel_values: Images [B, channels, H, W].
        config: The configuration.

    Raises:
        ValueError: If there is such a fault, or on a CPU if a map has a class that the model has not.
    """
    for where, given in (("labels", labels), ("task_masks", masks)):
        for task in given:
            if task not in config.tasks:
                raise ValueError(
                    f"{where} has {task!r}, which is no task of this model; the tasks are {', '.join(config.tasks)}"
                )
    number, _, *size = pixel_values.shape
    for task, label in labels.items():
        channels = TASKS[task].label_channels
        wanted = (number, *size) if channels is None else (number, channels, *size)
        if tuple(label.shape) != wanted:
            raise ValueError(
                f"labels[{task!r}] has the shape {tuple(label.shape)}; for images of {tuple(pixel_values.shape)} it "
                f"must be {wanted}"
            )
        # On an accelerator the values would have to be waited for.
        if TASKS[task].kind in ("class", "binary") and label.device.type == "cpu":
            _check_classes(task, label, config)
    for task, mask in masks.items():
        if mask.dtype != torch.bool or tuple(mask.shape) != (number,):
            raise ValueError(
                f"task_masks[{task!r}] is {mask.dtype} of the shape {tuple(mask.shape)}; give {number} booleans"
            )


def _check_classes(task: str, label: Tensor, config: TaskExpertConfig) -> None:
    number = 2 if TASKS[task].kind == "binary" else config.num_channels_of(task)
    wrong = (label != config.ignore_value) & ((label < 0) | (label >= number))
    if wrong.any():
        row = int(wrong.flatten(1).any(dim=1).nonzero()[0])
        raise ValueError(
            f"row {row}: labels[{task!r}] has the class {int(label[wrong][0])}; there are {number} classes from 0, "
            f"and {config.ignore_value} for pixels without one"
        )
