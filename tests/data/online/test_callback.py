"""Online methods under the stock Trainer: on time, without side effects, clear about misuse."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from online_run import NAMES, Recorder, aioli, held_out, losses, make, tiny_model

from hf_mixture.data.online import (
    AioliCallback,
    DoGECallback,
    DoReMiCallback,
    MixingLawCallback,
    ODMCallback,
    SkillItCallback,
)
from hf_mixture.data.online.estimators import Estimator
from hf_mixture.data.online.schedule import Cost
from hf_mixture.data.online.solvers import Solver


def samples(trainer: Any, start: int, end: int) -> list[str]:
    """What the plan says was trained on, as digests."""
    recorder = Recorder()
    rows = trainer.train_dataset.rows(np.arange(start, end))
    recorder._watch(torch.nn.Identity(), (), {"input_ids": torch.tensor([row["input_ids"] for row in rows])})
    return recorder.digests


@pytest.mark.parametrize(("workers", "accumulation"), [(0, 1), (0, 4), (2, 1), (2, 4)])
def test_new_weights_hold_exactly_from_the_first_sample_that_is_not_fetched(tmp_path, workers, accumulation):
    batch, period, steps = 2, 12, 24
    recorder = Recorder()
    callback = aioli(eta=20.0)
    trainer = make(
        tmp_path,
        callback,
        recorder,
        steps=steps,
        per_device_train_batch_size=batch,
        gradient_accumulation_steps=accumulation,
        dataloader_num_workers=workers,
    )
    trainer.train()
    # What was trained on is what the plan says now, so no change was applied to samples already fetched.
    assert recorder.digests == samples(trainer, 0, steps * batch * accumulation)
    ahead = 1 + workers * 2
    for decision in callback.history:
        taken = decision["step"] * batch * accumulation
        assert decision["effective_position"] == taken + ahead * batch
        assert decision["bias_bound"] == pytest.approx(ahead / (accumulation * period))
        # Measured: the samples of the round after LearnParams that were drawn under other weights.
        end = (decision["round"] + 1) * period * batch * accumulation
        weights = [trainer.train_dataset.weights_at(position) for position in range(taken, end)]
        late = sum(at != pytest.approx(decision["weights"], rel=1e-12) for at in weights)
        assert late / (period * batch * accumulation) <= ahead / (accumulation * period)
        assert late == ahead * batch
    assert len(callback.history) == 2


def test_a_lag_that_has_been_fetched_is_refused_and_a_longer_one_is_kept(tmp_path):
    with pytest.raises(ValueError, match="lag=4 is too small"):
        make(tmp_path, aioli(lag=4), dataloader_num_workers=2).train()
    callback = aioli(lag=3)
    make(tmp_path, callback).train()
    assert [decision["lag"] for decision in callback.history] == [3, 3]
    assert [decision["effective_position"] for decision in callback.history] == [4 * (3 + 3), 4 * (15 + 3)]


class Observer(Estimator):
    """Evaluates, and learns nothing."""

    method = "observer"

    def estimate(self, probe: Any) -> Any:
        return np.tile(probe.losses()[:, None], (1, len(probe.dataset.names)))

    def cost(self, num_validation: int, num_domains: int) -> Cost:
        return Cost(evaluations=1)


class Stay(Solver):
    def move(self, weights: Any, effects: Any, *, step: int, learning_rate: float) -> Any:
        return weights


def test_a_callback_that_evaluates_and_changes_nothing_leaves_no_trace(tmp_path):
    observer = MixingLawCallback(Observer(), Stay(), settings={}, resources={"validation": held_out()}, update_steps=1)
    # One after the other: making a Trainer seeds the generators that its run draws from.
    with_it = make(tmp_path, observer)
    with_it.train()
    without = make(tmp_path, None, block_size=4)
    without.train()
    assert len(observer.history) == 23
    assert losses(with_it) == losses(without)
    assert all(map(torch.equal, with_it.model.parameters(), without.model.parameters()))
    assert len(with_it.train_dataset.plan.segments) == 1


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: aioli(one_hot_factor=1 / 3), r"one_hot_factor=0.333.* is not in \(1/m, 1\]"),
        (lambda: aioli(one_hot_factor=0.4), "samples come whole"),
        (lambda: aioli(update_steps=7), "update_steps=7 does not divide the 24 steps"),
        (lambda: aioli(lp_rounds=4), "LearnParams takes 12 blocks"),
        (lambda: aioli(prior={"latin": 1.0}), "prior="),
        (AioliCallback, "AioliCallback has no validation data"),
        (lambda: AioliCallback(held_out()["email"]), "validation is a Dataset; it must map domains"),
        (
            lambda: AioliCallback({"email": [{"text": "a"}]}),
            r"validation\['email'\] has rows of \['text'\]; each must",
        ),
        (
            lambda: AioliCallback({"email": held_out()["email"].to_iterable_dataset()}),
            r"validation\['email'\] is a IterableDataset, which is read in order only",
        ),
        (lambda: AioliCallback({"email": [{"input_ids": [1]}]}), "has no token to predict"),
        (lambda: aioli(diagonal=True), None),
        (lambda: AioliCallback({"email": held_out()["email"]}, diagonal=True), "diagonal=True lets each domain"),
        (lambda: DoReMiCallback(held_out(), update_steps=4), "has no reference"),
        (lambda: DoReMiCallback(held_out(), {"email": 1.0}), "reference gives no loss for"),
        (lambda: DoReMiCallback(held_out(), dict.fromkeys(NAMES, math.nan)), "must give finite losses"),
        (lambda: DoReMiCallback({"email": held_out()["email"]}, tiny_model()), "DoReMi compares each domain"),
        (lambda: SkillItCallback(held_out(), [[1.0, 0.0], [0.0, 1.0]]), r"graph has the shape \(2, 2\)"),
    ],
)
def test_misuse_is_refused_before_the_first_step(tmp_path, build, message):
    trainer = make(tmp_path, build())
    if message is None:
        trainer.train()
        return
    changes = trainer.train_dataset.plan.state_dict()["changes"]
    with pytest.raises(ValueError, match=message):
        trainer.train()
    assert trainer.train_dataset.plan.state_dict()["changes"] == changes


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: AioliCallback(lp_rounds=0), "lp_rounds=0 is below 1"),
        (lambda: AioliCallback(eta=0.0), "eta=0.0 is not above 0"),
        (lambda: AioliCallback(ema=1.0), "ema=1.0"),
        (lambda: DoGECallback(mu=0), "mu=0 is not above 0"),
        (lambda: DoGECallback(num_rows=0), "num_rows=0 is below 1"),
        (lambda: SkillItCallback(window=0), "window=0 is below 1"),
        (lambda: ODMCallback(update_steps=1.5), "update_steps=1.5 is not an integer in"),
        (lambda: ODMCallback(update_steps=0), "update_steps=0 is not an integer in"),
        (lambda: ODMCallback(warmup_steps=-3), "warmup_steps=-3 is not an integer in"),
        (lambda: DoReMiCallback(eval_batch_size=0), "eval_batch_size=0 is not an integer in"),
    ],
)
def test_bad_settings_are_refused_at_once(build, message):
    with pytest.raises(ValueError, match=message):
        build()


@pytest.mark.filterwarnings("ignore:the loss of each domain is not logged")
def test_a_method_that_needs_the_training_loss_says_so_where_the_labels_are_kept_from_the_model(tmp_path):
    trainer = make(tmp_path, ODMCallback(update_steps=3), label_smoothing_factor=0.1)
    with pytest.raises(ValueError, match=r"ODMCallback decides by the training loss .*label smoothing"):
        trainer.train()
    assert trainer.state.global_step == 1


def test_a_loss_that_is_not_finite_is_refused(tmp_path):
    trainer = make(tmp_path, aioli())
    with torch.no_grad():
        trainer.model.transformer.wte.weight[:] = float("nan")
    with pytest.raises(ValueError, match="the validation loss of 'email' is nan after 0 steps"):
        trainer.train()
