"""The mixture: draws, scores, evaluation, the best path, and networks taken out of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_supernets import stripes, tiny_mixture, tiny_network
from transformers import AutoModelForImageClassification

from hf_mixture import BalancedSuperNetMixture
from hf_mixture.models.pooling_supernet.costs import count_multiply_adds
from hf_mixture.models.pooling_supernet.modeling_balanced_supernet import Entry
from hf_mixture.models.pooling_supernet.sampling import choose_model, draw_path, validation_rows


def test_paths_are_uniform_and_models_follow_the_balanced_assignment() -> None:
    mixture = tiny_mixture()
    mixture.scores.copy_(torch.rand(mixture.scores.shape, generator=torch.Generator().manual_seed(0)))
    mixture.rebalance(40.0)
    p = mixture.assignment()
    assert float(p.max()) > 0.9
    counts = torch.zeros(p.shape)
    number = 6000
    for step in range(number):
        counts[mixture.draw(seed=5, step=step)] += 1
    # 4.5 standard deviations of a binomial count; the draws are fixed by the seed.
    for found, share in (
        (counts.sum(dim=1), torch.full((len(p),), 1 / len(p))),
        (counts.sum(dim=0), torch.full((3,), 1 / 3)),
        (counts.flatten(), p.float().flatten() / len(p)),
    ):
        spread = (number * share * (1 - share)).sqrt()
        assert bool(((found - number * share).abs() <= 4.5 * spread + 1 + number * 1e-2 * share).all())


def test_draws_depend_on_seed_and_step_alone() -> None:
    mixture = tiny_mixture()
    first = [mixture.draw(seed=1, step=step) for step in range(50)]
    torch.manual_seed(99)
    assert [mixture.draw(seed=1, step=step) for step in range(50)] == first
    assert [mixture.draw(seed=2, step=step) for step in range(50)] != first
    assert len({draw_path(36, seed=0, step=step)[1] for step in range(100)}) == 100


def test_a_number_falls_to_the_model_of_its_part() -> None:
    p = torch.tensor([0.25, 0.0, 0.75], dtype=torch.float64)
    assert [choose_model(p, number) for number in (0.0, 0.2499, 0.25, 0.999999)] == [0, 0, 2, 2]


def test_validation_batches_take_every_row_once_in_a_turn() -> None:
    batches = [validation_rows(10, 3, seed=0, step=step) for step in range(6)]
    assert all(len(set(batch)) == 3 for batch in batches)
    for turn in (batches[:3], batches[3:]):
        assert len(set(np.concatenate(turn))) == 9
    assert not np.array_equal(batches[0], batches[3])
    assert sorted(validation_rows(4, 100, seed=0, step=7)) == [0, 1, 2, 3]


def test_scores_move_as_published_and_start_optimistic() -> None:
    mixture = tiny_mixture()
    assert torch.equal(mixture.scores, torch.ones(6, 3))
    mixture.record(Entry(2, 1), 0.5)
    mixture.record(Entry(2, 1), 0.0)
    assert float(mixture.scores[2, 1]) == pytest.approx(0.9 * (0.9 + 0.05))
    assert int(mixture.visits[2, 1]) == 2
    assert float(mixture.scores.sum()) == pytest.approx(17 + 0.9 * 0.95)
    with pytest.raises(ValueError, match=r"accuracy=1.5"):
        mixture.record(Entry(0, 0), 1.5)


@pytest.mark.parametrize("assignment", ["softmax", "uniform"])
def test_other_assignments_are_not_balanced(assignment: str) -> None:
    mixture = tiny_mixture(assignment=assignment)
    mixture.scores.copy_(torch.tensor([0.9, 0.5, 0.1]).repeat(6, 1))
    assert mixture.rebalance(50.0) is None
    expected = [1 / 3] * 3 if assignment == "uniform" else torch.tensor([45.0, 25.0, 5.0]).softmax(dim=0).tolist()
    assert mixture.assignment()[4].tolist() == pytest.approx(expected, rel=1e-5)


def test_a_path_in_a_model_is_the_network_taken_out_of_it(tmp_path: Path) -> None:
    mixture = tiny_mixture()
    x = torch.randn(5, 1, 8, 8)
    for path in range(6):
        for model in range(3):
            network = mixture.extract(path, model_index=model)
            assert network.config.pooling_path == list(mixture.paths[path])
            torch.testing.assert_close(network(x).logits, mixture(x, path=path, model_index=model).logits)
    network.save_pretrained(tmp_path)
    loaded = AutoModelForImageClassification.from_pretrained(tmp_path)
    assert type(loaded).__name__ == "PoolingResNetForImageClassification"
    assert torch.equal(loaded(x).logits, network(x).logits)
    before = mixture(x, path=path, model_index=model).logits
    with torch.no_grad():
        network.classifier.bias.add_(1.0)
    assert torch.equal(mixture(x, path=path, model_index=model).logits, before)


def test_a_path_has_three_names() -> None:
    mixture = tiny_mixture()
    for index, path in enumerate(mixture.paths):
        assert mixture.index_of(index) == mixture.index_of(path) == index
        assert mixture.index_of(np.int64(index)) == mixture.index_of(torch.tensor(index)) == index
    assert mixture.paths[mixture.index_of([2, 2, 1])] == (0, 0, 1, 0, 1)
    for path, said in (
        (6, "path=6 is no path; there are 6"),
        ([0, 1, 0, 0, 0], "has 2 scales; the paths of this search have 3"),
        ([3, 3], "must be 5 zeros and ones"),
    ):
        with pytest.raises(ValueError, match=said):
            mixture.index_of(path)


def test_accuracies_are_those_of_every_path_in_every_model() -> None:
    mixture = tiny_mixture()
    data = stripes(40)
    found = mixture.evaluate_paths(data, batch_size=16, progress=False)
    for path in range(6):
        for model in range(3):
            right = 0
            for start in range(0, 40, 16):
                x, y = data.images[start : start + 16], data.labels[start : start + 16]
                right += int((mixture(x, path=path, model_index=model).logits.argmax(dim=1) == y).sum())
            # Logits that are equal but for rounding may fall to either class.
            assert float(found[path, model]) == pytest.approx(right / 40, abs=1 / 40 + 1e-6)
    assert torch.equal(mixture.path_scores(), found.amax(dim=1))
    best = mixture.best()
    assert float(found[best]) == float(found.max())


def test_the_best_path_may_be_bounded_in_cost() -> None:
    mixture = tiny_mixture()
    with pytest.raises(ValueError, match="nothing has been searched yet"):
        mixture.best()
    with pytest.raises(ValueError, match="have not been evaluated"):
        mixture.path_scores()
    mixture.record(Entry(4, 2), 0.5)
    # What has not been tried has a score of 1, and is not the best for that.
    assert mixture.best() == Entry(4, 2)
    mixture.accuracies.copy_(torch.arange(18.0).reshape(6, 3) / 20)
    assert mixture.best() == Entry(5, 2)
    costs = [count_multiply_adds(mixture.config.network, 8, path) for path in mixture.paths]
    limit = sorted(costs)[2]
    chosen = mixture.best(max_multiply_adds=limit, image_size=8)
    assert costs[chosen.path] <= limit
    assert chosen.path == max(index for index, cost in enumerate(costs) if cost <= limit)
    with pytest.raises(ValueError, match="less than the cheapest path needs"):
        mixture.best(max_multiply_adds=10, image_size=8)
    with pytest.raises(ValueError, match="needs image_size"):
        mixture.best(max_multiply_adds=10)


def test_the_stack_loads_a_mixture_with_its_search(tmp_path: Path) -> None:
    mixture = tiny_mixture(num_models=2, network_config=tiny_network(id2label={0: "rows", 1: "columns"}))
    mixture.record(Entry(3, 1), 0.25)
    mixture.rebalance(7.0)
    mixture.evaluate_paths(stripes(8), progress=False)
    mixture.eval().save_pretrained(tmp_path)
    loaded = AutoModelForImageClassification.from_pretrained(tmp_path)
    assert isinstance(loaded, BalancedSuperNetMixture)
    assert loaded.config.id2label == {0: "rows", 1: "columns"}
    for name, value in mixture.state_dict().items():
        assert torch.equal(value, loaded.state_dict()[name]), name
    x = torch.randn(4, 1, 8, 8)
    assert torch.equal(loaded(x).logits, mixture(x).logits)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"num_models": 0}, "num_models=0"),
        ({"num_models": 7}, "num_models=7 is more than the 6 paths"),
        ({"num_scales": 1}, "num_scales=1 must be from 2"),
        ({"num_scales": 6}, "num_scales=6"),
        ({"max_temperature": 0.5}, "max_temperature=0.5"),
        ({"score_decay": 1.0}, "score_decay=1.0"),
        ({"balance_tolerance": 0.0}, "balance_tolerance=0.0"),
        ({"network_config": tiny_network(track_running_stats=True)}, "track_running_stats=True"),
    ],
)
def test_configurations_that_cannot_work_are_refused(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        tiny_mixture(**fields)


def test_bad_input_is_refused_by_name_and_row() -> None:
    mixture = tiny_mixture()
    x = torch.randn(3, 1, 8, 8)
    with pytest.raises(ValueError, match="no path is chosen to train"):
        mixture.train()(x)
    with pytest.raises(ValueError, match="model_index=1 without a path"):
        mixture(x, model_index=1)
    with pytest.raises(ValueError, match="model_index=3 is no model"):
        mixture(x, path=0, model_index=3)
    broken = stripes(4)
    broken.images[1, 0, 0, 0] = torch.inf
    with pytest.raises(ValueError, match="row 1 of pixel_values"):
        mixture.evaluate_paths(broken, progress=False)
    with pytest.raises(ValueError, match="row 0 of labels is 5"):
        mixture(x, labels=torch.tensor([5, 0, 1]), path=0, model_index=0)
    rows = [{"pixel_values": torch.zeros(1, 8, 8), "labels": 0}, {"pixel_values": torch.zeros(1, 9, 8), "labels": 1}]
    with pytest.raises(ValueError, match=r"shapes \(1, 8, 8\), \(1, 9, 8\) make no batch"):
        mixture.evaluate_paths(rows, progress=False)
    with pytest.raises(ValueError, match="no labels"):
        mixture.evaluate_paths([{"pixel_values": torch.zeros(1, 8, 8)}], progress=False)
    with pytest.raises(ValueError, match="batch_size=0"):
        mixture.evaluate_paths(stripes(4), batch_size=0)
