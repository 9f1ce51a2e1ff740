"""Online methods are resumed bit by bit, at whatever step they were cut."""

from __future__ import annotations

import gc
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from online_run import Recorder, aioli, held_out, losses, make, tiny_model

from hf_mixture.data.online import (
    AioliCallback,
    DoGECallback,
    DoReMiCallback,
    MixingLawCallback,
    ODMCallback,
    SkillItCallback,
    read_history,
)
from hf_mixture.data.online.schedule import Cost


METHODS = {
    "aioli": aioli,
    "doremi": lambda: DoReMiCallback(held_out(), tiny_model(0.0), update_steps=4),
    "doge": lambda: DoGECallback(held_out(), update_steps=4, num_rows=2),
    "skill-it": lambda: SkillItCallback(held_out(), lp_rounds=1, lp_steps=1, update_steps=6),
    "odm": lambda: ODMCallback(update_steps=3),
}


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
