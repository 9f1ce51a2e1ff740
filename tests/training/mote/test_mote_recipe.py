"""From the text of a recipe of expert edits to its plan."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from hf_mixture.cli.main import main
from hf_mixture.training.mote.outcome import requirements
from hf_mixture.training.mote.plan import make_plan
from hf_mixture.training.mote.recipe import EditsSpec, MoteRecipe
from hf_mixture.training.mote.resolve import resolve_mote
from hf_mixture.training.resolve import find_recipe


def packaged(**kwargs: Any) -> MoteRecipe:
    return resolve_mote(find_recipe("mote_refusal"), **kwargs)


def test_the_resolved_recipe_reads_back() -> None:
    for smoke in (False, True):
        recipe = packaged(smoke=smoke)
        assert resolve_mote(recipe.to_yaml()) == recipe
    assert packaged(smoke=True, overrides=[("edits.num_draws", 21)]).edits.num_draws == 21


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        ("sead", 1, "unknown key 'sead' in the recipe; did you mean 'seeds'"),
        (
            "routers",
            {},
            "'routers', which is not for hf-mixture mote run; run it with hf-mixture upcycle",
        ),
        ("model.pad_token_id", 0, "model has 'pad_token_id', which the tokenizer decides"),
        ("model.vocab_size", 9, "model has 'vocab_size', which the tokenizer decides"),
        ("model.num_expert", 4, "unknown key 'num_expert' in model; did you mean 'num_experts'"),
        ("pretrain.seed", 1, "pretrain has 'seed', which the run decides"),
        ("finetune.max_steps", 0, "finetune.max_steps is 0"),
        ("losses", {"load_balanse": 1}, "unknown key 'load_balanse' in losses; did you mean 'load_balance'"),
        ("losses", {"load_balance": -1}, "losses: "),
        ("questions.num_answers", 0, "questions.num_answers is 0; it must be at least 1"),
        ("questions.num_scanned", 240, "questions.num_scanned is 240; it must be below the 240 facts"),
        ("trained", [], r"trained is \[\]; give at least one part"),
        ("trained", [""], r"trained is \[''\]; give at least one part"),
        ("chosen.num_experts", 0, "chosen.num_experts is 0; it must be at least 1"),
        ("chosen.coverage", 1.5, r"chosen.coverage is 1.5; it is a share, in \(0, 1\]"),
        ("chosen.affinity", "norm", "unknown key 'norm' in chosen.affinity"),
        ("scan.last_tokens", 0, "scan.last_tokens is 0; it must be at least 1"),
        ("seeds", [1, 1], r"seeds is \[1, 1\]; give at least one, each once"),
        ("edits.num_off", [], r"edits.num_off is \[\]; give at least one number"),
        ("edits.num_on", [0], r"edits.num_on is \[0\]; give at least one number"),
        ("edits.modes", ["reroot"], "unknown key 'reroot' in edits.modes; did you mean 'reroute'"),
        ("edits.modes", [], "edits.modes is empty"),
        ("edits.force_weight", "const", "unknown key 'const' in edits.force_weight"),
        ("edits.num_draws", 19, "edits.num_draws is 19; it must be at least 20"),
        ("edits.baked", 5, "edits.baked is 5; it must be one of edits.num_off"),
        ("scan.scorer", "npm", "unknown key 'npm' in scan.scorer; did you mean 'npmi'"),
        ("scan.statistic", "counts", "unknown key 'counts' in scan.statistic; did you mean 'count'"),
    ],
)
def test_what_is_wrong_is_named(path: str, value: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        packaged(overrides=[(path, value)])


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        ([("model", {"model_type": "llama"})], "LlamaForCausalLM has no router"),
        ([("edits.num_on", [3])], "a token goes to 2 experts of a layer; name at most that"),
        ([("edits.num_off", [4, 15])], "with 16 experts in a layer, of which a token needs 2, at most 14 can be off"),
        ([("trained", ["mlp.expert."])], "trained has 'mlp.expert.', which is in no name of a parameter"),
        ([("chosen.num_experts", 17)], "chosen.num_experts is 17, and the model has 16 experts"),
        ([("finetune.lr_scheduler_type", "cosin")], "finetune: "),
    ],
)
def test_what_the_model_does_not_allow_is_said_before_anything_is_written(overrides: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        make_plan(packaged(overrides=overrides))


def test_a_dry_run_prints_the_plan_and_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "run"
    assert main(["mote", "run", "mote_refusal", "--dry-run", "--output_dir", str(folder)]) == 0
    said = capsys.readouterr().out
    # At most three experts of 3 matrices of 64 x 32.
    assert f"{3 * 3 * 64 * 32:,} parameters are trained" in said
    assert "240; 120 are scanned, 120 held out" in said
    assert not folder.exists()


def test_a_recipe_of_another_command_is_refused_in_one_line(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    path = tmp_path / "other.yaml"
    path.write_text(yaml.safe_dump({"adapters": {}}), encoding="utf-8")
    assert main(["mote", "run", str(path)]) == 2
    assert "run it with hf-mixture train" in capsys.readouterr().err


def test_requirements_compare_with_the_random_experts_of_the_same_seed() -> None:
    def entry(private: float, public: float, accuracy: float) -> dict[str, Any]:
        return {
            "private": {"shares": {"refused": private}, "accuracy": 0.0},
            "public": {"shares": {"refused": public}, "accuracy": accuracy},
        }

    conditions = {
        "unedited": entry(0.96, 0.0, 1.0),
        "top 1 off, reroute": entry(0.5, 0.0, 0.96),
        "top 1 off, reroute, random": entry(0.9, 0.0, 0.9),
        "top 4 off, reroute": entry(0.3, 0.0, 0.9),
        "top 4 off, reroute, random": entry(0.7, 0.0, 0.9),
        "top 1 on": entry(1.0, 0.2, 0.5),
    }
    # More than 4 experts are shown, and promise nothing.
    found = requirements(conditions, EditsSpec(num_off=[1, 4, 10], num_on=[1]))
    assert [entry["holds"] for entry in found.values()] == [True, False, True, True, False, True]
