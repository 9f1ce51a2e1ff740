"""The margin-gated ranking loss of MatSim, and the loss on hard labels that it is compared with.

Letters: B images, P ordered pairs (i, j) of different images with a positive label, D embedding size.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid


MarginMode = Literal["reference", "symmetric"]

# Labels closer than this are equal: ratios such as 0.1, 0.3 and 0.5 are equally far apart in exact arithmetic only.
_SAME_LABEL = 1e-6
# The published code adds this inside of the logarithm.
_LOG_FLOOR = 1e-7


def soft_labels(set_ids: Tensor, ratios: Tensor) -> Tensor:
    """Similarity that each pair of images ought to have: 1 - |f_i - f_j| in one material set, else 0.

    Args:
        set_ids: Material set of each image [B].
        ratios: Mixing ratio f of each image in its set [B], from 0 to 1.

    Returns:
        Labels [B, B] in the type of `ratios`.

    Example:
        >>> import torch
        >>> from hf_mixture.models.matsim.ranking import soft_labels
        >>> soft_labels(torch.tensor([0, 0, 1]), torch.tensor([0.0, 0.25, 0.0]))[0]
        tensor([1.0000, 0.7500, 0.0000])
    """
    near = 1 - (ratios[:, None] - ratios[None, :]).abs()
    return near * (set_ids[:, None] == set_ids[None, :])


def margin_ranking_loss(
    similarities: Tensor, labels: Tensor, *, temperature: float = 0.2, margin_mode: MarginMode = "symmetric"
) -> tuple[Tensor, Tensor]:
    """Rank similar materials before less similar ones: the loss of MatSim (arXiv 2212.00648).

    For an anchor i, images j and k with d = s_ij - s_ik > 0, and p = sigma((c_ij - c_ik) / T), a term is -log p. It
    counts while p < 1/2 + d/4, and the loss is the mean of the terms that count. The soft labels s act by their order
    and by this margin.

    `"symmetric"` has each such triplet once. `"reference"` is what the published code does: it visits j with a
    positive label and any k, leaves k out if k <= i and s_ik > 0 (meant as k <= j), and where d < 0 keeps -log(1 - p)
    only if p > 1/2 + |d|/4, so that the margin has the other sign there. Triplets of three images of one set are then
    counted twice, once or not at all, by their order in the batch.

    Args:
        similarities: Cosines c of the embeddings [B, B].
        labels: What they ought to be, s, as `soft_labels` gives them [B, B].
        temperature: T, above 0.
        margin_mode: `"symmetric"` or `"reference"`.

    Returns:
        The loss, 0 with a gradient of 0 if no term counts; and the number of terms that count.

    Example:
        >>> import torch
        >>> from hf_mixture.models.matsim.ranking import margin_ranking_loss, soft_labels
        >>> labels = soft_labels(torch.tensor([0, 0, 1]), torch.tensor([0.0, 0.0, 0.0]))
        >>> loss, num_terms = margin_ranking_loss(torch.zeros(3, 3), labels)
        >>> round(loss.item(), 4), num_terms.item()
        (0.6931, 2)
    """
    num_images = len(labels)
    places = torch.arange(num_images, device=labels.device)
    anchors, positives = ((labels > 0) & (places[:, None] != places)).nonzero(as_tuple=True)
    differences = labels[anchors, positives, None] - labels[anchors]  # [P, B]: d of (i, j, k)
    similarities = _at_least_float32(similarities)
    logits = (similarities[anchors, positives, None] - similarities[anchors]) / temperature
    others = places != anchors[:, None]
    closer = differences > _SAME_LABEL
    if margin_mode == "symmetric":
        p = logits.detach().sigmoid()
        kept = closer & others & (p < 0.5 + differences / 4)
        # Where both j and k are positive, the triplet (i, k, j) is among the pairs too, with d < 0.
        terms = -logsigmoid(logits)
    else:
        p = logits.sigmoid()
        farther = differences < -_SAME_LABEL
        visited = (places > anchors[:, None]) | (labels[anchors] <= 0)
        kept = visited & ((closer & (1 - p + differences / 4 > 0.5)) | (farther & (p + differences / 4 > 0.5)))
        terms = -torch.log(torch.where(closer, p, (-logits).sigmoid()) + _LOG_FLOOR)
    num_terms = kept.sum()
    return torch.where(kept, terms, 0.0).sum() / num_terms.clamp(min=1), num_terms


def info_nce_loss(similarities: Tensor, labels: Tensor, *, temperature: float = 0.2) -> tuple[Tensor, Tensor]:
    """InfoNCE on hard labels: only images of the same set and the same ratio are positive, all others negative.

    -log of the share exp(c_ij / T) / sum_k exp(c_ik / T) of each positive j of an anchor i, k different from i;
    averaged over positives and then over anchors that have one (arXiv 2004.11362). It is here to be compared with.

    Args:
        similarities: Cosines of the embeddings [B, B].
        labels: Labels as `soft_labels` gives them [B, B]; positive is what is 1.
        temperature: T, above 0.

    Returns:
        The loss, 0 with a gradient of 0 if no image has a positive; and the number of pairs that count.

    Example:
        >>> import torch
        >>> from hf_mixture.models.matsim.ranking import info_nce_loss
        >>> loss, num_pairs = info_nce_loss(torch.zeros(3, 3), torch.tensor([[1.0, 1, 0], [1, 1, 0], [0, 0, 1]]))
        >>> round(loss.item(), 4), num_pairs.item()
        (0.6931, 2)
    """
    itself = torch.eye(len(labels), dtype=torch.bool, device=labels.device)
    positive = (labels > 1 - _SAME_LABEL) & ~itself
    shares = (_at_least_float32(similarities) / temperature).masked_fill(itself, -torch.inf).log_softmax(dim=1)
    counts = positive.sum(dim=1)
    of_anchor = -shares.masked_fill(~positive, 0.0).sum(dim=1) / counts.clamp(min=1)
    return of_anchor.sum() / (counts > 0).sum().clamp(min=1), positive.sum()


def _at_least_float32(values: Tensor) -> Tensor:
    return values.to(torch.promote_types(values.dtype, torch.float32))
