"""An unlearning run from end to end: files, figures, the card, interruption; and what is promised on real data."""

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
from hf_mixture.models.mm_recommender.journal import read_journal
from hf_mixture.training.resolve import find_recipe
from hf_mixture.training.unlearn.recipe import resolve_unlearn
from hf_mixture.training.unlearn.run import unlearn_recipe


pytestmark = pytest.mark.slow

TIKTOK = Path(__file__).parents[4] / "shared" / "data" / "recommendation" / "tiktok.npz"
TINY = {
    "name": "tiny",
    "data": {"name": "synthetic", "num_users": 40, "num_items": 30},
    "backbones": {
        "lightgcn_mm": {
            "num_steps": 30,
            "learning_rate": 0.02,
            "batch_size": 64,
            "model": {"backbone": "lightgcn_mm", "embedding_size": 8},
        }
    },
    "requests": {
        "items": {"kind": "items", "share": 0.1},
        "some": {"kind": "interactions", "share": 0.1, "seeds": [0]},
    },
    "grid": {
        "weights": {"sum": [0.5, 0.9], "two_phase": [0.5], "reset": [1], "refit": [0.9, 1]},
        "forget_batch": 16,
        "learning_rate": 0.02,
    },
    "num_shards": [2],
    "num_sequential": 2,
    "seeds": [0, 1],
    "k": 5,
}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("unlearn")
    assert main(["unlearn", write_recipe(folder, TINY)]) == 0
    return folder


def test_the_output_folder_is_complete_and_the_card_runs(home: Path) -> None:
    run = home / "run"
    names = {"journal.json", "levels.png", "models", "recipe.yaml", "report.md", "results.json", "salt.hex"}
    assert {path.name for path in run.iterdir()} == names | {"trade_off.png"}
    results = results_of(home)
    items, some = results["cases"]
    assert (items["seeds"], some["seeds"]) == ([0, 1], [0])
    assert {row["arm"].partition("@")[0] for row in items["rows"]} == {
        *("original", "gold", "fine_tune", "ascent", "ascent_retain", "reset_fine_tune", "block_list"),
        *("sharded-2", "sum", "two_phase", "reset", "refit"),
    }
    assert [row["arm"] for row in items["rows"] if row["chosen"]] == [items["ours"]]
    assert len(items["curve"]) == 5 + 6
    by_arm = {row["arm"]: row for row in items["rows"]}
    assert (by_arm["original"]["q"], by_arm["gold"]["q"], by_arm["gold"]["v"]) == (1.0, 0.0, 1.0)
    # A list of forbidden items hides what the model still knows.
    assert by_arm["block_list"]["forget_recall"] == 0
    assert by_arm["block_list"]["membership_auc"] == by_arm["original"]["membership_auc"]
    assert [entry["request"] for entry in results["sequence"]] == [1, 2]
    published = run / "models" / "unlearned"
    (entry,) = read_journal(published)
    assert entry.kinds == ["items"]
    card = (published / "README.md").read_text(encoding="utf-8")
    assert entry.request[:16] in card
    assert (run / "salt.hex").read_text(encoding="utf-8") not in card
    assert AutoModel.from_pretrained(published).config.num_edges == entry.counts["retained"]
    (code,) = (block.code for block in code_blocks(card) if block.language == "python")
    done = subprocess.run([sys.executable, "-c", code], cwd=published, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "tensor([[" in done.stdout


@pytest.mark.parametrize("place", ["models/lightgcn_mm-items-0-gold", "models/lightgcn_mm-some-0-gold"])
def test_a_killed_run_goes_on_and_ends_the_same(place: str, home: Path, tmp_path: Path) -> None:
    path = write_recipe(tmp_path, TINY)
    kill_once_there(["unlearn", path], tmp_path / "run" / place)
    assert main(["unlearn", path]) == 2
    assert main(["unlearn", path, "--resume"]) == 0
    assert results_of(tmp_path) == results_of(home)


def test_what_is_promised_of_items_and_users_on_the_videos(tmp_path: Path) -> None:
    """3 seeds, 5 % of items and of users: forgotten to the target, with utility, in a tenth of Gold's steps."""
    if not TIKTOK.is_file():
        pytest.skip("tiktok.npz is not in ../shared")
    recipe = resolve_unlearn(
        find_recipe("unlearn_tiktok"),
        overrides=[
            ("output_dir", str(tmp_path / "run")),
            ("data.path", str(TIKTOK)),
            ("backbones", {"vbpr": {"num_steps": 450, "model": {"backbone": "vbpr"}}}),
            ("requests", {kind: {"kind": kind, "share": 0.05} for kind in ("items", "users")}),
            ("grid.weights", {"sum": [0.5, 0.9], "reset": [0.99, 1], "refit": [1]}),
            ("num_shards", []),
            ("num_sequential", 0),
        ],
    )
    for case in unlearn_recipe(recipe)["cases"]:
        ours = next(row for row in case["rows"] if row["chosen"])
        control = next(row for row in case["rows"] if row["arm"].startswith("fine_tune"))
        assert len(ours["by_seed"]) == 3
        for mine, theirs in zip(ours["by_seed"], control["by_seed"], strict=True):
            assert mine["forget_ratio"] <= 0.25
            assert mine["test_ratio"] >= 0.95
            assert mine["c"] <= 0.10
            assert theirs["forget_ratio"] > mine["forget_ratio"]
        assert ours["reaches_target"]
        assert all(row["verdict"] for row in case["rows"] if row["arm"] not in ("original", "gold"))
