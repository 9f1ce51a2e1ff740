from __future__ import annotations

import json
from pathlib import Path

import pytest

from hf_mixture.cli.main import main
from hf_mixture.moe.trace.files import write_part


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    router = {"path": "model.layers.0.mlp.gate", "layer": 0, "ordinal": 0, "num_experts": 3, "top_k": 2}
    header = {
        "model_type": "mixtral",
        "sample_every": 1,
        "per_rank": False,
        "num_ranks": 1,
        "routers": [router],
    }
    row = {"rank": None, "ordinal": 0, "layer": 0, "path": router["path"], "tokens": 4, "unrouted": 0}
    write_part(tmp_path, header, [{"step": step, **row, "counts": [4, 4, 0]} for step in (1, 2)])
    return tmp_path


def test_report(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = folder / "report"
    assert main(["trace", "report", str(folder), "--output", str(output), "--format", "png"]) == 0
    assert capsys.readouterr().out == f"written to {output / 'report.png'}\n"
    assert main(["trace", "report", str(folder), "--output", str(output)]) == 0
    assert {path.name for path in output.iterdir()} == {"report.png", "report.html"}


def test_numbers(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["trace", "report", str(folder), "--json"]) == 0
    numbers = json.loads(capsys.readouterr().out)
    assert numbers["steps"] == [1, 2]
    assert numbers["routers"][0]["counts"] == [8, 8, 0]
    assert numbers["routers"][0]["dead_experts"] == [2]
    assert numbers["routers"][0]["max_over_mean"] == 1.5


def test_no_trace(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["trace", "report", str(tmp_path)]) == 2
    assert "holds no part-*.parquet" in capsys.readouterr().err
