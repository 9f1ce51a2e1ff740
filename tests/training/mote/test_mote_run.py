"""A run of expert edits from end to end: files, numbers, the baked model, interruption."""

from __future__ import annotations

import contextlib
import io
import json
import re
from pathlib import Path
from typing import Any

import pytest
from killed_runs import kill_once_there, without_times
from transformers import AutoModelForCausalLM, AutoTokenizer

from hf_mixture.cli.main import main
from hf_mixture.moe.anatomy import find_routers
from hf_mixture.moe.mote.auto import AutoMoTE
from hf_mixture.moe.mote.behaviours import make_behaviour
from hf_mixture.moe.mote.evaluation import EditEvaluator
from hf_mixture.moe.mote.scan import scan_prompts
from hf_mixture.training.mote.measure import groups_of
from hf_mixture.training.mote.questions import ANSWER_TOKENS, BEHAVIOUR, PRIVATE, make_questions, word_tokenizer
from hf_mixture.training.mote.recipe import QuestionsSpec


STAGES = ("pretrain", "finetune")
CONDITIONS = [
    "unedited",
    *(f"top {what}{beside}" for what in ("2 off, reroute", "1 on") for beside in ("", ", random", ", topic")),
]


def run(folder: Path, *words: str) -> tuple[int, str]:
    """Run the smoke recipe in this process; return its exit code and what it printed."""
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        code = main(["mote", "run", "mote_refusal", "--smoke", "--output_dir", str(folder), *words])
    return code, said.getvalue()


def load_results(folder: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    return loaded


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("mote") / "run"
    assert run(folder)[0] == 0
    return folder


@pytest.fixture(scope="module")
def results(home: Path) -> dict[str, Any]:
    return load_results(home)


def test_the_output_folder_is_complete(home: Path) -> None:
    assert {path.name for path in home.iterdir()} == {
        "comparison.png",
        "edits",
        "experts.png",
        "journal.json",
        "logs",
        "measured",
        "models",
        "recipe.yaml",
        "report.md",
        "results.json",
    }
    assert {path.name for path in (home / "models").iterdir()} == {"baked-0", "finetune-0", "pretrain-0"}
    assert not [path for path in home.rglob("*") if path.suffix in (".bin", ".pt", ".pth", ".pkl")]
    for picture in ("comparison.png", "experts.png"):
        assert (home / picture).read_bytes().startswith(b"\x89PNG")


def test_conditions_are_those_of_the_saved_models(home: Path, results: dict[str, Any]) -> None:
    [seed] = results["seeds"]
    assert list(results["conditions"]) == CONDITIONS
    assert results["conditions"] == seed["conditions"]
    questions = make_questions(QuestionsSpec(num_entities=4, num_scanned=8), 0)
    places = {"unedited": "models/finetune-0", "baked": "models/baked-0"}
    for name, place in places.items():
        model = AutoModelForCausalLM.from_pretrained(home / place)
        found = EditEvaluator(
            model,
            AutoTokenizer.from_pretrained(home / place),
            groups_of(questions.held_out),
            make_behaviour(BEHAVIOUR),
            max_new_tokens=ANSWER_TOKENS,
            progress=False,
        ).measure(name)
        if name == "unedited":
            assert found == seed["conditions"]["unedited"]
        else:
            shares = {topic: group["shares"].get("refused", 0.0) for topic, group in found.items()}
            assert shares == seed["baked"]["shares"]


def test_the_model_refuses_and_both_trainings_lowered_the_loss(results: dict[str, Any]) -> None:
    [seed] = results["seeds"]
    assert seed["conditions"]["unedited"]["private"]["shares"] == {"refused": 1.0}
    assert seed["conditions"]["unedited"]["public"]["shares"] == {"answered": 1.0}
    assert seed["scan"]["labels"] == {"answered": 8, "refused": 8}
    losses = [entry["loss"] for entry in seed["finetune"]["losses"]]
    assert losses[-1] < losses[0]


def test_of_the_experts_the_chosen_ones_alone_have_learned(home: Path, results: dict[str, Any]) -> None:
    before, after = (AutoModelForCausalLM.from_pretrained(home / "models" / f"{stage}-0") for stage in STAGES)
    [seed] = results["seeds"]
    chosen = seed["finetune"]["chosen"]
    assert chosen[0]["score"] == max(_private_shares(before).values())
    changed = {
        (router.path, int(expert))
        for router, old in zip(find_routers(after), find_routers(before), strict=True)
        for new, was in zip(router.experts.parameters(), old.experts.parameters(), strict=True)
        for expert in (new != was).flatten(1).any(dim=1).nonzero()
    }
    assert changed == {(expert["path"], expert["expert"]) for expert in chosen}
    assert not after.lm_head.weight.equal(before.lm_head.weight)


def _private_shares(model: Any) -> dict[tuple[str, int], float]:
    questions = make_questions(QuestionsSpec(num_entities=4, num_scanned=8), 0).scanned
    prompts = [question.prompt for question in questions if question.topic == PRIVATE]
    maps = scan_prompts(
        model, word_tokenizer(QuestionsSpec(num_entities=4)), prompts, labels=prompts, tokens=1, progress=False
    ).maps
    shares = maps.counts.sum(axis=0) / len(prompts)
    return {(router.path, expert): share for (router, expert), share in zip(maps.facts.columns, shares, strict=True)}


def test_the_baked_model_is_the_edited_one_without_this_package(home: Path, results: dict[str, Any]) -> None:
    [seed] = results["seeds"]
    baked = seed["baked"]
    assert (baked["exact"], baked["same_answers"], baked["max_difference"]) == (True, True, 0.0)
    edited = AutoMoTE.from_pretrained(home / "edits" / "seed-0", base_model=str(home / "models" / "finetune-0"))
    tokenizer = AutoTokenizer.from_pretrained(home / "models" / "baked-0")
    model = AutoModelForCausalLM.from_pretrained(home / "models" / "baked-0")
    inputs = tokenizer("private place1 relation2 ?", return_tensors="pt", return_token_type_ids=False)
    assert edited(**inputs).logits.equal(model(**inputs).logits)


def test_the_report_and_the_card(home: Path, results: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    report = (home / "report.md").read_text(encoding="utf-8")
    for name in (*results["conditions"], *results["requirements"]):
        assert f"| {name} |" in report
    card = (home / "models" / "baked-0" / "README.md").read_text(encoding="utf-8")
    assert card.startswith("---\n")
    [code] = re.findall(r"```python\n(.*?)```", card, flags=re.DOTALL)
    assert "hf_mixture" not in code
    monkeypatch.chdir(home / "models" / "baked-0")
    with contextlib.redirect_stdout(io.StringIO()) as said:
        exec(code, {})  # noqa: S102 - what a reader of the card does
    assert said.getvalue().startswith("private place1 relation2 ?")


def test_a_finished_run_is_refused_unless_resumed_and_then_unchanged(home: Path, results: dict[str, Any]) -> None:
    assert run(home)[0] == 2
    code, said = run(home, "--resume")
    assert code == 0
    assert load_results(home) == results | {"command": results["command"]}
    assert "==" not in said


@pytest.mark.slow
@pytest.mark.parametrize("when", ["checkpoints/finetune/0/checkpoint-20/trainer_state.json", "measured/seed-0.json"])
def test_a_killed_run_goes_on_to_the_same_result(tmp_path: Path, results: dict[str, Any], when: str) -> None:
    folder = tmp_path / "run"
    command = ["mote", "run", "mote_refusal", "--smoke", "--output_dir", str(folder)]
    kill_once_there(command, folder / when)
    assert not (folder / "results.json").exists()
    assert run(folder, "--resume")[0] == 0
    assert without_times(load_results(folder)) == without_times(results)
