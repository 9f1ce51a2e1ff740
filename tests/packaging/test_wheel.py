"""The wheel, installed outside the checkout: what an editable install hides."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version


ROOT = Path(__file__).parents[2]


def run(*command: str | Path, cwd: Path) -> str:
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(
        [str(part) for part in command], cwd=cwd, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    # A build leaves folders in its source tree, so it gets a copy.
    folder = tmp_path_factory.mktemp("source") / "checkout"
    shutil.copytree(ROOT, folder, ignore=shutil.ignore_patterns(".*", "__pycache__", "*.egg-info", "build", "runs"))
    return folder


def build_wheel(source: Path, folder: Path) -> Path:
    run(sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "-w", folder, ".", cwd=source)
    [path] = folder.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def wheel(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_wheel(source, tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def installed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A virtual environment that holds the wheel, and sees the dependencies of the running one.

    `.ci/compat.py` makes one with dependencies of its own, and names it in HF_MIXTURE_INSTALLED.
    """
    if "HF_MIXTURE_INSTALLED" in os.environ:
        return Path(os.environ["HF_MIXTURE_INSTALLED"])
    wheel = request.getfixturevalue("wheel")
    folder = tmp_path_factory.mktemp("installed")
    venv.create(folder, with_pip=False)
    python = folder / "bin" / "python"
    run(sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", "--no-index", wheel, cwd=folder)
    # Path files inside a folder that a path file adds are not read, so the editable install stays out of sight.
    [site] = folder.glob("lib/python*/site-packages")
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib"), encoding="utf-8")
    return folder


@pytest.mark.slow
def test_wheel_holds_the_package_its_data_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
    tracked = {
        str(path.relative_to(ROOT))
        for folder in ("hf_mixture", "recipes")
        for path in (ROOT / folder).rglob("*")
        if path.is_file() and path.suffix in {".py", ".csv", ".json", ".jinja", ".yaml", ".txt", ".typed", ".md"}
    }
    expected = {f"hf_mixture/{name}" if name.startswith("recipes/") else name for name in tracked}
    assert names == expected | {"hf_mixture_cli.py", "hf_mixture/py.typed"}
    assert any(name.startswith("hf_mixture/recipes/") and name.endswith(".yaml") for name in names)


@pytest.mark.slow
def test_sdist_builds_the_same_wheel(source: Path, wheel: Path, tmp_path: Path) -> None:
    code = f"from setuptools import build_meta; build_meta.build_sdist({str(tmp_path)!r})"
    run(sys.executable, "-c", code, cwd=source)
    [sdist] = tmp_path.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        archive.extractall(tmp_path, filter="data")
    again = build_wheel(tmp_path / sdist.name.removesuffix(".tar.gz"), tmp_path / "wheel")
    contents = []
    for path in (wheel, again):
        with zipfile.ZipFile(path) as archive:
            contents.append({name: archive.read(name) for name in archive.namelist() if ".dist-info/" not in name})
    assert contents[0] == contents[1]


@pytest.mark.slow
def test_installed_package_works_without_the_checkout(installed: Path, tmp_path: Path) -> None:
    code = (
        "import hf_mixture\n"
        "from hf_mixture.hub.cards import write_model_card\n"
        "config = {'peft_type': 'MOS'}\n"
        "write_model_card('.', title='t', summary='s', method='m', base_model='b', adapter_config=config)\n"
        "from pathlib import Path\n"
        "import json, jsonschema\n"
        "schemas = [*Path(hf_mixture.__file__).parent.rglob('*schema.json')]\n"
        "for path in schemas:\n"
        "    jsonschema.Draft202012Validator.check_schema(json.loads(path.read_text()))\n"
        "print(len(schemas))\n"
        "print(hf_mixture.__file__)\n"
    )
    *_, num_schemas, where = run(installed / "bin/python", "-c", code, cwd=tmp_path).splitlines()
    assert Path(where).is_relative_to(installed)
    assert int(num_schemas) > 0
    assert "import hf_mixture" in (tmp_path / "README.md").read_text(encoding="utf-8")

    assert "doctor" in run(installed / "bin/hf-mixture", "--help", cwd=tmp_path)
    listed = json.loads(run(installed / "bin/hf-mixture", "list", "--json", cwd=tmp_path))
    assert listed["recipes"] == sorted(path.stem for path in (ROOT / "recipes").glob("*.yaml"))
    names = [method["name"] for method in listed["methods"]]
    code = f"from hf_mixture.cli.main import main; print([main(['describe', name]) for name in {names}])"
    assert run(installed / "bin/python", "-c", code, cwd=tmp_path).splitlines()[-1] == str([0] * len(names))
    assert "registration of the adapter types: ok" in run(installed / "bin/hf-mixture", "doctor", cwd=tmp_path)
    run(installed / "bin/hf-mixture", "train", "quickstart", "--smoke", cwd=tmp_path)
    said = run(installed / "bin/hf-mixture", "doctor", "runs/quickstart-smoke", cwd=tmp_path)
    assert "MOS adapter" in said
    assert "PROBLEM" not in said


def test_lower_bounds_are_the_tested_versions() -> None:
    tested = {}
    for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines():
        if line and not line.startswith("#"):
            name, version = line.split("==")
            tested[name] = Version(version)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    # Type stubs follow the package that they describe.
    requirements = [
        Requirement(text)
        for text in [*project["dependencies"], *(text for extra in extras.values() for text in extra)]
        if not text.startswith("types-")
    ]
    for requirement in requirements:
        [floor] = [spec.version for spec in requirement.specifier if spec.operator in {">=", "~="}]
        release = Version(floor).release
        assert requirement.name in tested, f"constraints.txt has no version of {requirement.name}"
        assert tested[requirement.name].release[: len(release)] == release, requirement
