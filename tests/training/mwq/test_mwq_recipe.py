from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from tiny_mwq import tiny_mwq
from tiny_upcycle import write_recipe

from hf_mixture.cli.main import main
from hf_mixture.training.mwq.recipe import MwqRecipe
from hf_mixture.training.mwq.resolve import resolve_mwq
from hf_mixture.training.resolve import find_recipe


@pytest.fixture
def values(tmp_path: Path) -> dict[str, Any]:
    return tiny_mwq(tmp_path)


def resolve(values: dict[str, Any], **kwargs: Any) -> MwqRecipe:
    return resolve_mwq(yaml.safe_dump(values), **kwargs)


def test_the_resolved_recipe_reads_back(values: dict[str, Any]) -> None:
    recipe = resolve(values)
    assert resolve_mwq(recipe.to_yaml()) == recipe
    assert recipe.load_balance == 0.01
    assert resolve(values, smoke=True, overrides=[("bit_routers.average_bits", 2.5)]).bit_routers.average_bits == 2.5
    assert resolve(values, smoke=True).seed == 3


@pytest.mark.parametrize("smoke", [False, True])
def test_the_packaged_recipe_resolves(smoke: bool) -> None:
    assert resolve_mwq(find_recipe("d2moe"), smoke=smoke).planes.widths == [2, 3, 4]


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        ("sead", 1, "unknown key 'sead' in the recipe; did you mean 'seed'"),
        ("adapters", {}, "has 'adapters', which is not for hf-mixture mwq run; run it with hf-mixture train"),
        ("planes.widths", [2, 4], r"planes: widths=\(2, 4\) must ascend by one"),
        ("planes.group_size", 12, "planes: group_size=12 is not a positive multiple of 8"),
        ("bit_routers.alphas", [], r"bit_routers.alphas is \[\]; give one or more numbers"),
        ("bit_routers.alphas", [-1.0], r"bit_routers.alphas is \[-1.0\]; give one or more numbers >= 0"),
        ("bit_routers.alphas", [0.1, 0.1], "name each price once"),
        ("bit_routers.average_bits", 5.0, "bit_routers.average_bits is 5.0; it lies between 2 and 4"),
        ("bit_routers.training_arguments.max_step", 1, "unknown key 'max_step' in bit_routers.training_arguments"),
        ("speed.rounds", 1, "speed.rounds is 1; it must be at least 2"),
        ("speed.budget", 0.0, "speed.budget is 0.0; it is a part of all experts at 8 bits"),
        ("pretrain.seed", 1, "pretrain has 'seed', which the run decides"),
        ("model.model_typ", "x", "unknown key 'model_typ' in model; did you mean 'model_type'"),
        ("tokenizer", {}, "tokenizer needs exactly one of from_pretrained and train_bpe"),
        ("load_balance", -1.0, "load_balance is -1.0; it must be at least 0"),
    ],
)
def test_what_is_wrong_is_named(values: dict[str, Any], path: str, value: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        resolve(values, overrides=[(path, value)])


def test_the_plan_is_printed_and_nothing_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["mwq", "run", str(write_recipe(tmp_path, tiny_mwq(tmp_path))), "--dry-run"]) == 0
    said = capsys.readouterr().out
    # 2 layers of 4 experts with 3 x 32 x 32 weights; 4 bits, and 4 numbers of 16 bits for each 16 weights.
    assert re.search(r"24,576 of them experts", said)
    assert "quantise       to 2, 3, 4 bits in one file: 24,576 bytes" in said
    assert not (tmp_path / "run").exists()


def test_a_model_that_cannot_be_quantised_is_refused_first(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_recipe(tmp_path, tiny_mwq(tmp_path))
    assert main(["mwq", "run", str(path), "--planes.group_size", "64"]) != 0
    assert "group_size=64 does not divide the 32 inputs" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
