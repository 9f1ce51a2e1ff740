"""The tables and figures that are made of results: what the documents say is what was measured."""

from __future__ import annotations

import importlib.util
import json
import sys
from functools import partial
from pathlib import Path
from types import ModuleType

import pytest


BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def load(name: str, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    spec = importlib.util.spec_from_file_location(f"benchmarks_{name}", BENCHMARKS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def correct(tmp_path, monkeypatch):
    module = load("claim", monkeypatch)
    (tmp_path / "speed.json").write_text(json.dumps({"ratio": 3.456, "share": -0.25}), encoding="utf-8")
    claim = module.Claim(
        "page.md", "speed", "is {} times as fast ({}).", lambda r: [f"{r['ratio']:.2f}", f"{r['share']:+.2f}"]
    )
    return partial(module.correct, (claim,))


def test_a_figure_that_differs_from_its_result_is_corrected(correct, tmp_path):
    right = "It is 3.46 times\nas fast (-0.25). It has 3.45 other merits.\n"
    assert correct("page.md", right, tmp_path) == right
    assert correct("page.md", right.replace("3.46", "4,000.5").replace("-0.25", "0.3"), tmp_path) == right
    assert correct("other.md", "It is 9.99 times as fast (1).", tmp_path) == "It is 9.99 times as fast (1)."


@pytest.mark.parametrize("text", ["It was faster.", "is 3.46 times as fast (-0.25). is 3.46 times as fast (-0.25)."])
def test_a_claim_without_its_text_is_an_error(correct, tmp_path, text):
    with pytest.raises(ValueError, match=r"correct benchmarks/claims\.py"):
        correct("page.md", text, tmp_path)


def test_every_ratio_is_in_the_scoreboard_by_processor_time_where_there_is_one(monkeypatch):
    rows = load("scoreboard_rows", monkeypatch)
    measured = {"median": 2.0, "quartile_1": 1.5, "quartile_3": 2.5}
    result = {
        "name": "speed",
        "machine": {"a / b": 1.0},
        "time_ratios": {"ours / theirs": 9.0},
        "cpu_time_ratios": {"ours / theirs": measured},
        "sizes": {"8 tokens": {"ratio": {"wall": {"x / y": 9.0}, "cpu": {"x / y": 0.5}}}},
        "verdicts": ["ours is slower."],
    }
    assert rows.side_by_side(result) == [
        {"setting": "", "measured": "ours / theirs", "ratio": "2.000 (1.500 to 2.500)"},
        {"setting": "sizes, 8 tokens", "measured": "x / y", "ratio": "0.500"},
        {"setting": "", "measured": "ours is slower.", "ratio": ""},
    ]
