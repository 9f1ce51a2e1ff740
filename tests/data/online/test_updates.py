"""Solvers against slow twins of the published logic; the same comparison fails on a transposed A."""

from __future__ import annotations

import math

import numpy as np
import pytest

from hf_mixture.data.online.solvers import Exp3, ExponentiatedGradient
from hf_mixture.data.online.updates import blend, excess, exploration, exponentiated, importance_rewards, with_floors


WORKED = np.array([[0.30, 0.05], [-0.02, 0.20]])


def reference_rounds(matrices, eta, ema):
    """The published round: shift, scale, average, and weights that are reset when averaging, else multiplied."""
    m = matrices[0].shape[1]
    weights, average, shares = [1.0] * m, None, []
    for matrix in matrices:
        entries = [[float(x) for x in row] for row in matrix]
        low = min(min(row) for row in entries)
        if low < 0:
            entries = [[x - low for x in row] for row in entries]
        total = sum(sum(row) for row in entries)
        entries = [[x / total for x in row] for row in entries]
        if ema is not None:
            if average is None:
                average = entries
            else:
                average = [
                    [(1 - ema) * x + ema * y for x, y in zip(a, b, strict=True)]
                    for a, b in zip(entries, average, strict=True)
                ]
            sums = [sum(row[j] for row in average) for j in range(m)]
            weights = [math.exp(eta * s) for s in sums]
        else:
            sums = [sum(row[j] for row in entries) for j in range(m)]
            weights = [w * math.exp(eta * s) for w, s in zip(weights, sums, strict=True)]
        shares.append([w / sum(weights) for w in weights])
    return np.array(shares)


def rounds_of(solver, matrices):
    m = matrices[0].shape[1]
    weights, shares = np.full(m, 1 / m), []
    for step, matrix in enumerate(matrices, start=1):
        weights = solver.move(weights, solver.prepare(matrix), step=step, learning_rate=0.0)
        shares.append(weights)
    return np.array(shares)


@pytest.mark.parametrize("ema", [None, 0.1, 0.5])
@pytest.mark.parametrize("m", [2, 3, 7])
def test_twenty_rounds_equal_the_published_logic(m, ema):
    rng = np.random.default_rng(m)
    matrices = [rng.normal(0.05, 0.2, (m, m)) for _ in range(20)]
    expected = reference_rounds(matrices, 0.5, ema)
    update = "multiplicative" if ema is None else "reset"
    found = rounds_of(ExponentiatedGradient(0.5, update, ema=ema), matrices)
    assert np.abs(found - expected).max() <= 1e-12
    transposed = rounds_of(ExponentiatedGradient(0.5, update, ema=ema), [matrix.T for matrix in matrices])
    assert np.abs(transposed - expected).max() > 1e-4


def test_worked_value():
    found = rounds_of(ExponentiatedGradient(0.2), [WORKED])[0]
    assert found == pytest.approx([0.502459, 0.497541], abs=1e-6)
    transposed = rounds_of(ExponentiatedGradient(0.2), [WORKED.T])[0]
    assert transposed[0] == pytest.approx(0.51393, abs=1e-5)


def test_multiplicative_goes_on_from_the_weights_and_reset_does_not():
    prior = np.array([0.8, 0.2])
    arguments = {"step": 1, "learning_rate": 0.0}
    multiplicative, reset = ExponentiatedGradient(0.2), ExponentiatedGradient(0.2, "reset")
    scaled = multiplicative.prepare(WORKED)
    ratio = 0.8 / 0.2 * math.exp(0.2 * (0.52459016 - 0.47540984))
    assert multiplicative.move(prior, scaled, **arguments)[0] == pytest.approx(ratio / (1 + ratio), abs=1e-8)
    assert reset.move(prior, scaled, **arguments)[0] == pytest.approx(0.502459, abs=1e-6)


def test_a_solver_continues_from_its_state():
    rng = np.random.default_rng(0)
    matrices = [rng.uniform(size=(3, 3)) for _ in range(6)]
    for make in (lambda: ExponentiatedGradient(0.5, "reset", ema=0.5), Exp3):
        whole, first, second = make(), make(), make()
        expected = rounds_of(whole, matrices)[-1]
        weights = rounds_of(first, matrices[:3])[-1]
        second.load_state_dict(first.state_dict())
        for step, matrix in enumerate(matrices[3:], start=4):
            weights = second.move(weights, second.prepare(matrix), step=step, learning_rate=0.0)
        assert weights.tolist() == expected.tolist()


def test_large_scores_do_not_overflow():
    assert exponentiated(np.array([0.5, 0.5]), np.array([1e6, -1e6]), 1.0).tolist() == [1.0, 0.0]


@pytest.mark.parametrize(
    ("arguments", "name"),
    [({"eta": 0}, "eta"), ({"eta": 1, "update": "add"}, "update"), ({"eta": 1, "ema": 1}, "ema")],
)
def test_bad_settings(arguments, name):
    with pytest.raises(ValueError, match=name):
        ExponentiatedGradient(**arguments)


def test_exp3_equals_the_published_bandit():
    """One domain is drawn a step; the twin keeps dictionaries and rates as the published class does."""
    rng, m = np.random.default_rng(3), 4
    probabilities, rewards, rate = [1 / m] * m, [0.0] * m, 1 / m
    solver, found = Exp3(), np.full(m, 1 / m)
    for step in range(1, 60):
        drawn, loss = int(rng.choice(m, p=probabilities)), float(rng.uniform(2, 5))
        rewards[drawn] += loss / 10 / probabilities[drawn]
        previous, rate = rate, min(1 / m, math.sqrt(math.log(m) / (m * step)))
        total = sum(math.exp(previous * r) for r in rewards)
        weights = [(1 - m * rate) * math.exp(previous * r) / total + rate for r in rewards]
        probabilities = [w / sum(weights) for w in weights]

        losses, shares = np.full(m, np.nan), np.zeros(m)
        losses[drawn], shares[drawn] = loss, 1.0
        found = solver.move(found, np.diag(importance_rewards(losses, shares, found)), step=step, learning_rate=0.0)
        assert np.abs(found - probabilities).max() <= 1e-12
    assert found.min() >= exploration(m, step)
    assert found.max() > 0.27


def test_rewards_of_mixed_batches_have_the_expectation_of_single_draws():
    losses, weights = np.array([2.0, 3.0, 5.0]), np.array([0.5, 0.3, 0.2])
    single = sum(weights[i] * importance_rewards(losses, np.eye(3)[i], weights) for i in range(3))
    assert importance_rewards(losses, weights, weights) == pytest.approx(single)


def test_doremi_step_equals_the_published_logic():
    mu, epsilon = 0.7, 1e-3
    weights, scores = np.full(3, 1 / 3), np.full(3, 1e-6)
    expected_weights, expected_scores = [1 / 3] * 3, [1e-6] * 3
    solver = ExponentiatedGradient(mu, scale=False, smoothing=epsilon)
    for losses in ([3.0, 2.5, np.nan], [2.0, 2.4, 2.2], [np.nan, 2.1, 2.6]):
        reference = [2.4, 2.5, 2.3]
        for i in range(3):
            if not math.isnan(losses[i]):
                expected_scores[i] = max(losses[i] - reference[i], 0.0)
        logs = [math.log(w) + mu * s for w, s in zip(expected_weights, expected_scores, strict=True)]
        norm = math.log(sum(math.exp(x) for x in logs))
        expected_weights = [(1 - epsilon) * math.exp(x - norm) + epsilon / 3 for x in logs]

        scores = excess(np.array(losses), np.array(reference), scores)
        weights = solver.move(weights, solver.prepare(np.diag(scores)), step=1, learning_rate=0.0)
        assert scores == pytest.approx(expected_scores, abs=1e-15)
        assert weights == pytest.approx(expected_weights, abs=1e-12)


def test_floors_keep_the_ratios_of_the_rest():
    found = with_floors(np.array([0.0, 0.25, 0.75]), np.array([0.1, 0.0, 0.0]))
    assert found == pytest.approx([0.1, 0.225, 0.675], abs=1e-6)
    assert found.sum() == pytest.approx(1.0, abs=1e-15)
    inside = np.array([0.2, 0.3, 0.5])
    assert with_floors(inside, np.array([0.1, 0.1, 0.1])).tolist() == inside.tolist()


def test_blend():
    assert blend(np.array([1.0, 0.0]), 0.5).tolist() == [0.75, 0.25]
