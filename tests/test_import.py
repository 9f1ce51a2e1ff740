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
# What needs them says so when it is called.
optional = ("lightgbm", "botorch", "gpytorch", "sklearn", "matplotlib")
there = {name: sys.modules[name] for name in optional if name in sys.modules}
sys.modules |= dict.fromkeys(optional)
from hf_mixture.data.online import *
from hf_mixture.data.search import *
for name in optional:
    del sys.modules[name]
sys.modules |= there

print("after imports without optional libraries", file=sys.stderr, flush=True)
missing = [name for name in hf_mixture.__all__ if not hasattr(hf_mixture, name)]
print(json.dumps({"added": added, "unchanged": unchanged, "missing": missing, "dir": dir(hf_mixture)}))
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


def test_rooms_import_without_optional_libraries(process: subprocess.CompletedProcess[str]) -> None:
    assert process.stderr.endswith("after imports without optional libraries\n")


def test_import_is_silent_and_repeatable(process: subprocess.CompletedProcess[str], report: dict) -> None:
    after = process.stderr.partition("after the first import\n")[2]
    assert after.startswith("after the second import\nafter imports")
    assert report["unchanged"]


def test_every_public_name_resolves(report: dict) -> None:
    assert report["missing"] == []
    assert set(report["dir"]) >= {"MosConfig", "Mixture", "list_methods"}
