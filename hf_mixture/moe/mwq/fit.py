"""Fitting nested planes to a weight: base and one sign for each further bit, with and without activations.

Letters: N groups, g columns of a group, K widths, b the first; R rows, C columns of a weight, `...` its experts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from hf_mixture.moe.mwq.planes import NestedPlanes, pack_bits


# Parts of the range of a group that the base is tried with. The best for two bits of a Gaussian is about a half.
_SHRINKS = tuple(part / 20 for part in range(8, 21))
# Weights that are fitted at once: with float32 and some twenty intermediate results, about 300 MB.
_BLOCK = 2**22


class GroupFit(NamedTuple):
    """Nested planes of N groups, before packing.

    Args:
        codes: Codes of the base [N, g], uint8.
        offset: [N], float16.
        scales: For each width [N], float16.
        signs: For each width after the first, where the sign is + [N, g], bool.
    """

    codes: Tensor
    offset: Tensor
    scales: list[Tensor]
    signs: list[Tensor]


def default_level_weights(first: int) -> dict[int, float]:
    """How much the error of each width counts in the choice of the base: four times more for each further bit.

    An error shrinks by about four for each bit, so all of the first three widths count alike. Those three whatever
    number of widths is made: a file of fewer widths then holds the first planes of a file of more.

    Args:
        first: The first width.

    Returns:
        Weights by width.
    """
    return {first + level: 4.0**level for level in range(3)}


def fit_planes(
    weight: Tensor,
    widths: Sequence[int],
    group_size: int,
    *,
    level_weights: Mapping[int, float] | None = None,
    moments: Tensor | None = None,
    on_progress: Callable[[int], None] = lambda _: None,
) -> NestedPlanes:
    r"""Quantise a weight to nested planes, all experts at once.

    The base is the affine code of the range of a group, shrunk by the factor with the smallest
    \(\sum_k \omega_k \lVert W - \hat W_k \rVert^2\): the best base for the first width alone makes the last one worse.
    Then for each further width \(Q_k = \mathrm{sign}(R)\), with \(\mathrm{sign}(0) = +1\), of the residual R, and its
    scale by least squares: the mean of |R| (D2MoE, arXiv 2504.15299, equations 2 to 4). With `moments` the norms are
    \(\lVert (W - \hat W_k) X \rVert^2\) within each group, and so is the scale.

    Args:
        weight: [..., R, C], finite, of any float type.
        widths: Bits, ascending by one, such as (2, 3, 4); 1 to 8.
        group_size: g, columns that share a scale; a multiple of 8 that divides C.
        level_weights: How much the error of each width counts for the base; also of widths that are not made.
            Default: `default_level_weights`.
        moments: Second moments of the inputs within each group of columns, X X^T [..., C / g, g, g].
        on_progress: Called with the number of weights done since the last call.

    Returns:
        The planes, on the device of the weight.

    Raises:
        ValueError: If the weight is not finite, exceeds float16, or C is not a multiple of the group size.
    """
    _check_weight(weight, group_size)
    levels = dict(level_weights) if level_weights is not None else default_level_weights(widths[0])
    groups = weight.reshape(-1, weight.shape[-1] // group_size, group_size)
    rows = weight.shape[-2]
    # Experts of the moments are the leading dimensions of the weight: R rows share each.
    flat_moments = None if moments is None else moments.reshape(-1, *moments.shape[-3:])
    step = max(1, _BLOCK // weight.shape[-1])
    fits = []
    for start in range(0, len(groups), step):
        block = groups[start : start + step].float()
        metric = None
        if flat_moments is not None:
            metric = flat_moments[torch.arange(start, start + len(block), device=weight.device) // rows]
        fits.append(fit_groups(block, widths, levels, metric))
        on_progress(block.numel())
    return pack_fits(fits, weight.shape, tuple(widths))


def fit_groups(groups: Tensor, widths: Sequence[int], levels: Mapping[int, float], metric: Tensor | None) -> GroupFit:
    """Fit nested planes to groups of columns.

    Args:
        groups: Weights [..., g], float32.
        widths: Bits of each level.
        levels: How much the error of each width counts for the base.
        metric: X X^T of each group [..., g, g]; None for the plain norm.

    Returns:
        The fit; its tensors have the leading dimensions of `groups`.
    """
    low, high = groups.aminmax(dim=-1)
    middle, half = (low + high) / 2, (high - low) / 2
    best: Tensor | None = None
    chosen = torch.ones_like(low)
    for shrink in _SHRINKS:
        error = torch.zeros_like(low)
        residual = groups - _dequantise(*_base(groups, middle, half * shrink, widths[0]))
        for width in range(widths[0], max(levels) + 1):
            if width > widths[0]:
                positive, scale = fit_level(residual, metric)
                residual = without_level(residual, positive, scale)
            error += levels.get(width, 0.0) * squared_norm(residual, metric)
        better = error < best if best is not None else torch.ones_like(error, dtype=torch.bool)
        chosen = torch.where(better, shrink, chosen)
        best = error if best is None else torch.minimum(best, error)
    codes, offset, scale = _base(groups, middle, half * chosen, widths[0])
    residual = groups - _dequantise(codes, offset, scale)
    scales, signs = [scale], []
    for _ in widths[1:]:
        positive, scale = fit_level(residual, metric)
        residual = without_level(residual, positive, scale)
        scales.append(scale)
        signs.append(positive)
    return GroupFit(codes.to(torch.uint8), offset, scales, signs)


def pack_fits(fits: Sequence[GroupFit], shape: Sequence[int], widths: tuple[int, ...]) -> NestedPlanes:
    """Pack fits, which together are the groups [R, G] of all experts, into planes of a weight.

    Args:
        fits: Consecutive groups [rows, G, g].
        shape: Shape of the weight [..., R, C].
        widths: Bits of each level.

    Returns:
        The planes.
    """
    *lead, rows, _ = shape

    def join(parts: Sequence[Tensor]) -> Tensor:
        return torch.cat(list(parts)).reshape(*lead, rows, -1)

    def join_bits(parts: Sequence[Tensor]) -> Tensor:
        return join([pack_bits(part.flatten(-2)) for part in parts])

    base = torch.stack([join_bits([(fit.codes >> bit) & 1 for fit in fits]) for bit in range(widths[0])], dim=-3)
    return NestedPlanes(
        base=base,
        offset=join([fit.offset for fit in fits]),
        scales=tuple(join([fit.scales[level] for fit in fits]) for level in range(len(widths))),
        signs=tuple(join_bits([fit.signs[level] for fit in fits]) for level in range(len(widths) - 1)),
        widths=widths,
    )


def least_squares_scale(residual: Tensor, positive: Tensor, metric: Tensor | None = None) -> Tensor:
    r"""The scale s with the smallest \(\lVert (R - s Q) X \rVert^2\): \(Q^T M R / Q^T M Q\) with \(M = X X^T\).

    Args:
        residual: R [..., g].
        positive: Where Q is +1 [..., g], bool; -1 elsewhere.
        metric: M [..., g, g]; None for the identity, where s is the mean of |R| if Q is its sign.

    Returns:
        s [...], 0 where Q X is 0.
    """
    signs = torch.where(positive, 1.0, -1.0).to(residual.dtype)
    if metric is None:
        return (residual * signs).mean(-1)
    weighed = (metric @ signs.unsqueeze(-1)).squeeze(-1)
    norm = (weighed * signs).sum(-1)
    return torch.where(norm > 0, (weighed * residual).sum(-1) / norm, 0.0)


def squared_norm(residual: Tensor, metric: Tensor | None = None) -> Tensor:
    r"""\(\lVert R X \rVert^2 = R^T M R\) [...] of residuals [..., g]; the plain square without a metric."""
    if metric is None:
        return residual.square().sum(-1)
    return ((metric @ residual.unsqueeze(-1)).squeeze(-1) * residual).sum(-1)


def _base(groups: Tensor, middle: Tensor, half: Tensor, width: int) -> tuple[Tensor, Tensor, Tensor]:
    """Codes for the range middle - half to middle + half, with the offset and scale as they are stored."""
    top = 2**width - 1
    scale = (2 * half / top).half()
    offset = (middle - half).half()
    step = scale.float().unsqueeze(-1)
    codes = (groups - offset.float().unsqueeze(-1)).div_(torch.where(step > 0, step, 1.0)).round_().clamp_(0, top)
    return codes, offset, scale


def _dequantise(codes: Tensor, offset: Tensor, scale: Tensor) -> Tensor:
    return (codes * scale.float().unsqueeze(-1)).add_(offset.float().unsqueeze(-1))


def fit_level(residual: Tensor, metric: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Where the signs of a residual [..., g] are +, and their scale [...] as it is stored."""
    positive = residual >= 0
    return positive, least_squares_scale(residual, positive, metric).half()


def without_level(residual: Tensor, positive: Tensor, scale: Tensor) -> Tensor:
    """What a level leaves of a residual [..., g]."""
    step = scale.float().unsqueeze(-1)
    return residual - torch.where(positive, step, -step)


def _check_weight(weight: Tensor, group_size: int) -> None:
    columns = weight.shape[-1]
    if columns % group_size:
        fitting = [size for size in (256, 128, 64, 32, 16, 8) if columns % size == 0]
        remedy = f"give group_size={fitting[0]}" if fitting else "the weight cannot be packed: 8 does not divide it"
        raise ValueError(f"group_size={group_size} does not divide the {columns} columns of a weight; {remedy}")
    top = weight.abs().amax() if weight.numel() else weight.new_zeros(())
    if not top <= torch.finfo(torch.float16).max:
        raise ValueError(
            f"a weight {list(weight.shape)} has the value {top.item()}, which float16 scales cannot hold; quantise a "
            "checkpoint with finite weights below 65504"
        )
