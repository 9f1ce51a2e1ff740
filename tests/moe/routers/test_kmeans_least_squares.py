"""The gate of MixER against its published update: 20 cases of an independent implementation, and plain loops."""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from hf_mixture import KMeansLeastSquaresGate
from hf_mixture.moe.routers.kmeans_least_squares import (
    cluster_contexts,
    cluster_median,
    greedy_experts,
    spread_contexts,
)


ARRAYS = np.load(Path(__file__).parent / "fixtures" / "mixer" / "gate_cases.npz")
CASES: list[dict[str, Any]] = json.loads(str(ARRAYS["meta_json"]))


def array(case: dict[str, Any], name: str) -> Tensor:
    return torch.from_numpy(ARRAYS[f"case{case['case']:02d}_{name}"])


def gate_of(case: dict[str, Any]) -> KMeansLeastSquaresGate:
    gate = KMeansLeastSquaresGate(
        case["d"], case["M"], bias=case["bias"], max_iterations=case["max_iter"], tolerance=case["tol"]
    ).double()
    gate.weight.copy_(array(case, "W_in"))
    return gate


def test_there_are_20_cases() -> None:
    assert len(CASES) == 20


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
def test_check_1_an_update_is_that_of_the_independent_implementation(case: dict[str, Any]) -> None:
    gate = gate_of(case)
    contexts = array(case, "ctx")
    report = gate.update(
        contexts, array(case, "losses"), centroids=array(case, "centroids_in"), noise=array(case, "noise")
    )
    assert (report.status, report.num_iterations) == (case["status"], case["n_iter"])
    assert torch.equal(report.assignment, array(case, "assignment"))
    if report.status != "converged":
        # Check 2: a skipped update leaves the weight, bit by bit.
        assert torch.equal(gate.weight, array(case, "W_in"))
        assert not gate.has_centroids
        return
    torch.testing.assert_close(gate.centroids, array(case, "centroids"), rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(report.cluster_losses, array(case, "cluster_loss"), rtol=1e-14, atol=0)
    assert torch.equal(report.expert_of_cluster, array(case, "expert_of_cluster"))
    if case["cond"] < 1e4:
        torch.testing.assert_close(gate.weight, array(case, "W"), rtol=1e-6, atol=1e-9)
    indices, scores = gate(contexts)
    assert torch.equal(indices, array(case, "route"))
    torch.testing.assert_close(scores, array(case, "scores"), rtol=1e-6, atol=1e-8)
    inputs = contexts + array(case, "noise")
    fit = gate(inputs)[1]
    torch.testing.assert_close(fit, array(case, "fit"), rtol=1e-6, atol=1e-8)


def three_clusters(seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Contexts of 12 environments around three corners, losses, and the best expert of each environment."""
    generator = torch.Generator().manual_seed(seed)
    corners = torch.tensor([[1.0, 0, 0], [0, 1.0, 0], [0, 0, 1.0]])
    cluster = torch.arange(3).repeat(4)
    best = torch.tensor([2, 0, 1])[cluster]
    contexts = corners[cluster] + 0.05 * torch.randn(12, 3, generator=generator)
    losses = 1 + torch.rand(12, 3, generator=generator)
    losses[torch.arange(12), best] = 0.1
    return contexts, losses, best


def test_check_1_separated_clusters_go_to_their_best_experts_and_stay() -> None:
    contexts, losses, best = three_clusters()
    gate = KMeansLeastSquaresGate(3, 3)
    generator = torch.Generator().manual_seed(1)
    report = gate.update(contexts, losses, centroids=contexts[:3], generator=generator)
    assert report.converged
    assert sorted(report.expert_of_cluster.tolist()) == [0, 1, 2]
    assert torch.equal(gate(contexts)[0], best)
    before = gate.weight.clone()
    again = gate.update(contexts, losses, generator=generator)
    assert again.num_iterations == 1
    assert torch.equal(again.assignment, report.assignment)
    # Noise of 1e-4 is all that differs.
    assert (gate.weight - before).abs().max() < 20 * 1e-4


@pytest.mark.parametrize("status", ["empty", "not_converged"])
def test_check_2_a_skipped_update_changes_no_bit_and_forgets_the_centroids(status: str) -> None:
    contexts, losses, _ = three_clusters()
    gate = KMeansLeastSquaresGate(3, 3, max_iterations=20 if status == "empty" else 1)
    gate.has_centroids.fill_(True)
    gate.centroids.copy_(contexts[:3] if status == "not_converged" else torch.full((3, 3), 5.0))
    before = gate.weight.clone()
    report = gate.update(contexts, losses)
    assert report.status == status
    assert torch.equal(gate.weight, before)
    assert not gate.has_centroids


def test_contexts_of_the_beginning_are_skipped_not_refused() -> None:
    gate = KMeansLeastSquaresGate(4, 3)
    assert gate.update(torch.zeros(9, 4), torch.rand(9, 3)).empty


def test_an_update_is_that_of_plain_loops() -> None:
    """K-means, medians and the greedy choice, one number at a time."""
    generator = torch.Generator().manual_seed(3)
    for num_contexts, size, num_experts in ((17, 3, 4), (30, 5, 2), (9, 1, 3)):
        contexts = torch.randn(num_contexts, size, generator=generator, dtype=torch.float64)
        first = contexts[:num_experts].clone()
        found = cluster_contexts(contexts, first, max_iterations=50)
        assert found.status == "converged"
        points, centres = contexts.tolist(), first.tolist()
        for _ in range(found.num_iterations):
            nearest = []
            for point in points:
                distances = [
                    statistics.fmean(abs(p - c) for p, c in zip(point, centre, strict=True)) for centre in centres
                ]
                nearest.append(distances.index(min(distances)))
            centres = [
                [statistics.fmean(p[i] for p, j in zip(points, nearest, strict=True) if j == k) for i in range(size)]
                for k in range(num_experts)
            ]
        assert found.assignment.tolist() == nearest
        torch.testing.assert_close(found.centroids, torch.tensor(centres, dtype=torch.float64))

        losses = torch.rand(num_contexts, num_experts, generator=generator, dtype=torch.float64)
        medians = cluster_median(losses, found.assignment)
        slow = [
            [
                statistics.median(row[m] for row, j in zip(losses.tolist(), nearest, strict=True) if j == k)
                for m in range(num_experts)
            ]
            for k in range(num_experts)
        ]
        torch.testing.assert_close(medians, torch.tensor(slow, dtype=torch.float64))
        free, chosen = list(range(num_experts)), []
        for row in slow:
            chosen.append(min(free, key=lambda m: row[m]))
            free.remove(chosen[-1])
        assert greedy_experts(medians).tolist() == chosen


def test_first_centroids_are_contexts_that_lie_apart() -> None:
    """In each of 200 draws all three far clusters are met, and one point never twice while others are left."""
    clusters = torch.tensor([[0.0, 0.0], [50.0, 0.0], [0.0, 50.0]], dtype=torch.float64)
    contexts = clusters.repeat_interleave(4, dim=0) + 0.01 * torch.arange(12, dtype=torch.float64).unsqueeze(1)
    for seed in range(200):
        drawn = spread_contexts(contexts, 3, generator=torch.Generator().manual_seed(seed))
        assert sorted(torch.cdist(drawn, clusters).argmin(dim=1).tolist()) == [0, 1, 2]
    tiny = spread_contexts(1e-200 * contexts, 3, generator=torch.Generator().manual_seed(0))
    assert len({tuple(row) for row in tiny.tolist()}) == 3
    assert spread_contexts(torch.zeros(5, 2), 3).tolist() == [[0.0, 0.0]] * 3


def test_contexts_on_one_side_of_the_origin_are_clustered_from_contexts_only() -> None:
    contexts, losses, _ = three_clusters()
    found = {}
    for rule in ("contexts", "origin"):
        gate = KMeansLeastSquaresGate(3, 3, first_centroids=rule)
        reports = [
            gate.update(contexts + 10, losses, generator=torch.Generator().manual_seed(seed)).converged
            for seed in range(10)
        ]
        found[rule] = sum(reports)
    assert found["origin"] == 0
    assert found["contexts"] >= 9


def test_diverged_experts_lose_and_make_no_nan() -> None:
    losses = torch.tensor([[torch.inf, 1.0], [torch.inf, 2.0], [3.0, torch.inf], [4.0, torch.inf]])
    medians = cluster_median(losses, torch.tensor([0, 0, 1, 1]))
    assert medians.tolist() == [[torch.inf, 1.5], [3.5, torch.inf]]
    assert greedy_experts(medians).tolist() == [1, 0]


@pytest.mark.parametrize(
    ("contexts", "losses", "message"),
    [
        (torch.zeros(4, 3), torch.zeros(4, 2), r"\[environments, 2\]"),
        (torch.zeros(4, 2), torch.zeros(3, 2), r"give \[4, 2\]"),
        (torch.zeros(1, 2), torch.zeros(1, 2), "as many environments as experts"),
        (torch.full((4, 2), torch.nan), torch.zeros(4, 2), "not finite"),
        (torch.zeros(4, 2), torch.full((4, 2), torch.nan), "infinity where an expert diverged"),
    ],
)
def test_bad_input_is_refused_before_anything_changes(contexts: Tensor, losses: Tensor, message: str) -> None:
    gate = KMeansLeastSquaresGate(2, 2)
    before = {name: value.clone() for name, value in gate.state_dict().items()}
    with pytest.raises(ValueError, match=message):
        gate.update(contexts, losses)
    assert all(torch.equal(before[name], value) for name, value in gate.state_dict().items())


@pytest.mark.parametrize(
    "options",
    [{"num_experts": 0}, {"max_iterations": 0}, {"noise": -1.0}, {"context_size": 0}, {"first_centroids": "zero"}],
)
def test_options_out_of_range_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        KMeansLeastSquaresGate(**{"context_size": 2, "num_experts": 2} | options)


def test_the_weight_is_saved_and_not_trained() -> None:
    gate = KMeansLeastSquaresGate(2, 2)
    assert list(gate.parameters()) == []
    assert set(gate.state_dict()) == {"weight", "centroids", "has_centroids"}
