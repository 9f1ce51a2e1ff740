"""Recipes through all rooms: the one that ships, and what is refused before anything is written."""

from __future__ import annotations

from pathlib import Path

import pytest

from hf_mixture.cli.main import main
from hf_mixture.training.everything.links import spread_of, train_of
from hf_mixture.training.everything.resolve import resolve_everything
from hf_mixture.training.resolve import find_recipe


@pytest.mark.parametrize("smoke", [False, True])
def test_the_recipe_that_ships_hands_on_what_parts_make(smoke: bool) -> None:
    recipe = resolve_everything(find_recipe("everything"), smoke=smoke)
    domains = {"cluster_0": "here/cluster_0", "cluster_rest": "here/cluster_rest"}
    weights = {"cluster_0": 0.75, "cluster_rest": 0.25}
    spread = spread_of(recipe, domains, weights)
    assert spread.systems[spread.publish].num_processes == 2
    assert spread.systems[spread.publish].ep_implementation == "fssdp"
    assert (spread.mixture.weights, spread.domains, spread.seed) == (weights, domains, recipe.seed)
    train = train_of(recipe, domains, weights, "here/base")
    assert train.model.from_pretrained == "here/base"
    assert train.adapt.mixture.weights == weights
    assert train.output_dir == f"{recipe.output_dir}/train"


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("curate.sources.docs.max_rows", -1, "curate: "),
        ("curate.name", "mine", "curate has 'name', which the run decides; remove it"),
        ("search.domains", {"a": "b"}, "search has 'domains', which the run decides; remove it"),
        ("search.method", {"name": "aioli"}, "search: aioli changes the mixture during one run and needs no proxies"),
        ("search.objective.metric", "loss/code", "search: unknown key 'loss/code' in objective.metric"),
        ("spread.seed", 3, "spread has 'seed', which the run decides; remove it"),
        (
            "spread.online.name",
            "aiol",
            "spread: unknown key 'aiol' in the methods (online.name); did you mean 'aioli'",
        ),
        ("spread.online.settings", {"eta": -1}, "spread: online.settings: "),
        ("spread.model.num_experts", 5, "spread.systems.fssdp2: ep=2 does not divide the 5 experts"),
        ("spread.publish", "other", "spread: publish is 'other'"),
        ("quantise.group_size", 48, "quantise: "),
        ("quantise.width", 3, "quantise: "),
        ("train.adapt.mixture", {"weights": {}}, "train has 'adapt.mixture', which the run decides; remove it"),
        ("train.adapters.mos.r", 64, "train: adapters.mos: r=64 of group"),
        ("train.adapters.other", {"peft_type": "LORA"}, "train.adapters has ['mos', 'other']; give one adapter"),
        ("train.adapters.mos.target_parameters", ["mlp.experts.down_proj"], "are planes by then"),
        ("clusters.partition", {"min_siz": 3}, "unknown key 'min_siz' in clusters.partition"),
        ("clusters.min_share", 0, "clusters.min_share is 0"),
        ("edits.mode", "scale", "edits.mode is 'scale'; choose one of reroute"),
        ("edits.num_off", 100, "edits.num_off is 100, of 24 experts"),
        ("hub", "mine", "hub is 'mine'; give OWNER/NAME"),
        ("adapters", {}, "which is not for hf-mixture everything; run it with hf-mixture train"),
    ],
)
def test_what_is_wrong_is_one_line(key: str, value: object, said: str) -> None:
    with pytest.raises(ValueError, match=r".") as raised:
        resolve_everything(find_recipe("everything"), overrides=[(key, value)])
    assert said in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_dry_run_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["everything", "everything", "--output_dir", str(tmp_path / "run"), "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert "regmix, then aioli while the model trains" in said
    assert "hub            nothing is pushed" in said
    assert not (tmp_path / "run").exists()
