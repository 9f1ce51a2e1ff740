"""Search recipes: what is read, what is refused, what a dry run says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from tiny_search import tiny_search, write_search

from hf_mixture.cli.main import main
from hf_mixture.training.resolve import find_recipe
from hf_mixture.training.search.recipe import SearchRecipe
from hf_mixture.training.search.resolve import resolve_search
from hf_mixture.training.strict import apply_override


@pytest.fixture
def values(tmp_path: Path) -> dict[str, Any]:
    return tiny_search(tmp_path)


def resolve(values: dict[str, Any], **kwargs: Any) -> SearchRecipe:
    return resolve_search(yaml.safe_dump(values), **kwargs)


def test_the_resolved_recipe_reads_back(values: dict[str, Any]) -> None:
    recipe = resolve(values)
    assert resolve_search(recipe.to_yaml()) == recipe
    assert recipe.comparison.baselines == ["natural", "stratified"]
    assert recipe.metrics == ("loss/code", "loss/prose", "loss/tables", "loss/mean")
    assert resolve(values, smoke=True).comparison.seeds == [3]


def test_two_domains_from_one_place_are_refused(values: dict[str, Any]) -> None:
    values["domains"]["again"] = f"{values['domains']['code']}/"
    with pytest.raises(ValueError, match=r"domains (code and again|again and code) are the same .*; remove one"):
        resolve(values)


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        ("objectiv", {}, r"unknown key 'objectiv' in the recipe; did you mean 'objective'\?"),
        ("method.name", "regmx", r"unknown key 'regmx' in the methods \(method.name\); did you mean 'regmix'\?"),
        (
            "method.settings",
            {"num_run": 3},
            r"unknown key 'num_run' in method.settings of regmix; did you mean 'num_r",
        ),
        ("method.settings", {"seed": 3}, "unknown key 'seed' in method.settings"),
        ("objective.metric", "loss/cod", "unknown key 'loss/cod' in objective.metric; did you mean 'loss/code'"),
        ("objective.direction", "down", "direction='down'"),
        ("objective.metric", [], r"objective.metric is \[\]"),
        ("proxy", None, "the recipe has no 'proxy'"),
        ("proxy.seed", 3, "unknown key 'seed' in proxy"),
        ("proxy.num_steps", 0, "proxy: num_steps=0"),
        ("comparison.training_arguments.seed", 3, "has 'seed', which the run decides"),
        ("comparison.training_arguments.max_steps", None, "comparison.training_arguments.max_steps is None"),
        ("proxy.model.hidden_sizes", 3, "did you mean 'hidden_size'"),
        ("comparison.model", {"hidden_size": 3}, "comparison.model has no 'model_type'"),
        ("comparison.baselines", ["naturl"], "unknown key 'naturl' in comparison.baselines; did you mean 'natural'"),
        ("comparison.seeds", [], r"comparison.seeds is \[\]"),
        ("comparison.seeds", [1, 1], r"comparison.seeds is \[1, 1\]; give at least one, each once"),
        ("comparison.seeds", [-1], "a seed is at least 0"),
        ("constraints.caps", {"code": 0.2, "prose": 0.2, "tables": 0.2}, "caps to 0.6"),
        ("constraints.floors", {"cod": 0.2}, "'cod', which is none of"),
        ("constraints.max_epochs", 0, "constraints.max_epochs is 0.0; it must be above 0"),
        ("domains", {"code": "a.txt"}, "a mixture needs at least two"),
        ("targets", {"code": "a.txt"}, "targets has 'code', which is a domain"),
        ("tokenizer", {}, "exactly one of from_pretrained and train_bpe"),
        ("tokenizer.train_bpe.vocab_size", 100, "at least 257"),
        ("evaluation.test_bytes", 0, "evaluation.test_bytes is 0; it must be at least 1"),
        ("clusters", {"num_clusters": 2, "num_domains": 3}, "clusters only merge"),
        ("swarm", "yes", "swarm is 'yes' of type str; it must be of type bool"),
    ],
)
def test_bad_values_are_refused(values: dict[str, Any], path: str, value: Any, said: str) -> None:
    apply_override(values, path, value)
    with pytest.raises(ValueError, match=said):
        resolve(values)


@pytest.mark.parametrize("name", ["admire", "aioli", "climb", "regmix"])
@pytest.mark.parametrize("smoke", [False, True])
def test_packaged_recipes_resolve(name: str, smoke: bool) -> None:
    recipe = resolve_search(find_recipe(name), smoke=smoke)
    assert (recipe.name, recipe.method.name) == (name, name)
    assert recipe.comparison.baselines == ["natural", "stratified"]


def test_a_recipe_of_a_training_names_its_command() -> None:
    with pytest.raises(ValueError, match="run it with hf-mixture train"):
        resolve_search(find_recipe("quickstart"))


def test_clusters_take_the_place_of_the_domains(values: dict[str, Any]) -> None:
    values |= {"clusters": {"num_domains": 2}, "targets": {"plain": "somewhere.txt"}}
    values["objective"]["metric"] = {"loss/plain": 0.5, "loss/cluster_1": 0.5}
    assert resolve(values).metrics == ("loss/cluster_0", "loss/cluster_1", "loss/plain", "loss/mean")
    with pytest.raises(ValueError, match=r"unknown key 'loss/code' in objective\.metric"):
        resolve(values, overrides=[("objective.metric", "loss/code")])


def test_a_dry_run_prints_the_plan_and_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_search(tmp_path, tiny_search(tmp_path, num_runs=5))
    before = sorted(tmp_path.rglob("*"))
    assert main(["mix", "search", str(path), "--dry-run", "--proxy.num_steps", "7"]) == 0
    assert sorted(tmp_path.rglob("*")) == before
    said = capsys.readouterr().out
    assert "objective      minimize loss/code" in said
    assert "proxies        5 runs, one after the other; one is 11,568 parameters, 7 steps of 4 blocks of 16" in said
    assert "regmix, natural, stratified; seeds 0, 1: 6 runs of 11,568 parameters, 6 steps" in said


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--method.name", "regmx"], "did you mean 'regmix'"),
        (["--seed"], "'--seed' has no value"),
        (["--override", "seed"], "--override 'seed' has no '='"),
        (["--domains.code", "no/such/file"], "no/such/file"),
        (["--comparison.training_arguments.optim", "adamm"], "comparison.training_arguments: "),
        (["--method.name", "climb", "--method.settings", "{rounds: []}"], "rounds=()"),
    ],
)
def test_bad_input_exits_with_2_and_writes_nothing(
    tmp_path: Path, words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_search(tmp_path, tiny_search(tmp_path))
    before = sorted(tmp_path.rglob("*"))
    assert main(["mix", "search", str(path), *words]) == 2
    assert sorted(tmp_path.rglob("*")) == before
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: ")
    assert said in error
