"""A run of thoughts from end to end: files, numbers, the published mixture, interruption."""

from __future__ import annotations

import contextlib
import io
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from killed_runs import kill_once_there, without_times
from tiny_thoughts import tiny_thoughts, write_recipe
from transformers import AutoModelForCausalLM, AutoTokenizer

from hf_mixture.cli.main import main
from hf_mixture.models.mixture_of_thoughts.processing_mixture_of_thoughts import MixtureOfThoughtsProcessor
from hf_mixture.training.bootstrap import paired_bootstrap
from hf_mixture.training.thoughts.scores import expert_nats, mixture_nats, num_answer_bytes, pooled_bits_per_byte


TRAINED = ["self_only", "lora", "mot"]
SYSTEMS = ["coder", "writer", "domain oracle", "document oracle", "routing alone", *TRAINED, "mot, wrong peers"]


def thoughts(*words: str) -> tuple[int, str]:
    """Run the command in this process; return its exit code and what it printed."""
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        code = main(["thoughts", *words])
    return code, said.getvalue()


def load_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the recipe and the result of an uninterrupted run."""
    folder = tmp_path_factory.mktemp("thoughts")
    assert thoughts(str(write_recipe(folder, tiny_thoughts(folder))))[0] == 0
    return folder


@pytest.fixture(scope="module")
def results(home: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = load_json(home / "run" / "results.json")
    return loaded


def system(results: dict[str, Any], name: str) -> dict[str, Any]:
    [found] = [row for row in results["systems"] if row["name"] == name]
    return found


def test_the_output_folder_is_complete(home: Path, results: dict[str, Any]) -> None:
    run = home / "run"
    assert {path.name for path in run.iterdir()} == {
        "comparison.png",
        "experts",
        "journal.json",
        "logs",
        "models",
        "prepared",
        "recipe.yaml",
        "report.md",
        "results.json",
        "scores",
    }
    assert not [path for path in run.rglob("*") if path.suffix in (".bin", ".pt", ".pth", ".pkl")]
    assert (run / "comparison.png").read_bytes().startswith(b"\x89PNG")
    assert [row["name"] for row in results["systems"]] == SYSTEMS
    assert set(results["differences"]) == set(SYSTEMS) - {"mot"}


def test_scores_are_those_of_the_saved_models(home: Path, results: dict[str, Any]) -> None:
    run = home / "run"
    documents = load_json(run / "prepared" / "documents.json")["test"]
    num_bytes = num_answer_bytes(documents)
    folder = run / "models" / "mot"
    processor = MixtureOfThoughtsProcessor.from_pretrained(folder)
    mixture = AutoModelForCausalLM.from_pretrained(folder).eval()
    nats, primary = mixture_nats(mixture, processor, documents, batch_size=4)
    stored = load_json(run / "scores" / "mot-0.json")
    np.testing.assert_allclose(nats, stored["nats"], rtol=1e-5)
    assert primary.tolist() == stored["primary"]
    alone = expert_nats(mixture.experts, processor, documents, batch_size=4)
    for place, name in enumerate(("coder", "writer")):
        expected = pooled_bits_per_byte(alone[:, place], num_bytes)
        assert system(results, name)["bits_per_byte"] == pytest.approx(expected, rel=1e-5)
    oracle = pooled_bits_per_byte(alone.min(axis=1), num_bytes)
    assert system(results, "document oracle")["bits_per_byte"] == pytest.approx(oracle, rel=1e-5)


def test_differences_are_paired_by_document_over_all_seeds(home: Path, results: dict[str, Any]) -> None:
    run = home / "run"
    documents = load_json(run / "prepared" / "documents.json")["test"]
    ours, theirs = (
        np.mean([load_json(run / "scores" / f"{name}-{seed}.json")["nats"] for seed in (0, 1)], axis=0)
        for name in ("mot", "lora")
    )
    found = paired_bootstrap(ours / np.log(2), theirs / np.log(2), num_answer_bytes(documents))
    stored = dict(results["differences"]["lora"])
    assert stored.pop("verdict") == ("better" if found["high"] < 0 else "worse" if found["low"] > 0 else "undecided")
    assert stored == pytest.approx(found)


def test_controls_have_as_many_trained_parameters(results: dict[str, Any]) -> None:
    sizes = {name: results["trainings"][name]["trainable_parameters"] for name in TRAINED}
    assert sizes["mot"] == sizes["self_only"] == results["parameters"]["mixture"]
    assert sizes["lora"] == pytest.approx(sizes["mot"], rel=0.2)
    for name in TRAINED:
        training = results["trainings"][name]
        by_rate = training["validation_by_learning_rate"]
        assert float(min(by_rate, key=by_rate.__getitem__)) == training["learning_rate"]
        assert [run["seed"] for run in training["runs"]] == [0, 1]


def test_the_report_and_the_card(home: Path, results: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    report = (home / "run" / "report.md").read_text(encoding="utf-8")
    for row in results["systems"]:
        assert f"{row['bits_per_byte']:.4f}" in report
    for entry in results["requirements"]:
        assert entry["requirement"] in report
    folder = home / "run" / "models" / "mot"
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert card.startswith("---\n")
    blocks = re.findall(r"```python\n(.*?)```", card, flags=re.DOTALL)
    monkeypatch.chdir(folder)
    with contextlib.redirect_stdout(io.StringIO()) as said:
        exec(blocks[0], {})  # noqa: S102 - what a reader of the card does
    assert said.getvalue().strip()
    assert AutoTokenizer.from_pretrained(folder / "tokenizer_0").eos_token_id is not None


def test_a_finished_run_is_refused_unless_resumed_and_then_unchanged(home: Path, results: dict[str, Any]) -> None:
    assert thoughts(str(home / "tiny.yaml"))[0] == 2
    code, said = thoughts(str(home / "tiny.yaml"), "--resume")
    assert code == 0
    assert load_json(home / "run" / "results.json") == results
    assert "==" not in said


@pytest.mark.slow
@pytest.mark.parametrize("when", ["checkpoints/mot/0/0.03/checkpoint-2", "scores/mot-0.json"])
def test_a_killed_run_goes_on_to_the_same_result(tmp_path: Path, results: dict[str, Any], when: str) -> None:
    path = write_recipe(tmp_path, tiny_thoughts(tmp_path))
    kill_once_there(["thoughts", str(path)], tmp_path / "run" / when)
    assert thoughts(str(path), "--resume")[0] == 0
    resumed = load_json(tmp_path / "run" / "results.json")
    for key in ("systems", "differences", "requirements", "trainings"):
        assert without_times(resumed[key]) == without_times(results[key])


@pytest.mark.slow
def test_the_packaged_recipe_runs(tmp_path: Path) -> None:
    assert thoughts("mot_domains", "--smoke", "--output_dir", str(tmp_path / "run"))[0] == 0
    found = load_json(tmp_path / "run" / "results.json")
    assert len(found["systems"]) == 10
    assert found["reload"]["max_difference"] <= 1e-5 * max(1.0, found["reload"]["max_logit"])
