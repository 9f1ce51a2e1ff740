"""The two losses: signs, identities, and what a step does to a model."""

from __future__ import annotations

import pytest
import torch

from hf_mixture import UnlearningOptions
from hf_mixture.models.mm_recommender.modeling_mm_recommender import MultiModalRecommenderOutput
from hf_mixture.models.mm_recommender.objective import forward_bpr, gradient_ascent, reverse_bpr
from hf_mixture.models.mm_recommender.synthetic import synthetic_recommender
from hf_mixture.models.mm_recommender.unlearning_loss import UnlearningLoss


X = torch.tensor([-30.0, -2.0, 0.0, 0.7, 30.0], dtype=torch.float64)


@pytest.mark.parametrize("loss", [forward_bpr, reverse_bpr, gradient_ascent])
def test_gradients_are_right(loss) -> None:
    assert torch.autograd.gradcheck(loss, X.clone().requires_grad_())


def test_the_force_of_reverse_bpr_is_sigma_and_vanishes_while_that_of_ascent_does_not() -> None:
    forces = {}
    for loss in (reverse_bpr, gradient_ascent, forward_bpr):
        x = X.clone().requires_grad_()
        loss(x).sum().backward()
        forces[loss] = x.grad
    torch.testing.assert_close(forces[reverse_bpr], X.sigmoid())
    torch.testing.assert_close(forces[gradient_ascent], (-X).sigmoid())
    torch.testing.assert_close(forces[forward_bpr], -(-X).sigmoid())
    assert (forces[reverse_bpr] > 0).all()
    assert forces[reverse_bpr][0] < 1e-12
    assert forces[gradient_ascent][0] > 0.999


def test_reverse_bpr_is_forward_bpr_of_the_opposite_pair_and_their_difference_is_x() -> None:
    torch.testing.assert_close(reverse_bpr(X), forward_bpr(-X))
    torch.testing.assert_close(reverse_bpr(X) - forward_bpr(X), X)


@pytest.mark.parametrize("backbone", ["vbpr", "lightgcn_mm"])
def test_one_step_lowers_x_on_the_pairs_to_forget(backbone: str) -> None:
    model, data = synthetic_recommender(backbone=backbone)
    users, items = (torch.from_numpy(ids[:20]) for ids in (data.train.users, data.train.items))
    batch = {"user_ids": users, "item_ids": items, "negative_ids": (items + 1) % data.train.num_items}
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    loss = UnlearningLoss(model, UnlearningOptions(schedule="sum", retain_weight=0.0, forget_weight=1.0))
    before = model(**batch)
    loss(before, torch.ones(20, dtype=torch.long)).backward()
    optimizer.step()
    after = model(**batch)
    x = [(out.positive_scores - out.negative_scores).detach() for out in (before, after)]
    assert x[1].mean() < x[0].mean()


def test_parts_are_means_over_their_own_pairs() -> None:
    positive, negative = torch.tensor([1.0, 2.0, 3.0, 4.0]), torch.tensor([0.0, 3.0, 1.0, 1.0])
    labels, penalties = torch.tensor([0, 0, 0, 1]), torch.tensor([0.1, 0.2, 0.3, 9.0])
    outputs = MultiModalRecommenderOutput(positive_scores=positive, negative_scores=negative, penalties=penalties)
    options = UnlearningOptions(schedule="sum", retain_weight=0.7, forget_weight=0.2)
    x = positive - negative
    expected = 0.7 * forward_bpr(x[:3]).mean() + 0.2 * reverse_bpr(x[3]) + penalties[:3].mean()
    loss = UnlearningLoss(torch.nn.Linear(1, 1), options)
    torch.testing.assert_close(loss(outputs, labels, num_items_in_batch=4), expected)
    # One of two accumulated batches counts half.
    torch.testing.assert_close(loss(outputs, labels, num_items_in_batch=8), expected / 2)
    # A process without pairs of a kind adds nothing, and keeps its graph.
    positive.requires_grad_()
    outputs = MultiModalRecommenderOutput(positive_scores=positive, negative_scores=negative, penalties=penalties)
    alone = loss(outputs, torch.zeros(4, dtype=torch.long))
    alone.backward()
    assert torch.isfinite(positive.grad).all()


def test_projection_leaves_no_part_of_the_forget_gradient_against_the_retain_gradient() -> None:
    model, data = synthetic_recommender()
    torch.nn.init.normal_(model.users.weight)
    users, items = (torch.from_numpy(ids[:40]) for ids in (data.train.users, data.train.items))
    labels = torch.arange(40) % 2
    # The same pairs of both kinds, so that they conflict.
    users[1::2], items[1::2] = users[::2], items[::2]
    negatives = (items + 3) % data.train.num_items

    def gradient(options: UnlearningOptions) -> torch.Tensor:
        model.config.penalty = 0.0
        loss = UnlearningLoss(model, options)(model(users, items, negatives), labels)
        return torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(model.parameters()))])

    def options(schedule: str, retain: float, forget: float) -> UnlearningOptions:
        return UnlearningOptions(schedule=schedule, retain_weight=retain, forget_weight=forget)

    of_retained, of_forgotten = gradient(options("sum", 1.0, 0.0)), gradient(options("sum", 0.0, 1.0))
    conflict = of_forgotten @ of_retained
    assert conflict < 0
    projected = of_forgotten - conflict / of_retained.square().sum() * of_retained
    torch.testing.assert_close(
        gradient(options("project", 0.5, 0.5)), 0.5 * of_retained + 0.5 * projected, rtol=1e-4, atol=1e-6
    )


def test_schedules_weigh_by_step_and_phase() -> None:
    module = torch.nn.Linear(1, 1)
    weights_of = {"retain_weight": 0.9, "forget_weight": 0.1}
    loss = UnlearningLoss(module, UnlearningOptions(schedule="alternate", retain_steps=2, **weights_of))
    weights = []
    for loss.step in range(6):
        weights.append(loss.weights())
    assert weights == [(0.0, 0.1), (0.9, 0.0), (0.9, 0.0)] * 2
    loss = UnlearningLoss(module, UnlearningOptions(schedule="two_phase", check_steps=1, **weights_of))
    assert loss.weights() == (0.0, 0.1)
    loss.forgets = False
    assert loss.weights() == (0.9, 0.0)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"schedule": "none"}, "schedule='none' is not one of"),
        ({"forget_loss": "bpr"}, "forget_loss"),
        ({"modality": "drop"}, "modality"),
        ({"retain_weight": -1.0}, "retain_weight=-1.0 must be at least 0"),
        ({"forget_weight": float("nan")}, "forget_weight=nan"),
        ({"learning_rate": 0.0}, "learning_rate"),
        ({"retain_batch": 100, "forget_batch": 30}, "multiple of forget_batch"),
        ({"schedule": "two_phase"}, "check_steps"),
        ({"num_steps": -1}, "num_steps"),
    ],
)
def test_options_that_cannot_work_are_refused(fields: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        UnlearningOptions(**fields)
