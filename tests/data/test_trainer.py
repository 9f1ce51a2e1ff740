"""A mixture under the stock Trainer, in this process: what is checked, what is logged, and what a resume restores."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mixture_run import WEIGHTS, Settings
from mixture_run_process import sources as blocks_of
from mixture_run_process import tiny_model
from packed_text import write_packs
from transformers import Trainer, TrainerCallback, TrainingArguments

from hf_mixture import Mixture
from hf_mixture.data.mixture_dataset import MixtureDataset
from hf_mixture.data.pack import TokenPack
from hf_mixture.data.packed_rows import collate_packed
from hf_mixture.data.trainer import MixtureCallback


ONLY_JSON = {"email": 0.0, "json": 1.0, "logging": 0.0}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("packs")
    write_packs(folder)
    return folder


@pytest.fixture(scope="module")
def sources(folder: Path) -> dict[str, Any]:
    return blocks_of(Settings(folder=str(folder), output=""))


def mixed(sources: dict[str, Any], num_examples: int, **arguments: Any) -> MixtureDataset:
    mixture = Mixture({name: WEIGHTS[name] for name in sources}, unit="tokens", normalise=True)
    return MixtureDataset(sources, mixture, num_examples=num_examples, **arguments)


def make(
    output: Path,
    dataset: Any,
    *callbacks: TrainerCallback,
    model: Any = None,
    collate: Any = collate_packed,
    held_out: Any = None,
    **arguments: Any,
) -> Trainer:
    defaults = {
        "max_steps": 4,
        "per_device_train_batch_size": 2,
        "train_sampling_strategy": "sequential",
        "logging_steps": 1,
        "learning_rate": 1e-2,
        "save_strategy": "no",
    }
    return Trainer(
        model=tiny_model() if model is None else model,
        args=TrainingArguments(
            output_dir=str(output), use_cpu=True, report_to=[], disable_tqdm=True, **(defaults | arguments)
        ),
        train_dataset=dataset,
        eval_dataset=held_out,
        data_collator=collate,
        callbacks=list(callbacks),
    )


class Decide(TrainerCallback):
    """Calls a function after a step."""

    def __init__(self, step: int, function: Any) -> None:
        self.step, self.function = step, function

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == self.step:
            self.function()


def losses(trainer: Trainer) -> list[dict[str, float]]:
    return [entry for entry in trainer.state.log_history if "loss" in entry]


# What may go wrong before the first step.


@pytest.mark.parametrize("with_callback", [True, False])
def test_the_default_sampling_is_refused_before_the_first_step(
    sources: dict[str, Any], tmp_path: Path, with_callback: bool
) -> None:
    trainer = make(
        tmp_path, mixed(sources, 64), *([MixtureCallback()] if with_callback else []), train_sampling_strategy="random"
    )
    before = [parameter.clone() for parameter in trainer.model.parameters()]
    with pytest.raises(ValueError, match='set train_sampling_strategy="sequential" in TrainingArguments'):
        trainer.train()
    assert trainer.state.global_step == 0
    assert all(map(torch.equal, before, trainer.model.parameters()))


def test_without_a_callback_an_ordered_run_is_the_same(sources: dict[str, Any], tmp_path: Path) -> None:
    with_callback, without = make(tmp_path, mixed(sources, 8), MixtureCallback()), make(tmp_path, mixed(sources, 8))
    with_callback.train()
    without.train()
    assert [entry["loss"] for entry in losses(with_callback)] == [entry["loss"] for entry in losses(without)]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"per_device_train_batch_size": 1, "train_sampling_strategy": "random"}, "with a SeedableRandomSampler"),
        ({"train_sampling_strategy": "group_by_length"}, "with a LengthGroupedSampler"),
        ({"train_sampling_strategy": "batch_rebalance"}, 'set train_sampling_strategy="sequential"'),
        ({"accelerator_config": {"dispatch_batches": True}}, '"dispatch_batches": False'),
        ({"dataloader_num_workers": 1, "dataloader_in_order": False}, "set dataloader_in_order=True"),
        (
            {"max_steps": 40},
            r"has 40 more optimizer steps of 2 samples, and the mixture has enough for 32.*num_examples=80",
        ),
        ({"max_steps": -1, "num_train_epochs": 2}, "would read it again, in the same order"),
    ],
)
def test_loaders_that_do_not_read_in_order_are_refused(
    arguments: dict[str, Any], message: str, sources: dict[str, Any], tmp_path: Path
) -> None:
    trainer = make(tmp_path, mixed(sources, 64), MixtureCallback(), **arguments)
    with pytest.raises(ValueError, match=message):
        trainer.train()
    assert trainer.state.global_step == 0


def test_other_data_is_refused(sources: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="train_dataset is a TokenBlocks; this callback needs a MixtureDataset"):
        make(tmp_path, sources["json"], MixtureCallback()).train()


def test_batches_that_one_process_splits_over_gpus_are_refused(sources: dict[str, Any], tmp_path: Path) -> None:
    trainer = make(tmp_path, mixed(sources, 64), MixtureCallback())
    trainer.args._n_gpu = 2
    with pytest.raises(ValueError, match=r"n_gpu=2 splits its batches.*torchrun, or pass log_domain_loss=False"):
        trainer.train()


@pytest.mark.parametrize("lag", [0, True, 1.5])
def test_a_lag_that_is_none_is_refused(lag: Any) -> None:
    with pytest.raises(ValueError, match="is not an integer >= 1"):
        MixtureCallback(lag=lag)


def test_a_lag_that_is_too_small_is_refused(sources: dict[str, Any], tmp_path: Path) -> None:
    arguments = {"dataloader_num_workers": 2, "dataloader_prefetch_factor": 2, "gradient_accumulation_steps": 2}
    with pytest.raises(ValueError, match=r"lag=2 is too small: 5 micro-batches.*use lag=3 or more"):
        make(tmp_path, mixed(sources, 64), MixtureCallback(lag=2), **arguments).train()
    callback = MixtureCallback(lag=4)
    make(tmp_path, mixed(sources, 64), callback, max_steps=1, **arguments).train()
    assert callback.lag == 4
    assert callback.layout.min_lag == 3


# Changing the weights.


def test_weights_change_where_the_callback_says(sources: dict[str, Any], tmp_path: Path) -> None:
    callback, dataset, positions = MixtureCallback(changes_weights=True), mixed(sources, 48), []
    decide = Decide(2, lambda: positions.append(callback.set_weights(ONLY_JSON)))
    make(tmp_path, dataset, callback, decide, gradient_accumulation_steps=3, max_steps=8).train()
    assert callback.global_batch == dataset.plan.block_size == 6
    assert positions == [callback.position_of(3)] == [18]
    names, _ = dataset.plan.locate(range(48))
    fresh, _ = mixed(sources, 48, block_size=6).plan.locate(range(48))
    assert np.array_equal(names[:18], fresh[:18])
    assert set(names[18:]) == {dataset.names.index("json")}


def test_requests_that_come_too_late_or_do_not_fit_are_refused(sources: dict[str, Any], tmp_path: Path) -> None:
    callback, dataset, messages = MixtureCallback(changes_weights=True), mixed(sources, 64), []

    def ask() -> None:
        state = dataset.state_dict()
        for weights, step in ((ONLY_JSON, 4), ({"json": 1.0}, 9), ({**ONLY_JSON, "json": -1.0}, 9)):
            with pytest.raises(ValueError) as error:
                callback.set_weights(weights, step=step)
            messages.append(str(error.value))
        assert dataset.state_dict() == state
        # An effect behind the end is none.
        assert callback.set_weights(ONLY_JSON, step=32) == 64
        assert dataset.state_dict() == state
        callback.set_weights(ONLY_JSON, step=5)

    make(tmp_path, dataset, callback, Decide(4, ask), max_steps=6).train()
    assert "lies before the frontier 10" in messages[0]
    assert "it must map each of" in messages[1]
    assert "must be finite numbers >= 0" in messages[2]
    assert [at for at, _ in dataset.plan.state_dict()["changes"]] == [10]
    with pytest.raises(ValueError, match="weights are set before training begins"):
        MixtureCallback().set_weights(ONLY_JSON)


def test_between_blocks_weights_do_not_change(sources: dict[str, Any], tmp_path: Path) -> None:
    callback, dataset = MixtureCallback(), mixed(sources, 8192)
    decide = Decide(1, lambda: callback.set_weights(ONLY_JSON))
    with pytest.raises(ValueError, match=r"not a multiple of the block size 4096.*smaller block_size"):
        make(tmp_path, dataset, callback, decide).train()


def test_during_a_step_the_next_one_has_been_fetched(sources: dict[str, Any], tmp_path: Path) -> None:
    class InTheStep(MixtureCallback):
        def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.global_step == 1:
                self.position = self.set_weights(ONLY_JSON)
                assert self.position >= self.dataset.plan.frontier

    callback = InTheStep(changes_weights=True)
    make(tmp_path, mixed(sources, 64), callback).train()
    assert callback.position == callback.position_of(3)


# The loss of each domain.


class Watch(TrainerCallback):
    """A reporter: it stands before the callback of the mixture, as all reporters do."""

    def __init__(self) -> None:
        self.logs: list[dict[str, float]] = []

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        self.logs.append(dict(logs))


def pad(rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
    ids = [row["input_ids"][:40] for row in rows]
    padded = torch.nn.utils.rnn.pad_sequence(ids, batch_first=True, padding_value=0)
    labels = torch.nn.utils.rnn.pad_sequence(ids, batch_first=True, padding_value=-100)
    return {"input_ids": padded, "labels": labels, "attention_mask": (labels != -100).long()}


@pytest.mark.parametrize(("accumulation", "logging_steps"), [(1, 1), (3, 2)])
def test_the_loss_of_a_domain_is_that_of_its_tokens(
    folder: Path, tmp_path: Path, accumulation: int, logging_steps: int
) -> None:
    # Documents of different lengths; at learning rate 0 the model stays what it is.
    packs = {name: TokenPack(folder / name) for name in WEIGHTS}
    dataset, callback, watch = mixed(packs, 24), MixtureCallback(), Watch()
    trainer = make(
        tmp_path,
        dataset,
        watch,
        callback,
        collate=pad,
        max_steps=4,
        learning_rate=0.0,
        gradient_accumulation_steps=accumulation,
        logging_steps=logging_steps,
        eval_strategy="no",
    )
    trainer.train()
    global_batch = 2 * accumulation
    model = tiny_model().eval()
    for entry in losses(trainer):
        last = entry["step"] * global_batch
        expected: dict[str, list[float]] = {}
        for position in range(last - logging_steps * global_batch, last):
            ids = dataset[position]["input_ids"][None, :40]
            with torch.no_grad():
                nats = model(input_ids=ids, labels=ids).loss.item() * (ids.shape[1] - 1)
            name = dataset.names[dataset.plan.locate([position])[0][0]]
            total = expected.setdefault(name, [0.0, 0.0])
            total[0] += nats
            total[1] += ids.shape[1] - 1
        found = {name.removeprefix("loss/"): value for name, value in entry.items() if name.startswith("loss/")}
        assert found == pytest.approx({name: nats / tokens for name, (nats, tokens) in expected.items()}, abs=1e-5)
    in_logs = [{key: value for key, value in logs.items() if key.startswith("loss/")} for logs in watch.logs]
    in_history = [
        {key: value for key, value in entry.items() if key.startswith("loss/")} for entry in trainer.state.log_history
    ]
    assert in_logs == in_history
    assert any(in_logs)
    # The log has a count of its own: this is of the whole run.
    tokens = callback.take_totals()[1]
    assert tokens.sum() == sum(len(dataset[i]["input_ids"][:40]) - 1 for i in range(4 * global_batch))
    assert not callback.take_totals().any()


def test_logging_the_loss_of_each_domain_changes_no_bit(sources: dict[str, Any], tmp_path: Path) -> None:
    results = []
    for logs in (True, False):
        torch.manual_seed(5)
        model = tiny_model(dropout=0.3)
        trainer = make(tmp_path, mixed(sources, 16), MixtureCallback(log_domain_loss=logs), model=model)
        trainer.train()
        results.append(([entry["loss"] for entry in losses(trainer)], model.state_dict(), torch.get_rng_state()))
        assert any("loss/json" in entry for entry in losses(trainer)) is logs
    (first, weights, random), (second, other_weights, other_random) = results
    assert first == second
    assert all(torch.equal(weights[name], other_weights[name]) for name in weights)
    assert torch.equal(random, other_random)


def test_evaluation_does_not_count(sources: dict[str, Any], tmp_path: Path) -> None:
    plain = make(tmp_path, mixed(sources, 16), MixtureCallback())
    plain.train()
    held_out = torch.utils.data.Subset(sources["json"], range(4))
    trainer = make(
        tmp_path, mixed(sources, 16), MixtureCallback(), held_out=held_out, eval_strategy="steps", eval_steps=1
    )
    trainer.train()
    assert [entry["eval_loss"] for entry in trainer.state.log_history if "eval_loss" in entry]
    keys = ("loss", "loss/email", "loss/json", "loss/logging")
    assert [[entry.get(key) for key in keys] for entry in losses(trainer)] == [
        [entry.get(key) for key in keys] for entry in losses(plain)
    ]


def test_a_model_without_logits_is_trained_with_a_warning(sources: dict[str, Any], tmp_path: Path) -> None:
    class OnlyLoss(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = tiny_model()

        def forward(self, input_ids: Any, labels: Any = None) -> dict[str, Any]:
            return {"loss": self.inner(input_ids=input_ids, labels=labels).loss}

    trainer = make(tmp_path, mixed(sources, 16), MixtureCallback(), model=OnlyLoss())
    with pytest.warns(UserWarning, match="the loss of each domain is not logged.*log_domain_loss=False"):
        trainer.train()
    assert len(losses(trainer)) == 4
    with pytest.raises(ValueError, match="make the callback with log_domain_loss=True"):
        MixtureCallback(log_domain_loss=False).take_totals()


# Resuming.


def interrupted(sources: dict[str, Any], output: Path, **arguments: Any) -> tuple[Trainer, Path]:
    """A whole run of eight steps, with a decision after step 3 that holds from step 6 on, saved after step 4."""
    callback = MixtureCallback(changes_weights=True, lag=3)
    trainer = make(
        output,
        mixed(sources, 32),
        callback,
        Decide(3, lambda: callback.set_weights(ONLY_JSON)),
        **{"max_steps": 8, "save_strategy": "steps", "save_steps": 4, **arguments},
    )
    trainer.train()
    return trainer, output / "checkpoint-4"


@pytest.fixture(scope="module")
def whole(sources: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> tuple[Trainer, Path]:
    return interrupted(sources, tmp_path_factory.mktemp("whole"))


@pytest.mark.parametrize("restore", [True, False])
def test_a_pending_change_survives_a_resume(
    whole: tuple[Trainer, Path], sources: dict[str, Any], tmp_path: Path, restore: bool
) -> None:
    trainer, checkpoint = whole
    dataset = mixed(sources, 32)
    resumed = make(
        tmp_path,
        dataset,
        MixtureCallback(changes_weights=True, lag=3),
        max_steps=8,
        restore_callback_states_from_checkpoint=restore,
    )
    resumed.train(resume_from_checkpoint=str(checkpoint))
    assert losses(resumed) == losses(trainer)
    assert [at for at, _ in dataset.plan.state_dict()["changes"]] == [12]
    (callback,) = [item for item in resumed.callback_handler.callbacks if isinstance(item, MixtureCallback)]
    assert callback.dataset is dataset
    assert callback.lag == 3


def test_the_checkpoint_has_the_plan_as_a_file(whole: tuple[Trainer, Path]) -> None:
    content = json.loads((whole[1] / "mixture_plan.json").read_text())
    state = json.loads((whole[1] / "trainer_state.json").read_text())
    saved = state["stateful_callbacks"]["MixtureCallback"]["attributes"]["saved"]
    assert content == {"format": "hf_mixture.plan", **saved}
    assert (content["step"], content["position"], content["global_batch"]) == (4, 8, 2)
    assert content["dataset"]["plan"]["changes"] == [[12, [0.0, 1.0, 0.0]]]


def test_a_resumed_run_of_other_data_is_refused(
    whole: tuple[Trainer, Path], sources: dict[str, Any], tmp_path: Path
) -> None:
    changed = TokenPack.write(
        tmp_path / "changed", [row["input_ids"].flip(0).tolist() for row in sources["json"].pack], vocab_size=400
    )
    cases: list[tuple[MixtureDataset, dict[str, Any], str]] = [
        (mixed({name: sources[name] for name in ("email", "json")}, 32), {}, "resume with the same domains"),
        (mixed({**sources, "json": changed.blocks(32)}, 32), {}, r"the data of \['json'\] has changed"),
        (
            mixed({name: source.pack.blocks(16) for name, source in sources.items()}, 32),
            {},
            r"the number of rows of .* has changed",
        ),
        (mixed(sources, 32, block_size=4), {}, "the state of the plan has block_size=2 and this plan has 4"),
        (
            mixed(sources, 48),
            {"per_device_train_batch_size": 3},
            r"stood at position 8 after 4 steps of 2 samples; this one has steps of 3 samples and would go on at "
            r"position 12: pass ignore_data_skip=True to TrainingArguments and start_at=8 to MixtureDataset",
        ),
    ]
    for dataset, arguments, message in cases:
        before = dataset.state_dict()
        trainer = make(tmp_path, dataset, MixtureCallback(changes_weights=True, lag=3), max_steps=8, **arguments)
        with pytest.raises(ValueError, match=message):
            trainer.train(resume_from_checkpoint=str(whole[1]))
        assert trainer.state.global_step == 4
        assert dataset.state_dict() == before


def test_a_run_goes_on_with_another_batch_from_the_declared_position(
    whole: tuple[Trainer, Path], sources: dict[str, Any], tmp_path: Path
) -> None:
    class Seen(TrainerCallback):
        def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
            self.rows: list[torch.Tensor] = []
            model.register_forward_pre_hook(
                lambda _, __, kwargs: self.rows.append(kwargs["input_ids"]), with_kwargs=True
            )

    _, checkpoint = whole
    dataset, callback, seen = mixed(sources, 32, start_at=8), MixtureCallback(changes_weights=True), Seen()
    trainer = make(
        tmp_path,
        dataset,
        callback,
        seen,
        per_device_train_batch_size=4,
        max_steps=10,
        ignore_data_skip=True,
        save_strategy="steps",
        save_steps=2,
    )
    trainer.train(resume_from_checkpoint=str(checkpoint))
    assert trainer.state.global_step == 10
    expected = mixed(sources, 32, block_size=2)
    expected.set_weights(ONLY_JSON, at=12)
    stream = torch.stack([expected[position]["input_ids"] for position in range(8, 32)])
    assert torch.equal(torch.cat(seen.rows), stream)
    assert callback.position_of(5) == 12
    # A run that began in the middle can be interrupted, too, and says where it goes on.
    again = make(
        tmp_path,
        mixed(sources, 32, start_at=8),
        MixtureCallback(changes_weights=True),
        per_device_train_batch_size=4,
        max_steps=10,
        ignore_data_skip=True,
    )
    with pytest.raises(ValueError, match=r"stood at position 24 .* start_at=24"):
        again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-8"))
    last = make(
        tmp_path,
        mixed(sources, 32, start_at=24),
        MixtureCallback(changes_weights=True),
        per_device_train_batch_size=4,
        max_steps=10,
        ignore_data_skip=True,
    )
    last.train(resume_from_checkpoint=str(tmp_path / "checkpoint-8"))
    # The Trainer counts epochs of what is left.
    assert [{**entry, "epoch": 0} for entry in losses(last)] == [{**entry, "epoch": 0} for entry in losses(trainer)]


def test_a_callback_that_joins_at_a_resume_is_saved(sources: dict[str, Any], tmp_path: Path) -> None:
    arguments = {"max_steps": 8, "save_strategy": "steps", "save_steps": 4}
    make(tmp_path, mixed(sources, 32), **{**arguments, "max_steps": 4}).train()
    joined = make(tmp_path, mixed(sources, 32), MixtureCallback(), **arguments)
    joined.train(resume_from_checkpoint=str(tmp_path / "checkpoint-4"))
    state = json.loads((tmp_path / "checkpoint-8" / "trainer_state.json").read_text())
    assert state["stateful_callbacks"]["MixtureCallback"]["attributes"]["saved"]["position"] == 16
    assert "loss/json" in json.dumps(losses(joined)[4:])


def test_a_finished_run_can_be_resumed_and_lengthened(sources: dict[str, Any], tmp_path: Path) -> None:
    arguments = {"save_strategy": "steps", "save_steps": 4}
    make(tmp_path, mixed(sources, 8), MixtureCallback(), **arguments, max_steps=4).train()
    same = make(tmp_path, mixed(sources, 8), MixtureCallback(), **arguments, max_steps=4)
    same.train(resume_from_checkpoint=str(tmp_path / "checkpoint-4"))
    assert same.state.global_step == 4
    longer = make(
        tmp_path, mixed(sources, 16), MixtureCallback(), **arguments, max_steps=8, lr_scheduler_type="constant"
    )
    longer.train(resume_from_checkpoint=str(tmp_path / "checkpoint-4"))
    assert longer.state.global_step == 8


def test_a_second_run_of_one_trainer_begins_anew(sources: dict[str, Any], tmp_path: Path) -> None:
    callback, dataset = MixtureCallback(changes_weights=True), mixed(sources, 16)
    trainer = make(tmp_path, dataset, callback, Decide(2, lambda: callback.set_weights(ONLY_JSON)))
    trainer.train()
    first = dataset.state_dict()
    trainer.train()
    assert dataset.plan.weights_at(5).tolist() == pytest.approx(list(WEIGHTS.values()))
    assert dataset.state_dict()["plan"]["changes"][0] == first["plan"]["changes"][0]


def test_several_callbacks_are_refused_at_a_resume(sources: dict[str, Any], tmp_path: Path) -> None:
    trainer = make(tmp_path, mixed(sources, 16), MixtureCallback(), MixtureCallback(), max_steps=4)
    trainer.train()
    state = trainer.state
    assert isinstance(state.stateful_callbacks["MixtureCallback"], list)
    state.save_to_json(str(tmp_path / "trainer_state.json"))
    callback = MixtureCallback()
    with pytest.raises(ValueError, match="a run with several MixtureCallback"):
        callback._saved_by(state)
