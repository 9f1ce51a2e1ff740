"""Router losses against slow float64 twins, transformers' own loss, and closed forms."""

from __future__ import annotations

import math

import pytest
import torch
from transformers.models.mixtral.modeling_mixtral import load_balancing_loss_func

from hf_mixture.moe.routers.losses import (
    ChoiceTotals,
    count_choices,
    importance_loss,
    load_loss,
    orthogonality_loss,
    smooth_load,
    squared_cov,
    switch_loss,
    z_loss,
)


def random_case(seed: int):
    """Probabilities, indices with padding ids, weights and a mask [B, S] that leaves every sequence a token."""
    g = torch.Generator().manual_seed(seed)
    b, s, e = (int(torch.randint(low, high, (), generator=g)) for low, high in ((1, 4), (1, 6), (2, 7)))
    k = int(torch.randint(1, e + 1, (), generator=g))
    logits = torch.randn(b * s, e, dtype=torch.float64, generator=g)
    indices = torch.rand(b * s, e, generator=g).argsort(dim=-1)[:, :k]
    indices[torch.rand(indices.shape, generator=g) < 0.2] = e
    mask = torch.rand(b, s, generator=g) < 0.7
    mask[torch.arange(b), torch.randint(s, (b,), generator=g)] = True
    weights = torch.rand(b * s, k, dtype=torch.float64, generator=g)
    return logits, indices, weights, mask.long()


def slow_switch(probabilities, indices, tokens, *, per, totals=None):
    """E * sum_i f_i P_i over some tokens, in plain Python."""
    num_experts = probabilities.shape[1]
    counts = [sum(row.count(i) for row in (indices[t].tolist() for t in tokens)) for i in range(num_experts)]
    means = [sum(probabilities[t, i].item() for t in tokens) for i in range(num_experts)]
    n = len(tokens)
    if totals is not None:
        counts, n = totals[0].tolist(), totals[1]
    divisor = n if per == "token" else max(1, sum(counts))
    return num_experts * sum(c / divisor * m / n for c, m in zip(counts, means, strict=True))


def slow_cov(values):
    mean = sum(values) / len(values)
    return 0.0 if mean == 0 else sum((v - mean) ** 2 for v in values) / len(values) / mean**2


@pytest.mark.parametrize("per", ["token", "choice"])
def test_switch_loss_in_every_scope(per):
    for seed in range(400):
        logits, indices, _, mask = random_case(seed)
        p = logits.softmax(-1)
        flat = mask.flatten().tolist()
        valid = [t for t, m in enumerate(flat) if m]
        expected = slow_switch(p, indices, valid, per=per)
        assert switch_loss(p, indices, mask=mask.flatten(), per=per).item() == pytest.approx(expected, abs=1e-12)

        length = mask.shape[1]
        by_sequence = [[t for t in valid if t // length == b] for b in range(len(mask))]
        expected = sum(slow_switch(p, indices, tokens, per=per) for tokens in by_sequence) / len(mask)
        loss = switch_loss(p, indices, mask=mask, scope="sequence", per=per).item()
        assert loss == pytest.approx(expected, abs=1e-12)

        totals = (torch.arange(p.shape[1]) + 1, 3 * len(flat))
        expected = slow_switch(p, indices, valid, per=per, totals=totals)
        loss = switch_loss(p, indices, mask=mask, scope="global", totals=ChoiceTotals(*totals), per=per).item()
        assert loss == pytest.approx(expected, abs=1e-12)


def test_importance_z_and_counts():
    for seed in range(400):
        logits, indices, weights, mask = random_case(seed)
        e, flat = logits.shape[1], mask.flatten().tolist()
        counts, importance, squares = [0] * e, [0.0] * e, 0.0
        for t, valid in enumerate(flat):
            if not valid:
                continue
            squares += math.log(sum(math.exp(z) for z in logits[t].tolist())) ** 2
            for i, w in zip(indices[t].tolist(), weights[t].tolist(), strict=True):
                if i < e:
                    counts[i] += 1
                    importance[i] += w
        assert count_choices(indices, e, mask=mask).tolist() == counts
        loss = importance_loss(weights, indices, e, mask=mask).item()
        assert loss == pytest.approx(slow_cov(importance), abs=1e-12)
        assert z_loss(logits, mask=mask).item() == pytest.approx(squares / sum(flat), abs=1e-12)


def test_load_is_the_probability_of_being_chosen():
    """Against the definition: is expert i among the K best when its noise, and no other, is drawn again?"""
    g = torch.Generator().manual_seed(0)
    clean = torch.randn(3, 5, dtype=torch.float64, generator=g)
    std = 0.5 + torch.rand(3, 5, dtype=torch.float64, generator=g)
    noisy = clean + std * torch.randn(3, 5, dtype=torch.float64, generator=g)
    for top_k in (1, 2, 4):
        expected = torch.empty_like(clean)
        for t in range(3):
            for i in range(5):
                others = sorted((noisy[t, j].item() for j in range(5) if j != i), reverse=True)
                z = (clean[t, i].item() - others[top_k - 1]) / std[t, i].item()
                expected[t, i] = 0.5 * (1 + math.erf(z / math.sqrt(2)))
        assert (smooth_load(clean, noisy, std, top_k) - expected).abs().max() < 1e-12
        mask = torch.tensor([1, 0, 1])
        loss = load_loss(clean, noisy, std, top_k, mask=mask).item()
        assert loss == pytest.approx(slow_cov(expected[[0, 2]].sum(0).tolist()), abs=1e-12)
    with pytest.raises(ValueError, match="all are always chosen"):
        smooth_load(clean, noisy, std, 5)


@pytest.mark.parametrize("top_k", [1, 2, 4])
def test_uniform_routing_costs_k_in_transformers_and_1_in_megatron(top_k):
    e = 8
    logits = torch.zeros(64, e)
    uniform = (torch.arange(64).unsqueeze(1) * top_k + torch.arange(top_k)) % e
    assert load_balancing_loss_func((logits,), e, top_k).item() == pytest.approx(top_k, abs=1e-6)
    assert switch_loss(logits.softmax(-1), uniform).item() == top_k
    assert switch_loss(logits.softmax(-1), uniform, per="choice").item() == 1.0


@pytest.mark.parametrize("masked", [False, True])
def test_pooled_loss_equals_that_of_transformers(masked):
    for seed in range(100):
        g = torch.Generator().manual_seed(seed)
        layers, b, s, e, k = 3, 2, 5, 6, 2
        logits = tuple(torch.randn(b * s, e, generator=g) for _ in range(layers))
        mask = (torch.rand(b, s, generator=g) < 0.7).long() if masked else None
        if mask is not None:
            mask[0, 0] = 1
        expected = load_balancing_loss_func(logits, e, k, mask).item()
        pooled = torch.cat(logits)
        loss = switch_loss(
            pooled.softmax(-1),
            pooled.topk(k, dim=-1).indices,
            mask=None if mask is None else mask.flatten().repeat(layers),
        )
        assert loss.item() == pytest.approx(expected, abs=2e-6)


def test_global_parts_add_up_to_the_whole_and_so_do_gradients():
    g = torch.Generator().manual_seed(0)
    logits = torch.randn(12, 4, dtype=torch.float64, generator=g, requires_grad=True)
    indices = logits.topk(2, dim=-1).indices
    mask = torch.tensor([1] * 5 + [0] * 2 + [1] * 5)
    whole = switch_loss(logits.softmax(-1), indices, mask=mask)
    totals = ChoiceTotals(count_choices(indices, 4, mask=mask), int(mask.sum()))
    parts = [
        switch_loss(logits[p].softmax(-1), indices[p], mask=mask[p], scope="global", totals=totals)
        for p in (slice(0, 3), slice(3, 8), slice(8, 12))
    ]
    assert sum(parts).item() == pytest.approx(whole.item(), abs=1e-14)
    (of_whole,) = torch.autograd.grad(whole, logits, retain_graph=True)
    (of_parts,) = torch.autograd.grad(sum(parts), logits)
    assert (of_whole - of_parts).abs().max() < 1e-15
    assert of_whole.abs().max() > 1e-3
    micro = [switch_loss(logits[p].softmax(-1), indices[p], mask=mask[p]) for p in (slice(0, 6), slice(6, 12))]
    assert abs(sum(micro).item() / 2 - whole.item()) > 1e-3


def test_what_stands_at_padding_does_not_matter():
    logits, indices, _, mask = random_case(3)
    assert 0 in mask
    other = logits.clone()
    other[mask.flatten() == 0] = 7.0
    for loss in (z_loss, lambda z, mask: switch_loss(z.softmax(-1), indices, mask=mask)):
        assert loss(logits, mask=mask).item() == loss(other, mask=mask).item()
    poisoned = torch.where(mask.flatten().bool().unsqueeze(1), logits, float("nan")).requires_grad_()
    z_loss(poisoned, mask=mask).backward()
    assert z_loss(poisoned, mask=mask).isfinite()


def test_orthogonality():
    g = torch.Generator().manual_seed(0)
    weight = torch.randn(5, 3, 2, dtype=torch.float64, generator=g)
    rows = weight.flatten(1)
    pairs = [
        ((rows[i] @ rows[j]) / (rows[i].norm() * rows[j].norm())).item() ** 2
        for i in range(5)
        for j in range(5)
        if i != j
    ]
    assert orthogonality_loss(weight).item() == pytest.approx(sum(pairs) / len(pairs), abs=1e-14)
    assert orthogonality_loss(weight[:1]).item() == 0.0


def test_squared_cov_of_nothing_has_a_gradient():
    values = torch.zeros(4, requires_grad=True)
    squared_cov(values).backward()
    assert values.grad.isfinite().all()


def test_scopes_that_lack_what_they_need():
    p, indices = torch.full((4, 2), 0.5), torch.zeros(4, 1, dtype=torch.long)
    with pytest.raises(ValueError, match=r"mask of shape \[B, S\].*not None"):
        switch_loss(p, indices, scope="sequence")
    with pytest.raises(ValueError, match="ChoiceTotals"):
        switch_loss(p, indices, scope="global")
    with pytest.raises(ValueError, match="ChoiceTotals"):
        switch_loss(p, indices, totals=ChoiceTotals(torch.ones(2), 4))
