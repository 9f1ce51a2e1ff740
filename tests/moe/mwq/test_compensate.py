"""Error compensation against the slow way, and what it is good for."""

from __future__ import annotations

import pytest
import torch

from hf_mixture.moe.mwq.compensate import fit_compensated
from hf_mixture.moe.mwq.fit import default_level_weights, fit_groups, fit_level, fit_planes, without_level


def correlated(columns=64, tokens=4000, seed=0):
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.eye(columns) * 0.3 + torch.randn(columns, columns, generator=generator) / 8
    return mixing @ torch.randn(columns, tokens, generator=generator)


def slow_compensation(weight, moments, group_size, widths, *, every_level):
    """One expert, one block after the other, with plain inverses."""
    hessian = 2 * moments.double()
    hessian += 0.01 * hessian.diagonal().mean() * torch.eye(len(hessian)).double()
    factor = torch.linalg.cholesky(torch.linalg.inv(hessian), upper=True)
    blocks = [slice(start, start + group_size) for start in range(0, weight.shape[1], group_size)]

    def move(target, error, block):
        after = slice(block.stop, None)
        update = error.double() @ torch.linalg.inv(factor[block, block]) @ factor[block, after]
        target[:, after] -= update.float()

    target, approximations = weight.clone(), [torch.zeros_like(weight) for _ in widths]
    for block in blocks:
        metric = moments[block, block]
        fit = fit_groups(target[:, block], widths, default_level_weights(widths[0]), metric)
        value = fit.offset.float()[:, None] + fit.scales[0].float()[:, None] * fit.codes
        approximations[0][:, block] = value
        for level, (positive, scale) in enumerate(zip(fit.signs, fit.scales[1:], strict=True)):
            value = value + torch.where(positive, 1.0, -1.0) * scale.float()[:, None]
            approximations[level + 1][:, block] = value
        move(target, target[:, block] - approximations[0][:, block], block)
    if not every_level:
        return approximations
    for level in range(1, len(widths)):
        target = weight.clone()
        for block in blocks:
            residual = target[:, block] - approximations[level - 1][:, block]
            positive, scale = fit_level(residual, moments[block, block])
            left = without_level(residual, positive, scale)
            approximations[level][:, block] = target[:, block] - left
            move(target, left, block)
    return approximations


@pytest.mark.parametrize("compensation", ["every_level", "base"])
def test_compensation_is_the_slow_way(compensation):
    weight = torch.randn(2, 6, 64, generator=torch.Generator().manual_seed(1))
    moments = torch.stack([inputs @ inputs.T for inputs in (correlated(seed=2), correlated(seed=3))])
    planes = fit_compensated(weight, (2, 3, 4), 16, moments=moments, compensation=compensation)
    for expert in range(2):
        slow = slow_compensation(
            weight[expert], moments[expert], 16, (2, 3, 4), every_level=compensation == "every_level"
        )
        one = planes.of([tensor[expert] for tensor in planes.tensors()])
        for width, expected in zip((2, 3, 4), slow, strict=True):
            # A residual near zero may get the other sign in the other precision.
            close = torch.isclose(one.dequantise(width), expected, rtol=1e-3, atol=1e-3)
            assert float(close.float().mean()) > 0.99


def test_what_compensation_is_good_for():
    """The first width gains. Compensating the base alone leaves a floor at the others; every level, a lower one."""
    weight = torch.randn(32, 64, generator=torch.Generator().manual_seed(4))
    inputs = correlated(seed=5)
    moments = inputs @ inputs.T
    blocks = torch.stack([moments[start : start + 16, start : start + 16] for start in range(0, 64, 16)])
    found = {
        "none": fit_planes(weight, (2, 3, 4), 16, moments=blocks),
        "base": fit_compensated(weight, (2, 3, 4), 16, moments=moments, compensation="base"),
        "every": fit_compensated(weight, (2, 3, 4), 16, moments=moments),
    }
    error = {
        name: [float(((planes.dequantise(w) - weight) @ inputs).square().sum()) for w in (2, 3, 4)]
        for name, planes in found.items()
    }
    assert error["base"][0] == pytest.approx(error["every"][0])
    assert error["every"][0] < error["none"][0]
    assert error["every"][2] < error["base"][2]


def test_an_expert_that_saw_no_token_is_fitted_without():
    weight = torch.randn(1, 4, 32)
    planes = fit_compensated(weight, (2, 3), 16, moments=torch.zeros(1, 32, 32))
    assert torch.isfinite(planes.dequantise()).all()
