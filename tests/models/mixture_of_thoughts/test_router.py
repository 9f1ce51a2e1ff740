"""The routing decision and the losses that train it."""

from __future__ import annotations

import math

import pytest
import torch

from hf_mixture.models.mixture_of_thoughts.router import (
    balance_loss,
    consistency_loss,
    drop_peers,
    entropy_loss,
    expert_nll_loss,
    gumbel_noise,
    route,
)


def test_the_best_experts_are_active_and_the_best_of_them_answers():
    routing = route(torch.tensor([[0.1, 3.0, 2.0, -1.0], [5.0, 0.0, 1.0, 4.0]]), 2)
    assert routing.active.int().tolist() == [[0, 1, 1, 0], [1, 0, 0, 1]]
    assert routing.primary.tolist() == [1, 0]
    assert routing.peers.int().tolist() == [[0, 0, 1, 0], [0, 0, 0, 1]]


def test_more_active_experts_than_there_are_means_all():
    assert route(torch.randn(3, 2), 7).active.all()


def test_a_named_primary_answers_whatever_its_score():
    routing = route(torch.tensor([[0.1, 3.0, 2.0]]), 2, primary=torch.tensor([0]))
    assert routing.primary.tolist() == [0]
    assert routing.active.int().tolist() == [[1, 1, 0]]


def test_gates_are_exactly_one_and_carry_the_gradient_of_the_softmax():
    scores = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    weights = torch.randn(4, 3, dtype=torch.float64)
    gates = route(scores, 2).gates
    assert torch.equal(gates, torch.ones_like(gates))
    (gradient,) = torch.autograd.grad((gates * weights).sum(), scores)
    (expected,) = torch.autograd.grad((scores.softmax(-1) * weights).sum(), scores)
    torch.testing.assert_close(gradient, expected)


def test_gumbel_noise_chooses_with_the_probabilities_of_the_softmax():
    torch.manual_seed(0)
    scores = torch.tensor([1.0, 0.0, -1.0]).expand(200_000, 3)
    primary = route(scores, 1, noise=gumbel_noise(scores, 1.0)).primary
    shares = torch.bincount(primary, minlength=3) / len(primary)
    torch.testing.assert_close(shares, scores[0].softmax(-1), atol=0.005, rtol=0)


def test_dropped_peers_are_never_the_primary():
    torch.manual_seed(0)
    routing = route(torch.randn(1000, 4), 3)
    dropped = drop_peers(routing, 0.5)
    assert torch.equal(dropped.primary, routing.primary)
    assert dropped.active.gather(1, routing.primary.unsqueeze(1)).all()
    assert 0.45 < dropped.peers.sum() / routing.peers.sum() < 0.55


def test_entropy_loss_is_lowest_for_an_undecided_router():
    assert entropy_loss(torch.zeros(2, 4)).item() == pytest.approx(-math.log(4))
    assert entropy_loss(torch.tensor([[100.0, 0, 0, 0]])).item() == pytest.approx(0, abs=1e-6)


def test_balance_loss_is_the_squared_variation_of_mean_probabilities_and_has_a_gradient():
    probabilities = torch.tensor([[0.7, 0.2, 0.1], [0.5, 0.4, 0.1]], dtype=torch.float64)
    scores = probabilities.log().requires_grad_()
    means = [0.6, 0.3, 0.1]
    variance = sum((m - 1 / 3) ** 2 for m in means) / 3
    assert balance_loss(scores).item() == pytest.approx(variance * 9)
    (gradient,) = torch.autograd.grad(balance_loss(scores), scores)
    assert gradient.abs().sum() > 0


def test_expert_nll_loss_is_least_at_the_targets():
    nll = torch.tensor([[1.0, 2.0, 1.5]], dtype=torch.float64)
    best = (-nll / 0.1).detach().requires_grad_()
    (gradient,) = torch.autograd.grad(expert_nll_loss(best, nll, 0.1), best)
    assert gradient.abs().max() < 1e-12
    assert expert_nll_loss(torch.zeros(1, 3, dtype=torch.float64), nll, 0.1) > expert_nll_loss(best, nll, 0.1)


def test_consistency_loss_is_the_mean_of_both_divergences():
    first, second = torch.randn(5, 7, dtype=torch.float64), torch.randn(5, 7, dtype=torch.float64)
    p, q = (first / 2).log_softmax(-1), (second / 2).log_softmax(-1)
    kl = torch.nn.functional.kl_div
    both = kl(q, p, reduction="batchmean", log_target=True) + kl(p, q, reduction="batchmean", log_target=True)
    torch.testing.assert_close(consistency_loss(first, second), both / 2)
    assert consistency_loss(first, first) == 0
