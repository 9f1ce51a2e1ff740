"""The losses of the six tasks, as sums over valid pixels divided by counts that may be those of several batches.

L = sum_t w_t L_t. Constants and normalisations are those of the published sibling model InvPT (arXiv 2203.07997).
Letters: B images, C channels, H x W pixels.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from hf_mixture.models.taskexpert.tasks import TASKS


def valid_pixels(task: str, labels: Tensor, ignore_value: int) -> Tensor:
    """Pixels of a label map that count.

    Args:
        task: Name of the task.
        labels: [B, H, W], or [B, 3, H, W] for normals, which are valid where all channels are.
        ignore_value: Label of the others.

    Returns:
        Booleans [B, H, W].
    """
    valid = labels != ignore_value
    return valid.all(dim=1) if TASKS[task].kind == "vector" else valid


def count_labels(task: str, labels: Tensor, ignore_value: int) -> Tensor:
    """Count what a loss divides by.

    Args:
        task: Name of the task.
        labels: As for `valid_pixels`.
        ignore_value: Label of pixels that do not count.

    Returns:
        [2]: the valid pixels, and those of them that are positive, for the tasks with two classes; 0 for others.
    """
    valid = valid_pixels(task, labels, ignore_value)
    positive = (labels == 1) & valid if TASKS[task].kind == "binary" else torch.zeros_like(valid)
    return torch.stack([valid.sum(), positive.sum()])


def mask_labels(task: str, labels: Tensor, mask: Tensor, ignore_value: int) -> Tensor:
    """Labels in which all pixels of some images are made not to count.

    Args:
        task: Name of the task.
        labels: As for `valid_pixels`.
        mask: Booleans [B], False for images without labels of this task.
        ignore_value: Label of pixels that do not count.

    Returns:
        Labels of the same shape.
    """
    return labels.masked_fill(~mask.view(-1, *[1] * (labels.dim() - 1)), ignore_value)


def task_loss(
    task: str,
    logits: Tensor,
    labels: Tensor,
    *,
    counts: Tensor | None = None,
    ignore_value: int = 255,
    edge_positive_weight: float | None = 0.95,
) -> Tensor:
    """The loss of one task; 0, with gradients of 0, where no pixel counts.

    Class maps: cross-entropy. Saliency: cross-entropy over two channels; salient pixels weigh the share of others, and
    others the share of salient ones. Normals: L1 of the prediction of length 1. Edges: binary cross-entropy, edges
    weigh w, others 1 - w. Depth: L1. All are sums over valid pixels divided by their number; for normals, all three
    channels of a pixel make one.

    Args:
        task: Name of the task.
        logits: [B, C, H, W].
        labels: [B, H, W], or [B, 3, H, W] for normals.
        counts: Counts as of `count_labels` to normalise by, such as those of all batches of an optimizer step.
            Default: those of `labels`.
        ignore_value: Label of pixels that do not count.
        edge_positive_weight: w; None takes the share of other pixels.

    Returns:
        A scalar, in nats for classes and in the units of the labels for normals and depth.

    Example:
        >>> import torch
        >>> from hf_mixture.models.taskexpert.losses import task_loss
        >>> depth = torch.tensor([[[1.0, 2.0, 255.0]]])
        >>> task_loss("depth", torch.full((1, 1, 1, 3), 3.0), depth).item()
        1.5
    """
    valid = valid_pixels(task, labels, ignore_value)
    num_valid, num_positive = (count_labels(task, labels, ignore_value) if counts is None else counts).unbind()
    # In float32: a sum over the pixels of a batch has too many terms for half precision.
    logits = logits.float()
    divisor = num_valid.clamp(min=1)
    kind = TASKS[task].kind
    if kind == "class":
        pixels = F.cross_entropy(logits, labels.long(), ignore_index=ignore_value, reduction="none")
    elif task == "saliency":
        weight_of_positive = 1 - num_positive / divisor
        pixels = F.cross_entropy(logits, labels.long(), ignore_index=ignore_value, reduction="none")
        pixels = pixels * torch.where(labels == 1, weight_of_positive, 1 - weight_of_positive)
    elif task == "edges":
        weight = 1 - num_positive / divisor if edge_positive_weight is None else edge_positive_weight
        target = torch.where(valid, labels, 0).float()
        pixels = F.binary_cross_entropy_with_logits(logits[:, 0], target, reduction="none")
        pixels = pixels * (weight * target + (1 - weight) * (1 - target))
    elif kind == "vector":
        pixels = (F.normalize(logits, dim=1) - labels).abs().sum(dim=1)
    else:
        pixels = (logits[:, 0] - labels).abs()
    return torch.where(valid, pixels, 0).sum() / divisor


def sum_counts(counts: list[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Add counts of several batches; a task that some batches lack has 0 there.

    Args:
        counts: Counts [2] by task, of each batch.

    Returns:
        Their sums, by task.
    """
    found: dict[str, Tensor] = {}
    for batch in counts:
        for task, values in batch.items():
            found[task] = found[task] + values if task in found else values
    return found
