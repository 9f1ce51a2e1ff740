"""File formats of runs and their recipes: small sound artefacts, and how they are read."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from file_format import FileFormat

from hf_mixture.hub.damage import naming
from hf_mixture.training.commands import packaged_recipes
from hf_mixture.training.resolve import find_recipe


_RECIPE = "name: tiny\nseeds: [0, 1]\noutput_dir: run\n"


def _run(folder: Path) -> None:
    from hf_mixture.training.journal import open_journal

    open_journal(folder, _RECIPE, num_processes=1).finish("prepare", {"bits": 1.5})


def _read_run(folder: Path) -> Any:
    from hf_mixture.training.journal import check_folder, open_journal

    check_folder(folder, _RECIPE, resume=True, num_processes=1)
    return open_journal(folder, _RECIPE, num_processes=1).finished


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


FORMATS = (
    FileFormat(
        "run",
        _run,
        _read_run,
        ("journal.json", "recipe.yaml"),
        ("hf_mixture.training.journal", "hf_mixture.training.strict"),
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
    *recipes(),
)
