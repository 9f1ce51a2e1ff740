"""Recipes of layouts: what is refused, what a run leaves, and the one that ships."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tiny_upcycle import write_recipe

from hf_mixture.cli.main import main
from hf_mixture.training.folding.recipe import resolve_folding
from hf_mixture.training.resolve import find_recipe


def layouts(folder: Path) -> dict[str, Any]:
    model = {
        "model_type": "mixtral",
        "hidden_size": 1024,
        "intermediate_size": 3584,
        "num_hidden_layers": 8,
        "num_attention_heads": 16,
        "num_key_value_heads": 8,
        "vocab_size": 32000,
    }
    return {
        "name": "tiny",
        "output_dir": str(folder / "run"),
        "layouts": {
            "small": {"model": model, "gpus": 8, "global_batch": 32},
            "other": {
                "model": model,
                "gpus": 16,
                "global_batch": 32,
                "published": {"mfu": 30.0, "sizes": {"tp": 1, "ep": 8}},
            },
        },
    }


def test_the_recipe_that_ships():
    recipe = resolve_folding(find_recipe("plan_mixtral"))
    assert len(recipe.layouts) == 6
    assert all(layout.published is not None for layout in recipe.layouts.values())


def test_a_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "--recipe", str(write_recipe(tmp_path, layouts(tmp_path)))]) == 0
    said = capsys.readouterr().out
    assert "| other | 16 | 4096 |" in said
    folder = tmp_path / "run"
    assert sorted(path.name for path in folder.iterdir()) == ["comparison.png", "report.md", "results.json"]
    results = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    small, other = results["rows"]
    assert small["published_mfu"] is None
    assert small["rank_of_published"] is None
    assert 0 < small["mfu"] < 100
    assert other["rank_of_published"] >= 1
    assert "## other" in (folder / "report.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"layouts": {}}, "layouts is empty; name at least one"),
        ({"gpu": "b300"}, "gpu='b300' is not known"),
        ({"layouts": {"x": {"model": {"model_type": "mixtral"}, "gpus": 12}}}, "num_gpus=12 does not fill nodes"),
        ({"layouts": {"x": {"model": {}, "gpus": 8}}}, "layouts.x.model has no 'model_type'"),
        (
            {"layouts": {"x": {"model": {"model_type": "llama"}, "gpus": 8}}},
            "give the configuration of a sparse model",
        ),
        (
            {"layouts": {"x": {"model": {"from_pretrained": "a", "hidden_size": 8}, "gpus": 8}}},
            "layouts.x.model has from_pretrained and other keys",
        ),
        ({"systems": {}}, "which is not for hf-mixture plan --recipe; run it with hf-mixture spread run"),
    ],
)
def test_what_is_wrong_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str], changes, said) -> None:
    path = write_recipe(tmp_path, layouts(tmp_path) | changes)
    assert main(["plan", "--recipe", str(path)]) != 0
    assert said in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "hf-mixture plan needs --model and --gpus, or --recipe"),
        (["--recipe", "plan_mixtral", "--gpus", "8"], "--recipe names its models and GPUs itself"),
    ],
)
def test_a_model_or_a_recipe(capsys: pytest.CaptureFixture[str], words, said) -> None:
    assert main(["plan", *words]) != 0
    assert said in capsys.readouterr().err
