"""An upcycling run from end to end: files, numbers, interruption."""

from __future__ import annotations

import contextlib
import io
import json
import re
from pathlib import Path
from typing import Any

import pytest
from killed_runs import kill_once_there, without_times
from tiny_upcycle import tiny_upcycle, write_recipe
from transformers import AutoModelForCausalLM

from hf_mixture.cli.main import main
from hf_mixture.training.prepare import Prepared
from hf_mixture.training.scoring import bits_per_byte, total_nats
from hf_mixture.training.upcycle.load import expert_counts


pytestmark = pytest.mark.slow

SYSTEMS = ["dense", "softmax", "bias"]


def upcycle(*words: str) -> tuple[int, str]:
    """Run the command in this process; return its exit code and what it printed."""
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        code = main(["upcycle", *words])
    return code, said.getvalue()


def load_results(folder: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((folder / "run" / "results.json").read_text(encoding="utf-8"))
    return loaded


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the recipe and the result of an uninterrupted run."""
    folder = tmp_path_factory.mktemp("upcycle")
    code, said = upcycle(str(write_recipe(folder, tiny_upcycle(folder))))
    assert code == 0
    (folder / "said.txt").write_text(said, encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def results(home: Path) -> dict[str, Any]:
    return load_results(home)


def test_the_output_folder_is_complete(home: Path) -> None:
    run = home / "run"
    assert sorted(path.name for path in run.iterdir()) == [
        "comparison.png",
        "journal.json",
        "logs",
        "models",
        "prepared",
        "recipe.yaml",
        "report.md",
        "results.json",
    ]
    for name in SYSTEMS:
        assert {path.name for path in (run / "models" / name).iterdir()} == {
            "README.md",
            "comparison.png",
            "config.json",
            "generation_config.json",
            "model.safetensors",
            "recipe.yaml",
            "tokenizer.json",
            "tokenizer_config.json",
        }
    assert {path.stem for path in (run / "logs").iterdir()} == {
        "pretrain",
        *(f"{name}-{seed}" for name in SYSTEMS for seed in (0, 1)),
    }
    assert not [path for path in run.rglob("*") if path.suffix in (".bin", ".pt", ".pth", ".pkl")]
    assert (run / "comparison.png").read_bytes().startswith(b"\x89PNG")


def test_every_system_begins_as_the_dense_model(results: dict[str, Any]) -> None:
    dense, *others = results["systems"]
    assert [dense["name"], *(system["name"] for system in others)] == SYSTEMS
    for system in others:
        for run in system["runs"]:
            for domain, value in run["start_bits_per_byte"].items():
                assert value == pytest.approx(dense["runs"][0]["start_bits_per_byte"][domain], abs=1e-5)
            assert run["test_bits_per_byte"]["mean"] < run["start_bits_per_byte"]["mean"]
    start = results["pretrain"]["curve"][-1]
    for domain in ("code", "prose"):
        assert start[domain] == pytest.approx(dense["start_bits_per_byte"][domain], rel=0.02)


def test_scores_and_loads_are_those_of_the_saved_models(home: Path, results: dict[str, Any]) -> None:
    windows = Prepared(home / "run" / "prepared").windows("test", 32)
    for system in results["systems"]:
        model = AutoModelForCausalLM.from_pretrained(home / "run" / "models" / system["name"])
        run = system["runs"][0]
        for domain, held_out in windows.items():
            score = bits_per_byte(total_nats(model, held_out), held_out.num_bytes)
            assert run["test_bits_per_byte"][domain] == pytest.approx(score)
            if system["router"] is not None:
                assert expert_counts(model, held_out, batch_size=8)[0] == run["load"]["counts"][domain]


def test_means_and_differences(results: dict[str, Any]) -> None:
    dense = [run["test_bits_per_byte"]["mean"] for run in results["systems"][0]["runs"]]
    for system in results["systems"]:
        assert [run["seed"] for run in system["runs"]] == [0, 1]
        for run in system["runs"]:
            scores = run["test_bits_per_byte"]
            assert scores["mean"] == pytest.approx(0.75 * scores["code"] + 0.25 * scores["prose"])
        ours = [run["test_bits_per_byte"]["mean"] for run in system["runs"]]
        assert system["test_bits_per_byte"]["mean"] == pytest.approx(sum(ours) / 2)
        assert system["sd"] == pytest.approx(abs(ours[0] - ours[1]) / 2**0.5)
        difference = sum(a - b for a, b in zip(ours, dense, strict=True)) / 2
        assert system["less_dense"]["mean"] == pytest.approx(difference, abs=1e-12)
        if system["router"] is not None:
            assert system["load"]["experts_per_token"] == 2.0
            assert system["load"]["max_over_mean"] >= 1.0


def test_the_selection_bias_has_moved_and_the_loss_is_logged(home: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(home / "run" / "models" / "bias")
    for layer in model.model.layers:
        bias = layer.mlp.gate.e_score_correction_bias
        # Four updates of 0.01 up or down.
        assert 0.0 < float(bias.abs().max()) <= 0.04 + 1e-6
    text = (home / "run" / "logs" / "softmax-1.jsonl").read_text(encoding="utf-8")
    log = [json.loads(line) for line in text.splitlines()]
    assert all(entry["router/load_balance"] >= 2.0 - 1e-6 for entry in log if "loss" in entry)


def test_the_report_and_the_cards(home: Path, results: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    report = (home / "run" / "report.md").read_text(encoding="utf-8")
    for system in results["systems"]:
        assert f"{system['test_bits_per_byte']['mean']:.4f} ± {system['sd']:.4f}" in report
    assert "equal tokens, not equal computation" in report
    assert report.count("![") == 1
    for name in SYSTEMS:
        folder = home / "run" / "models" / name
        card = (folder / "README.md").read_text(encoding="utf-8")
        assert card.startswith("---\n")
        assert ("import hf_mixture" in card) == (name != "dense")
        [code] = re.findall(r"```python\n(.*?)```", card, flags=re.DOTALL)
        monkeypatch.chdir(folder)
        with contextlib.redirect_stdout(io.StringIO()) as said:
            exec(code, {})  # noqa: S102 - what a reader of the card does
        assert said.getvalue().startswith("The")


def test_a_finished_run_is_refused_unless_resumed_and_then_unchanged(home: Path, results: dict[str, Any]) -> None:
    assert upcycle(str(home / "tiny.yaml"))[0] == 2
    code, said = upcycle(str(home / "tiny.yaml"), "--resume")
    assert code == 0
    assert load_results(home) == results
    assert "==" not in said


@pytest.mark.parametrize("when", ["checkpoints/bias/0/checkpoint-2/trainer_state.json", "models/pretrain"])
def test_a_killed_run_goes_on_to_the_same_result(tmp_path: Path, results: dict[str, Any], when: str) -> None:
    path = write_recipe(tmp_path, tiny_upcycle(tmp_path))
    kill_once_there(["upcycle", str(path)], tmp_path / "run" / when)
    assert not (tmp_path / "run" / "results.json").exists()
    assert upcycle(str(path), "--resume")[0] == 0
    resumed = load_results(tmp_path)
    assert without_times(resumed["systems"]) == without_times(results["systems"])
    assert without_times(resumed["pretrain"]) == without_times(results["pretrain"])


def test_the_packaged_recipe_runs(tmp_path: Path) -> None:
    assert upcycle("upcycle", "--smoke", "--output_dir", str(tmp_path / "run"))[0] == 0
    found = load_results(tmp_path)
    assert len(found["systems"]) == 4
    assert found["data"]["tokenizer_is_lossless"]
    assert found["data"]["vocab_size"] == 257
