"""File formats of models: small sound artefacts, and how they are read."""

from __future__ import annotations

import copy
import dataclasses
import json
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from file_format import FileFormat


def _unlearning(folder: Path) -> None:
    from hf_mixture.models.mm_recommender.journal import JournalEntry, write_journal

    entry = JournalEntry(
        request="ab",
        retained="cd",
        kinds=["users"],
        counts={"users": 1},
        options={"num_steps": 0},
        num_steps=0,
        before={"loss": 1.0},
        after={},
    )
    write_journal(folder, [entry])


def _read_unlearning(folder: Path) -> Any:
    from hf_mixture.models.mm_recommender.journal import read_journal

    return [dataclasses.asdict(entry) for entry in read_journal(folder)]


def _processor(folder: Path) -> None:
    from tiny_experts import tokenizer_of

    from hf_mixture.models.mixture_of_thoughts.processing_mixture_of_thoughts import MixtureOfThoughtsProcessor

    MixtureOfThoughtsProcessor([tokenizer_of("gpt2"), tokenizer_of("llama")]).save_pretrained(folder)


def _read_processor(folder: Path) -> Any:
    from hf_mixture.models.mixture_of_thoughts.processing_mixture_of_thoughts import MixtureOfThoughtsProcessor

    processor = MixtureOfThoughtsProcessor.from_pretrained(folder)
    return len(processor.tokenizers), processor.peer_decode, processor.max_length


def _trajectories() -> Any:
    from hf_mixture.models.trajectory_moe.data import make_data
    from hf_mixture.models.trajectory_moe.layout import Layout

    values = np.random.default_rng(0).normal(size=(6, 3, 1)).cumsum(axis=1)
    return make_data(values, np.arange(3.0)), Layout(num_classes=1, curve="linear")


def _open_fit(folder: Path) -> Any:
    from hf_mixture.models.trajectory_moe.fit_journal import FitJournal

    return FitJournal.open(folder / "fit.json", *_trajectories(), {"num_starts": 1}, None)


def _fit_journal(folder: Path) -> None:
    from hf_mixture.models.trajectory_moe.polish import Optimum

    journal = _open_fit(folder)
    journal.keep_ecm(0, np.ones((1, 3)), np.array([-4.0]))
    optimum = Optimum(
        vector=np.ones(3),
        log_likelihood=-4.0,
        criterion=1e-9,
        max_gradient=1e-8,
        pinned=[],
        is_converged=True,
        num_evaluations=7,
    )
    journal.keep_polished(0, optimum)


def _read_fit_journal(folder: Path) -> Any:
    return _open_fit(folder).finished


_IDENTITY = [["age", "sex"], "linear", 3]


def _screening(folder: Path) -> None:
    from hf_mixture.models.trajectory_moe.screening import FORMAT

    trees = {"0": {"rises": [1.5, 0.0], "cuts": [2, 0]}}
    (folder / "screening.json").write_text(json.dumps({"format": FORMAT, "identity": _IDENTITY, "trees": trees}))


def _read_screening(folder: Path) -> Any:
    from hf_mixture.models.trajectory_moe.screening import _known_trees

    return _known_trees(folder / "screening.json", _IDENTITY)


def _bootstrap(folder: Path) -> None:
    from hf_mixture.models.trajectory_moe.bootstrap_test import FORMAT, VERSION

    content = {"format": FORMAT, "version": VERSION, "identity": _IDENTITY, "draws": {"0": 2.5, "1": None}}
    (folder / "bootstrap.json").write_text(json.dumps(content))


def _read_bootstrap(folder: Path) -> Any:
    from hf_mixture.models.trajectory_moe.bootstrap_test import _known_draws

    return _known_draws(folder / "bootstrap.json", _IDENTITY)


def _fit_report(folder: Path) -> None:
    from datasets import Dataset

    from hf_mixture import TrajectoryMoEConfig, TrajectoryMoEModel

    rng = np.random.default_rng(0)
    times = [0.0, 1.0, 2.0]
    values = rng.normal(size=(30, 1)) + rng.normal(1.0, 0.2, size=(30, 1)) * times + 0.1 * rng.normal(size=(30, 3))
    people = Dataset.from_dict({"values": values.tolist(), "times": [times] * 30})
    model = TrajectoryMoEModel(TrajectoryMoEConfig(num_classes=1, curve="linear"))
    model.fit(people, n_starts=1)
    model.save_pretrained(folder)


def _read_fit_report(folder: Path) -> Any:
    from hf_mixture.models.trajectory_moe.fit_report import read_fit_report

    return read_fit_report(folder / "fit_report.json")


def _thoughts(folder: Path) -> None:
    from tiny_experts import tiny_expert

    from hf_mixture.models.mixture_of_thoughts.modeling_mixture_of_thoughts import MixtureOfThoughtsForCausalLM

    with tempfile.TemporaryDirectory() as place:
        experts = [Path(place, family) for family in ("gpt2", "llama")]
        for expert in experts:
            tiny_expert(expert.name).save_pretrained(expert)
        model = MixtureOfThoughtsForCausalLM.from_experts(experts, num_levels=1, latent_size=8, num_heads=2)
        model.save_pretrained(folder, save_experts=True)


def _read_thoughts(folder: Path) -> Any:
    from hf_mixture.models.mixture_of_thoughts.modeling_mixture_of_thoughts import MixtureOfThoughtsForCausalLM

    model = MixtureOfThoughtsForCausalLM.from_pretrained(folder)
    return [float(value.double().sum()) for name, value in model.state_dict().items() if name.startswith("levels")]


def _curves(folder: Path) -> None:
    log = [{"step": step, "loss": 3.0 / step, "learning_rate": 1e-3} for step in range(1, 6)]
    (folder / "trainer_state.json").write_text(json.dumps({"global_step": 5, "log_history": log}))
    (folder / "trainer_log.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in log))


def _read_curves(folder: Path) -> Any:
    from hf_mixture import load_training_curves

    names = ("trainer_state.json", "trainer_log.jsonl")
    return [load_training_curves({"a": folder / name, "b": folder / name}).to_dict() for name in names]


def _mixer_state(folder: Path) -> None:
    _mixer_trainer().save_state_to(folder / "mixer_state.safetensors")


@cache
def _mixer_trainer() -> Any:
    from tiny_mixer import arguments, rotations, tiny_mixer

    from hf_mixture import MixerTrainer

    with tempfile.TemporaryDirectory() as place:
        trainer = MixerTrainer(tiny_mixer(), arguments(Path(place), max_steps=1), train_dataset=rotations())
        trainer.train()
    return trainer


def _read_mixer_state(folder: Path) -> Any:
    trainer = copy.copy(_mixer_trainer())
    trainer._load_state(folder / "mixer_state.safetensors")
    return trainer.gate_reports


FORMATS = (
    FileFormat(
        "unlearning journal",
        _unlearning,
        _read_unlearning,
        ("unlearning.json",),
        ("hf_mixture.models.mm_recommender.journal",),
    ),
    FileFormat(
        "processor of thoughts",
        _processor,
        _read_processor,
        ("mixture_of_thoughts_processor.json",),
        ("hf_mixture.models.mixture_of_thoughts.processing_mixture_of_thoughts",),
    ),
    FileFormat(
        "journal of a fit",
        _fit_journal,
        _read_fit_journal,
        ("fit.json",),
        ("hf_mixture.models.trajectory_moe.fit_journal",),
    ),
    FileFormat(
        "screening", _screening, _read_screening, ("screening.json",), ("hf_mixture.models.trajectory_moe.screening",)
    ),
    FileFormat(
        "bootstrap",
        _bootstrap,
        _read_bootstrap,
        ("bootstrap.json",),
        ("hf_mixture.models.trajectory_moe.bootstrap_test",),
    ),
    FileFormat(
        "training curves",
        _curves,
        _read_curves,
        ("trainer_state.json", "trainer_log.jsonl"),
        ("hf_mixture.models.trajectory_moe.training_curves",),
    ),
    FileFormat(
        "state of MixER",
        _mixer_state,
        _read_mixer_state,
        ("mixer_state.safetensors",),
        ("hf_mixture.models.mixer.trainer",),
    ),
    FileFormat(
        "report of a fit",
        _fit_report,
        _read_fit_report,
        ("fit_report.json",),
        ("hf_mixture.models.trajectory_moe.fit_report",),
    ),
    FileFormat(
        "mixture of thoughts",
        _thoughts,
        _read_thoughts,
        ("model.safetensors",),
        ("hf_mixture.models.mixture_of_thoughts.saving",),
    ),
)
