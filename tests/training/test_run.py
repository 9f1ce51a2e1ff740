"""The main job from end to end: files, numbers, interruption, several processes."""

from __future__ import annotations

import contextlib
import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from cards import run_card
from killed_runs import kill_once_there
from safetensors.torch import load_file, save_file
from tiny_recipe import tiny_recipe, write_recipe
from transformers import AutoModelForCausalLM, AutoTokenizer

from hf_mixture import Mixture
from hf_mixture.cli.main import main
from hf_mixture.data.encoding import encode
from hf_mixture.training.models import load_model
from hf_mixture.training.parts import adapter_part
from hf_mixture.training.prepare import Prepared
from hf_mixture.training.recipe import Recipe
from hf_mixture.training.reload import check_in_fresh_process, save_reference
from hf_mixture.training.resolve import resolve_recipe
from hf_mixture.training.run import load_texts
from hf_mixture.training.scoring import bits_per_byte, total_nats
from hf_mixture.training.stage import last_checkpoint, remove_torn_checkpoints


STEPS = 12


def train(*words: str) -> tuple[int, str]:
    """Run the command in this process; return its exit code and what it printed."""
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        code = main(["train", *words])
    return code, said.getvalue()


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the recipe and the result of an uninterrupted run."""
    folder = tmp_path_factory.mktemp("train")
    write_recipe(folder, tiny_recipe(folder, steps=STEPS))
    code, said = train(str(folder / "tiny.yaml"))
    assert code == 0
    (folder / "said.txt").write_text(said, encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def results(home: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((home / "run" / "results.json").read_text(encoding="utf-8"))
    return loaded


def recipe_of(home: Path) -> Recipe:
    return resolve_recipe((home / "tiny.yaml").read_text(encoding="utf-8"))


def system(results: dict[str, Any], name: str) -> dict[str, Any]:
    [found] = [entry for entry in results["systems"] if entry["name"] == name]
    return found


def test_the_output_folder_is_complete(home: Path) -> None:
    run = home / "run"
    assert sorted(path.name for path in run.iterdir()) == [
        "adapters",
        "base",
        "journal.json",
        "prepared",
        "recipe.yaml",
        "results.json",
    ]
    for name in ("mos", "lora"):
        assert {path.name for path in (run / "adapters" / name).iterdir()} == {
            "README.md",
            "adapter_config.json",
            "adapter_model.safetensors",
            "learning_curve.png",
            "mixture.json",
            "recipe.yaml",
            "results.json",
            "tokenizer.json",
            "tokenizer_config.json",
            "trainer_log.jsonl",
        }
    assert not [path for path in run.rglob("*") if path.suffix in (".bin", ".pt", ".pth", ".pkl")]
    assert (run / "adapters" / "mos" / "learning_curve.png").read_bytes().startswith(b"\x89PNG")


def test_the_saved_recipe_and_mixture_are_those_that_were_used(home: Path) -> None:
    folder = home / "run" / "adapters" / "mos"
    assert resolve_recipe((folder / "recipe.yaml").read_text(encoding="utf-8")) == recipe_of(home)
    mixture = Mixture.from_pretrained(folder)
    assert (mixture.weights, mixture.unit, mixture.seed) == ({"code": 0.75, "prose": 0.25}, "tokens", 0)


def test_the_log_is_the_trainers(home: Path, results: dict[str, Any]) -> None:
    lines = (home / "run" / "adapters" / "mos" / "trainer_log.jsonl").read_text(encoding="utf-8").splitlines()
    log = [json.loads(line) for line in lines]
    losses = [entry["loss"] for entry in log if "loss" in entry]
    assert len(losses) == STEPS
    assert losses[-1] == system(results, "mos")["final_loss"]
    assert {key for entry in log for key in entry if key.startswith("eval_") and key.endswith("_loss")} == {
        "eval_code_loss",
        "eval_prose_loss",
    }


def test_training_lowers_bits_per_byte(results: dict[str, Any]) -> None:
    untrained, base, mos = (system(results, name)["test_bits_per_byte"] for name in ("untrained", "base", "mos"))
    assert base["prose"] < untrained["prose"] - 0.2
    assert mos["code"] != base["code"]


def test_the_best_learning_rate_is_chosen_by_validation(results: dict[str, Any]) -> None:
    for name in ("mos", "lora"):
        entry = system(results, name)
        tried = entry["validation_by_learning_rate"]
        assert set(tried) == {"0.0001", "0.02"}
        assert min(tried, key=tried.__getitem__) == f"{entry['learning_rate']:g}"
        scores = entry["validation_bits_per_byte"]
        assert tried[f"{entry['learning_rate']:g}"] == pytest.approx(0.75 * scores["code"] + 0.25 * scores["prose"])


def test_the_scores_are_those_of_the_saved_adapter(home: Path, results: dict[str, Any]) -> None:
    model = AutoModelForCausalLM.from_pretrained(home / "run" / "adapters" / "mos")
    windows = Prepared(home / "run" / "prepared").windows("test", 32)
    for domain, score in system(results, "mos")["test_bits_per_byte"].items():
        assert bits_per_byte(total_nats(model, windows[domain]), windows[domain].num_bytes) == pytest.approx(score)


def test_held_out_bytes_are_those_of_the_text(home: Path, results: dict[str, Any]) -> None:
    recipe = recipe_of(home)
    tokenizer = AutoTokenizer.from_pretrained(home / "run" / "adapters" / "mos")
    stored = json.loads((home / "run" / "prepared" / "heldout.json").read_text(encoding="utf-8"))
    assert results["data"]["tokenizer_is_lossless"]
    texts = load_texts(recipe)
    for domain, entry in stored["test"].items():
        decoded = tokenizer.batch_decode(entry["documents"], clean_up_tokenization_spaces=False)
        assert entry["num_bytes"] == sum(len(text.encode()) for text in decoded) <= recipe.evaluation.test_bytes
        assert all(any(whole.startswith(piece) for whole in texts[domain]["test"]["text"]) for piece in decoded)
        assert encode(tokenizer, decoded) == entry["documents"]


def test_equal_budgets_are_equal(home: Path, results: dict[str, Any]) -> None:
    mos, lora = (system(results, name) for name in ("mos", "lora"))
    assert mos["trainable_parameters"] == lora["trainable_parameters"] == 2 * 3 * 2 * (32 + 32)
    saved = load_file(home / "run" / "adapters" / "lora" / "adapter_model.safetensors")
    assert sum(tensor.numel() for tensor in saved.values()) == lora["trainable_parameters"]
    assert lora["file_bytes"] == (home / "run" / "adapters" / "lora" / "adapter_model.safetensors").stat().st_size


def test_the_table_and_the_last_lines(home: Path, results: dict[str, Any]) -> None:
    said = (home / "said.txt").read_text(encoding="utf-8")
    lines = said.splitlines()
    [head] = [line for line in lines if "learning rate  trainable" in line]
    assert head.split()[-2:] == ["code*", "prose*"]
    [row] = [line for line in lines if line.startswith("mos  ")]
    assert row.split()[-2:] == [
        f"{system(results, 'mos')['test_bits_per_byte'][name]:.4f}" for name in ("code", "prose")
    ]
    assert "logits differ by at most 0" in said
    assert lines[-1].endswith(f'AutoModelForCausalLM.from_pretrained("{home / "run"}/adapters/mos")')


def test_the_card_tells_what_was_measured(home: Path, results: dict[str, Any]) -> None:
    card = (home / "run" / "adapters" / "mos" / "README.md").read_text(encoding="utf-8")
    assert "import hf_mixture" in card
    assert "![Learning curve](learning_curve.png)" in card
    assert f"`hf-mixture train {home / 'tiny.yaml'}`" in card
    for name in ("base", "mos", "lora"):
        assert f"{system(results, name)['test_bits_per_byte']['code']:.4g}" in card
    run_card(home / "run" / "adapters" / "mos")


def test_a_finished_run_is_refused_unless_resumed_and_then_unchanged(home: Path, results: dict[str, Any]) -> None:
    assert train(str(home / "tiny.yaml"))[0] == 2
    code, said = train(str(home / "tiny.yaml"), "--resume")
    assert code == 0
    assert json.loads((home / "run" / "results.json").read_text(encoding="utf-8")) == results
    assert "steps" not in said.partition("== ")[2]


def test_an_adapter_that_reloads_otherwise_is_an_error(home: Path, tmp_path: Path) -> None:
    folder = home / "run" / "adapters" / "lora"
    model = load_model(folder, {"dtype": "float32"})
    reference = tmp_path / "reference.safetensors"
    save_reference(model, torch.arange(20).view(2, 10), reference)
    tensors = load_file(reference)
    save_file(tensors | {"logits": tensors["logits"] + 0.01}, str(reference))
    with pytest.raises(RuntimeError, match=r"does not reload as it was trained: its logits differ by 0\.01"):
        check_in_fresh_process({"lora": folder}, {"lora": reference}, {"dtype": "float32"})


def killed_run(folder: Path, when: Path) -> None:
    """Start the command in another process and kill it as soon as a file exists."""
    kill_once_there(["train", str(folder / "tiny.yaml")], when)


def resumed_results(folder: Path) -> dict[str, Any]:
    assert train(str(folder / "tiny.yaml"), "--resume")[0] == 0
    loaded: dict[str, Any] = json.loads((folder / "run" / "results.json").read_text(encoding="utf-8"))
    return loaded


def assert_same_outcome(resumed: dict[str, Any], results: dict[str, Any]) -> None:
    keys = ("name", "final_loss", "validation_bits_per_byte", "test_bits_per_byte", "learning_rate")
    for one, other in zip(resumed["systems"], results["systems"], strict=True):
        assert {key: one.get(key) for key in keys} == {key: other.get(key) for key in keys}


def test_a_killed_run_resumes_to_the_same_loss(tmp_path: Path, results: dict[str, Any]) -> None:
    write_recipe(tmp_path, tiny_recipe(tmp_path, steps=STEPS))
    part = adapter_part("mos", 1)
    checkpoints = tmp_path / "run" / "checkpoints" / part
    killed_run(tmp_path, checkpoints / "checkpoint-2" / "trainer_state.json")
    finished = json.loads((tmp_path / "run" / "journal.json").read_text(encoding="utf-8"))["finished"]
    assert adapter_part("mos", 0) in finished
    assert part not in finished
    # What a kill inside a save leaves: newest, and not whole.
    torn = checkpoints / "checkpoint-11"
    torn.mkdir()
    (torn / "trainer_state.json").write_text('{"global_step": 2', encoding="utf-8")
    before = (tmp_path / "run" / "base" / "model.safetensors").stat().st_mtime_ns
    assert_same_outcome(resumed_results(tmp_path), results)
    assert (tmp_path / "run" / "base" / "model.safetensors").stat().st_mtime_ns == before


@pytest.mark.slow
@pytest.mark.parametrize(
    "when",
    [
        "prepared/tokenizer",
        ".prepared.partial",
        "checkpoints/base/checkpoint-2",
        "checkpoints/base/checkpoint-4/optimizer.pt",
        "base",
        "candidates/mos/0",
        "adapters/mos",
        "candidates/lora.reference.safetensors",
        "adapters/lora/results.json",
    ],
)
def test_a_run_killed_anywhere_resumes_to_the_same_loss(tmp_path: Path, results: dict[str, Any], when: str) -> None:
    write_recipe(tmp_path, tiny_recipe(tmp_path, steps=STEPS))
    killed_run(tmp_path, tmp_path / "run" / when)
    assert_same_outcome(resumed_results(tmp_path), results)


@pytest.mark.slow
def test_a_run_killed_again_and_again_resumes_to_the_same_loss(tmp_path: Path, results: dict[str, Any]) -> None:
    recipe = write_recipe(tmp_path, tiny_recipe(tmp_path, steps=STEPS))
    for when in (
        "prepared/tokenizer",
        "checkpoints/base/checkpoint-2",
        "base",
        "candidates/mos/0",
        f"checkpoints/{adapter_part('mos', 1)}/checkpoint-1",
        f"checkpoints/{adapter_part('mos', 1)}/checkpoint-3/optimizer.pt",
        "adapters/mos",
        "candidates/lora.reference.safetensors",
        "adapters/lora/results.json",
    ):
        kill_once_there(["train", str(recipe), "--resume"], tmp_path / "run" / when)
    assert_same_outcome(resumed_results(tmp_path), results)


def test_only_whole_checkpoints_are_kept(tmp_path: Path) -> None:
    whole = (
        "trainer_state.json",
        "optimizer.pt",
        "scheduler.pt",
        "training_args.bin",
        "a.safetensors",
        "rng_state.pth",
    )
    for step, names in {9: whole, 10: whole, 11: whole[1:], 12: whole[:-1], 13: whole[:4] + whole[5:]}.items():
        folder = tmp_path / f"checkpoint-{step}"
        folder.mkdir()
        for name in names:
            (folder / name).write_text("{}", encoding="utf-8")
    remove_torn_checkpoints(tmp_path, num_processes=1)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-10", "checkpoint-9"]
    assert last_checkpoint(tmp_path) == str(tmp_path / "checkpoint-10")
    remove_torn_checkpoints(tmp_path, num_processes=2)
    assert last_checkpoint(tmp_path) is None


@pytest.mark.slow
def test_two_processes_train_as_one_with_the_doubled_batch(tmp_path: Path, home: Path) -> None:
    outcomes = []
    for processes, batch in ((2, 2), (1, 4)):
        folder = tmp_path / str(processes)
        folder.mkdir()
        recipe = tiny_recipe(folder, steps=6)
        del recipe["adapters"]["mos"]["mos_dropout"]
        for stage in ("pretrain", "adapt"):
            recipe[stage]["training_arguments"]["per_device_train_batch_size"] = batch
        path = write_recipe(folder, recipe)
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
        done = subprocess.run(
            [*command, "-m", "hf_mixture_cli", "train", str(path)], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr[-3000:]
        journal = json.loads((folder / "run" / "journal.json").read_text(encoding="utf-8"))
        assert journal["num_processes"] == processes
        outcomes.append(json.loads((folder / "run" / "results.json").read_text(encoding="utf-8")))
    for two, one in zip(*(outcome["systems"] for outcome in outcomes), strict=True):
        for domain, score in one["test_bits_per_byte"].items():
            assert two["test_bits_per_byte"][domain] == pytest.approx(score, abs=1e-5)


def test_all_weights_can_be_trained_on_a_pretrained_model(tmp_path: Path, home: Path) -> None:
    recipe = tiny_recipe(tmp_path, steps=3)
    for section in ("pretrain", "smoke", "tokenizer"):
        del recipe[section]
    recipe["model"] = {"from_pretrained": str(home / "run" / "base")}
    recipe["adapters"] = {"everything": None}
    recipe["adapt"]["learning_rates"] = [1e-2]
    recipe["adapt"]["mixture"]["unit"] = "bytes"
    assert train(str(write_recipe(tmp_path, recipe)))[0] == 0
    loaded = json.loads((tmp_path / "run" / "results.json").read_text(encoding="utf-8"))
    assert [entry["name"] for entry in loaded["systems"]] == ["base", "everything"]
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "run" / "adapters" / "everything")
    assert model.num_parameters() == system(loaded, "everything")["trainable_parameters"]
    base, everything = (system(loaded, name)["test_bits_per_byte"] for name in ("base", "everything"))
    assert everything["code"] < base["code"] - 0.02
