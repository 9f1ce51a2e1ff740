"""The ranking losses of MatSim against loops over images."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from slow_matsim import slow_ranking_loss

from hf_mixture.models.matsim.ranking import info_nce_loss, margin_ranking_loss, soft_labels


def random_batch(seed: int) -> tuple[list[int], list[float], torch.Tensor]:
    """Few sets, ratios of the published grid or anywhere in [0, 1], and cosines of embeddings in three dimensions."""
    source = np.random.default_rng(seed)
    number = int(source.integers(2, 13))
    sets = source.integers(0, 3, number).tolist()
    ratios = (source.integers(0, 5, number) / 4 if seed % 2 else source.random(number)).tolist()
    generator = torch.Generator().manual_seed(seed)
    embeddings = torch.nn.functional.normalize(torch.randn(number, 3, generator=generator, dtype=torch.float64), dim=1)
    return sets, ratios, embeddings @ embeddings.T


@pytest.mark.parametrize("mode", ["reference", "symmetric"])
def test_value_gradient_and_number_of_terms_against_loops_on_fifty_batches(mode: str) -> None:
    seen = {"positive": 0, "negative": 0, "empty": 0}
    for seed in range(50):
        sets, ratios, cosines = random_batch(seed)
        labels = soft_labels(torch.tensor(sets), torch.tensor(ratios, dtype=torch.float64))
        cosines.requires_grad_()
        loss, num_terms = margin_ranking_loss(cosines, labels, margin_mode=mode)
        loss.backward()
        value, gradient, counts = slow_ranking_loss(cosines.tolist(), sets, ratios, temperature=0.2, mode=mode)
        assert loss.item() == pytest.approx(value, abs=1e-6), seed
        expected = torch.tensor(gradient, dtype=torch.float64)
        torch.testing.assert_close(cosines.grad, expected, atol=1e-6, rtol=1e-5)
        assert num_terms.item() == sum(counts.values())
        for name in ("positive", "negative"):
            seen[name] += counts[name]
        seen["empty"] += not sum(counts.values())
    # The fifty batches meet both signs of d and an empty selection.
    assert min(seen.values()) > 0, seen


def test_the_margin_of_the_reference_has_the_wrong_sign_for_negative_differences() -> None:
    # Anchor 0, j = 1 with s = 0.5 and k = 2 with s = 0.75, so that d = -0.25.
    labels = torch.tensor([[1.0, 0.5, 0.75], [0.5, 1.0, 0.0], [0.75, 0.0, 1.0]])[:1].expand(3, 3).clone()
    labels[1:] = 0.0
    cosines = torch.zeros(3, 3)
    # From the other side, j = 2 and k = 1, d is positive and the term counts in both modes.
    assert margin_ranking_loss(cosines, labels, margin_mode="reference")[1] == 1
    assert margin_ranking_loss(cosines, labels, margin_mode="symmetric")[1] == 1
    # A little wrong: c_01 > c_02, p = sigma(0.02 / 0.2) = 0.525 < 0.5 + 0.25 / 4: only d > 0 counts.
    cosines[0, 1] = 0.02
    assert margin_ranking_loss(cosines, labels, margin_mode="reference")[1] == 1
    # Badly wrong: both visits count in the reference, and the one triplet in the symmetric mode.
    cosines[0, 1] = 0.5
    assert margin_ranking_loss(cosines, labels, margin_mode="reference")[1] == 2
    assert margin_ranking_loss(cosines, labels, margin_mode="symmetric")[1] == 1


@pytest.mark.parametrize("mode", ["reference", "symmetric"])
def test_an_empty_selection_gives_zero_with_a_gradient(mode: str) -> None:
    embeddings = torch.nn.functional.normalize(torch.randn(4, 3), dim=1).requires_grad_()
    labels = soft_labels(torch.arange(4), torch.zeros(4))
    loss, num_terms = margin_ranking_loss(embeddings @ embeddings.T, labels, margin_mode=mode)
    loss.backward()
    assert loss.item() == num_terms.item() == 0
    assert embeddings.grad.abs().max() == 0


def test_ratios_at_equal_distances_are_equal_in_spite_of_rounding() -> None:
    ratios = torch.tensor([0.1, 0.3, 0.5])
    labels = soft_labels(torch.zeros(3), ratios)
    assert (labels[1, 0] != labels[1, 2]) or labels.dtype != torch.float32
    # Anchor 1 has nothing to rank; anchors 0 and 2 have one pair each.
    assert margin_ranking_loss(torch.zeros(3, 3), labels)[1] == 2


def test_large_differences_keep_their_gradient_in_the_symmetric_mode() -> None:
    labels = soft_labels(torch.tensor([0, 0, 1]), torch.zeros(3))
    gradients = {}
    for mode in ("reference", "symmetric"):
        cosines = torch.tensor([[1.0, -1.0, 1.0], [-1.0, 1.0, -1.0], [1.0, -1.0, 1.0]], requires_grad=True)
        margin_ranking_loss(cosines, labels, temperature=0.02, margin_mode=mode)[0].backward()
        gradients[mode] = cosines.grad[0, 1].item()
    # p is about 1e-43 there, far below what the published code adds to it.
    assert gradients["symmetric"] < -10
    assert abs(gradients["reference"]) < 1e-6


def test_half_precision_is_computed_in_single() -> None:
    sets, ratios, cosines = random_batch(3)
    labels = soft_labels(torch.tensor(sets), torch.tensor(ratios))
    loss, _ = margin_ranking_loss(cosines.to(torch.bfloat16), labels)
    assert loss.dtype == torch.float32


def test_info_nce_against_loops() -> None:
    for seed in range(1, 20, 2):
        sets, ratios, cosines = random_batch(seed)
        number, total, anchors, pairs = len(sets), 0.0, 0, 0
        for i in range(number):
            same = [j for j in range(number) if j != i and (sets[j], ratios[j]) == (sets[i], ratios[i])]
            if not same:
                continue
            scale = sum(math.exp(cosines[i, k].item() / 0.1) for k in range(number) if k != i)
            total -= sum(math.log(math.exp(cosines[i, j].item() / 0.1) / scale) for j in same) / len(same)
            anchors, pairs = anchors + 1, pairs + len(same)
        labels = soft_labels(torch.tensor(sets), torch.tensor(ratios, dtype=torch.float64))
        cosines.requires_grad_()
        loss, num_pairs = info_nce_loss(cosines, labels, temperature=0.1)
        loss.backward()
        assert loss.item() == pytest.approx(total / max(1, anchors))
        assert num_pairs.item() == pairs
        assert cosines.grad.isfinite().all()
