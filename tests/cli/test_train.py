from __future__ import annotations

from pathlib import Path

import pytest
from tiny_recipe import tiny_recipe, write_recipe

from hf_mixture.cli.main import main


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    return write_recipe(tmp_path, tiny_recipe(tmp_path))


def files(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*"))


def test_dry_run_prints_the_plan_and_writes_nothing(
    recipe: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(recipe.parent)
    before = files(recipe.parent)
    assert main(["train", str(recipe), "--dry-run", "--override", "adapt.training_arguments.max_steps=7"]) == 0
    assert files(recipe.parent) == before
    said = capsys.readouterr().out
    assert f"output folder  {recipe.parent / 'run'}" in said
    assert "adapt          7 steps, 28 blocks of 32 tokens = 896 tokens" in said
    assert "mixture by tokens: code 0.75, prose 0.25" in said
    assert "learning rates 0.0001, 0.02" in said
    # 3 layers, q_proj and v_proj, rank 2, 32 inputs and outputs.
    assert said.count("768 trainable parameters") == 2


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--adapt.training_arguments.learning_rat", "1"], "did you mean"),
        (["--seed"], "'--seed' has no value"),
        (["--override", "seed"], "--override 'seed' has no '='"),
        (["--adapters.mos.r", "30"], "adapters.mos: "),
        (["--adapt.training_arguments.optim", "adamm"], "adapt.training_arguments: "),
        (["--domains.code", "no/such/file"], "no/such/file"),
    ],
)
def test_bad_input_exits_with_2_and_writes_nothing(
    recipe: Path, words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before = files(recipe.parent)
    assert main(["train", str(recipe), *words]) == 2
    assert files(recipe.parent) == before
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: ")
    assert said in error


def test_smoke_applies_its_section(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", str(recipe), "--smoke", "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert "learning rates 0.02, for each of" in said
    assert "pretrain" not in said


def test_a_foreign_folder_is_left_alone(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = recipe.parent / "run"
    folder.mkdir()
    (folder / "thesis.txt").write_text("important", encoding="utf-8")
    before = files(recipe.parent)
    assert main(["train", str(recipe), "--resume"]) == 2
    assert files(recipe.parent) == before
    assert "choose another with --output_dir" in capsys.readouterr().err


@pytest.mark.slow
def test_the_quickstart_smokes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "quickstart", "--smoke", "--output_dir", str(tmp_path / "run")]) == 0
    assert "lora_same_budget" in capsys.readouterr().out
