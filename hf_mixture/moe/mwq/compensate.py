"""Error compensation: the error of one block of columns, made up for in the blocks after it.

Letters: R rows, C columns, g columns of a group and of a block, G = C / g; `...` are the experts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor

from hf_mixture.moe.mwq.fit import GroupFit, default_level_weights, fit_groups, fit_level, pack_fits, without_level
from hf_mixture.moe.mwq.planes import NestedPlanes


Compensation = Literal["every_level", "base"]


def fit_compensated(
    weight: Tensor,
    widths: Sequence[int],
    group_size: int,
    *,
    moments: Tensor,
    compensation: Compensation = "every_level",
    level_weights: Mapping[int, float] | None = None,
    damping: float = 0.01,
    on_progress: Callable[[int], None] = lambda _: None,
) -> NestedPlanes:
    r"""Quantise a weight block by block, moving the error of each block into the columns that follow.

    \(H^c = \mathrm{Cholesky}((2 X X^T + \lambda I)^{-1})\), upper; after each block b of g columns,
    \(W_{:, b+} \mathrel{-}= (W_b - \hat W_b) (H^c_{bb})^{-1} H^c_{b, b+}\) (D2MoE, arXiv 2504.15299, algorithm 1,
    without an update for each column). The printed algorithm changes W at every level and leaves open what a residual
    is taken against. With `"every_level"` each level begins with the original W and compensates for itself; with
    `"base"` only the first level compensates, and residuals are taken against the W it leaves. The second has a floor:
    what it moved stays moved at all widths. Both make the first width better and the last worse than no compensation.

    Args:
        weight: [..., R, C], finite.
        widths: Bits, ascending by one.
        group_size: g; a multiple of 8 that divides C.
        moments: X X^T [..., C, C].
        compensation: Which levels compensate. Default: `"every_level"`.
        level_weights: As in `fit_planes`.
        damping: Lambda, as a part of the mean of the diagonal of 2 X X^T. Default: 0.01.
        on_progress: Called with the number of weights done since the last call.

    Returns:
        The planes.
    """
    levels = dict(level_weights) if level_weights is not None else default_level_weights(widths[0])
    factor = _cholesky_of_inverse(moments.float(), damping)
    blocks = list(_blocks(weight, group_size))
    metrics = [moments[..., block, block].float().unsqueeze(-3) for block in blocks]
    target = weight.float().clone()
    fits = []
    for block, metric in zip(blocks, metrics, strict=True):
        fit = fit_groups(target[..., block], widths, levels, metric)
        _move(target, target[..., block] - _base_of(fit), block, factor)
        fits.append(fit)
        on_progress(fit.codes.numel())
    if compensation == "every_level":
        _refit_levels(weight.float(), blocks, metrics, fits, factor)
    return _side_by_side(fits, weight.shape, tuple(widths))


def _refit_levels(
    weight: Tensor, blocks: Sequence[slice], metrics: Sequence[Tensor], fits: Sequence[GroupFit], factor: Tensor
) -> None:
    below = torch.cat([_base_of(fit) for fit in fits], dim=-1)
    for level in range(len(fits[0].signs)):
        target = weight.clone()
        for block, metric, fit in zip(blocks, metrics, fits, strict=True):
            residual = target[..., block] - below[..., block]
            positive, scale = fit_level(residual, metric)
            left = without_level(residual, positive, scale)
            below[..., block] += residual - left
            fit.signs[level], fit.scales[level + 1] = positive, scale
            _move(target, left, block, factor)


def _base_of(fit: GroupFit) -> Tensor:
    return (fit.codes * fit.scales[0].float().unsqueeze(-1)).add_(fit.offset.float().unsqueeze(-1))


def _blocks(weight: Tensor, group_size: int) -> Iterator[slice]:
    for start in range(0, weight.shape[-1], group_size):
        yield slice(start, start + group_size)


def _move(target: Tensor, error: Tensor, block: slice, factor: Tensor) -> None:
    """Make up for the error [..., R, g] of a block in the columns after it."""
    after = slice(block.stop, None)
    scaled = torch.linalg.solve_triangular(factor[..., block, block], error, upper=True, left=False)
    target[..., after] -= scaled @ factor[..., block, after]


def _side_by_side(fits: Sequence[GroupFit], shape: Sequence[int], widths: tuple[int, ...]) -> NestedPlanes:
    """Planes of blocks [..., R, g] that lie side by side."""

    def join(parts: Sequence[Tensor], dim: int) -> Tensor:
        return torch.stack(list(parts), dim=dim).flatten(end_dim=dim - 1)

    fit = GroupFit(
        codes=join([part.codes for part in fits], -2),
        offset=join([part.offset for part in fits], -1),
        scales=[join([part.scales[level] for part in fits], -1) for level in range(len(widths))],
        signs=[join([part.signs[level] for part in fits], -2) for level in range(len(widths) - 1)],
    )
    return pack_fits([fit], shape, widths)


def _cholesky_of_inverse(moments: Tensor, damping: float) -> Tensor:
    hessian = 2 * moments
    mean = hessian.diagonal(dim1=-2, dim2=-1).mean(-1)
    # An expert that saw no token has moments of 0; with the identity instead, nothing moves between its blocks.
    strength = torch.where(mean > 0, damping * mean, 1.0)
    damped = hessian + torch.diag_embed(strength.unsqueeze(-1).expand(*mean.shape, hessian.shape[-1]))
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(damped))
    return torch.linalg.cholesky(inverse, upper=True)
