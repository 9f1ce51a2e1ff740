from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from tiny_upcycle import tiny_upcycle, write_recipe

from hf_mixture.cli.main import main
from hf_mixture.training.resolve import find_recipe
from hf_mixture.training.upcycle.recipe import UpcycleRecipe
from hf_mixture.training.upcycle.resolve import resolve_upcycle


@pytest.fixture
def values(tmp_path: Path) -> dict[str, Any]:
    return tiny_upcycle(tmp_path)


def resolve(values: dict[str, Any], **kwargs: Any) -> UpcycleRecipe:
    return resolve_upcycle(yaml.safe_dump(values), **kwargs)


def test_the_resolved_recipe_reads_back(values: dict[str, Any]) -> None:
    recipe = resolve(values)
    assert resolve_upcycle(recipe.to_yaml()) == recipe
    assert recipe.mixture.unit == "tokens"
    assert recipe.routers["softmax"].bias is None
    assert recipe.upcycle.granularity == 1


def test_later_values_win(values: dict[str, Any]) -> None:
    recipe = resolve(values, smoke=True, overrides=[("upcycle.num_experts", 2), ("routers.softmax.options", {})])
    assert (recipe.seeds, recipe.upcycle.num_experts) == ([3], 2)
    assert resolve(values).seeds == [0, 1]


@pytest.mark.parametrize("smoke", [False, True])
def test_the_packaged_recipe_resolves(smoke: bool) -> None:
    recipe = resolve_upcycle(find_recipe("upcycle"), smoke=smoke)
    assert {spec.router for spec in recipe.routers.values()} >= {"topk_softmax", "sigmoid_bias"}
    assert len(recipe.routers) == 3


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        ("sead", 1, "unknown key 'sead' in the recipe; did you mean 'seed'"),
        (
            "adapters",
            {},
            "the recipe has 'adapters', which is not for hf-mixture upcycle; run it with hf-mixture train",
        ),
        ("upcycle.num_expert", 1, "unknown key 'num_expert' in upcycle; did you mean 'num_experts'"),
        ("upcycle.num_experts", 0, "upcycle.num_experts is 0; it must be at least 1"),
        ("upcycle.noise", -0.5, "upcycle.noise is -0.5; it must be at least 0"),
        ("upcycle.router_init", "grouped", "unknown key 'grouped' in upcycle.router_init"),
        ("mixture.weights", {"cod": 1.0}, "unknown key 'cod' in mixture.weights; did you mean 'code'"),
        ("pretrain.max_step", 1, "unknown key 'max_step' in pretrain; did you mean 'max_steps'"),
        ("continued.max_steps", 0, "continued.max_steps is 0"),
        ("continued.seed", 1, "continued has 'seed', which the run decides"),
        ("dense.model_typ", "x", "unknown key 'model_typ' in dense; did you mean 'model_type'"),
        ("tokenizer", {}, "tokenizer needs exactly one of from_pretrained and train_bpe"),
        ("seeds", [], r"seeds is \[\]; give at least one"),
        ("seeds", [1, 1], r"seeds is \[1, 1\]; give at least one, each once"),
        ("routers", {}, "routers is empty"),
        ("routers.dense", {"router": "topk_softmax"}, "a router is called 'dense'"),
        ("routers.softmax.router", "topk_softmx", "routers.softmax: .*did you mean 'topk_softmax'"),
        ("routers.softmax.options", {"normalize": True}, "routers.softmax: .*did you mean 'normalise'"),
        ("routers.softmax.loses", {}, "unknown key 'loses' in routers.softmax; did you mean 'losses'"),
        ("routers.softmax.losses", {"load_balanc": 1.0}, "unknown key 'load_balanc' in routers.softmax.losses"),
        ("routers.softmax.losses", {"load_balance": -1.0}, "routers.softmax.losses: load_balance=-1.0"),
        ("routers.bias.bias", {"rat": 1.0}, "unknown key 'rat' in routers.bias.bias; did you mean 'rate'"),
        ("routers.softmax.router", "expert_choice", "'expert_choice' for a token depends on later tokens"),
    ],
)
def test_what_is_wrong_is_named(values: dict[str, Any], path: str, value: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        resolve(values, overrides=[(path, value)])


def test_a_dry_run_prints_the_plan_and_writes_nothing(
    tmp_path: Path, values: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_recipe(tmp_path, values)
    assert main(["upcycle", str(path), "--dry-run", "--upcycle.granularity", "2"]) == 0
    said = capsys.readouterr().out
    # The size follows the vocabulary, which is learned from the text of this machine.
    size = re.search(r"llama, ([\d,]+) parameters, 4 steps, 16 blocks of 32 tokens = 512 tokens", said)
    assert size is not None
    # Each layer: 3 more copies of 3 * 32 * 48 weights, and a router of 8 rows; 2 active shards are one dense MLP.
    dense, routers = int(size[1].replace(",", "")), 2 * 8 * 32
    moe = dense + 2 * 3 * (3 * 32 * 48) + routers
    assert f"to mixtral, {moe:,} parameters, {dense + routers:,} of them" in said
    assert "4 copies of 2 shards, top 2" in said
    assert "seeds 0, 1" in said
    assert "sigmoid_bias; bias {'rate': 0.01}" in said
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("override", "said"),
    [
        (["--upcycle.top_k", "5"], "upcycle.top_k is 5, more than the 4 experts"),
        (["--dense", "{model_type: gpt2, n_layer: 1, n_embd: 12}"], "has no counterpart with experts"),
        (["--upcycle.granularity", "5"], "granularity=5 does not divide the intermediate size 48"),
        (["--continued.warmup_step", "5"], "did you mean 'warmup_steps'"),
        (["--continued.lr_scheduler_type", "cosin"], "continued: "),
    ],
)
def test_wrong_input_is_one_line_and_exit_code_2(
    tmp_path: Path, values: dict[str, Any], capsys: pytest.CaptureFixture[str], override: list[str], said: str
) -> None:
    path = write_recipe(tmp_path, values)
    assert main(["upcycle", str(path), *override]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: ")
    assert said in error
    assert not (tmp_path / "run").exists()
