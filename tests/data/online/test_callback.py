"""Online methods under the stock Trainer: on time, without side effects, resumed bit by bit, clear about misuse."""

from __future__ import annotations

import gc
import json
import math
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from online_run import WEIGHTS, Recorder, domains, losses, make, tiny_model

from hf_mixture import Mixture
from hf_mixture.data.mixture_dataset import MixtureDataset
from hf_mixture.data.online import (
    AioliCallback,
    DoGECallback,
    DoReMiCallback,
    MixingLawCallback,
    ODMCallback,
    SkillItCallback,
    read_history,
)
from hf_mixture.data.online.effects import solve_effects
from hf_mixture.data.online.estimators import Estimator
from hf_mixture.data.online.schedule import Cost
from hf_mixture.data.online.solvers import Solver
from hf_mixture.data.online.validation import ValidationSets, undisturbed
from hf_mixture.data.schedule import SourcePolicy


NAMES = tuple(WEIGHTS)


def held_out() -> dict[str, Any]:
    return domains()[1]


def aioli(**arguments: Any) -> AioliCallback:
    return AioliCallback(
        held_out(),
        **({"lp_rounds": 1, "lp_steps": 1, "update_steps": 12, "one_hot_factor": 0.75, "seed": 4} | arguments),
    )


METHODS = {
    "aioli": aioli,
    "doremi": lambda: DoReMiCallback(held_out(), tiny_model(0.0), update_steps=4),
    "doge": lambda: DoGECallback(held_out(), update_steps=4, num_rows=2),
    "skill-it": lambda: SkillItCallback(held_out(), lp_rounds=1, lp_steps=1, update_steps=6),
    "odm": lambda: ODMCallback(update_steps=3),
}


def samples(trainer: Any, start: int, end: int) -> list[str]:
    """What the plan says was trained on, as digests."""
    recorder = Recorder()
    rows = trainer.train_dataset.rows(np.arange(start, end))
    recorder._watch(torch.nn.Identity(), (), {"input_ids": torch.tensor([row["input_ids"] for row in rows])})
    return recorder.digests


# On time.


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


# No trace.


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


class Drawing(torch.nn.Module):
    """A language model that draws from every generator in its forward, also when evaluated."""

    def __init__(self) -> None:
        super().__init__()
        self.head = torch.nn.Embedding(8, 8)
        self.frozen = torch.nn.Dropout()

    def forward(self, input_ids: torch.Tensor, **kwargs: Any) -> Any:
        assert not self.training
        random.random()  # noqa: S311
        np.random.random()
        torch.rand(1)
        return type("Output", (), {"logits": self.head(input_ids)})


def test_random_states_and_modes_are_put_back():
    model = Drawing()
    model.frozen.eval()
    states = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    ValidationSets({"a": [{"input_ids": [1, 2, 3]}]}).losses(model)
    assert states == (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist())
    assert (model.training, model.head.training, model.frozen.training) == (True, True, False)
    with pytest.raises(KeyError), undisturbed(model):
        raise KeyError
    assert (model.training, model.frozen.training) == (True, False)


@pytest.mark.parametrize("batch_size", [1, 3, 100])
def test_losses_are_means_over_tokens_for_any_batches_and_padding(batch_size):
    torch.manual_seed(0)
    model = tiny_model(0.0)
    rows = {
        "a": [{"input_ids": [1, 2, 3, 4]}, {"input_ids": [5, 6]}, {"input_ids": [7, 8, 9], "labels": [7, -100, 9]}],
        "b": [{"input_ids": [9, 9, 9, 9, 9]}],
    }
    found = ValidationSets(rows).losses(model, batch_size=batch_size)
    expected = []
    for group in rows.values():
        nats = tokens = 0.0
        for row in group:
            logits = model(input_ids=torch.tensor([row["input_ids"]])).logits[0]
            for place, label in enumerate(row.get("labels", row["input_ids"])[1:]):
                if label != -100:
                    nats -= math.log(torch.softmax(logits[place].double(), 0)[label].item())
                    tokens += 1
        expected.append(nats / tokens)
    assert found == pytest.approx(expected, abs=1e-6)


# Resumed.


@pytest.fixture(scope="module")
def whole_runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """An uninterrupted run of each method, with a checkpoint at every step."""
    runs = {}
    for name, build in METHODS.items():
        recorder, callback = Recorder(), build()
        trainer = make(tmp_path_factory.mktemp(name), callback, recorder, save_strategy="steps", save_steps=1)
        trainer.train()
        runs[name] = (trainer, callback, recorder.digests)
    return runs


# Aioli has a round of 12 steps: blocks end after 1, 2 and 3, the decision made after 3 takes effect one step later.
CUTS = [("aioli", step) for step in (2, 3, 14, 15)] + [(name, 7) for name in METHODS if name != "aioli"]
# The first cut of each method without the flag, and where a decision is pending with it.
QUICK_CUTS = [("aioli", 3, True), *((method, step, False) for method, step in CUTS if step in (2, 7))]


@pytest.mark.parametrize(
    ("method", "step", "restore"),
    [
        pytest.param(*cut, restore, marks=[] if (*cut, restore) in QUICK_CUTS else pytest.mark.slow)
        for cut in CUTS
        for restore in (False, True)
    ],
)
def test_a_resumed_run_is_the_same_bit_by_bit(whole_runs, tmp_path, method, step, restore):
    whole, expected, digests = whole_runs[method]
    recorder = Recorder()
    trainer = make(tmp_path, METHODS[method](), recorder, restore_callback_states_from_checkpoint=restore)
    # With the flag on, the Trainer is the only one that knew the callback it replaces.
    gc.collect()
    trainer.train(resume_from_checkpoint=str(Path(whole.args.output_dir, f"checkpoint-{step}")))
    (found,) = (c for c in trainer.callback_handler.callbacks if isinstance(c, MixingLawCallback))
    assert recorder.digests == digests[4 * step :]
    assert losses(trainer)[step:] == losses(whole)[step:]
    assert found.report() == expected.report()
    assert len(found.history) >= 2
    assert all(map(torch.equal, trainer.model.parameters(), whole.model.parameters()))


def test_the_state_is_json_and_the_cuts_are_where_they_should_be(whole_runs):
    whole, callback, _ = whole_runs["aioli"]

    def saved(step: int) -> Any:
        path = Path(whole.args.output_dir, f"checkpoint-{step}", "trainer_state.json")
        return json.loads(path.read_text())["stateful_callbacks"]["AioliCallback"]["attributes"]["saved"]

    middle, decided = saved(2)["controller"], saved(3)
    assert middle["history"] == []
    assert np.count_nonzero(np.any(middle["law"]["estimator"]["drops"], axis=0)) == 2
    assert len(decided["controller"]["history"]) == 1
    assert decided["position"] < callback.history[0]["effective_position"]
    assert decided["dataset"]["plan"]["changes"][-1][0] > callback.history[0]["effective_position"]


def test_a_second_call_of_train_begins_anew(tmp_path):
    callback = ODMCallback(update_steps=3)
    trainer = make(tmp_path, callback, dropout=0.0)
    trainer.train()
    first = callback.report(), losses(trainer)
    trainer.model.load_state_dict(tiny_model(0.0).state_dict())
    trainer.optimizer = None
    trainer.train()
    assert (callback.report(), losses(trainer)) == first


# The instances.


def test_methods_move_weights_and_declare_their_cost(whole_runs):
    costs = {name: callback.cost for name, (_, callback, _) in whole_runs.items()}
    assert costs["aioli"] == Cost(evaluations=4, training_share=0.25)
    assert costs["doremi"] == Cost(evaluations=1, models=1)
    assert costs["doge"] == Cost(backward_passes=4, gradients=2)
    assert costs["skill-it"] == Cost(evaluations=1, training_share=0.5)
    assert costs["odm"] == Cost()
    evaluations = {name: callback.report()["num_evaluations"] for name, (_, callback, _) in whole_runs.items()}
    assert evaluations == {"aioli": 8, "doremi": 6, "doge": 0, "skill-it": 7, "odm": 0}
    for trainer, callback, _ in whole_runs.values():
        assert read_history(Path(trainer.args.output_dir, "mixing_law.json")) == callback.report()
        for decision in callback.history:
            assert sum(decision["weights"].values()) == pytest.approx(1.0)
        assert callback.history[-1]["weights"] != callback.report()["initial_weights"]
        entry = [entry for entry in trainer.state.log_history if "loss" in entry][-1]
        # The plan normalises what a method decides.
        for name, weight in callback.history[-1]["weights"].items():
            assert entry[f"weight/{name}"] == pytest.approx(weight, rel=1e-12)


def test_doremi_weighs_what_lags_behind_the_reference(tmp_path):
    reference = {"email": 0.5, "json": 4.5, "logging": 99.0}
    callback = DoReMiCallback(held_out(), reference, update_steps=8, eta=0.5)
    make(tmp_path, callback).train()
    weights = np.array([WEIGHTS[name] for name in NAMES])
    for decision in callback.history:
        gaps = [max(decision["losses"][name] - reference[name], 0.0) for name in NAMES]
        weights = weights * np.exp(0.5 * np.array(gaps))
        weights = 0.999 * weights / weights.sum() + 0.001 / 3
        assert list(decision["weights"].values()) == pytest.approx(weights)
    mean = np.mean([list(decision["weights"].values()) for decision in callback.history], axis=0)
    assert list(callback.average_weights.values()) == pytest.approx(mean)
    assert weights[0] > 0.9


@pytest.mark.parametrize("full", [False, True])
def test_doge_scores_are_inner_products_of_gradients(tmp_path, full):
    """Against the ordinary backward pass, on a model that does not move."""
    callback = DoGECallback(held_out(), update_steps=12, num_rows=2, full=full, mu=1e-9)
    trainer = make(tmp_path, callback, learning_rate=1e-12, dropout=0.0)
    trainer.train()

    def gradient(rows: list[list[int]]) -> torch.Tensor:
        model = tiny_model(0.0)
        model(input_ids=torch.tensor(rows), labels=torch.tensor(rows)).loss.backward()
        flat = torch.cat([parameter.grad.flatten() for parameter in model.parameters()])
        return flat / max(flat.norm(), 1)

    positions = np.arange(48)
    sources, _ = trainer.train_dataset.plan.draws(positions)
    rows = trainer.train_dataset.rows
    train = [gradient([row["input_ids"] for row in rows(positions[sources == d][-2:])]) for d in range(3)]
    targets = [held_out()[name]["input_ids"][:2] for name in NAMES]
    targets = [gradient(part) for part in (targets if full else [[row for part in targets for row in part]])]
    norm = np.mean([part.norm() for part in train]) + 1e-6
    expected = [[float(a @ b) / norm / len(targets) for b in train] for a in targets]
    assert callback.history[0]["effects"] == pytest.approx(np.array(expected), rel=1e-3)


def test_skill_it_reads_a_published_graph_by_training_domain(tmp_path):
    """Row j is training on j. Only email helps, and it helps all: transposed, all would help email and tie."""
    graph = [[0.9, 0.8, 0.7], [0.0, 0.0, 0.0], [0.0, 0.0, 0.0]]
    callback = SkillItCallback(held_out(), graph, update_steps=8, eta=0.2, window=2)
    make(tmp_path, callback).train()
    first = np.exp(0.2 * np.array([2.4, 0.0, 0.0]))
    assert list(callback.report()["initial_weights"].values()) == pytest.approx(first / first.sum())
    window = []
    for decision in callback.history:
        window = [*window, np.array(list(decision["losses"].values()))][-2:]
        expected = np.exp(0.2 * np.array(graph) @ np.sum(window, axis=0))
        assert list(decision["weights"].values()) == pytest.approx(expected / expected.sum())
    assert len(callback.history) == 2


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


# Misuse.


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: aioli(one_hot_factor=1 / 3), r"one_hot_factor=0.333.* is not in \(1/m, 1\]"),
        (lambda: aioli(one_hot_factor=0.4), "samples come whole"),
        (lambda: aioli(update_steps=7), "update_steps=7 does not divide the 24 steps"),
        (lambda: aioli(lp_rounds=4), "LearnParams takes 12 blocks"),
        (lambda: aioli(prior={"latin": 1.0}), "prior="),
        (AioliCallback, "AioliCallback has no validation data"),
        (lambda: AioliCallback({"email": [{"input_ids": [1]}]}), "has no token to predict"),
        (lambda: aioli(diagonal=True), None),
        (lambda: AioliCallback({"email": held_out()["email"]}, diagonal=True), "diagonal=True lets each domain"),
        (lambda: DoReMiCallback(held_out(), update_steps=4), "has no reference"),
        (lambda: DoReMiCallback(held_out(), {"email": 1.0}), "reference gives no loss for"),
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
    ],
)
def test_bad_settings_are_refused_at_once(build, message):
    with pytest.raises(ValueError, match=message):
        build()


def test_a_loss_that_is_not_finite_is_refused(tmp_path):
    trainer = make(tmp_path, aioli())
    with torch.no_grad():
        trainer.model.transformer.wte.weight[:] = float("nan")
    with pytest.raises(ValueError, match="the validation loss of 'email' is nan after 0 steps"):
        trainer.train()


def test_a_run_that_goes_on_with_something_else_is_refused(whole_runs, tmp_path):
    whole, _, _ = whole_runs["aioli"]
    checkpoint = str(Path(whole.args.output_dir, "checkpoint-7"))
    cases = {
        r"had eta=0.5 and this one has 2.0": aioli(eta=2.0),
        r"had validation data=": AioliCallback(
            held_out() | {"json": held_out()["email"]},
            lp_rounds=1,
            lp_steps=1,
            update_steps=12,
            one_hot_factor=0.75,
            seed=4,
        ),
        r"its checkpoint has no state of ODMCallback": ODMCallback(),
    }
    for message, callback in cases.items():
        with pytest.raises(ValueError, match=message):
            make(tmp_path, callback).train(resume_from_checkpoint=checkpoint)
