"""Refusal of images and labels that a network cannot use, by the row at fault.

Letters: B images, C channels, H height, W width.
"""

from __future__ import annotations

import torch
from torch import Tensor


def check_images(
    pixel_values: Tensor, labels: Tensor | None, *, num_channels: int, num_labels: int, least_size: int
) -> None:
    """Check a batch.

    Args:
        pixel_values: Images [B, C, H, W].
        labels: Classes [B], or None.
        num_channels: C of the network.
        num_labels: Number of classes.
        least_size: Least height and width: 2 to the number of poolings.

    Raises:
        ValueError: A shape does not fit, a value is not finite, or a label is no class.
    """
    if pixel_values.dim() != 4 or pixel_values.shape[1] != num_channels or 0 in pixel_values.shape:
        raise ValueError(
            f"pixel_values has the shape {tuple(pixel_values.shape)}; it must be [images, {num_channels}, height, "
            f"width]: give images of {num_channels} channels, or a configuration with other num_channels"
        )
    if min(pixel_values.shape[2:]) < least_size:
        raise ValueError(
            f"pixel_values has images of {pixel_values.shape[2]} x {pixel_values.shape[3]} pixels, which the poolings "
            f"of the path halve to nothing; give at least {least_size} x {least_size}, or fewer poolings"
        )
    if torch.compiler.is_compiling():
        return
    finite = pixel_values.isfinite().flatten(1).all(dim=1)
    if not finite.all():
        row = int((~finite).nonzero()[0])
        raise ValueError(f"row {row} of pixel_values has values that are not finite; repair or remove that image")
    if labels is None:
        return
    if labels.shape != pixel_values.shape[:1]:
        raise ValueError(
            f"labels has the shape {tuple(labels.shape)} for {len(pixel_values)} images; give one class for each image"
        )
    if labels.is_floating_point() or labels.dtype == torch.bool:
        raise ValueError(f"labels has the type {labels.dtype}; give whole numbers, the indices of the classes")
    wrong = (labels < 0) | (labels >= num_labels)
    if wrong.any():
        row = int(wrong.nonzero()[0])
        raise ValueError(
            f"row {row} of labels is {int(labels[row])}, which is no class from 0 to {num_labels - 1}; correct it, or "
            "set num_labels"
        )
