"""File formats of mixtures, packs, curations, clusters and searches: small sound artefacts, and how they are read."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from file_format import FileFormat


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
)
