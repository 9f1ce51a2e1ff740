"""What the check of clean environments counts and stores, and that the metadata claims no more than it found."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import tomllib
from pathlib import Path
from types import ModuleType

import pytest


ROOT = Path(__file__).parents[2]
TESTS = """
import pytest

def test_passes(): pass
def test_fails(): assert False
def test_is_skipped(): pytest.skip("no")
@pytest.mark.xfail
def test_fails_as_expected(): assert False
@pytest.fixture
def broken(): raise OSError
def test_has_no_setting(broken): pass
"""


@pytest.fixture
def compat(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.setattr(sys, "path", list(sys.path))
    spec = importlib.util.spec_from_file_location("compat_check", ROOT / ".ci" / "compat.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_outcomes_are_counted_from_the_report_of_pytest(compat, tmp_path):
    (tmp_path / "test_some.py").write_text(TESTS)
    report = tmp_path / "report.xml"
    command = [sys.executable, "-m", "pytest", "-q", "-c", "/dev/null", f"--junitxml={report}", "test_some.py"]
    assert subprocess.run(command, cwd=tmp_path, capture_output=True, check=False).returncode == 1
    assert compat.counted(report) == {
        "passed": 1,
        "failed": 2,
        "expected_failures": 1,
        "skipped": 1,
        "failures": ["test_some::test_fails", "test_some::test_has_no_setting"],
    }


def test_a_later_run_of_an_environment_takes_the_place_of_the_earlier_one(compat, tmp_path):
    for python, versions, passed in (("3.13.0", "tested", 1), ("3.11.7", "newest", 2), ("3.13.5", "tested", 3)):
        compat.record({"python": python, "versions": versions, "passed": passed}, tmp_path)
    compat.record({"python": "3.11.7", "versions": "lowest", "error": "exit status 1"}, tmp_path)
    rows = json.loads((tmp_path / "compat.json").read_text(encoding="utf-8"))["rows"]
    assert [(row["python"], row["versions"], row.get("passed")) for row in rows] == [
        ("3.11.7", "lowest", None),
        ("3.11.7", "newest", 2),
        ("3.13.5", "tested", 3),
    ]


def test_the_metadata_names_pythons_on_which_everything_passed():
    rows = json.loads((ROOT / "benchmarks" / "results" / "compat.json").read_text(encoding="utf-8"))["rows"]
    passed = [row for row in rows if row.get("failed") == 0 and row["passed"] > 0 and not row.get("stopped")]
    # The whole test suite runs with the oldest Python.
    clean = {"3.11"} | {".".join(row["python"].split(".")[:2]) for row in passed}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    classifiers = {text.rpartition(" :: ")[2] for text in project["classifiers"] if "Python :: 3" in text}
    assert classifiers == clean
