"""Each router's pure function against a plain formula in Python numbers, on 1000 random cases."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from hf_mixture.moe.anatomy import GroupRule
from hf_mixture.moe.routers.cosine import cosine_logits
from hf_mixture.moe.routers.gaussian import gaussian_logits
from hf_mixture.moe.routers.hashing import hash_experts, route_hash
from hf_mixture.moe.routers.noisy import route_noisy_topk
from hf_mixture.moe.routers.relu import route_relu
from hf_mixture.moe.routers.sigmoid_bias import route_sigmoid
from hf_mixture.moe.routers.sinkhorn import balance, route_sinkhorn
from hf_mixture.moe.routers.student_t import student_t_logits
from hf_mixture.moe.routers.switch import route_switch
from hf_mixture.moe.routers.top_p import route_top_p
from hf_mixture.moe.routers.topk import route_topk_softmax


NUM_CASES = 1000


def cases(seed, *, most_experts=9, most_tokens=3):
    """Random logits [T, E] and K; the generator goes on to draw what else a router needs."""
    rng = np.random.default_rng(seed)
    for _ in range(NUM_CASES):
        num_experts = int(rng.integers(2, most_experts + 1))
        num_tokens = int(rng.integers(1, most_tokens + 1))
        yield rng, rng.normal(size=(num_tokens, num_experts)) * 3, int(rng.integers(1, num_experts + 1))


def softmax(values):
    top = max(values)
    powers = [math.exp(value - top) for value in values]
    return [power / math.fsum(powers) for power in powers]


def sigmoid(value):
    return 1 / (1 + math.exp(-value))


def best(values, count):
    return sorted(range(len(values)), key=lambda place: -values[place])[:count]


def same(output, logits, expected):
    """The logits untouched, indices exact, weights to 1e-12; `expected` has indices and weights of each token."""
    assert torch.equal(output.logits, torch.as_tensor(logits))
    assert output.indices.tolist() == [indices for indices, _ in expected]
    error = (output.weights - torch.tensor([weights for _, weights in expected], dtype=torch.float64)).abs().max()
    assert float(error) <= 1e-12


@pytest.mark.parametrize(("pre_softmax", "normalise"), [(True, True), (True, False), (False, True)])
def test_topk_softmax(pre_softmax, normalise):
    for _, logits, top_k in cases(1):
        expected = []
        for row in logits:
            chosen = best(row, top_k)
            everything = softmax(row)
            weights = [everything[i] for i in chosen] if pre_softmax else softmax([row[i] for i in chosen])
            total = sum(weights) if normalise else 1
            expected.append((chosen, [1.5 * weight / total for weight in weights]))
        output = route_topk_softmax(
            torch.tensor(logits), top_k, pre_softmax=pre_softmax, normalise=normalise, scale=1.5
        )
        same(output, logits, expected)


def test_noisy_topk():
    for rng, logits, top_k in cases(2):
        spread, noise = rng.normal(size=(2, *logits.shape))
        expected = []
        for z, s, n in zip(logits, spread, noise, strict=True):
            noisy = [a + c * math.log1p(math.exp(b)) for a, b, c in zip(z, s, n, strict=True)]
            chosen = best(noisy, top_k)
            expected.append((chosen, softmax([noisy[i] for i in chosen])))
        output = route_noisy_topk(torch.tensor(logits), top_k, spread=torch.tensor(spread), noise=torch.tensor(noise))
        same(output, logits, expected)


@pytest.mark.parametrize("limited", [False, True])
def test_switch(limited):
    for rng, logits, _ in cases(3, most_experts=4, most_tokens=8):
        num_experts = logits.shape[1]
        capacity = int(rng.integers(1, 4)) if limited else None
        taken = [0] * num_experts
        expected = []
        for row in logits:
            (chosen,) = best(row, 1)
            taken[chosen] += 1
            gets_one = capacity is None or taken[chosen] <= capacity
            expected.append(([chosen], [softmax(row)[chosen]]) if gets_one else ([num_experts], [0.0]))
        same(route_switch(torch.tensor(logits), capacity=capacity), logits, expected)


def test_cosine():
    for rng, logits, top_k in cases(4):
        (num_tokens, num_experts), dim = logits.shape, int(rng.integers(1, 6))
        tokens, experts = rng.normal(size=(num_tokens, dim)), rng.normal(size=(num_experts, dim))
        temperature = float(rng.uniform(0.05, 2))
        cosines = [
            [
                math.fsum(a * b for a, b in zip(x, e, strict=True)) / (math.hypot(*x) * math.hypot(*e)) / temperature
                for e in experts
            ]
            for x in tokens
        ]
        made = cosine_logits(torch.tensor(tokens), torch.tensor(experts), temperature)
        assert float((made - torch.tensor(cosines, dtype=torch.float64)).abs().max()) <= 1e-12 / temperature
        if dim == 1:
            continue  # every cosine is 1 or -1, and the choice among equals is free
        expected = []
        for row in cosines:
            chosen = best(row, top_k)
            weights = [softmax(row)[i] for i in chosen]
            expected.append((chosen, [weight / sum(weights) for weight in weights]))
        same(route_topk_softmax(made, top_k), made, expected)


def check_sigmoid(logits, bias, top_k, *, normalise, group=None):
    expected = []
    for row in logits:
        scores = [sigmoid(value) for value in row]
        choice = [score + b for score, b in zip(scores, bias, strict=True)]
        allowed = range(len(row))
        if group is not None:
            size = len(row) // group.num_groups
            blocks = [sorted(choice[start : start + size]) for start in range(0, len(row), size)]
            second = 1 if group.score == "top2_sum" else 0
            kept = best([block[-1] + second * block[-2] for block in blocks], group.num_kept)
            allowed = [expert for expert in allowed if expert // size in kept]
        chosen = sorted(allowed, key=lambda expert: -choice[expert])[:top_k]
        total = sum(scores[i] for i in chosen) if normalise else 1
        expected.append((chosen, [2.5 * scores[i] / total for i in chosen]))
    tensors = torch.tensor(logits), torch.tensor(bias)
    output = route_sigmoid(tensors[0], top_k, bias=tensors[1], group=group, normalise=normalise, scale=2.5)
    same(output, logits, expected)


@pytest.mark.parametrize("normalise", [False, True])
def test_sigmoid_with_bias(normalise):
    for rng, logits, top_k in cases(5):
        check_sigmoid(logits, rng.normal(size=logits.shape[1]), top_k, normalise=normalise)


@pytest.mark.parametrize("score", ["top2_sum", "max"])
def test_group_limited(score):
    rng = np.random.default_rng(12)
    for _ in range(NUM_CASES):
        num_groups, size = int(rng.integers(2, 5)), int(rng.integers(2, 4))
        group = GroupRule(num_groups=num_groups, num_kept=int(rng.integers(1, num_groups + 1)), score=score)
        logits = rng.normal(size=(int(rng.integers(1, 4)), num_groups * size)) * 2
        top_k = int(rng.integers(1, group.num_kept * size + 1))
        check_sigmoid(logits, rng.normal(size=num_groups * size), top_k, normalise=True, group=group)


@pytest.mark.parametrize("normalise", [False, True])
def test_top_p(normalise):
    for rng, logits, most in cases(6):
        threshold, num_experts = float(rng.uniform(0.05, 1)), logits.shape[1]
        expected = []
        for row in logits:
            probabilities = softmax(row)
            chosen, covered = [], 0.0
            for expert in best(probabilities, most):
                chosen.append(expert)
                covered += probabilities[expert]
                if covered >= threshold:
                    break
            total = covered if normalise else 1
            free = most - len(chosen)
            weights = [probabilities[i] / total for i in chosen]
            expected.append((chosen + [num_experts] * free, weights + [0.0] * free))
        output = route_top_p(torch.tensor(logits), threshold, max_experts=most, normalise=normalise)
        same(output, logits, expected)


def test_top_p_covers_the_threshold_with_no_expert_to_spare():
    logits = torch.randn(1000, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 2
    _, weights, indices = route_top_p(logits, 0.7)
    total = weights.sum(-1)
    smallest = weights.masked_fill(indices == 8, math.inf).amin(-1)
    assert bool((total >= 0.7).all())
    assert bool((total - smallest < 0.7).all())


def sinkhorn_plan(logits, tolerance, rounds):
    """Scaling by rows and columns, in the words of the theorem: rows to 1/T, then columns to 1/E, until they stay."""
    matrix = np.exp(logits)
    rows, columns = np.ones(matrix.shape[0]), np.ones(matrix.shape[1])
    for _ in range(rounds):
        rows = 1 / matrix.shape[0] / (matrix @ columns)
        before, columns = columns, 1 / matrix.shape[1] / (matrix.T @ rows)
        if np.mean(np.abs(columns - before)) <= tolerance:
            break
    return rows[:, None] * matrix * columns[None, :]


@pytest.mark.parametrize("balanced", [False, True])
def test_sinkhorn(balanced):
    for _, logits, top_k in cases(7, most_tokens=12):
        if balanced and len(logits) == 1:
            continue  # one token owes every expert the same, and the choice among equals is free
        plan = sinkhorn_plan(logits, 1e-4, 100) if balanced else logits
        expected = []
        for row, choice in zip(logits, plan, strict=True):
            chosen = best(choice, top_k)
            weights = [sigmoid(row[chosen[0]])] if top_k == 1 else [softmax(row)[i] for i in chosen]
            expected.append((chosen, weights))
        same(route_sinkhorn(torch.tensor(logits), top_k, balanced=balanced), logits, expected)


def test_the_sinkhorn_plan_is_balanced():
    logits = torch.randn(64, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    logits[:, 0] += 3  # plain top 1 sends nearly all tokens to expert 0
    plan = balance(logits, tolerance=1e-12, max_iterations=1000)
    assert torch.allclose(plan.sum(0), torch.full((4,), 1 / 4, dtype=torch.float64), atol=1e-6)
    assert torch.allclose(plan.sum(1), torch.full((64,), 1 / 64, dtype=torch.float64), atol=1e-6)
    counts = [
        route_sinkhorn(logits, 1, balanced=balanced).indices.flatten().bincount(minlength=4).max()
        for balanced in (False, True)
    ]
    assert counts[0] >= 56
    assert counts[1] <= 24


def splitmix(number):
    mask = 2**64 - 1
    number = (number + 0x9E3779B97F4A7C15) & mask
    number = ((number ^ (number >> 30)) * 0xBF58476D1CE4E5B9) & mask
    number = ((number ^ (number >> 27)) * 0x94D049BB133111EB) & mask
    return number ^ (number >> 31)


def test_hash():
    for rng, logits, top_k in cases(8):
        num_experts, seed = logits.shape[1], int(rng.integers(0, 2**40))
        ids = rng.integers(0, 200_000, size=len(logits))
        expected = []
        for token in ids.tolist():
            keys = [splitmix(splitmix(splitmix(seed) + token) + expert) for expert in range(num_experts)]
            # Python's numbers have no sign at the 64th place.
            expected.append(best([-(key - 2**64 if key >= 2**63 else key) for key in keys], top_k))
        assert hash_experts(torch.tensor(ids), num_experts, top_k, seed=seed).tolist() == expected
        output = route_hash(torch.tensor(ids), num_experts, top_k, seed=seed, dtype=torch.float64)
        assert output.indices.tolist() == expected
        assert output.weights.tolist() == [[1 / top_k] * top_k] * len(ids)
        # The logits are raw: their softmax is the assignment, as the auxiliary losses expect.
        assigned = torch.zeros(len(ids), num_experts, dtype=torch.float64).scatter(-1, output.indices, 1 / top_k)
        assert float((output.logits.softmax(-1) - assigned).abs().max()) <= 1e-12


def test_hash_by_modulo():
    ids = torch.tensor([0, 1, 2, 7])
    assert hash_experts(ids, 4, 2, kind="modulo").tolist() == [[0, 1], [2, 3], [0, 1], [2, 3]]


def test_a_random_hash_spreads_the_ids_evenly():
    counts = hash_experts(torch.arange(80_000), 8, 2, seed=3).flatten().bincount(minlength=8)
    expected = 80_000 * 2 / 8
    assert float((counts - expected).abs().max()) < 4 * math.sqrt(expected)


def density_cases(seed):
    for rng, logits, top_k in cases(seed):
        (num_tokens, num_experts), dim = logits.shape, int(rng.integers(1, 7))
        tokens, centres = rng.normal(size=(num_tokens, dim)), rng.normal(size=(num_experts, dim))
        yield tokens, centres, rng.uniform(0.3, 3, num_experts), rng.dirichlet(np.ones(num_experts) * 3), top_k


def check_density(case, density, made):
    """`made` against the full density, constants included, which cancel in G_j = β_j D_j / Σ β_i D_i."""
    tokens, centres, variances, priors, top_k = case
    expected = []
    for x in tokens:
        products = [
            b * density(math.fsum((x - mu) ** 2), s2, len(x))
            for mu, s2, b in zip(centres, variances, priors, strict=True)
        ]
        chosen = best(products, top_k)
        expected.append((chosen, [products[i] / math.fsum(products) for i in chosen]))
    same(route_topk_softmax(made, top_k, normalise=False), made, expected)


def test_gaussian():
    def density(distance, variance, dim):
        return (2 * math.pi * variance) ** (-dim / 2) * math.exp(-distance / (2 * variance))

    for case in density_cases(9):
        tensors = [torch.tensor(part) for part in case[:4]]
        check_density(case, density, gaussian_logits(*tensors[:2], tensors[2].log(), tensors[3].log()))


def test_student_t():
    nu = 2.5

    def density(distance, variance, dim):
        constant = math.gamma((nu + dim) / 2) / math.gamma(nu / 2) / (nu * math.pi * variance) ** (dim / 2)
        return constant * (1 + distance / (nu * variance)) ** (-(nu + dim) / 2)

    for case in density_cases(10):
        tensors = [torch.tensor(part) for part in case[:4]]
        made = student_t_logits(*tensors[:2], tensors[2].log(), tensors[3].log(), degrees=nu)
        check_density(case, density, made)


def test_relu():
    for _, logits, most in cases(11):
        num_experts = logits.shape[1]
        expected = []
        for row in logits:
            chosen = [expert for expert in best(row, most) if row[expert] > 0]
            free = most - len(chosen)
            expected.append((chosen + [num_experts] * free, [row[i] for i in chosen] + [0.0] * free))
        same(route_relu(torch.tensor(logits), max_experts=most), logits, expected)
