"""Aioli: its blocks, what it measures in them, its rounds, and the limits of its weights."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from online_run import NAMES, WEIGHTS, Recorder, aioli, domains, held_out, make

from hf_mixture import Mixture
from hf_mixture.data.mixture_dataset import MixtureDataset
from hf_mixture.data.online.effects import solve_effects
from hf_mixture.data.schedule import SourcePolicy


def test_blocks_of_learn_params_favour_their_domain_and_are_measured_at_their_ends(tmp_path):
    """Batches of 5 cannot hold .75 / .125 / .125; A is solved with the counts of the plan."""
    callback = aioli(lp_rounds=2, lp_steps=2, update_steps=24)
    trainer = make(tmp_path, callback, per_device_train_batch_size=5)
    trainer.train()
    (decision,) = callback.history
    drawn = np.zeros((3, 3))
    for block, domain in enumerate(callback.mixing._order(0)):
        sources, _ = trainer.train_dataset.plan.draws(range(block * 10, block * 10 + 10))
        counts = np.bincount(sources, minlength=3)
        assert counts.argmax() == domain
        drawn[domain] += counts / 20
    assert np.array_equal(drawn, decision["shares"])
    assert not np.allclose(drawn, [[0.75, 0.125, 0.125], [0.125, 0.75, 0.125], [0.125, 0.125, 0.75]])
    assert np.array_equal(decision["effects"], solve_effects(np.array(decision["drops"]), drawn))
    assert decision["step"] == 12
    assert decision["delta"] == 0.5
    assert decision["num_evaluations"] == callback.report()["num_evaluations"] == 7 == callback.cost.evaluations


def test_effects_are_the_drops_of_losses_on_the_trajectory(tmp_path):
    """The same run without dropout, evaluated by hand at the block ends."""
    callback = aioli(update_steps=24)
    measured = []

    class Measure(Recorder):
        def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
            self.on_step_end(args, state, control, model)

        def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
            if state.global_step <= 3:
                model.eval()
                with torch.no_grad():
                    sets = (torch.tensor(held_out()[name]["input_ids"]) for name in NAMES)
                    measured.append([model(input_ids=ids, labels=ids).loss.item() for ids in sets])

    make(tmp_path, callback, Measure(), dropout=0.0).train()
    drops = np.zeros((3, 3))
    for block, domain in enumerate(callback.mixing._order(0)):
        drops[:, domain] = np.array(measured[block]) - measured[block + 1]
    assert callback.history[0]["drops"] == pytest.approx(drops, abs=2e-6)
    assert list(callback.history[0]["losses"].values()) == pytest.approx(measured[3], abs=1e-6)


def test_shares_of_blocks_are_counted_in_the_unit_of_the_mixture(tmp_path):
    """Rows of `logging` are three times as long; its share of the tokens is what the loss sees."""
    rows = domains()[0]
    long = rows["logging"].map(lambda row: {name: values * 3 for name, values in row.items()})
    callback = aioli(lp_steps=2)
    trainer = make(tmp_path, callback, dropout=0.0)
    mixture = Mixture(WEIGHTS, unit="tokens", seed=1)
    mixed = MixtureDataset(rows | {"logging": long}, mixture, num_examples=96, length_column="input_ids")
    sources, _ = mixed.plan.draws(range(8))
    amounts = np.bincount(sources, weights=np.array([1, 1, 3])[sources], minlength=3)
    assert mixed.shares(range(8)) == pytest.approx(amounts / amounts.sum())
    trainer.train()
    assert (
        callback.history[0]["shares"][callback.mixing._order(0)[0]] == trainer.train_dataset.shares(range(8)).tolist()
    )


def test_prior_and_static(tmp_path):
    prior = {"email": 0.1, "json": 0.9}
    callback = aioli(prior=prior, prior_steps=4, static=True, update_steps=None)
    trainer = make(tmp_path, callback)
    trainer.train()
    (decision,) = callback.history
    assert decision["step"] == 4 + 3
    at = trainer.train_dataset.weights_at
    assert at(0) == at(15) == {"email": 0.1, "json": 0.9, "logging": 0.0}
    assert max(at(16).values()) == 0.75
    assert at(7 * 4) == at(0)
    assert at(8 * 4) == at(95) == decision["weights"]
    # A domain without weight stays without: the recursion multiplies.
    assert decision["weights"]["logging"] == 0.0


def test_rounds_begin_after_a_tenth_of_the_run_unless_their_length_is_given(tmp_path):
    callback = aioli(update_steps=None)
    make(tmp_path, callback, steps=30).train()
    assert [decision["step"] for decision in callback.history] == [3 + 3]


def test_floors_and_caps_hold(tmp_path):
    """A one-hot block to the end of the run would pass the cap; the block alone does not."""
    policies = {"logging": SourcePolicy(min_weight=0.15), "json": SourcePolicy(max_epochs=0.15, overflow="error")}
    mixture = Mixture(WEIGHTS, unit="examples", seed=1, policies=policies)
    callback = aioli(one_hot_factor=1.0)
    trainer = make(tmp_path, callback, mixture=mixture)
    trainer.train()
    segments = trainer.train_dataset.plan.segments
    assert min(segment.weights[2] for segment in segments) == pytest.approx(0.15)
    assert max(segment.weights[1] for segment in segments) == pytest.approx(0.85)
    assert all(decision["weights"]["logging"] >= 0.15 for decision in callback.history)
    assert trainer.train_dataset.plan.counts[1] <= 60
