"""A retrieval run from end to end: files, numbers, the card, interruption."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path

import pytest
from documents import code_blocks
from killed_runs import kill_once_there
from small_runs import results_of, write_recipe

import hf_mixture  # noqa: F401 - registers the model type
from hf_mixture.cli.main import main
from hf_mixture.training.resolve import find_recipe
from hf_mixture.training.retrieval.recipe import resolve_retrieval
from hf_mixture.training.retrieval.run import retrieval_recipe


pytestmark = pytest.mark.slow

CITATIONS = Path(__file__).parents[4] / "shared" / "data" / "citation" / "hepth.npz"
TINY = {
    "name": "tiny",
    "interactions": {"source": "synthetic", "max_users": 60},
    "embeddings": {
        "twhin": {
            "method": "trained",
            "options": {"embedding_size": 8},
            "candidates": [{"embedding_penalty": 0.0}, {"embedding_penalty": 0.1}],
            "num_negatives": 32,
            "training": {"max_steps": 20, "per_device_train_batch_size": 512, "learning_rate": 3e-2, "save_steps": 4},
            "eval_steps": 5,
        },
        "als": {
            "method": "als",
            "options": {"embedding_size": 8, "alpha": 10.0, "regularisation": 1.0, "num_rounds": 4},
        },
        "lightgcn": {
            "method": "lightgcn",
            "options": {"embedding_size": 8, "num_layers": 2, "penalty": 1e-4},
            "training": {"max_steps": 10, "per_device_train_batch_size": 512, "learning_rate": 3e-2},
            "eval_steps": 5,
        },
    },
    "mixtures": {"num_clusters": [4], "num_neighbours": [5]},
    "user_cf": [5],
    "publish": "twhin",
    "study": ["als"],
    "study_partition": True,
    "seeds": [0, 1],
}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("retrieval")
    assert main(["retrieve", write_recipe(folder, TINY)]) == 0
    return folder


def test_the_output_folder_is_complete_and_the_card_runs(home: Path) -> None:
    run = home / "run"
    assert {path.name for path in run.iterdir()} == {
        "choice.png",
        "comparison.png",
        "gain.png",
        "journal.json",
        "model",
        "recipe.yaml",
        "report.md",
        "results.json",
        "study.png",
        "vectors",
    }
    results = results_of(home)
    systems = [row["system"] for row in results["rows"]]
    assert systems[:3] == ["popularity", "user-CF, k=5", "item-CF"]
    assert len(systems) == 3 + 3 * 4
    for row in results["rows"]:
        assert len(row["seeds"]) == (1 if row["embedding"] is None else 2)
    # Steps are chosen where validation recall was highest, among those of all candidates.
    choice = results["choices"]["twhin"]["choose"]
    best = max(recall for entry in choice["tried"] for _, recall in entry["curve"])
    assert choice["tried"][choice["chosen"]]["recall@10"] == best
    assert [choice["steps"], best] in choice["tried"][choice["chosen"]]["curve"]
    assert {row["value"] for row in results["study"]["als"]["rows"]} >= {"4", "PPP", "even", "pooled", "centroid"}
    card = (run / "model" / "README.md").read_text(encoding="utf-8")
    (code,) = (block.code for block in code_blocks(card) if block.language == "python")
    done = subprocess.run([sys.executable, "-c", code], cwd=run / "model", capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "torch.Size([3, 10])" in done.stdout


@pytest.mark.parametrize(
    "place", ["checkpoints/twhin-1/checkpoint-4", "vectors/choose-twhin.npz", "vectors/als-1.npz"]
)
def test_a_killed_run_goes_on_and_ends_the_same(place: str, home: Path, tmp_path: Path) -> None:
    path = write_recipe(tmp_path, TINY)
    kill_once_there(["retrieve", path], tmp_path / "run" / place)
    assert main(["retrieve", path]) == 2
    assert main(["retrieve", path, "--resume"]) == 0
    assert results_of(tmp_path) == results_of(home)


def test_mixtures_of_weak_embeddings_gain_on_citations(tmp_path: Path) -> None:
    """3 seeds, steps and settings from validation: kNN > MLE > one vector, by 1.15 or more."""
    if not CITATIONS.is_file():
        pytest.skip("hepth.npz is not in ../shared")
    text = find_recipe("knn_embed_citation")
    twhin = resolve_retrieval(text).embeddings["twhin"]
    recipe = resolve_retrieval(
        text,
        overrides=[
            ("output_dir", str(tmp_path / "run")),
            ("interactions.path", str(CITATIONS)),
            ("embeddings", {"twhin": dataclasses.asdict(twhin)}),
            ("mixtures", {"num_clusters": [500, 2000], "num_neighbours": [10]}),
            ("user_cf", [10]),
            ("study", []),
        ],
    )
    rows = {row["method"]: row["seeds"] for row in retrieval_recipe(recipe)["rows"]}
    assert len(rows["knn"]) == 3
    for one, mle, knn in zip(rows["one_vector"], rows["none"], rows["knn"], strict=True):
        assert knn["recall@10"] > mle["recall@10"] > one["recall@10"]
        assert knn["recall@10"] >= 1.15 * one["recall@10"]
