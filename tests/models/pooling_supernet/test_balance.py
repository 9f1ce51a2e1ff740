"""Balancing against the published iteration in the plain domain, and where that one breaks down."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from hf_mixture.models.pooling_supernet.balance import assignment, balance


def slow_marginals(logits: Tensor, tolerance: float) -> list[Tensor]:
    """The published iteration: softmax of each row, then divide by the means of the columns and normalise the rows."""
    p = logits.softmax(dim=1)
    marginals = []
    for _ in range(10_000):
        m = p.mean(dim=0)
        if float((m * (m * len(m)).log()).sum()) <= tolerance:
            return marginals
        marginals.append(m)
        p = p / m
        p = p / p.sum(dim=1, keepdim=True)
    raise AssertionError("no convergence")


def slow_assignment(logits: Tensor, marginals: list[Tensor]) -> Tensor:
    """Recorded marginals, applied one after the other to a fresh softmax."""
    p = logits.softmax(dim=1)
    for m in marginals:
        p = p / m
        p = p / p.sum(dim=1, keepdim=True)
    return p


def divergence(p: Tensor) -> float:
    m = p.mean(dim=0)
    return float((m * (m * len(m)).log()).nansum())


def test_a_thousand_random_scores_are_balanced() -> None:
    generator = torch.Generator().manual_seed(0)
    most = 0
    for case in range(1000):
        num_models = 2 + case % 7
        temperature = 1 + 99 * float(torch.rand((), generator=generator))
        logits = temperature * torch.rand(36, num_models, generator=generator, dtype=torch.float64)
        found = balance(logits)
        p = assignment(logits, found.log_marginals)
        assert p.isfinite().all()
        assert float((p.sum(dim=1) - 1).abs().max()) < 1e-6
        assert divergence(p) <= 1e-4 + 1e-12
        assert found.divergence == pytest.approx(max(divergence(p), 0), abs=1e-12)
        most = max(most, found.num_iterations)
    assert 1 < most <= 10_000


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("temperature", [1.0, 30.0, 100.0])
def test_the_sum_of_logarithms_is_the_list_of_marginals(seed: int, temperature: float) -> None:
    """Also when it is applied to scores that have changed since."""
    generator = torch.Generator().manual_seed(seed)
    scores = torch.rand(36, 4, generator=generator, dtype=torch.float64)
    marginals = slow_marginals(temperature * scores, 1e-4)
    found = balance(temperature * scores)
    assert found.num_iterations == len(marginals)
    total = torch.stack([m.log() for m in marginals]).sum(dim=0) if marginals else torch.zeros(4)
    torch.testing.assert_close(found.log_marginals, total.double(), rtol=1e-9, atol=1e-9)
    changed = temperature * (scores + 0.1 * torch.rand(36, 4, generator=generator, dtype=torch.float64))
    expected = slow_assignment(changed, marginals)
    torch.testing.assert_close(assignment(changed, found.log_marginals), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("temperature", [100.0, 1000.0, 1e5])
def test_identical_rows_are_spread_evenly_at_any_temperature(temperature: float) -> None:
    """In the plain domain, the share of the worse models underflows to 0, and 0 / 0 is not a number."""
    logits = (temperature * torch.linspace(1, 0, 4, dtype=torch.float64)).repeat(36, 1)
    if temperature >= 1000:
        assert slow_assignment(logits, [logits.softmax(dim=1).mean(dim=0)]).isnan().any()
    found = balance(logits)
    p = assignment(logits, found.log_marginals)
    torch.testing.assert_close(p, torch.full_like(p, 0.25), rtol=0, atol=1e-9)
    assert found.num_iterations <= 10_000


def test_random_scores_at_a_temperature_of_a_thousand() -> None:
    generator = torch.Generator().manual_seed(1)
    for _ in range(20):
        logits = 1000 * torch.rand(36, 4, generator=generator, dtype=torch.float64)
        p = assignment(logits, balance(logits).log_marginals)
        assert p.isfinite().all()
        assert divergence(p) <= 1e-4 + 1e-12


def test_even_scores_need_no_iteration() -> None:
    found = balance(torch.ones(36, 4))
    assert found.num_iterations == 0
    assert found.divergence == pytest.approx(0, abs=1e-12)
    assert torch.equal(found.log_marginals, torch.zeros(4, dtype=torch.float64))
    assert balance(torch.rand(5, 1)).num_iterations == 0


def test_what_cannot_be_balanced_is_refused() -> None:
    with pytest.raises(ValueError, match="must be finite numbers"):
        balance(torch.tensor([[1.0, math.nan]]))
    with pytest.raises(ValueError, match=r"logits of shape \(3,\)"):
        balance(torch.ones(3))
    with pytest.raises(ValueError, match="after max_iterations=1 the shares"):
        balance(30 * torch.rand(36, 4, generator=torch.Generator().manual_seed(0)), max_iterations=1)
