"""Every file format that the package reads: how a small sound artefact is written, and how it is read."""

from __future__ import annotations

import copy
import dataclasses
import importlib
import json
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from hf_mixture.hub.reading import naming
from hf_mixture.training.commands import packaged_recipes
from hf_mixture.training.resolve import find_recipe


@dataclass(frozen=True)
class FileFormat:
    """A format.

    Args:
        name: Name for the test.
        write: Writes a sound artefact into an empty folder.
        read: Reads it; a result that can be compared, or None.
        files: The files that are damaged.
        modules: Modules of the package that read it.
        checked: Whether a change of any byte must be noticed, because the file carries a checksum.
    """

    name: str
    write: Callable[[Path], Any]
    read: Callable[[Path], Any]
    files: tuple[str, ...]
    modules: tuple[str, ...]
    checked: bool = False


# Readers without a damaged artefact of their own in the tests of robustness, and why.
INDIRECT = {
    "hf_mixture.training.everything.links": "a copy of plain data of a recipe that has been read",
    "hf_mixture.training.everything.publish": "the configuration of the adapter that the same run has saved",
    "hf_mixture.training.mobilenet": "weights of an installed package, with weights_only",
    "hf_mixture.hub.reading": "the readers themselves",
    "hf_mixture._compat.checkpoints": "checkpoints of the Trainer of nested models, in tests/moe/mwq",
    "hf_mixture.data.curation.annotate": "rows that the same run has made",
    "hf_mixture.data.curation.assemble": "arrays that the same run has made",
    "hf_mixture.data.curation.finish": "arrays that the same run has made",
    "hf_mixture.data.curation.publish": "plain data that the same function has made",
    "hf_mixture.data.curation.runs": "arrays that the same run has made",
    "hf_mixture.data.curation.safety": "a list that ships with the package",
    "hf_mixture.data.curation.inclusion": "headers of a page: what is no JSON is read as text, in tests/data/curation",
    "hf_mixture.data.curation.opt_outs": "tdmrep.json of a site: what is no JSON declares nothing",
    "hf_mixture.data.images.mnist": "an archive whose checksum is known",
    "hf_mixture.data.installed": "a table of the cache, written by `datasets`",
    "hf_mixture.data.domains": "data sets of users, read by `datasets`",
    "hf_mixture.data.mixture": "text that the same object holds",
    "hf_mixture.hub.artefacts": "what `doctor` reads: every format, in test_doctor_of_damaged_files",
    "hf_mixture.hub.documents": "what `doctor` reads: every format, in test_doctor_of_damaged_files",
    "hf_mixture.cli.doctor": "what `doctor` reads: every format, in test_doctor_of_damaged_files",
    "hf_mixture.moe.parallel.sharded_checkpoint": "needs processes that share a model, in tests/moe/parallel",
    "hf_mixture.moe.routers.replace": "plain data that the same function has made",
    "hf_mixture.training.matsim.plots": "a log of the same run",
    "hf_mixture.training.mixer.report": "a log of the same run",
    "hf_mixture.training.mote.stock": "answers of a process that this one has started",
    "hf_mixture.training.outcome": "a log of the same run",
    "hf_mixture.training.prepare": "text that the same run has prepared",
    "hf_mixture.training.reload": "answers of a process that this one has started",
    "hf_mixture.training.report": "the configuration of an adapter of the same run",
    "hf_mixture.training.spread.outcome": "a log of the same run",
    "hf_mixture.training.spread.run": "measurements of a process of the same run",
    "hf_mixture.training.taskexpert.pictures": "a log of the same run",
    "hf_mixture.training.thoughts.parts": "documents and scores of the same run",
    "hf_mixture.training.upcycle.outcome": "the configuration of a model of the same run",
}


def _mixture(folder: Path) -> None:
    from hf_mixture import Mixture
    from hf_mixture.data.source import Source

    Mixture(
        {"code": 0.75, "prose": 0.25},
        unit="tokens",
        sources={"code": Source("code.jsonl"), "prose": Source("me/prose", split="train")},
        schedule=[(0, {"code": 0.75, "prose": 0.25}, "linear"), (100, {"code": 0.5, "prose": 0.5}, "constant")],
        schedule_unit="tokens",
        name="a",
        metadata={"provenance": {"method": "by hand"}},
    ).save_pretrained(folder)


def _read_mixture(folder: Path) -> Any:
    from hf_mixture import Mixture

    return Mixture.from_pretrained(folder).to_json()


def _partition(folder: Path) -> None:
    from hf_mixture import ProbabilisticPartition

    rng = np.random.default_rng(0)
    rows = np.concatenate([rng.normal(centre, 1.0, (40, 2)) for centre in (0, 8)])
    ProbabilisticPartition(min_size=10).fit(rows).save_pretrained(folder)


def _read_partition(folder: Path) -> Any:
    from hf_mixture import ProbabilisticPartition

    partition = ProbabilisticPartition.from_pretrained(folder)
    return partition.predict(np.zeros((1, 2))).tolist(), repr(partition)


def _edits(folder: Path) -> None:
    from hf_mixture import ExpertEdits
    from hf_mixture.moe.mote.edit import ExpertEdit

    gate = "model.layers.1.mlp.gate"
    ExpertEdits(
        [ExpertEdit(gate, 3, "off", layer=1), ExpertEdit(gate, 4, "scale", 0.5)],
        mode="zero_renorm",
        num_experts={gate: 8},
        top_k={gate: 2},
        fingerprint="sha256:" + "0" * 64,
        scores={"ranking": [{"module": gate, "expert": 3, "score": 2.5}]},
    ).save_pretrained(folder)


def _read_edits(folder: Path) -> Any:
    from hf_mixture import ExpertEdits

    return ExpertEdits.from_pretrained(folder).to_json()


def _maps() -> tuple[Any, list[str]]:
    from hf_mixture.moe.mote.resonance_maps import FtriMaps, ModelFacts
    from hf_mixture.moe.trace.trace import TracedRouter

    routers = tuple(TracedRouter(f"layers.{place}.gate", place, place, 4 - place, 2) for place in range(2))
    counts = np.arange(42).reshape(6, 7) % 5
    maps = FtriMaps(facts=ModelFacts(routers, "qwen3_moe"), counts=counts, tokens=np.full(6, 9))
    return maps, ["yes", "no", "yes", "no", "yes", "no"]


def _ftri(folder: Path) -> None:
    maps, labels = _maps()
    maps.summarise(labels, provenance={"dataset": "a"}).save(folder)


def _read_ftri(folder: Path) -> Any:
    from hf_mixture.moe.mote.resonance_file import read

    summary = read(folder)
    return summary.classes, summary.means.tolist()


def _prompts(folder: Path) -> None:
    from hf_mixture.moe.mote.maps_file import write_maps

    maps, labels = _maps()
    write_maps(folder, maps, labels, {"topic": ["a", "b"] * 3})


def _read_prompts(folder: Path) -> Any:
    from hf_mixture.moe.mote.maps_file import read_maps

    maps, labels, columns = read_maps(folder)
    return maps.counts.tolist(), labels, columns


def _batch_store(folder: Path) -> Any:
    from hf_mixture.moe.mote.scan import _BatchStore

    return _BatchStore(folder, _maps()[0].facts)


def _scan_batch(folder: Path) -> None:
    _batch_store(folder).write(0, {"seed": 0}, ["a", "b"], _maps()[0])


def _read_scan_batch(folder: Path) -> Any:
    found = _batch_store(folder).read(0, {"seed": 0})
    return None if found is None else (found[0], found[1].counts.tolist())


def _measured(folder: Path) -> None:
    from hf_mixture.moe.mote.evaluation import MeasuredFile

    MeasuredFile(folder / "measured.json", {"seed": 0})["unedited"] = {"all": {"num_prompts": 3}}


def _read_measured(folder: Path) -> Any:
    from hf_mixture.moe.mote.evaluation import MeasuredFile

    return dict(MeasuredFile(folder / "measured.json", {"seed": 0}))


def _edited_adapter(folder: Path) -> None:
    (folder / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "me/base"}))


def _read_edited_adapter(folder: Path) -> Any:
    from hf_mixture.moe.mote.auto import _base_of, _json

    return _base_of(str(folder), folder, None, _json(folder / "adapter_config.json"), None)


@cache
def _llama() -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=32,
            hidden_size=16,
            intermediate_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            num_key_value_heads=2,
        )
    )


def mos_model() -> Any:
    """A tiny model with a MoS adapter."""
    from peft import get_peft_model

    from hf_mixture import MosConfig

    config = MosConfig(task_type="CAUSAL_LM", r=2, num_shards=2, init_weights=False, target_modules=["q_proj"])
    return get_peft_model(copy.deepcopy(_llama()), config)


def _mos(folder: Path) -> None:
    mos_model().save_pretrained(folder)


def _read_mos(folder: Path) -> Any:
    from peft import PeftModel

    import hf_mixture  # noqa: F401 - registers

    model = PeftModel.from_pretrained(copy.deepcopy(_llama()), folder)
    return {name: value.tolist() for name, value in model.state_dict().items() if "mos" in name}


def _hotswap(folder: Path) -> Any:
    from hf_mixture.adapters.mos.hotswap import hotswap_adapter

    model = mos_model()
    hotswap_adapter(model, folder)
    return {name: value.tolist() for name, value in model.state_dict().items() if "mos" in name}


def _pack(folder: Path) -> None:
    from hf_mixture.data.pack import TokenPack

    TokenPack.write(folder, [[0, 5, 6], [0, 7, 8, 9], []], vocab_size=10)


def _read_pack(folder: Path) -> Any:
    from hf_mixture.data.pack import TokenPack

    pack = TokenPack(folder)
    rows = [pack[number]["input_ids"].tolist() for number in range(min(len(pack), 10))]
    return rows, [pack.blocks(2)[0]["input_ids"].tolist()] if len(pack.tokens) > 1 else []


def _pack_in_the_making(folder: Path) -> None:
    from hf_mixture.data.pack_writer import PackWriter

    with PackWriter(folder, "uint16", {"tokenizer": {"name": "a"}}) as writer:
        writer.append(np.array([1, 2, 3]), np.array([2, 1]))


def _read_pack_in_the_making(folder: Path) -> Any:
    from hf_mixture.data.pack_writer import PackWriter

    with PackWriter(folder, "uint16", {"tokenizer": {"name": "a"}}) as writer:
        return writer.last_document().tolist() if writer.num_documents else []


_RECIPE = "name: tiny\nseeds: [0, 1]\noutput_dir: run\n"


def _run(folder: Path) -> None:
    from hf_mixture.training.journal import open_journal

    open_journal(folder, _RECIPE, num_processes=1).finish("prepare", {"bits": 1.5})


def _read_run(folder: Path) -> Any:
    from hf_mixture.training.journal import check_folder, open_journal

    check_folder(folder, _RECIPE, resume=True, num_processes=1)
    return open_journal(folder, _RECIPE, num_processes=1).finished


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


RESOLVERS = {
    "train": ("resolve", "resolve_recipe"),
    "curate": ("curation.recipe", "resolve_curate"),
    "everything": ("everything.resolve", "resolve_everything"),
    "matsim": ("matsim.recipe", "resolve_matsim"),
    "mix search": ("search.resolve", "resolve_search"),
    "mixer": ("mixer.recipe", "resolve_mixer"),
    "mote run": ("mote.resolve", "resolve_mote"),
    "mwq run": ("mwq.resolve", "resolve_mwq"),
    "plan --recipe": ("folding.recipe", "resolve_folding"),
    "retrieve": ("retrieval.recipe", "resolve_retrieval"),
    "spread run": ("spread.resolve", "resolve_spread"),
    "supernets": ("supernets.recipe", "resolve_supernets"),
    "taskexpert": ("taskexpert.recipe", "resolve_taskexpert"),
    "thoughts": ("thoughts.resolve", "resolve_thoughts"),
    "trajectories": ("trajectories.recipe", "resolve_trajectories"),
    "unlearn": ("unlearn.recipe", "resolve_unlearn"),
    "upcycle": ("upcycle.resolve", "resolve_upcycle"),
}


def _recipe(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / "recipe.yaml").write_text(find_recipe(name), encoding="utf-8") and None


def _read_recipe(command: str) -> Callable[[Path], Any]:
    def read(folder: Path) -> Any:
        module, function = RESOLVERS[command]
        text = find_recipe(str(folder / "recipe.yaml"))
        with naming(folder / "recipe.yaml"):
            return getattr(importlib.import_module(f"hf_mixture.training.{module}"), function)(text).to_dict()

    return read


def recipes() -> tuple[FileFormat, ...]:
    """One recipe of each command."""
    of_command = {command: name for name, command in packaged_recipes().items()}
    return tuple(
        FileFormat(
            f"recipe of {command}",
            _recipe(name),
            _read_recipe(command),
            ("recipe.yaml",),
            ("hf_mixture.training.resolve", "hf_mixture.training.commands"),
        )
        for command, name in sorted(of_command.items())
    )


def _curves(folder: Path) -> None:
    log = [{"step": step, "loss": 3.0 / step, "learning_rate": 1e-3} for step in range(1, 6)]
    (folder / "trainer_state.json").write_text(json.dumps({"global_step": 5, "log_history": log}))
    (folder / "trainer_log.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in log))


def _read_curves(folder: Path) -> Any:
    from hf_mixture import load_training_curves

    names = ("trainer_state.json", "trainer_log.jsonl")
    return [load_training_curves({"a": folder / name, "b": folder / name}).to_dict() for name in names]


def _search() -> Any:
    from hf_mixture.data.search import GridSearch, Objective

    return GridSearch(("a", "b"), Objective("loss", "minimize"), steps=2)


def _search_state(folder: Path) -> None:
    from hf_mixture.data.search import run_search

    run_search(_search(), lambda trial: {"loss": trial.weights[0] ** 2}, folder=folder)


def _read_search_state(folder: Path) -> Any:
    from hf_mixture.data.search.loop import STATE_FILE, _restore

    search = _search()
    _restore(search, folder / STATE_FILE)
    return search.state_dict()


def _index(folder: Path) -> None:
    from hf_mixture.data.curation.decontaminate import DecontaminationIndex

    text = " ".join(f"word{number}" for number in range(20))
    DecontaminationIndex.build({"exam": ([text], [])}).save(folder / "decontamination.safetensors")


def _read_index(folder: Path) -> Any:
    from hf_mixture.data.curation.decontaminate import DecontaminationIndex

    index = DecontaminationIndex.load(folder / "decontamination.safetensors")
    return index.names, index.hashes.tolist()


def _curated(folder: Path) -> None:
    from hf_mixture.data.curation.report import FORMAT, VERSION

    (folder / "dataset").mkdir()
    content = {"format": FORMAT, "version": VERSION, "configurations": {"tier_1": {}}, "mixtures": {}}
    (folder / "dataset" / "report.json").write_text(json.dumps(content))


def _read_curated(folder: Path) -> Any:
    from hf_mixture import CuratedDataset

    return CuratedDataset(folder).configurations


def _curation_recipe(folder: Path) -> None:
    text = """format: hf_mixture_curation
version: 1
name: tiny
sources:
  prose:
    path: prose.jsonl
    columns: {text: text}
"""
    (folder / "curate.yaml").write_text(text)
    _read_curation_recipe(folder)


def _read_curation_recipe(folder: Path) -> Any:
    from hf_mixture.data.curation.recipe import CurationRecipe

    return CurationRecipe.from_file(folder / "curate.yaml").to_dict()


def _rules(folder: Path) -> None:
    from hf_mixture.data.curation.rules import files

    for name in ("tier_policy", "opt_outs"):
        shutil.copy(Path(files.__file__).with_name(f"{name}.yaml"), folder)


def _read_rules(folder: Path) -> Any:
    from hf_mixture.data.curation.rules.files import read_rules

    return [read_rules(path.stem, path) for path in sorted(folder.glob("*.yaml"))]


def _proportions(folder: Path) -> None:
    text = """format: mixturevitae-proportions
version: 1
unit: billion_tokens
groups:
  code: {total: 3.0, parts: {stack: 2.0, forum: 1.0}}
grand_total: 3.0
"""
    (folder / "proportions.yaml").write_text(text)


def _read_proportions(folder: Path) -> Any:
    from hf_mixture.data.curation.published import published_mixture

    return published_mixture(folder / "proportions.yaml").to_json()


def _open_curation(folder: Path) -> Any:
    from hf_mixture.data.curation.journal import Journal

    return Journal(folder, {"name": "tiny", "seed": 0}, resume=True)


def _curation_journal(folder: Path) -> None:
    journal = _open_curation(folder)
    journal.begin()
    journal.finish("read", {"rows": 3})


def _law(folder: Path) -> None:
    from hf_mixture.data.online.history import FORMAT, VERSION, write_history

    rounds = [{"step": 4, "lag": 1.5, "weights": {"a": 1.0}, "losses": {"a": 3.0}}]
    write_history(folder / "law.json", {"format": FORMAT, "version": VERSION, "domains": ["a"], "rounds": rounds})


def _read_law(folder: Path) -> Any:
    from hf_mixture.data.online import read_history

    return read_history(folder / "law.json")


_IMPORTS = {
    "weights.csv": ("csv", "name,weight\na,0.5\nb,0.5\n"),
    "weights.json": ("json", '[{"name": "a", "weight": 0.5}, {"name": "b", "weight": 0.5}]'),
    "regmix.yaml": ("regmix", "train:\n  train_a: 0.5\n  train_b: 0.5\n"),
    "olmix.csv": ("olmix", "run,a,b\nr1,0.5,0.5\n"),
    "trl.yaml": ("trl", "datasets:\n- {path: me/a, fraction: 0.5}\n- {path: me/b, fraction: 0.5}\n"),
}


def _imports(folder: Path) -> None:
    for name, (_, text) in _IMPORTS.items():
        (folder / name).write_text(text)


def _read_imports(folder: Path) -> Any:
    from hf_mixture import import_mixture

    return [
        import_mixture(folder / name, kind, unit="tokens").to_json()
        for name, (kind, _) in _IMPORTS.items()
        if kind != "trl"
    ] + [import_mixture(folder / "trl.yaml", "trl").to_json()]


def _tables(folder: Path) -> None:
    from hf_mixture.data.proxy.results import save_table
    from hf_mixture.data.search import RunTable

    table = RunTable(["r0", "r1"], ["a", "b"], np.array([[0.5, 0.5], [1.0, 0.0]]), {"loss": np.array([2.0, 1.5])})
    for name in ("runs.csv", "runs.parquet"):
        save_table(table, folder / name)


def _read_tables(folder: Path) -> Any:
    from hf_mixture.data.proxy.results import load_table

    tables = [load_table(folder / name) for name in ("runs.csv", "runs.parquet")]
    return [
        (
            table.run_ids,
            table.raw_weights.tolist(),
            [(name, values.tolist()) for name, values in table.metrics.items()],
        )
        for table in tables
    ]


def _open_runs(folder: Path) -> Any:
    from hf_mixture.data.proxy.journal import RunJournal

    return RunJournal(folder, {"model": {"hidden_size": 8}, "num_steps": 4})


def _proxy_runs(folder: Path) -> None:
    _open_runs(folder).append([{"trial_id": "t0", "key": "k", "metrics": {"loss": 2.0}}])


def _read_proxy_runs(folder: Path) -> Any:
    return _open_runs(folder).read()


class _Stack:
    """The part of a stacked training that is written and read."""

    step = 3

    def __init__(self) -> None:
        self.values = {"model.a": torch.ones(2, 2), "exp_avg.a": torch.zeros(2, 2)}

    def tensors(self) -> dict[str, torch.Tensor]:
        return self.values

    def load(self, tensors: dict[str, torch.Tensor], step: int) -> None:
        for name, value in self.values.items():
            value.copy_(tensors[name])
        self.step = step


def _swarm(folder: Path) -> None:
    from hf_mixture.data.proxy.swarm import _save

    _save(_Stack(), folder / "stack.safetensors")  # type: ignore[arg-type]


def _read_swarm(folder: Path) -> Any:
    from hf_mixture.data.proxy.swarm import _restore

    stack = _Stack()
    _restore(stack, folder / "stack.safetensors")  # type: ignore[arg-type]
    return stack.step, {name: value.tolist() for name, value in stack.values.items()}


def _trace(folder: Path) -> None:
    from hf_mixture.moe.trace.files import write_part

    routers = [{"path": "layers.0.gate", "layer": 0, "ordinal": 0, "num_experts": 3, "top_k": 1}]
    header = {"routers": routers, "sample_every": 1, "num_ranks": 1, "per_rank": False, "model_type": "mixtral"}
    row = {"rank": None, "ordinal": 0, "layer": 0, "path": "layers.0.gate", "tokens": 6, "unrouted": 0}
    write_part(folder, header, [{**row, "step": step, "counts": [1, 2, 3]} for step in (1, 2)])


TRACE_FILE = "part-000000000001.parquet"


def _read_trace(folder: Path) -> Any:
    from hf_mixture.moe.trace import load_trace

    trace = load_trace(folder)
    return trace.steps.tolist(), [counts.tolist() for counts in trace.counts]


def _residuals(folder: Path) -> None:
    from hf_mixture.moe.routers.transforms.residual import ResidualExperts, save_residuals

    part = ResidualExperts(torch.ones(4, 3), torch.ones(2, 4, 1), torch.ones(2, 1, 3))
    save_residuals({"layers.0.experts.up": part}, folder / "residuals.safetensors")


def _read_residuals(folder: Path) -> Any:
    from hf_mixture.moe.routers.transforms.residual import load_residuals

    found = load_residuals(folder / "residuals.safetensors")
    return {name: part.rebuild().tolist() for name, part in found.items()}


MWQ_FILES = ("mwq-2.safetensors", "mwq-3.safetensors")


def _mwq(folder: Path) -> None:
    from tiny_planes import nested_model

    nested_model(widths=(2, 3)).save_pretrained(folder)


def _read_mwq(folder: Path) -> Any:
    from hf_mixture.moe.mwq.files import check_checksums, read_header

    files = sorted(folder.glob("mwq-[0-9].safetensors"))
    check_checksums(files)
    return [(name, place.shape, place.checksums) for file in files for name, place in read_header(file).items()]


def _parts(folder: Path) -> None:
    from hf_mixture.moe.mwq.config import MwqConfig
    from hf_mixture.moe.mwq.parts import PartsFolder
    from hf_mixture.moe.mwq.quantise import quantise_matrix

    config = MwqConfig(widths=(2, 3), group_size=8)
    weight = torch.arange(64.0).reshape(1, 8, 8)
    PartsFolder(folder, config).write("w", weight, quantise_matrix("w", weight, config))
    (written,) = folder.iterdir()
    written.rename(folder / "part.safetensors")


def _read_parts(folder: Path) -> Any:
    from hf_mixture.moe.mwq.config import MwqConfig
    from hf_mixture.moe.mwq.parts import PartsFolder

    parts = PartsFolder(folder, MwqConfig(widths=(2, 3), group_size=8))
    weight = torch.arange(64.0).reshape(1, 8, 8)
    shutil.copy(folder / "part.safetensors", parts._path("w", weight))
    return None if parts.read("w", weight) is None else "planes"


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


def _vectors(folder: Path) -> None:
    from hf_mixture.training.retrieval.run import save_vectors

    save_vectors(folder / "vectors.npz", np.ones((2, 3)), np.zeros((4, 3)))


def _read_vectors(folder: Path) -> Any:
    from hf_mixture.training.retrieval.run import load_vectors

    return [array.tolist() for array in load_vectors(folder / "vectors.npz")]


def _graphs(folder: Path) -> None:
    np.savez(folder / "graph.npz", indptr=np.array([0, 1, 2]), indices=np.array([1, 0]))
    (folder / "graph.txt").write_text("# a comment\n0 1\n1 2\n")


def _read_graphs(folder: Path) -> Any:
    from hf_mixture.training.retrieval.data import load_graph

    return [load_graph(str(folder / name)).toarray().tolist() for name in _GRAPHS]


_GRAPHS = ("graph.npz", "graph.txt")


def _interactions(folder: Path) -> None:
    parts = {
        f"{part}_{column}": np.array([0, 1]) for part in ("train", "valid", "test") for column in ("user", "item")
    }
    np.savez(folder / "data.npz", shape=np.array([2, 2]), image_features=np.ones((2, 3)), **parts)


def _read_interactions(folder: Path) -> Any:
    from hf_mixture.training.unlearn.data import load_npz

    return len(load_npz(folder / "data.npz").train)


def _people(folder: Path) -> None:
    (folder / "people.csv").write_text("Y1,Y2,T1,T2,sex\n1,2,0,1,0\n2,NA,0,1,1\n")


def _read_people(folder: Path) -> Any:
    from hf_mixture.training.trajectories.people import read_people
    from hf_mixture.training.trajectories.recipe import PeopleSpec

    return read_people(PeopleSpec(file=str(folder / "people.csv"), values=["Y1", "Y2"], times=["T1", "T2"])).to_dict()


def _checkpoint(folder: Path) -> None:
    (folder / "checkpoint-3").mkdir()
    for name in ("optimizer.pt", "scheduler.pt", "training_args.bin", "model.safetensors", "rng_state.pth"):
        (folder / "checkpoint-3" / name).touch()
    (folder / "checkpoint-3" / "trainer_state.json").write_text('{"global_step": 3, "loss": NaN}')


def _read_checkpoint(folder: Path) -> Any:
    from hf_mixture.training.stage import last_checkpoint, remove_torn_checkpoints

    remove_torn_checkpoints(folder, 1)
    return last_checkpoint(folder) is not None


def _router_spec(folder: Path) -> None:
    spec = {"moe_router": {"format": 1, "name": "noisy_topk", "options": {"bias": False}}}
    (folder / "config.json").write_text(json.dumps(spec))


def _read_router_spec(folder: Path) -> Any:
    from hf_mixture.hub.reading import naming, read_object
    from hf_mixture.moe.routers.persist import read_spec
    from hf_mixture.moe.routers.registry import router_info

    config = read_object(folder / "config.json")
    with naming(folder / "config.json"):
        name, options = read_spec(SimpleNamespace(**{"moe_router": None, **config})) or ("topk", {})
        return router_info(name).resolve(options)


FORMATS = (
    FileFormat("mixture", _mixture, _read_mixture, ("mixture.json",), ("hf_mixture.data.mixture_file",)),
    FileFormat(
        "partition",
        _partition,
        _read_partition,
        ("partition.json", "partition.safetensors"),
        ("hf_mixture.data.clustering.partition_file",),
    ),
    FileFormat(
        "expert edits",
        _edits,
        _read_edits,
        ("expert_edits.json",),
        ("hf_mixture.moe.mote.edits_file", "hf_mixture.moe.mote.edits"),
    ),
    FileFormat("maps of classes", _ftri, _read_ftri, ("ftri.safetensors",), ("hf_mixture.moe.mote.resonance_file",)),
    FileFormat(
        "maps of prompts", _prompts, _read_prompts, ("prompts.safetensors",), ("hf_mixture.moe.mote.maps_file",)
    ),
    FileFormat(
        "batch of a scan",
        _scan_batch,
        _read_scan_batch,
        ("batch-00000000.safetensors",),
        ("hf_mixture.moe.mote.scan",),
    ),
    FileFormat(
        "evaluation of edits", _measured, _read_measured, ("measured.json",), ("hf_mixture.moe.mote.evaluation",)
    ),
    FileFormat(
        "adapter with edits",
        _edited_adapter,
        _read_edited_adapter,
        ("adapter_config.json",),
        ("hf_mixture.moe.mote.auto",),
    ),
    FileFormat(
        "MoS adapter",
        _mos,
        _read_mos,
        ("adapter_config.json", "adapter_model.safetensors"),
        ("hf_mixture.adapters.mos.checkpoint",),
    ),
    FileFormat(
        "MoS adapter in the place of another",
        _mos,
        _hotswap,
        ("adapter_config.json", "adapter_model.safetensors"),
        ("hf_mixture.adapters.mos.hotswap",),
    ),
    FileFormat(
        "token pack", _pack, _read_pack, ("pack.json", "tokens.bin", "offsets.bin"), ("hf_mixture.data.pack_files",)
    ),
    FileFormat(
        "pack in the making",
        _pack_in_the_making,
        _read_pack_in_the_making,
        ("progress.json", "offsets.bin"),
        ("hf_mixture.data.pack_writer",),
    ),
    FileFormat(
        "run",
        _run,
        _read_run,
        ("journal.json", "recipe.yaml"),
        ("hf_mixture.training.journal", "hf_mixture.training.strict"),
    ),
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
        "search",
        _search_state,
        _read_search_state,
        ("search.json",),
        ("hf_mixture.data.search.loop", "hf_mixture.data.search.session"),
    ),
    FileFormat(
        "decontamination index",
        _index,
        _read_index,
        ("decontamination.safetensors",),
        ("hf_mixture.data.curation.decontaminate",),
    ),
    FileFormat(
        "curated data set",
        _curated,
        _read_curated,
        ("dataset/report.json",),
        ("hf_mixture.data.curation.curated", "hf_mixture.data.curation.report"),
    ),
    FileFormat(
        "recipe of a curation",
        _curation_recipe,
        _read_curation_recipe,
        ("curate.yaml",),
        ("hf_mixture.data.curation.recipe",),
    ),
    FileFormat(
        "rules of a curation",
        _rules,
        _read_rules,
        ("tier_policy.yaml", "opt_outs.yaml"),
        ("hf_mixture.data.curation.rules.files",),
    ),
    FileFormat(
        "published proportions",
        _proportions,
        _read_proportions,
        ("proportions.yaml",),
        ("hf_mixture.data.curation.published",),
    ),
    FileFormat(
        "journal of a curation",
        _curation_journal,
        lambda folder: _open_curation(folder).done,
        ("journal.jsonl",),
        ("hf_mixture.data.curation.journal",),
    ),
    FileFormat("mixing law", _law, _read_law, ("law.json",), ("hf_mixture.data.online.history",)),
    FileFormat("weights of others", _imports, _read_imports, tuple(_IMPORTS), ("hf_mixture.data.importers",)),
    FileFormat("run table", _tables, _read_tables, ("runs.csv", "runs.parquet"), ("hf_mixture.data.proxy.results",)),
    FileFormat(
        "proxy runs",
        _proxy_runs,
        _read_proxy_runs,
        ("proxies.json", "runs-00000.jsonl"),
        ("hf_mixture.data.proxy.journal",),
    ),
    FileFormat("swarm", _swarm, _read_swarm, ("stack.safetensors",), ("hf_mixture.data.proxy.swarm",)),
    FileFormat(
        "router trace",
        _trace,
        _read_trace,
        (TRACE_FILE,),
        ("hf_mixture.moe.trace.files", "hf_mixture.moe.trace.trace"),
    ),
    FileFormat(
        "residual experts",
        _residuals,
        _read_residuals,
        ("residuals.safetensors",),
        ("hf_mixture.moe.routers.transforms.residual",),
    ),
    FileFormat("MWQ planes", _mwq, _read_mwq, MWQ_FILES, ("hf_mixture.moe.mwq.files",)),
    FileFormat("quantised matrix", _parts, _read_parts, ("part.safetensors",), ("hf_mixture.moe.mwq.parts",)),
    FileFormat(
        "state of MixER",
        _mixer_state,
        _read_mixer_state,
        ("mixer_state.safetensors",),
        ("hf_mixture.models.mixer.trainer",),
    ),
    FileFormat(
        "embeddings of a run", _vectors, _read_vectors, ("vectors.npz",), ("hf_mixture.training.retrieval.run",)
    ),
    FileFormat("citations", _graphs, _read_graphs, _GRAPHS, ("hf_mixture.training.retrieval.data",)),
    FileFormat(
        "interactions", _interactions, _read_interactions, ("data.npz",), ("hf_mixture.training.unlearn.data",)
    ),
    FileFormat("people", _people, _read_people, ("people.csv",), ("hf_mixture.training.trajectories.people",)),
    FileFormat(
        "checkpoint of a run",
        _checkpoint,
        _read_checkpoint,
        ("checkpoint-3/trainer_state.json",),
        ("hf_mixture.training.stage",),
    ),
    FileFormat(
        "router of a configuration",
        _router_spec,
        _read_router_spec,
        ("config.json",),
        ("hf_mixture.moe.routers.persist",),
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
    *recipes(),
)
