"""`import hf_mixture` in a fresh process: light, silent and repeatable; every public name resolves."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest


HEAVY = ("evaluate", "sklearn", "lightgbm", "botorch", "faiss", "sentence_transformers", "matplotlib", "datasets")

CODE = """
import json, sys, warnings
import torch, transformers, peft

before = set(sys.modules)
tables = [peft.mapping.PEFT_TYPE_TO_CONFIG_MAPPING, peft.mapping.PEFT_TYPE_TO_TUNER_MAPPING]
warnings.simplefilter("error")
import hf_mixture

added = sorted(set(sys.modules) - before)
members = list(peft.PeftType)
contents = [dict(table) for table in tables]
print("after the first import", file=sys.stderr, flush=True)

import importlib
importlib.reload(hf_mixture)
del sys.modules["hf_mixture"]
import hf_mixture

print("after the second import", file=sys.stderr, flush=True)
unchanged = members == list(peft.PeftType) and contents == tables
import hf_mixture.data.online

plots = "matplotlib" in sys.modules
missing = [name for name in hf_mixture.__all__ if not hasattr(hf_mixture, name)]
facts = {"added": added, "unchanged": unchanged, "plots": plots, "missing": missing, "dir": dir(hf_mixture)}
print(json.dumps(facts))
"""


@pytest.fixture(scope="module")
def process() -> subprocess.CompletedProcess[str]:
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done


@pytest.fixture(scope="module")
def report(process: subprocess.CompletedProcess[str]) -> dict:
    return json.loads(process.stdout)


def test_import_adds_no_heavy_module(report: dict) -> None:
    assert [name for name in report["added"] if name.partition(".")[0] in HEAVY] == []


def test_callbacks_that_plot_import_matplotlib_only_then(report: dict) -> None:
    assert not report["plots"]


def test_import_is_silent_and_repeatable(process: subprocess.CompletedProcess[str], report: dict) -> None:
    after = process.stderr.partition("after the first import\n")[2]
    assert after == "after the second import\n"
    assert report["unchanged"]


def test_every_public_name_resolves(report: dict) -> None:
    assert report["missing"] == []
    assert set(report["dir"]) >= {"MosConfig", "Mixture", "list_methods"}
