#!/usr/bin/env python3
"""Installs the wheel in clean environments, outside the checkout, and tests it there.

One environment for each Python and each choice of versions of the direct dependencies: those of constraints.txt
(`tested`), the lower bounds of pyproject.toml (`lowest`), and whatever pip finds within the bounds (`newest`). An
environment takes some gigabytes and is removed after its tests. Run by `make compat`; needs `packaging`.

    python .ci/compat.py --python python3.11 --python python3.13 --versions lowest newest
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name


ROOT = Path(__file__).resolve().parents[1]
VERSIONS = ("tested", "lowest", "newest")
PYTHONS = ("python3.11", "python3.12", "python3.13")
# What these tests need of the extra `test`.
TOOLS = {"bitsandbytes", "hypothesis", "pytest", "scikit-learn", "scipy"}
TESTS = ("tests/test_import.py", "tests/compat", "tests/adapters")
INSTALLED = "tests/packaging/test_wheel.py::test_installed_package_works_without_the_checkout"
ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_VERBOSITY": "error",
}


def requirements() -> tuple[list[Requirement], list[Requirement]]:
    """The direct dependencies, and the tools that the tests need."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    tools = map(Requirement, project["optional-dependencies"]["test"])
    return list(map(Requirement, project["dependencies"])), [tool for tool in tools if tool.name in TOOLS]


def pins(versions: str, wanted: list[Requirement]) -> list[str]:
    """Lines of a file of constraints for pip."""
    if versions == "tested":
        return (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    if versions == "lowest":
        floors = {r.name: next(s.version for s in r.specifier if s.operator == ">=") for r in wanted}
        return [f"{name}=={floor}" for name, floor in floors.items()]
    return []


def run(*command: str | Path, cwd: Path, **environment: str) -> None:
    """Run a command whose output is shown; an error ends the check."""
    print("$", *command, flush=True)
    inherited = {key: value for key, value in os.environ.items() if key not in {"PYTHONPATH", "VIRTUAL_ENV"}}
    subprocess.run([str(part) for part in command], cwd=cwd, env=inherited | environment, check=True)


def build(folder: Path) -> Path:
    """Build the sdist from a copy of the checkout, and the wheel from the sdist."""
    source = folder / "checkout"
    shutil.copytree(ROOT, source, ignore=shutil.ignore_patterns(".*", "__pycache__", "*.egg-info", "build", "runs"))
    code = f"from setuptools import build_meta; build_meta.build_sdist({str(folder)!r})"
    run(sys.executable, "-c", code, cwd=source)
    [sdist] = folder.glob("*.tar.gz")
    run(
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "-q",
        "--no-deps",
        "--no-build-isolation",
        "-w",
        folder,
        sdist,
        cwd=folder,
    )
    [wheel] = folder.glob("*.whl")
    return wheel


def check(python: str, versions: str, wheel: Path, folder: Path) -> list[str]:
    """Install the wheel, run the tests, and return the versions that were tested."""
    dependencies, tools = requirements()
    venv, work = folder / "venv", folder / "work"
    run(python, "-m", "venv", venv, cwd=folder)
    constraints = folder / "constraints.txt"
    constraints.write_text("\n".join(pins(versions, dependencies + tools)) + "\n", encoding="utf-8")
    inside = venv / "bin" / "python"
    run(inside, "-m", "pip", "install", "-q", "--no-compile", "-c", constraints, wheel, *map(str, tools), cwd=folder)
    run(inside, "-m", "pip", "check", cwd=folder)
    # The tests without the package, so that nothing but the installed one is found.
    for name in ("tests", "recipes"):
        shutil.copytree(ROOT / name, work / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, work)
    run(inside, "-m", "pytest", "-q", "-x", INSTALLED, cwd=work, HF_MIXTURE_INSTALLED=str(venv), **ENVIRONMENT)
    run(inside, "-m", "pytest", "-q", "-m", "not slow", *TESTS, cwd=work, **ENVIRONMENT)
    frozen = subprocess.run([inside, "-m", "pip", "freeze"], capture_output=True, text=True, check=True).stdout
    named = {canonicalize_name(requirement.name) for requirement in dependencies}
    return [line for line in frozen.splitlines() if canonicalize_name(line.partition("==")[0]) in named]


def main() -> int:
    """Run all checks, say what ran and what did not, and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", action="append", help=f"an interpreter; can be repeated (default: {PYTHONS})")
    parser.add_argument("--versions", nargs="+", choices=VERSIONS, default=VERSIONS)
    arguments = parser.parse_args()
    outcomes = []
    with tempfile.TemporaryDirectory() as shared:
        wheel = build(Path(shared))
        for python in arguments.python or PYTHONS:
            for versions in arguments.versions:
                began, found = time.monotonic(), shutil.which(python)
                # A shim of pyenv is there also where its interpreter is not.
                if found is None or subprocess.run([found, "-V"], capture_output=True, check=False).returncode:
                    outcomes.append((python, versions, "skipped", "this interpreter is not installed"))
                    continue
                with tempfile.TemporaryDirectory() as folder:
                    try:
                        said = "passed", " ".join(check(found, versions, wheel, Path(folder)))
                    except subprocess.CalledProcessError as error:
                        said = "FAILED", f"exit status {error.returncode}: {' '.join(map(str, error.cmd))}"
                outcomes.append((python, versions, f"{said[0]} in {time.monotonic() - began:.0f} s", said[1]))
    print()
    for outcome in outcomes:
        print(*outcome, sep="  ")
    return int(any(outcome[2].startswith("FAILED") for outcome in outcomes))


if __name__ == "__main__":
    sys.exit(main())
