from __future__ import annotations

import json
from pathlib import Path

import pytest

from hf_mixture.cli.main import main
from hf_mixture.data import Mixture, Source


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    sources = {"wiki": Source("user/wiki"), "code": Source("user/code", revision="0" * 40, license="MIT")}
    weights = {"wiki": 0.7, "code": 0.3, "books": 0.0}
    Mixture(weights, unit="tokens", seed=5, sources=sources, name="trial").save_pretrained(tmp_path)
    return tmp_path


def test_show(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["mix", "show", str(folder)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "trial: 3 domains, weights in tokens, seed 5"
    assert [line.split() for line in lines[1:]] == [
        ["wiki", "0.7", "user/wiki"],
        ["code", "0.3", "user/code", "0" * 40, "MIT"],
        ["books", "0"],
    ]
    assert main(["mix", "show", str(folder / "mixture.json"), "--json"]) == 0
    assert capsys.readouterr().out == (folder / "mixture.json").read_text(encoding="utf-8")


def test_validate(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["mix", "validate", str(folder)]) == 0
    out = capsys.readouterr().out
    assert "valid: 3 domains" in out
    assert "'wiki' is user/wiki at revision main, which may change; pin a commit hash" in out
    assert "'books' has weight 0" in out
    assert main(["mix", "validate", str(folder), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["valid"] is True
    assert report["domains"] == ["wiki", "code", "books"]
    assert len(report["notes"]) == 2


@pytest.mark.parametrize("action", ["validate", "show"])
def test_a_wrong_file_is_one_line_and_exit_code_2(
    action: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "mixture.json"
    path.write_text('{"format": "hf_mixture", "version": 1, "unit": "rows", "sources": [{"name": "a", "weight": 1}]}')
    assert main(["mix", action, str(path)]) == 2
    streams = capsys.readouterr()
    assert streams.out == ""
    assert len(streams.err.splitlines()) == 1
    assert all(word in streams.err for word in (str(path), "unit='rows'", "examples"))
    assert main(["mix", action, str(tmp_path / "no" / "such" / "place")]) == 2
    assert "Traceback" not in capsys.readouterr().err
