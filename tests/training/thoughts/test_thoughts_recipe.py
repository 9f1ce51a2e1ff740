from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from tiny_thoughts import tiny_thoughts, write_recipe

from hf_mixture.cli.main import main
from hf_mixture.models.mixture_of_thoughts.interaction import num_level_parameters
from hf_mixture.training.resolve import find_recipe
from hf_mixture.training.thoughts.recipe import ThoughtsRecipe
from hf_mixture.training.thoughts.resolve import resolve_thoughts


@pytest.fixture
def values(tmp_path: Path) -> dict[str, Any]:
    return tiny_thoughts(tmp_path)


def resolve(values: dict[str, Any], **kwargs: Any) -> ThoughtsRecipe:
    return resolve_thoughts(yaml.safe_dump(values), **kwargs)


def test_the_resolved_recipe_reads_back(values: dict[str, Any]) -> None:
    recipe = resolve(values)
    assert resolve_thoughts(recipe.to_yaml()) == recipe
    assert recipe.new_experts == ["coder", "writer"]
    assert recipe.expert_recipe("writer").mixture("adapt").weights == {"prose": 1.0}


def test_later_values_win(values: dict[str, Any]) -> None:
    recipe = resolve(values, smoke=True, overrides=[("thoughts.num_levels", 1), ("documents.num_test", 9)])
    assert (recipe.seeds, recipe.thoughts["num_levels"], recipe.documents.num_test) == ([3], 1, 9)
    assert resolve(values).seeds == [0, 1]


@pytest.mark.parametrize("smoke", [False, True])
def test_the_packaged_recipes_resolve(smoke: bool) -> None:
    recipe = resolve_thoughts(find_recipe("mot_domains"), smoke=smoke)
    families = [expert.from_config["model_type"] for expert in recipe.experts.values() if expert.from_config]
    assert families == ["qwen3", "llama", "gpt2"]
    assert recipe.thoughts["num_active_experts"] == 3
    hub = resolve_thoughts(find_recipe("mot_hub"), smoke=smoke)
    assert not hub.new_experts
    assert len(hub.experts) == 3


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        ("sead", 1, "unknown key 'sead' in the recipe; did you mean 'seed'"),
        (
            "adapters",
            {},
            "the recipe has 'adapters', which is not for hf-mixture thoughts; run it with hf-mixture train",
        ),
        ("thoughts.num_level", 1, "unknown key 'num_level' in thoughts; did you mean 'num_levels'"),
        ("thoughts.experts", [], "thoughts has 'experts', which the experts decide"),
        ("thoughts.num_active_experts", 1, "thoughts.num_active_experts is 1; it must be from 2 to 2"),
        ("thoughts.num_active_experts", 3, "thoughts.num_active_experts is 3; it must be from 2 to 2"),
        ("documents.kinds", {}, "documents.kinds is empty"),
        (
            "documents.kinds.code_first",
            ["cod"],
            "unknown key 'cod' in documents.kinds.code_first; did you mean 'code'",
        ),
        ("documents.kinds.code_first", [], "documents.kinds.code_first is empty"),
        ("documents.prompt_segments", 4, "documents.prompt_segments is 4; it must be below num_segments, 4"),
        ("documents.segment_characters", 0, "documents.segment_characters is 0; it must be at least 1"),
        ("experts.writer.from_pretrained", "x", "experts.writer needs exactly one of from_pretrained and from_config"),
        ("experts.writer", {"from_pretrained": "x", "mixture": {"weights": {"code": 1}}}, "has its own tokenizer"),
        ("experts.writer.revision", "x", "experts.writer.revision is 'x', but a new model has none"),
        ("experts.writer.mixture", None, "experts.writer is new and has no 'mixture'"),
        ("experts.writer.mixture", {"weights": {"pros": 1.0}}, "unknown key 'pros' in experts.writer.mixture.weights"),
        ("experts.writer.tokenizer", {}, "experts.writer.tokenizer needs exactly one of"),
        ("experts.writer.from_config.n_embed", 3, "unknown key 'n_embed' in experts.writer.from_config"),
        ("experts", {"one": {"from_pretrained": "x"}}, "experts has only 'one'; a mixture needs at least two"),
        ("pretrain", None, "experts.coder is new and the recipe has no 'pretrain'"),
        ("pretrain.seed", 1, "pretrain has 'seed', which the run decides"),
        ("tune.learning_rate", 1.0, "tune has 'learning_rate', which the run decides"),
        ("tune.max_steps", 0, "tune.max_steps is 0"),
        ("learning_rates", [], "learning_rates is"),
        ("seeds", [1, 1], r"seeds is \[1, 1\]; give at least one, each once"),
        ("lora", {"r": 3}, "lora has 'r', which the size of the mixture decides"),
        ("lora", {"dropout": 0.1}, "unknown key 'dropout' in lora; did you mean 'lora_dropout'"),
    ],
)
def test_what_is_wrong_is_named(values: dict[str, Any], path: str, value: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        resolve(values, overrides=[(path, value)])


def test_a_dry_run_prints_the_plan_and_writes_nothing(
    tmp_path: Path, values: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["thoughts", str(write_recipe(tmp_path, values)), "--dry-run"]) == 0
    said = capsys.readouterr().out
    # One interaction between two stacks; the router reads the 32 features of the first expert.
    trained = num_level_parameters([32, 24], 16) + (32 * 8 + 8) + (8 * 8 + 8) + (8 * 2 + 2)
    assert f"2 active experts, {trained:,} trainable parameters" in said
    assert f"1 active expert, {trained:,} trainable parameters" in said
    # Rank 1 of the Llama: four projections of 32 x 32 and three of 32 x 48, in three layers.
    one = 3 * (4 * (32 + 32) + 3 * (32 + 48))
    rank = round(trained / one)
    assert f"coder rank {rank}, {rank * one:,}" in said
    assert re.search(r"pretrain +3 steps, 12 blocks of 192 tokens = 2,304 tokens", said)
    assert "3 steps, 12 documents; seeds 0, 1; learning rates 0.01, 0.03" in said
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("override", "said"),
    [
        (["--thoughts.num_levels", "3"], "thoughts: num_levels=3 must be from 1 to 2"),
        (["--thoughts.num_heads", "3"], "thoughts: latent_size=16 must be a multiple of num_heads=3"),
        (["--thoughts.latent_size", "wide"], "thoughts: "),
        (["--lora", "{target_modules: [no_such]}"], "lora: "),
        (["--tune.lr_scheduler_type", "cosin"], "tune: "),
        (["--documents.kinds.code_first", "[code, code, code, cod]"], "did you mean 'code'"),
    ],
)
def test_wrong_input_is_one_line_and_exit_code_2(
    tmp_path: Path, values: dict[str, Any], capsys: pytest.CaptureFixture[str], override: list[str], said: str
) -> None:
    assert main(["thoughts", str(write_recipe(tmp_path, values)), *override]) == 2
    error = capsys.readouterr().err
    assert "error: " in error
    assert said in error
    assert not (tmp_path / "run").exists()
