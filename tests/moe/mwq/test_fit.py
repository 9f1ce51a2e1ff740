"""Fitting planes: errors that shrink with every bit, scales by least squares, and what cannot be fitted."""

from __future__ import annotations

import pytest
import torch

from hf_mixture.moe.mwq.fit import default_level_weights, fit_level, fit_planes, least_squares_scale, squared_norm


def gaussian(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def moments_of(inputs, group_size):
    groups = inputs.unflatten(0, (-1, group_size))
    return groups @ groups.mT


def errors(planes, weight, moments=None):
    """Squared error of each group at each width."""
    found = []
    for width in planes.widths:
        residual = (planes.dequantise(width) - weight).unflatten(-1, (-1, planes.group_size))
        found.append(squared_norm(residual, moments))
    return found


@pytest.mark.parametrize("widths", [(2, 3, 4), (1, 2, 3), (5, 6, 7, 8)])
@pytest.mark.parametrize("with_moments", [False, True])
def test_every_bit_lowers_the_error_of_every_group(widths, with_moments):
    """Acceptance check 2, in the norm that was made small."""
    weight = gaussian(32, 128)
    moments = moments_of(gaussian(128, 512, seed=1), 32) if with_moments else None
    found = errors(fit_planes(weight, widths, 32, moments=moments), weight, moments)
    for wide, narrow in zip(found[1:], found[:-1], strict=True):
        assert bool((wide < narrow).all())


@pytest.mark.parametrize("with_moments", [False, True])
def test_scales_are_least_squares(with_moments):
    """Acceptance check 2: the minimum, found in float64 by the normal equation, and by trying neighbours."""
    residual = gaussian(20, 32)
    positive = residual >= 0
    signs = torch.where(positive, 1.0, -1.0)
    metric = moments_of(gaussian(32, 100, seed=2), 32)[0] if with_moments else None
    scale = least_squares_scale(residual, positive, metric)
    matrix = torch.eye(32) if metric is None else metric
    expected = torch.einsum("ni,ij,nj->n", signs.double(), matrix.double(), residual.double())
    expected /= torch.einsum("ni,ij,nj->n", signs.double(), matrix.double(), signs.double())
    torch.testing.assert_close(scale.double(), expected, rtol=1e-5, atol=1e-6)
    best = squared_norm(residual - scale[:, None] * signs, metric)
    for step in (0.99, 1.01):
        assert bool((squared_norm(residual - step * scale[:, None] * signs, metric) >= best).all())
    if metric is None:
        torch.testing.assert_close(scale, residual.abs().mean(-1), rtol=0, atol=1e-6)
    assert torch.equal(fit_level(residual, metric)[1], scale.half())


def test_the_sign_of_zero_is_plus():
    positive, scale = fit_level(torch.zeros(2, 8))
    assert bool(positive.all())
    assert scale.tolist() == [0.0, 0.0]


@pytest.mark.parametrize("draw", ["gaussian", "student"])
def test_the_base_suits_all_levels(draw):
    """Against the relative errors measured for nested planes with a plain and an optimised base (group size 128)."""
    torch.manual_seed(0)
    student = torch.distributions.StudentT(4.0)
    weight = torch.randn(256, 1024) if draw == "gaussian" else student.sample((256, 1024))
    # Relative errors at 2, 3 and 4 bits of a base of the whole range, and of the base that is best for 2 bits.
    whole_range = {"gaussian": (0.2535, 0.0630, 0.0157), "student": (0.3647, 0.1127, 0.0319)}[draw]
    best_for_two = {"gaussian": (0.1360, 0.0480, 0.0224), "student": (0.2051, 0.0894, 0.0529)}[draw]
    planes = fit_planes(weight, (2, 3, 4), 128)
    found = [float(error.sum() / weight.square().sum()) for error in errors(planes, weight)]
    assert all(ours < theirs for ours, theirs in zip(found, whole_range, strict=True))
    assert found[1] < best_for_two[1]
    assert found[2] < best_for_two[2] / 2
    for_two = fit_planes(weight, (2, 3, 4), 128, level_weights={2: 1.0})
    assert errors(for_two, weight)[0].sum() < errors(planes, weight)[0].sum()
    assert errors(for_two, weight)[2].sum() > errors(planes, weight)[2].sum()


def test_the_base_is_the_best_of_those_tried():
    """The slow way: every factor by itself, the whole fit, and the weighted sum of the errors."""
    from hf_mixture.moe.mwq import fit

    weight = gaussian(6, 32)
    levels = default_level_weights(2)
    candidates = []
    shrinks = fit._SHRINKS
    for shrink in shrinks:
        fit._SHRINKS = (shrink,)
        try:
            found = errors(fit_planes(weight, (2, 3, 4), 32), weight)
        finally:
            fit._SHRINKS = shrinks
        candidates.append(sum(levels[width] * error for width, error in zip((2, 3, 4), found, strict=True)))
    best = torch.stack(candidates).amin(0)
    ours = errors(fit_planes(weight, (2, 3, 4), 32), weight)
    total = sum(levels[width] * error for width, error in zip((2, 3, 4), ours, strict=True))
    torch.testing.assert_close(total, best)


def test_moments_make_the_error_of_the_outputs_smaller():
    weight, mixing = gaussian(64, 64), gaussian(64, 64, seed=3)
    inputs = mixing @ gaussian(64, 2000, seed=4)
    plain = fit_planes(weight, (2, 3, 4), 32)
    informed = fit_planes(weight, (2, 3, 4), 32, moments=moments_of(inputs, 32))
    for width in (2, 3, 4):
        outputs = [((planes.dequantise(width) - weight) @ inputs).square().sum() for planes in (plain, informed)]
        assert outputs[1] < outputs[0]


def test_constant_groups_are_exact_and_far_groups_keep_their_precision():
    weight = torch.full((2, 32), 0.25)
    weight[1] = 1000 + torch.arange(32) / 16
    planes = fit_planes(weight, (2, 3, 4), 32)
    assert torch.equal(planes.dequantise(2)[0], weight[0])
    # With a zero point in float16, (Q - z) s would be off by hundreds of steps here.
    assert float((planes.dequantise(4)[1] - weight[1]).abs().max()) < 0.5
    assert bool((fit_planes(torch.zeros(1, 32), (2, 3), 32).dequantise() == 0).all())


def test_experts_are_fitted_one_by_one_and_in_blocks(monkeypatch):
    from hf_mixture.moe.mwq import fit

    weight = gaussian(4, 6, 64)
    moments = torch.stack([moments_of(gaussian(64, 50, seed=expert), 32) for expert in range(4)])
    seen = []
    whole = fit_planes(weight, (2, 3), 32, moments=moments, on_progress=seen.append)
    assert sum(seen) == weight.numel()
    monkeypatch.setattr(fit, "_BLOCK", 5 * 64)
    blocks = fit_planes(weight, (2, 3), 32, moments=moments)
    for expert in range(4):
        alone = fit_planes(weight[expert], (2, 3), 32, moments=moments[expert])
        for ours, theirs, cut in zip(alone.tensors(), whole.tensors(), blocks.tensors(), strict=True):
            assert torch.equal(ours, theirs[expert])
            assert torch.equal(ours, cut[expert])


@pytest.mark.parametrize(
    ("weight", "group_size", "said"),
    [
        (torch.randn(2, 48), 32, "group_size=32 does not divide the 48 columns of a weight; give group_size=16"),
        (torch.randn(2, 12), 16, "8 does not divide it"),
        (torch.tensor([[1.0, float("nan")] * 8]), 16, "nan"),
        (torch.tensor([[1.0, float("inf")] * 8]), 16, "inf"),
        (torch.full((1, 16), 1e6), 16, "float16 scales cannot hold"),
    ],
)
def test_what_cannot_be_fitted_is_refused(weight, group_size, said):
    with pytest.raises(ValueError, match=said):
        fit_planes(weight, (2, 3), group_size)
