"""`hf-mixture mwq quantise`, as a user runs it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny_planes import full_model, logits, nested_model
from transformers import AutoModelForCausalLM

from hf_mixture.cli.main import main


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("full")
    full_model().save_pretrained(folder)
    return folder


def test_a_checkpoint_becomes_planes(full: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["mwq", "quantise", str(full), str(tmp_path / "out"), "--group-size", "16"]) == 0
    said = capsys.readouterr().out
    assert [line.split()[-1] for line in said.splitlines()] == [
        "mwq-2.safetensors",
        "mwq-3.safetensors",
        "mwq-4.safetensors",
        "mwq-rest.safetensors",
    ]
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert torch.equal(logits(model), logits(nested_model()))
    options = ["--group-size", "16", "--widths", "v2", "--linears"]
    assert main(["mwq", "quantise", str(full), str(tmp_path / "v2"), *options]) == 0
    assert (tmp_path / "v2" / "mwq-8.safetensors").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "group_size=128 does not divide the 32 inputs of gate_up_proj; give group_size=32"),
        (["--widths", "2;3"], "--widths '2;3' is not a list of numbers; give, for example, 2,3,4"),
        (["--widths", "3,2"], "must ascend by one"),
    ],
)
def test_what_is_wrong_is_one_line(
    full: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], said: str
) -> None:
    assert main(["mwq", "quantise", str(full), str(tmp_path / "out"), *words]) != 0
    assert said in capsys.readouterr().err
    assert not list(tmp_path.rglob("*.safetensors"))


def test_a_model_that_is_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["mwq", "quantise", str(tmp_path / "none"), str(tmp_path / "out")]) != 0
    assert "cannot be loaded" in capsys.readouterr().err
