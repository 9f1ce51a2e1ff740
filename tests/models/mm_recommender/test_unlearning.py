"""Unlearning runs on the stock Trainer: what changes, what stays, and what is written down."""

from __future__ import annotations

import copy
import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from two_processes import run_alone, run_on_two

from hf_mixture import MultiModalRecommender, UnlearningOptions, UnlearningRequest, unlearn
from hf_mixture.models.mm_recommender.audit import forget_recall, group_norms, utility
from hf_mixture.models.mm_recommender.journal import FILE, read_journal, report_lines, unlearn_saved
from hf_mixture.models.mm_recommender.options import SCHEDULES
from hf_mixture.models.mm_recommender.requests import split_interactions
from hf_mixture.models.mm_recommender.rows import requested_rows
from hf_mixture.models.mm_recommender.synthetic import synthetic_recommender
from hf_mixture.models.mm_recommender.training import fit


# The graph is tested with the model; here it takes the same paths more slowly.
BACKBONES = ("vbpr", pytest.param("lightgcn_mm", marks=pytest.mark.slow))
USERS = UnlearningRequest(users=[3, 10, 44])
ITEMS = UnlearningRequest(items=[0, 5, 21])
SALT = bytes(range(32))
SIZES = {"retain_batch": 64, "forget_batch": 16}


@pytest.fixture(scope="module", params=BACKBONES)
def trained(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any]:
    model, data = synthetic_recommender(backbone=request.param)
    fit(model, data.train, num_steps=150, batch_size=64, learning_rate=0.02, use_cpu=True)
    return model, data


def pairs_of(data: Any, count: int) -> UnlearningRequest:
    chosen = np.random.default_rng(0).choice(len(data.train), count, replace=False)
    train = data.train
    return UnlearningRequest(
        interactions=list(zip(train.users[chosen].tolist(), train.items[chosen].tolist(), strict=True))
    )


def run(trained: tuple[Any, Any], request: UnlearningRequest, **fields: Any) -> tuple[Any, Any]:
    model, data = trained
    model = copy.deepcopy(model)
    given = {"num_steps": 30, "learning_rate": 0.01, "retain_weight": 0.5, "forget_weight": 0.5, **SIZES}
    outcome = unlearn(model, data.train, request, UnlearningOptions(**{**given, **fields}), use_cpu=True)
    return model, outcome


def states_equal(first: Any, second: Any) -> bool:
    ours, theirs = first.state_dict(), second.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.fixture(scope="module")
def control(trained: tuple[Any, Any]) -> float:
    """What fine-tuning alone leaves of the forgotten interactions."""
    model, outcome = run(trained, USERS, schedule="sum", retain_weight=1.0, forget_weight=0.0)
    return forget_recall(model.tables(), outcome.split, 5)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_every_schedule_forgets_more_than_fine_tuning(trained: tuple[Any, Any], control: float, schedule: str) -> None:
    data = trained[1]
    looks = {"check_steps": 5} if schedule == "two_phase" else {}
    split = split_interactions(data.train, USERS)
    before = forget_recall(trained[0].tables(), split, 5)
    model, outcome = run(trained, USERS, schedule=schedule, retain_weight=0.9, forget_weight=0.1, **looks)
    after = forget_recall(model.tables(), split, 5)
    assert after < control
    assert after < before
    assert model.trained_rows is None
    assert outcome.num_pairs == outcome.num_steps * (64 + 16 if schedule != "refit" else 16)
    # It is still a recommender: random lists of 5 of the 32 other items find 0.16 of the test pairs.
    # Two phases have not come to their repair.
    assert utility(model.tables(), split, data.test, 5).recall > (0.1 if schedule == "two_phase" else 0.2)


def test_without_forgetting_it_is_fine_tuning_bit_for_bit(trained: tuple[Any, Any]) -> None:
    split = split_interactions(trained[1].train, ITEMS)
    options = {"schedule": "sum", "retain_weight": 1.0, "forget_weight": 0.0, "modality": "keep"}
    model, outcome = run(trained, ITEMS, **options)
    plain = copy.deepcopy(trained[0])
    # `fit` knows of no pairs to forget; their users must not get them as negatives, so they are avoided there too.
    fit(
        plain,
        split.retain,
        num_steps=outcome.num_steps,
        batch_size=64,
        row_pairs=4,
        learning_rate=0.01,
        avoided=split.forget,
        never=split.forgotten_items,
        use_cpu=True,
    )
    assert states_equal(model, plain)


def test_what_needs_no_training_is_gone_before_any_step(trained: tuple[Any, Any]) -> None:
    old = trained[0]
    request = UnlearningRequest(users=[3], items=[5], modalities={7: ["audio"]})
    model, outcome = run(trained, request, num_steps=0)
    assert (outcome.num_steps, outcome.history) == (0, [])
    retained = set(zip(outcome.split.retain.users.tolist(), outcome.split.retain.items.tolist(), strict=True))
    if model.config.backbone == "lightgcn_mm":
        assert set(map(tuple, model.graph.T.tolist())) == retained
    assert model.has_modality[[5, 7]].tolist() == [[False, False], [True, False]]
    users, items = requested_rows(request, outcome.split)
    assert (users.tolist(), items.tolist()) == ([3], [5])
    changed = (model.users.weight != old.users.weight).any(dim=1)
    assert changed.nonzero().flatten().tolist() == [3]
    assert (model.items.weight != old.items.weight).any(dim=1).nonzero().flatten().tolist() == [5]
    assert torch.equal(model.projection.weight, old.projection.weight)


def test_refit_moves_only_the_rows_asked_for_and_relearns_what_is_retained_of_them(trained: tuple[Any, Any]) -> None:
    old, data = trained
    request = pairs_of(data, 24)
    model, outcome = run(trained, request, schedule="refit", num_steps=80, learning_rate=0.05)
    users, _ = requested_rows(request, outcome.split)
    others = np.setdiff1d(np.arange(60), users)
    assert torch.equal(model.users.weight[others], old.users.weight[others])
    assert torch.equal(model.items.weight, old.items.weight)
    reset, _ = run(trained, request, schedule="reset", num_steps=0)
    kept = outcome.split.retain.select(np.isin(outcome.split.retain.users, users))
    split = dataclasses.replace(outcome.split, forget=kept, retain=kept.select(kept.users < 0))
    assert forget_recall(model.tables(), split, 8) > forget_recall(reset.tables(), split, 8)


def test_a_mask_spares_the_rows_of_others() -> None:
    model, data = synthetic_recommender()
    old = copy.deepcopy(model)
    options = UnlearningOptions(schedule="mask", retain_weight=0.0, forget_weight=1.0, num_steps=3, **SIZES)
    unlearn(model, data.train, USERS, options, use_cpu=True)
    changed = (model.users.weight != old.users.weight).any(dim=1)
    assert changed.nonzero().flatten().tolist() == [3, 10, 44]
    assert torch.equal(model.items.weight, old.items.weight)
    assert torch.equal(model.projection.weight, old.projection.weight)


def test_ascent_grows_without_end_and_reverse_bpr_does_not(trained: tuple[Any, Any]) -> None:
    fields = {"schedule": "sum", "retain_weight": 0.0, "forget_weight": 1.0, "num_steps": 150, "learning_rate": 0.02}
    reverse, _ = run(trained, USERS, **fields)
    ascent, _ = run(trained, USERS, forget_loss="gradient_ascent", **fields)
    assert group_norms(ascent)["users"] > 1.2 * group_norms(reverse)["users"]


def test_the_stop_level_ends_a_run_and_turns_two_phases(trained: tuple[Any, Any]) -> None:
    fields = {"check_steps": 5, "num_steps": 60, "stop_factor": 100.0, "learning_rate": 0.05}
    _, outcome = run(trained, USERS, schedule="sum", **fields)
    stopped = outcome.history[-1]
    assert stopped["forget_recall"] <= stopped["stop_level"] or outcome.num_steps == 60
    _, never = run(trained, USERS, schedule="sum", **{**fields, "stop_factor": 0.0, "num_steps": 10})
    assert never.num_steps == 10
    assert [seen["step"] for seen in never.history] == [5, 10]
    with pytest.raises(ValueError, match="needs held-out interactions"):
        run(trained, USERS, stop_reference="validation", check_steps=5)


def test_requests_in_turn_leave_what_one_for_both_leaves(trained: tuple[Any, Any]) -> None:
    model, data = copy.deepcopy(trained[0]), trained[1]
    options = UnlearningOptions(num_steps=0)
    first = unlearn(model, data.train, USERS, options)
    second = unlearn(model, first.split.retain, ITEMS, options)
    once, both = run(trained, USERS + ITEMS, num_steps=0)
    assert np.array_equal(second.split.retain.keys, both.split.retain.keys)
    assert states_equal(model, once)


def test_items_of_earlier_requests_are_no_negatives() -> None:
    model, data = synthetic_recommender()
    retained = unlearn(model, data.train, ITEMS, UnlearningOptions(num_steps=0)).split.retain
    before = model.items.weight.detach().clone()
    options = UnlearningOptions(num_steps=10, **SIZES)
    for never, moved in ((np.array(ITEMS.items), False), (None, True)):
        again = copy.deepcopy(model)
        unlearn(again, retained, USERS, options, never=never, use_cpu=True)
        assert bool((again.items.weight[list(ITEMS.items)] != before[list(ITEMS.items)]).any()) == moved


def test_a_request_for_modalities_alone_has_nothing_to_reverse(trained: tuple[Any, Any]) -> None:
    request = UnlearningRequest(modalities={4: ["image"]})
    model, outcome = run(trained, request, schedule="sum", num_steps=4)
    assert (outcome.num_steps, len(outcome.split.forget)) == (4, 0)
    assert not model.has_modality[4, 0]
    assert torch.isfinite(model.users.weight).all()


def test_requests_of_another_catalogue_change_nothing(trained: tuple[Any, Any]) -> None:
    model, data = copy.deepcopy(trained[0]), trained[1]
    wrong = dataclasses.replace(data.train, num_items=41)
    with pytest.raises(ValueError, match="num_items=41; the model has 40"):
        unlearn(model, wrong, USERS)
    with pytest.raises(ValueError, match="unknown ids"):
        unlearn(model, data.train, UnlearningRequest(users=[99]))
    with pytest.raises(ValueError, match="the request is empty"):
        unlearn(model, data.train, UnlearningRequest())
    assert states_equal(model, trained[0])


def test_a_saved_model_keeps_a_journal_that_names_no_one(trained: tuple[Any, Any], tmp_path: Path) -> None:
    model, data = trained
    place = tmp_path / "model"
    model.save_pretrained(place)
    options = UnlearningOptions(num_steps=5, learning_rate=0.01, **SIZES)
    given = {"salt": SALT, "validation": data.validation, "output_dir": tmp_path / "run", "use_cpu": True}
    first = unlearn_saved(place, data.train, USERS, options, **given)
    assert first.counts["forgotten"] == 24
    assert first.after["forget_recall@20"] < first.before["forget_recall@20"]
    files = {path.name: path.read_bytes() for path in place.iterdir()}
    # The same request again is done; interactions that are not what it left are refused.
    assert unlearn_saved(place, data.train, USERS, options, **given) == first
    with pytest.raises(ValueError, match="are not those that request 1"):
        unlearn_saved(place, data.train, ITEMS, options, **given)
    retain = split_interactions(data.train, USERS).retain
    with pytest.raises(ValueError, match="the salt is another"):
        unlearn_saved(place, retain, ITEMS, options, **{**given, "salt": SALT[::-1]})
    assert files == {path.name: path.read_bytes() for path in place.iterdir()}
    unlearn_saved(place, retain, ITEMS, options, **given)
    entries = read_journal(place)
    assert [entry.kinds for entry in entries] == [["users"], ["items"]]
    text = (place / FILE).read_text(encoding="utf-8")
    assert "44" not in json.dumps([entry["counts"] for entry in json.loads(text)["entries"]])
    assert USERS.salted_hash(SALT) in text
    assert SALT.hex() not in text
    again = MultiModalRecommender.from_pretrained(place)
    assert not again.has_modality[[0, 5, 21]].any()
    card = "\n".join(report_lines(entries))
    assert "asked to forget 2 times" in card
    assert entries[0].request[:16] in card
    (place / FILE).write_text('{"format": "other"}', encoding="utf-8")
    with pytest.raises(ValueError, match="'hf_mixture_unlearning' is read here"):
        read_journal(place)


@pytest.mark.parametrize("schedule", ["sum", "project", "refit"])
@pytest.mark.slow
def test_two_processes_have_the_loss_and_the_model_of_one(schedule: str, tmp_path: Path) -> None:
    worker = Path(__file__).parent / "unlearning_worker.py"
    run_alone(worker, tmp_path, 1, schedule)
    run_on_two(worker, tmp_path, 2, schedule)
    one, *two = (torch.load(tmp_path / f"{name}.pt", weights_only=True) for name in ("1-0", "2-0", "2-1"))
    for found in two:
        torch.testing.assert_close(torch.tensor(found["losses"]), torch.tensor(one["losses"]), rtol=0, atol=1e-5)
        for name, value in one["state"].items():
            torch.testing.assert_close(found["state"][name], value, rtol=1e-3, atol=1e-4, msg=name)
