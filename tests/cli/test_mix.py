from __future__ import annotations

import json
from pathlib import Path

import pytest

from hf_mixture.cli.main import main
from hf_mixture.data import Mixture, Source
from hf_mixture.data.schedule import SourcePolicy


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    sources = {"wiki": Source("user/wiki"), "code": Source("user/code", revision="0" * 40, license="MIT")}
    weights = {"wiki": 0.7, "code": 0.3, "books": 0.0}
    metadata = {"tokenizer": {"path": "user/tokenizer"}}
    mixture = Mixture(weights, unit="tokens", seed=5, sources=sources, name="trial", metadata=metadata)
    mixture.save_pretrained(tmp_path)
    return tmp_path


def test_show(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["mix", "show", str(folder)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "trial: 3 domains, weights in tokens, seed 5"
    assert [line.split() for line in lines[1:]] == [
        ["wiki", "0.7", "█" * 30, "user/wiki"],
        ["code", "0.3", "█" * 13, "user/code", "0" * 40, "MIT"],
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


def test_show_schedule_caps_and_origin(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    half = {"a": 0.5, "b": 0.5}
    provenance = {"method": "regmix", "objective": "loss", "direction": "minimize", "predicted": 2.5}
    Mixture(
        half,
        unit="examples",
        schedule=[(0, half, "linear"), (10, {"a": 1, "b": 0})],
        schedule_unit="examples",
        policies={"a": SourcePolicy(max_epochs=2.5, overflow="stop", min_weight=0.25, shuffle=False)},
        budget=(100, "tokens"),
        metadata={"provenance": provenance},
    ).save_pretrained(tmp_path)
    assert main(["mix", "show", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert "at most 2.5 epochs, then stop, at least 0.25, in the order of its rows" in out
    assert "from 0 (examples), moving in a line to the next: a 0.5  b 0.5" in out
    assert "from 10 (examples): a 1  b 0" in out
    assert "budget: 100 tokens" in out
    assert "method: regmix\nobjective: loss (minimize)\npredicted value: 2.5\n" in out


def test_validate_wants_tokens_that_can_be_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def validate(source: Source, **metadata: object) -> int:
        Mixture({"a": 1.0}, unit="tokens", sources={"a": source}, metadata=metadata).save_pretrained(tmp_path)
        return main(["mix", "validate", str(tmp_path)])

    assert validate(Source("json")) == 1
    assert "problem: tokenizer is missing" in capsys.readouterr().out
    assert main(["mix", "validate", str(tmp_path), "--json"]) == 1
    report = json.loads(capsys.readouterr().out)
    assert report["valid"] is False
    assert "['a']" in report["problems"][0]
    assert validate(Source("json", length_column="num_tokens")) == 0
    assert validate(Source("json"), tokenizer={"path": "user/tokenizer"}) == 0


def test_export(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["mix", "export", str(folder), "--to", "megatron", "--paths", "wiki=w", "code=c"]
    assert main(command) == 1
    streams = capsys.readouterr()
    assert streams.out == ""
    assert len(streams.err.splitlines()) == 1
    assert "'books': weight 0" in streams.err
    assert "--accept-losses" in streams.err
    assert main([*command, "--accept-losses"]) == 0
    streams = capsys.readouterr()
    assert "--data-path 0.7 w 0.3 c" in streams.out
    assert "lost: source 'books'" in streams.err
    assert "numbers: weight:" in streams.err
    output = tmp_path / "out"
    assert main([*command, "--accept-losses", "--output", str(output), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert sorted(report["files"]) == sorted(str(path) for path in output.iterdir())
    assert (output / "data_args.txt").read_text() == "0.7 w 0.3 c\n"
    assert len(report["losses"]) == 1
    one = ["mix", "export", str(folder), "--to", "csv", "--accept-losses"]
    assert main([*one, "--unit", "examples", "--mean-tokens", "wiki=100", "code=300", "--digits", "3", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["files"] == {
        "mixture.csv": "name,weight\nwiki,0.875\ncode,0.125\nbooks,0.0\n"
    }


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--to", "jax"], ["target='jax'", "megatron"]),
        (["--to", "csv", "--paths", "{name}"], ["'csv'", "['paths']"]),
        (["--to", "megatron", "--paths", "wiki=w", "code"], ["--paths code", "NAME=VALUE"]),
        (["--to", "trl"], ["mean number of tokens"]),
        (["--to", "trl", "--mean-tokens", "wiki=x"], ["--mean-tokens wiki=x", "numbers"]),
        (["--to", "trl", "--mean-tokens", "0"], ["mean length of 'wiki'"]),
    ],
)
def test_export_with_wrong_arguments(
    folder: Path, arguments: list[str], words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["mix", "export", str(folder), *arguments, "--accept-losses"]) == 2
    err = capsys.readouterr().err
    assert len(err.splitlines()) == 1
    assert all(word in err for word in words), err


def test_plan(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Mixture({"a": 0.5, "b": 0.5}, unit="tokens", policies={"b": SourcePolicy(max_epochs=2)}).save_pretrained(tmp_path)
    command = ["mix", "plan", str(tmp_path), "--sizes", "a=100,1000", "b=50,5000"]
    assert main([*command, "--budget", "10000"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "10000 tokens; counted in examples"
    assert [line.split() for line in lines[1:]] == [
        ["a", "500", "of", "100", "5", "epochs"],
        ["b", "50", "of", "50", "1", "epochs"],
    ]
    assert main([*command, "--budget", "1100", "examples", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["epochs"] == pytest.approx({"a": 10, "b": 2})
    assert main([*command, "--budget", "3e4"]) == 1
    assert "problem: 'b' passes its max_epochs" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], ["--budget is missing"]),
        (["--budget", "x"], ["--budget x", "whole number"]),
        (["--budget", "1e400"], ["--budget 1e400", "whole number"]),
        (["--budget", "nan"], ["--budget nan", "whole number"]),
        (["--budget", "5", "rows"], ["unit='rows'"]),
        (["--budget", "5", "tokens", "6"], ["--budget 5 tokens 6"]),
        (["--budget", "5"], ["'a'", "max_epochs=2", "not known"]),
        (["--budget", "5", "--sizes", "a"], ["--sizes a", "NAME=EXAMPLES"]),
        (["--budget", "5", "--sizes", "a=0"], ["--sizes 0", "whole number"]),
        (["--budget", "5", "--sizes", "z=1"], ["'z'"]),
    ],
)
def test_plan_with_wrong_arguments(
    tmp_path: Path, arguments: list[str], words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    Mixture({"a": 1.0}, unit="tokens", policies={"a": SourcePolicy(max_epochs=2)}).save_pretrained(tmp_path)
    assert main(["mix", "plan", str(tmp_path), *arguments]) == 2
    err = capsys.readouterr().err
    assert len(err.splitlines()) == 1
    assert all(word in err for word in words), err


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
