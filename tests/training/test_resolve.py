from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from tiny_recipe import tiny_recipe

from hf_mixture.training.recipe import Recipe, source_of
from hf_mixture.training.resolve import (
    find_recipe,
    peft_config,
    recipe_values,
    resolve_recipe,
    training_argument_values,
)


PACKAGED = ["quickstart", "smollm2_mos"]


@pytest.fixture
def values(tmp_path: Path) -> dict[str, Any]:
    return tiny_recipe(tmp_path)


def resolve(values: dict[str, Any], **kwargs: Any) -> Recipe:
    return resolve_recipe(yaml.safe_dump(values), **kwargs)


def test_the_resolved_recipe_reads_back(values: dict[str, Any]) -> None:
    recipe = resolve(values)
    assert resolve_recipe(recipe.to_yaml()) == recipe
    assert recipe.adapt.mixture.unit == "tokens"
    assert list(recipe.stages) == ["pretrain", "adapt"]


def test_later_values_win(values: dict[str, Any]) -> None:
    values["smoke"] = {"seed": 1, "block_size": 16, "adapt.training_arguments.max_steps": 2}
    recipe = resolve(values, smoke=True, overrides=[("seed", 2), ("block_size", 8), ("block_size", 4)])
    assert (recipe.seed, recipe.block_size, recipe.adapt.training_arguments["max_steps"]) == (2, 4, 2)
    assert resolve(values).seed == 0


def test_a_model_replaces_the_model_and_its_tokenizer(values: dict[str, Any]) -> None:
    recipe = resolve(values, model="someone/model", overrides=[("model.dtype", "bfloat16")])
    assert (recipe.model.from_pretrained, recipe.model.from_config, recipe.model.dtype) == (
        "someone/model",
        None,
        "bfloat16",
    )
    assert recipe.tokenizer.train_bpe is None


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        ("sead", 1, "unknown key 'sead' in the recipe; did you mean 'seed'"),
        ("adapt.training_arguments.max_step", 1, "adapt.training_arguments; did you mean 'max_steps'"),
        ("adapt.training_arguments.output_dir", "x", "'output_dir', which the run decides"),
        ("adapt.training_arguments.max_steps", 0, "max_steps is 0; give the number of steps"),
        ("adapt.training_arguments.learning_rate", 0.1, "the rates are adapt.learning_rates"),
        ("adapt.learning_rates", [], "adapt.learning_rates is empty"),
        ("adapt.mixture.weights", {"cod": 1.0}, "unknown key 'cod' in adapt.mixture.weights; did you mean 'code'"),
        ("adapt.mixture.weights", {"code": 0.2, "prose": 0.2}, "they must sum to 1"),
        ("adapt.mixture.weights", {"code": -1.0, "prose": 2.0}, "finite number >= 0"),
        ("adapt.mixture.unit", "words", "unit='words' is not one of"),
        ("adapters.lora.rank", 2, "unknown key 'rank' in adapters.lora"),
        ("adapters.lora.peft_type", "LORRA", "did you mean 'LORA'"),
        ("adapters.mos.equivalent_rnk", 2, "did you mean 'equivalent_rank'"),
        ("adapters.mos.private_rank", 5, "private_rank=5"),
        ("adapters.new.r", 2, "it needs a peft_type"),
        ("adapters.base", None, "an adapter is called 'base'"),
        ("adapters", {}, "adapters is empty"),
        ("domains", {"../up": "x"}, "becomes the name of a folder"),
        ("domains.code", {"path": "x", "splt": "y"}, "unknown key 'splt' in domains.code; did you mean 'split'"),
        ("domains.code", 3, "domains.code is 3"),
        ("model.from_config.hiden_size", 3, "did you mean 'hidden_size'"),
        ("model.from_config.model_type", "lama", "did you mean 'llama'"),
        ("model.from_config.vocab_size", 3, "which the tokenizer decides"),
        ("model.from_pretrained", "x", "from_pretrained and from_config"),
        ("model.dtype", "float8", "model.dtype is 'float8'"),
        ("tokenizer", {}, "add tokenizer.train_bpe"),
        ("tokenizer.train_bpe.vocab_size", 256, "must be at least 257"),
        ("tokenizer.from_pretrained", "x", "give one of them"),
        ("block_size", 1, "block_size is 1"),
        ("document_bytes", 0, "document_bytes is 0"),
        ("evaluation.test_bytes", 0, "evaluation.test_bytes is 0"),
    ],
)
def test_a_wrong_value_is_named_with_its_rule(values: dict[str, Any], path: str, value: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        resolve(values, overrides=[(path, value)])


def test_smoke_needs_its_section(values: dict[str, Any]) -> None:
    del values["smoke"]
    with pytest.raises(ValueError, match="no section 'smoke'"):
        resolve(values, smoke=True)


def test_training_arguments_have_defaults_that_the_recipe_wins_over(values: dict[str, Any]) -> None:
    recipe = resolve(values, overrides=[("adapt.training_arguments.max_steps", 400), ("seed", 3)])
    made = training_argument_values(recipe, recipe.adapt, 0.5)
    assert (made["seed"], made["learning_rate"], made["save_steps"], made["logging_steps"]) == (3, 0.5, 1, 1)
    made = training_argument_values(recipe, recipe.stages["pretrain"])
    assert made["learning_rate"] == 1e-2
    assert made["train_sampling_strategy"] == "sequential"


def test_an_adapter_is_any_config_of_peft_or_none() -> None:
    assert peft_config("a", {"peft_type": "IA3"}).peft_type.value == "IA3"
    assert peft_config("a", {"peft_type": "MOS", "r": 4}).r == 4
    assert peft_config("a", {"peft_type": "LORA"}).task_type == "CAUSAL_LM"
    assert peft_config("a", None) is None


@pytest.mark.parametrize("name", PACKAGED)
@pytest.mark.parametrize("smoke", [False, True])
def test_packaged_recipes_resolve(name: str, smoke: bool) -> None:
    recipe = resolve_recipe(find_recipe(name), smoke=smoke)
    assert recipe.name == name
    assert any((config or {}).get("peft_type") == "MOS" for config in recipe.adapters.values())


def test_a_recipe_of_a_search_names_its_command() -> None:
    with pytest.raises(ValueError, match="run it with hf-mixture mix search"):
        resolve_recipe(find_recipe("regmix"))


def test_an_unknown_recipe_names_the_packaged_ones() -> None:
    with pytest.raises(ValueError, match="not one of the packaged recipes; did you mean 'quickstart'"):
        find_recipe("quikstart")
    with pytest.raises(ValueError, match=r"not one of the packaged recipes \(.*quickstart"):
        find_recipe("zzzzzz")


def test_an_empty_name_and_an_empty_file_are_no_recipes() -> None:
    with pytest.raises(ValueError, match=r"^recipe '' is not a file and not one of the packaged recipes"):
        find_recipe("")
    with pytest.raises(ValueError, match=r"^the recipe is empty; it must be a mapping of keys"):
        recipe_values("# nothing\n")


def test_a_folder_is_no_recipe(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is a folder; give the YAML file in it"):
        find_recipe(str(tmp_path))


@pytest.mark.parametrize("path", ["../notes.txt", "~/notes.txt", "a/../notes.txt"])
def test_a_path_of_a_domain_may_climb_and_is_kept_as_an_absolute_one(path: str) -> None:
    assert source_of("notes", path).path == str(Path(path).expanduser().resolve())
    assert source_of("notes", "notes.txt").path == "notes.txt"
