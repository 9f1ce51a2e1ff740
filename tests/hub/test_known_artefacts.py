"""`doctor` knows each artefact that the package makes, in a folder and in repositories of models and of data sets."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from file_formats import FORMATS
from hub_double import running_hub
from transformers import CONFIG_MAPPING

import hf_mixture  # noqa: F401 - registers
from hf_mixture.cli.doctor import CHECKS
from hf_mixture.hub.artefacts import inspect_artefacts
from hf_mixture.hub.formats import FORMATS as KNOWN
from hf_mixture.hub.formats import MODEL_TYPES


# Name in the registry of formats to the kind, and to the kind of repository that it is pushed to.
KINDS = {
    "MoS adapter": ("MOS adapter", "model"),
    "MWQ planes": ("MWQ model", "model"),
    "bootstrap": ("journal of a bootstrap test", None),
    "curated data set": ("report of a curation", "dataset"),
    "decontamination index": ("decontamination index", None),
    "expert edits": ("expert edits (MoTE)", "model"),
    "journal of a curation": ("journal of a curation", None),
    "journal of a fit": ("journal of a fit", None),
    "maps of classes": ("maps of classes (MoTE)", "model"),
    "maps of prompts": ("maps of prompts (MoTE)", "model"),
    "mixing law": ("history of a mixing law", None),
    "mixture": ("mixture", "dataset"),
    "partition": ("partition (PPP)", "model"),
    "processor of thoughts": ("processor of thoughts", "model"),
    "proxy runs": ("proxy runs", None),
    "residual experts": ("residual experts", None),
    "router trace": ("router trace", "dataset"),
    "run": ("training run", None),
    "run table": ("run table", None),
    "screening": ("journal of a screening", None),
    "search": ("search of a mixture", None),
    "swarm": ("checkpoint of a swarm", None),
    "token pack": ("token pack", None),
    "unlearning journal": ("journal of unlearning (MMRecUn)", None),
}
WRITERS = {form.name: form.write for form in FORMATS}


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folders = {name: tmp_path_factory.mktemp("known") for name in KINDS}
    for name, folder in folders.items():
        WRITERS[name](folder)
    return folders


@pytest.mark.parametrize("name", sorted(KINDS))
def test_a_folder(name: str, written: dict[str, Path]) -> None:
    found = {artefact.kind: artefact for artefact in inspect_artefacts(written[name], CHECKS)}
    artefact = found[KINDS[name][0]]
    assert artefact.problems == []
    assert artefact.facts


@pytest.mark.slow
def test_repositories(written: dict[str, Path], tmp_path: Path) -> None:
    pushed = {name: kind for name, (_, kind) in KINDS.items() if kind is not None}
    code = (
        "import json, sys\n"
        "from hf_mixture.cli.doctor import CHECKS\n"
        "from hf_mixture.hub.artefacts import inspect_artefacts\n"
        "found = {name: inspect_artefacts(name, CHECKS) for name in sys.argv[1:]}\n"
        "print(json.dumps({name: [[a.kind, [p.what for p in a.problems], a.needs] for a in some]\n"
        "                  for name, some in found.items()}))\n"
    )
    with running_hub() as hub:
        repositories = {name: f"tester/{name.replace(' ', '-')}" for name in pushed}
        for name, repository in repositories.items():
            hub.push(pushed[name], repository, written[name])
        done = subprocess.run(
            [sys.executable, "-c", code, *repositories.values()],
            capture_output=True,
            text=True,
            check=False,
            env=hub.environment(tmp_path),
        )
        assert done.returncode == 0, done.stderr
        requests = list(hub.requests)
    found = json.loads(done.stdout.splitlines()[-1])
    for name, repository in repositories.items():
        kinds = {kind: (problems, needs) for kind, problems, needs in found[repository]}
        problems, needs = kinds[KINDS[name][0]]
        assert problems == [], name
        assert not any(str(tmp_path) in need for need in needs)
    # The weights of a model stay where they are.
    assert not any("mwq-2.safetensors" in request and "resolve" in request for request in requests)


def test_every_model_type_of_the_package_is_known(tmp_path: Path) -> None:
    ours = {name: CONFIG_MAPPING[name] for name in CONFIG_MAPPING.keys() if name in MODEL_TYPES}  # noqa: SIM118
    registered = {
        name for name, cls in CONFIG_MAPPING._extra_content.items() if cls.__module__.startswith("hf_mixture.")
    }
    assert registered == set(MODEL_TYPES) == set(ours)
    for name in MODEL_TYPES:
        folder = tmp_path / name
        folder.mkdir()
        (folder / "config.json").write_text(json.dumps({"model_type": name}))
        (artefact,) = inspect_artefacts(folder)
        assert artefact.facts["method"] == MODEL_TYPES[name][0]
        assert artefact.needs[0].startswith("import hf_mixture before loading")


def test_kinds_that_are_checked_exist() -> None:
    assert set(CHECKS) <= {form.kind for form in KNOWN.values()} | {"MOS adapter", "MWQ model"}
    assert {kind for kind, _ in KINDS.values()} <= {form.kind for form in KNOWN.values()} | {
        "MOS adapter",
        "MWQ model",
    }
