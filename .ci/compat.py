#!/usr/bin/env python3
"""Installs the wheel in clean environments, outside the checkout, and tests it there.

One environment for each Python and each choice of versions of the direct dependencies: those of constraints.txt
(`tested`), the lower bounds of pyproject.toml (`lowest`), and whatever pip finds within the bounds (`newest`). Only
wheels are installed. An environment takes up to 7 GB and is removed after its tests, or kept in a folder and used
again by the next run. What ran goes to benchmarks/results/compat.json, one row for each environment, and from there to
docs/upgrading.md by `make scoreboard`. Run by `make compat`.

    python .ci/compat.py --python python3.11 --python python3.13 --versions lowest newest --keep /tmp/environments
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name


ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "benchmarks"))

from common import RESULTS, write  # noqa: E402


VERSIONS = ("tested", "lowest", "newest")
PYTHONS = ("python3.11", "python3.12", "python3.13")
# What these tests need of the extra `test`.
TOOLS = {"bitsandbytes", "evaluate", "hypothesis", "pytest", "scikit-learn", "scipy"}
TESTS = ("tests/test_import.py", "tests/compat", "tests/adapters", "tests/moe")
INSTALLED = "tests/packaging/test_wheel.py::test_installed_package_works_without_the_checkout"
ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_VERBOSITY": "error",
}


def requirements() -> tuple[list[Requirement], dict[str, Requirement]]:
    """The direct dependencies, and those of the extras that users and tests need, by name."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = {name: texts for name, texts in project["optional-dependencies"].items() if name not in {"dev", "docs"}}
    optional = map(Requirement, (text for texts in extras.values() for text in texts))
    return list(map(Requirement, project["dependencies"])), {wanted.name: wanted for wanted in optional}


def pins(versions: str, wanted: list[Requirement]) -> list[str]:
    """Lines of a file of constraints for pip."""
    if versions == "tested":
        return (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    if versions == "lowest":
        floors = {r.name: next(s.version for s in r.specifier if s.operator == ">=") for r in wanted}
        return [f"{name}=={floor}" for name, floor in floors.items()]
    return []


def interpreter(name: str) -> str | None:
    """The path of an interpreter that runs: a shim of pyenv is there also where its interpreter is not."""
    versions = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    for path in filter(None, (shutil.which(name), *map(str, sorted(versions.glob(f"*/bin/{name}"))))):
        if subprocess.run([path, "-V"], capture_output=True, check=False).returncode == 0:
            return path
    return None


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


def version_of(python: str) -> str:
    code = "import platform; print(platform.python_version())"
    return subprocess.run([python, "-c", code], capture_output=True, text=True, check=True).stdout.strip()


def without_wheel(inside: Path, wanted: dict[str, Requirement], constraints: Path, folder: Path) -> list[str]:
    """Those of the optional dependencies that need something of which pip finds no wheel for this Python."""
    pip = [inside, "-m", "pip", "install", "-q", "--dry-run", "--only-binary=:all:"]

    def all_found(*names: str) -> bool:
        texts = [str(wanted[name]) for name in names]
        return subprocess.run([*pip, "-c", constraints, *texts], cwd=folder, check=False).returncode == 0

    return [] if all_found(*wanted) else [name for name in sorted(wanted) if not all_found(name)]


def counted(report: Path) -> dict[str, Any]:
    """How many tests passed, failed, failed as expected or were skipped, and which failed: from a report of pytest."""
    found: dict[str, Any] = {"passed": 0, "failed": 0, "expected_failures": 0, "skipped": 0, "failures": []}
    for case in ElementTree.parse(report).iter("testcase"):  # noqa: S314
        if case.find("failure") is not None or case.find("error") is not None:
            found["failed"] += 1
            found["failures"].append(f"{case.get('classname')}::{case.get('name')}")
        elif (skipped := case.find("skipped")) is not None:
            found["expected_failures" if skipped.get("type") == "pytest.xfail" else "skipped"] += 1
        else:
            found["passed"] += 1
    return found


def check(python: str, versions: str, wheel: Path, folder: Path, tests: Sequence[str]) -> dict[str, Any]:
    """Install the wheel, run the tests, and return what was tested with what outcome."""
    dependencies, optional = requirements()
    tools = [optional[name] for name in sorted(TOOLS)]
    venv, work, report = folder / "venv", folder / "work", folder / "report.xml"
    if not venv.exists():
        run(python, "-m", "venv", venv, cwd=folder)
    constraints = folder / "constraints.txt"
    lines = pins(versions, dependencies + list(optional.values()))
    constraints.write_text("\n".join(lines) + "\n", encoding="utf-8")
    inside = venv / "bin" / "python"
    pip = (inside, "-m", "pip", "install", "-q", "--only-binary=:all:", "-c", constraints)
    run(*pip, wheel, *map(str, tools), cwd=folder)
    # An environment that was kept has a wheel of the same version.
    run(*pip, "--no-deps", "--force-reinstall", wheel, cwd=folder)
    run(inside, "-m", "pip", "check", cwd=folder)
    # The tests without the package, so that nothing but the installed one is found.
    shutil.rmtree(work, ignore_errors=True)
    for name in ("tests", "recipes", "benchmarks/published"):
        shutil.copytree(ROOT / name, work / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, work)
    run(inside, "-m", "pytest", "-q", "-x", INSTALLED, cwd=work, HF_MIXTURE_INSTALLED=str(venv), **ENVIRONMENT)
    stopped = False
    try:
        run(inside, "-m", "pytest", "-q", "-m", "not slow", f"--junitxml={report}", *tests, cwd=work, **ENVIRONMENT)
    except subprocess.CalledProcessError as error:
        # 1 says that tests failed, 2 that somebody stopped them, and the report has those that ran; else none did.
        if error.returncode not in {1, 2}:
            raise
        stopped = error.returncode == 2
    listed = subprocess.run([inside, "-m", "pip", "list", "--format=json"], capture_output=True, text=True, check=True)
    installed = {canonicalize_name(found["name"]): found["version"] for found in json.loads(listed.stdout)}
    return {
        "tests": list(tests),
        "packages": {wanted.name: installed[canonicalize_name(wanted.name)] for wanted in dependencies},
        **counted(report),
        "stopped": stopped,
        "no_wheel": without_wheel(inside, optional, constraints, folder),
    }


def record(row: dict[str, Any], folder: Path = RESULTS) -> None:
    """Store a row in the place of the earlier one of the same Python and choice of versions."""

    def key(row: dict[str, Any]) -> tuple[tuple[int, ...], int]:
        return tuple(map(int, row["python"].split(".")[:2])), VERSIONS.index(row["versions"])

    path = folder / "compat.json"
    rows = json.loads(path.read_text(encoding="utf-8"))["rows"] if path.exists() else []
    rows = [other for other in rows if key(other) != key(row)] + [row]
    write("compat", {"rows": sorted(rows, key=key)}, folder)


def main() -> int:
    """Run all checks, say what ran and what did not, and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", action="append", help=f"an interpreter; can be repeated (default: {PYTHONS})")
    parser.add_argument("--versions", nargs="+", choices=VERSIONS, default=VERSIONS)
    parser.add_argument("--tests", nargs="+", default=TESTS, metavar="PATH", help=f"default: {' '.join(TESTS)}")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="where environments are kept, and found again")
    arguments = parser.parse_args()
    outcomes = []
    with tempfile.TemporaryDirectory() as shared:
        wheel = build(Path(shared))
        for python in arguments.python or PYTHONS:
            for versions in arguments.versions:
                began, found = time.monotonic(), interpreter(python)
                if found is None:
                    outcomes.append((python, versions, "skipped", "this interpreter is not installed"))
                    continue
                exact = version_of(found)
                with contextlib.ExitStack() as stack:
                    if arguments.keep:
                        folder = str(arguments.keep.resolve() / f"{exact}-{versions}")
                        Path(folder).mkdir(parents=True, exist_ok=True)
                    else:
                        folder = stack.enter_context(tempfile.TemporaryDirectory())
                    try:
                        result = check(found, versions, wheel, Path(folder), arguments.tests)
                    except subprocess.CalledProcessError as error:
                        command = " ".join(map(str, error.cmd)).replace(folder, "FOLDER")
                        result = {"error": f"exit status {error.returncode}: {command}"}
                record({"python": exact, "versions": versions} | result)
                outcome = "FAILED" if "error" in result or result["failed"] or result["stopped"] else "passed"
                outcomes.append(
                    (python, versions, f"{outcome} in {time.monotonic() - began:.0f} s", json.dumps(result))
                )
    print()
    for outcome in outcomes:
        print(*outcome, sep="  ")
    return int(any(outcome[2].startswith("FAILED") for outcome in outcomes))


if __name__ == "__main__":
    sys.exit(main())
