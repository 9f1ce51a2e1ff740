"""A MixER run from end to end: files, numbers, the card, interruption."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from documents import code_blocks
from killed_runs import kill_once_there
from small_runs import results_of, write_recipe
from transformers import AutoModel

import hf_mixture  # noqa: F401 - registers the model type
from hf_mixture.cli.main import main


pytestmark = pytest.mark.slow

TINY = {
    "name": "tiny",
    "collections": {
        "odebench_small": {"trained_share": 0.5, "every": 10, "num_train": 1, "num_test": 1},
        "lotka_volterra": {"num_train": 1, "num_test": 1, "candidates": ["mixer"]},
    },
    "model": {"hidden_size": 4, "context_size": 4},
    "candidates": {"mixer": {"num_experts": 2}, "single": {"num_experts": 1}},
    "publish": "mixer",
    "training": {"max_steps": 8, "learning_rate": 0.01, "save_steps": 2, "disable_tqdm": True},
    "schedule": {"context_steps": 3, "expert_steps": 2},
    "adaptation": {"num_steps": 2},
}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("mixer")
    assert main(["mixer", write_recipe(folder, TINY)]) == 0
    return folder


def test_the_output_folder_is_complete_and_the_card_runs(home: Path) -> None:
    run = home / "run"
    assert {path.name for path in run.iterdir()} == {
        "comparison.png",
        "journal.json",
        "learning_curve.png",
        "models",
        "recipe.yaml",
        "report.md",
        "results.json",
        "trajectories.png",
    }
    results = results_of(home)
    assert [(row["collection"], row["system"]) for row in results["rows"]] == [
        ("odebench_small", "mixer"),
        ("odebench_small", "single"),
        ("lotka_volterra", "mixer"),
    ]
    mixer, single = results["rows"][:2]
    assert mixer["active_parameters"] == single["active_parameters"]
    published = run / "models" / "odebench_small-mixer-0"
    model = AutoModel.from_pretrained(published)
    assert model.gate(model.contexts.weight)[0].tolist() == mixer["experts"][0]
    card = (published / "README.md").read_text(encoding="utf-8")
    (code,) = (block.code for block in code_blocks(card) if block.language == "python")
    done = subprocess.run([sys.executable, "-c", code], cwd=published, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "torch.Size([1, 11, 2])" in done.stdout


@pytest.mark.parametrize(
    "place", ["checkpoints/odebench_small-single-0/checkpoint-4", "models/odebench_small-mixer-0"]
)
def test_a_killed_run_goes_on_and_ends_the_same(place: str, home: Path, tmp_path: Path) -> None:
    path = write_recipe(tmp_path, TINY)
    kill_once_there(["mixer", path], tmp_path / "run" / place)
    assert main(["mixer", path]) == 2
    assert main(["mixer", path, "--resume"]) == 0
    assert results_of(tmp_path) == results_of(home)
