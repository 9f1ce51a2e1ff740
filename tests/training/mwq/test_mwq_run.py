"""A D2MoE run from end to end: files, numbers, interruption; and the order of widths in quality on a trained model."""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path
from typing import Any

import pytest
from cards import run_card
from killed_runs import kill_once_there, without_times
from tiny_mwq import tiny_mwq
from tiny_upcycle import write_recipe
from transformers import AutoModelForCausalLM

from hf_mixture.cli.main import main
from hf_mixture.moe.mwq.budget import set_bit_budget
from hf_mixture.training.prepare import Prepared
from hf_mixture.training.scoring import bits_per_byte, total_nats


pytestmark = pytest.mark.slow

NAMES = ["full", "nested", "only-2", "only-3", "only-4", "routed-0.1", "routed-0.5"]


def run(*words: str) -> tuple[int, str]:
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        code = main(["mwq", "run", *words])
    return code, said.getvalue()


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("mwq")
    code, said = run(str(write_recipe(folder, tiny_mwq(folder))))
    assert code == 0
    (folder / "said.txt").write_text(said, encoding="utf-8")
    return folder


def results_of(folder: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((folder / "run" / "results.json").read_text(encoding="utf-8"))
    return loaded


def test_the_output_folder_is_complete(home: Path) -> None:
    folder = home / "run"
    assert sorted(path.name for path in folder.iterdir()) == [
        "comparison.png",
        "journal.json",
        "logs",
        "models",
        "prepared",
        "recipe.yaml",
        "report.md",
        "results.json",
    ]
    assert sorted(path.name for path in (folder / "models").iterdir()) == NAMES
    assert {"README.md", "comparison.png", "recipe.yaml", "mwq-2.safetensors", "tokenizer.json"} <= {
        path.name for path in (folder / "models" / "routed-0.1").iterdir()
    }
    assert not [path for path in folder.rglob("*") if path.suffix in (".bin", ".pt", ".pth", ".pkl")]
    assert (folder / "comparison.png").read_bytes().startswith(b"\x89PNG")
    card = (folder / "models" / "routed-0.1" / "README.md").read_text(encoding="utf-8")
    assert "import hf_mixture" in card
    run_card(folder / "models" / "routed-0.1")
    assert (home / "said.txt").read_text(encoding="utf-8").count("| nested at ") == 3


def test_rows_are_those_of_the_saved_models(home: Path) -> None:
    rows = {row["name"]: row for row in results_of(home)["rows"]}
    folder = home / "run" / "models"
    windows = Prepared(home / "run" / "prepared").windows("test", 32)

    def score(model: Any) -> float:
        found = {name: bits_per_byte(total_nats(model, held), held.num_bytes) for name, held in windows.items()}
        return 0.75 * found["code"] + 0.25 * found["prose"]

    assert rows["float32"]["bits_per_byte"] == pytest.approx(
        score(AutoModelForCausalLM.from_pretrained(folder / "full"))
    )
    nested = AutoModelForCausalLM.from_pretrained(folder / "nested")
    for width in (2, 3, 4):
        set_bit_budget(nested, width)
        row = rows[f"nested at {width} bits"]
        assert row["bits_per_byte"] == pytest.approx(score(nested))
        assert row["bits"] == width
        files = [folder / "nested" / f"mwq-{level}.safetensors" for level in range(2, width + 1)]
        assert row["disk_bytes"] == sum(file.stat().st_size for file in files)
        assert (
            rows[f"only {width} bits"]["disk_bytes"]
            == (folder / f"only-{width}" / f"mwq-{width}.safetensors").stat().st_size
        )
    routed = AutoModelForCausalLM.from_pretrained(folder / "routed-0.5")
    assert rows["nested, bit routers, alpha 0.5"]["bits_per_byte"] == pytest.approx(score(routed))
    assert 2.0 <= rows["nested, bit routers, alpha 0.5"]["bits"] <= 4.0


def test_memory_stays_within_the_budget(home: Path) -> None:
    results = results_of(home)
    experts = results["parameters"]["experts"]
    on_disk = {row["name"]: row for row in results["rows"] if row["name"].startswith("on disk")}
    assert len(on_disk) == 5
    for name, row in on_disk.items():
        assert row["expert_bytes"] <= (0.5 if "50%" in name else 0.25) * experts
        assert results["cache"][name]["bytes_read"] > 0
    assert results["reload"].keys() == {"full", "nested", "routed-0.1"}


UNSTEADY = (
    "tokens_per_second",
    "of_bfloat16",
    "of_memory",
    "ratio",
    "ratios",
    "cache",
    "read_seconds",
    "bubble_seconds",
)


def steady(value: Any) -> Any:
    """Results without times, and without what depends on how far the loader was ahead."""
    value = without_times(value)
    if isinstance(value, dict):
        return {key: steady(item) for key, item in value.items() if key not in (*UNSTEADY, "expert_bytes")}
    return [steady(item) for item in value] if isinstance(value, list) else value


@pytest.mark.parametrize(
    "place",
    ["checkpoints/full/checkpoint-2", "models/only-3", "checkpoints/routed-0.1/checkpoint-1", "models/routed-0.5"],
)
def test_a_run_that_was_killed_goes_on(home: Path, tmp_path: Path, place: str) -> None:
    values = tiny_mwq(home) | {"output_dir": str(tmp_path / "run")}
    path = str(write_recipe(tmp_path, values))
    kill_once_there(["mwq", "run", path], tmp_path / "run" / place)
    code, _ = run(path, "--resume")
    assert code == 0
    assert steady(results_of(tmp_path)) == steady(results_of(home))


def test_mixed_widths_lie_between_those_they_mix(tmp_path: Path) -> None:
    """Acceptance check 5: on a small trained model, V1 at 3.3 bits lies between 3 and 4 bits of the same planes."""
    values = tiny_mwq(tmp_path, steps=120)
    values["pretrain"] |= {"eval_steps": 120, "save_steps": 120, "learning_rate": 5e-3}
    values["pretrain"]["per_device_train_batch_size"] = 16
    values["bit_routers"] |= {"alphas": [0.05], "average_bits": 3.3}
    values["bit_routers"]["training_arguments"] |= {"max_steps": 40, "save_steps": 40, "eval_steps": 40}
    values["evaluation"] = {"test_bytes": 20000, "validation_bytes": 2000, "document_bytes": 2000}
    code, _ = run(str(write_recipe(tmp_path, values)))
    assert code == 0
    found = {row["name"]: row["bits_per_byte"] for row in results_of(tmp_path)["rows"]}
    two, three, four = (found[f"nested at {width} bits"] for width in (2, 3, 4))
    assert found["float32"] < four < three < two
    assert four < found["nested, bit routers, alpha 0.05"] < three
    assert four < found["nested, by gate and error"] < three
    assert results_of(tmp_path)["ratios"]["bytes: nested file / one file for each width"] < 0.6
