"""The recipe of a search for where to pool: what is refused, which images are read, and what is concluded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from hf_mixture.training.resolve import find_recipe, resolve_recipe
from hf_mixture.training.supernets.data import load_images
from hf_mixture.training.supernets.outcome import loads_are_even, path_scores
from hf_mixture.training.supernets.parts import paths_of_recipe
from hf_mixture.training.supernets.recipe import SuperNetsRecipe, resolve_supernets


TINY: dict[str, Any] = {
    "name": "tiny",
    "output_dir": "runs/tiny",
    "images": {"name": "digits", "image_size": 8, "options": {"num_train": 64, "num_validation": 64}},
    "network": {"num_channels": 1, "layer_widths": [4, 4, 4, 8]},
    "searches": {"balanced": {"num_models": 2}, "single": {"num_models": 1}},
    "publish": "balanced",
    "search": {"max_steps": 8},
    "alone": {"max_steps": 4},
}


def tiny(**changes: Any) -> SuperNetsRecipe:
    return resolve_supernets(yaml.safe_dump(TINY | changes))


def test_the_packaged_recipe_resolves_with_and_without_smoke() -> None:
    recipe = resolve_supernets(find_recipe("supernets_digits"))
    assert len(paths_of_recipe(recipe)) == 36
    assert recipe.searches["balanced_4"].num_models == 4
    # One model has as many steps in all, and once as many as each of the four.
    assert recipe.steps_of("single_path") == recipe.steps_of("balanced_4")
    assert recipe.steps_of("single_path_quarter") == recipe.steps_of("balanced_4") / 4
    small = resolve_supernets(find_recipe("supernets_digits"), smoke=True)
    assert small.search["max_steps"] < 100
    assert resolve_supernets(recipe.to_yaml()) == recipe


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"searches": {}}, "searches is empty"),
        ({"publish": "balancd"}, "did you mean 'balanced'"),
        ({"searches": {"balanced": {"num_models": 0}}}, "searches.balanced: num_models=0"),
        ({"searches": {"balanced": {"num_models": 2, "assignment": "balancd"}}}, "did you mean 'balanced'"),
        ({"searches": {"balanced": {"num_models": 9}}}, "num_models=9 is more than the 3 paths"),
        ({"searches": {"balanced": {"num_models": 2, "max_steps": 0}}}, "searches.balanced.max_steps is 0"),
        ({"network": {"layer_width": [4, 4, 4]}}, "did you mean 'layer_widths'"),
        ({"network": {"pooling_path": [0, 1, 0]}}, "unknown key 'pooling_path' in network"),
        ({"published": {"norm_affin": True}}, "did you mean 'norm_affine'"),
        ({"num_scales": 5}, "num_scales=5 must be from 2"),
        ({"search": {"learning_rate": 0.1}}, "search.max_steps is None"),
        ({"alone": {"max_step": 3}}, "did you mean 'max_steps'"),
        ({"images": {"name": "digits", "image_size": 2}}, "images.image_size is 2; it must be at least 4"),
        ({"images": {"name": "digits", "image_size": 8, "mode": "LA"}}, "unknown key 'LA' in the modes"),
        ({"images": {"name": "digits", "image_size": 8, "mode": "RGB"}}, "'RGB' has 3 channels and network.num_chan"),
        ({"seeds": []}, "each once"),
        ({"validation_batch_size": 0}, "validation_batch_size is 0"),
    ],
)
def test_recipes_that_cannot_work_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tiny(**change)


def test_a_recipe_of_another_command_names_its_own() -> None:
    with pytest.raises(ValueError, match="run it with hf-mixture supernets"):
        resolve_recipe(find_recipe("supernets_digits"))
    with pytest.raises(ValueError, match="run it with hf-mixture mixer"):
        resolve_supernets(find_recipe("mixer_odebench"))


def test_splits_that_a_folder_lacks_are_cut_from_its_training_images(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    for label in ("left", "right"):
        (tmp_path / "data" / "train" / label).mkdir(parents=True)
        for number in range(10):
            pixels = generator.integers(0, 256, (9, 9, 3)).astype(np.uint8)
            Image.fromarray(pixels).save(tmp_path / "data" / "train" / label / f"{number}.png")
    images = {
        "name": "imagefolder",
        "image_size": 8,
        "options": {"data_dir": str(tmp_path / "data"), "cache_dir": str(tmp_path / "cache")},
        "num_validation": 4,
        "num_test": 6,
    }
    found, names = load_images(tiny(images=images, network={"layer_widths": [4, 4, 4, 8]}))
    assert names == ["left", "right"]
    assert {name: len(rows) for name, rows in found.items()} == {"train": 10, "validation": 4, "test": 6}
    assert found["test"][0]["pixel_values"].shape == (3, 8, 8)
    with pytest.raises(ValueError, match=r"split train: row 0 has an image of the mode 'RGB', .*images\.mode"):
        load_images(tiny(images=images))
    grey, _ = load_images(tiny(images=images | {"mode": "L"}))
    assert grey["test"][0]["pixel_values"].shape == (1, 8, 8)
    with pytest.raises(ValueError, match=r"images\.num_test=20 leaves none of 20 images"):
        load_images(tiny(images=images | {"num_test": 20}))
    with pytest.raises(ValueError, match=r"images\.label_column='class' is no column; the columns are image, label"):
        load_images(tiny(images=images | {"label_column": "class"}))
    with pytest.raises(ValueError, match=r"images\.label_column='image'"):
        load_images(tiny(images=images | {"label_column": "image"}))


def test_sets_that_cannot_be_loaded_are_named() -> None:
    with pytest.raises(ValueError, match=r"images\.name='mnis' is none of digits, mnist, texture_shape, and datasets"):
        load_images(tiny(images={"name": "mnis", "image_size": 8}))
    with pytest.raises(ValueError, match=r"'imagefolder' .* images\.options=\{'data_dir': 'nowhere'\}: .*nowhere"):
        load_images(tiny(images={"name": "imagefolder", "image_size": 8, "options": {"data_dir": "nowhere"}}))


def test_fewer_images_than_a_batch_has_are_refused() -> None:
    search = {"max_steps": 8, "per_device_train_batch_size": 65, "dataloader_drop_last": True}
    with pytest.raises(ValueError, match=r"search\.per_device_train_batch_size=65 is more than the 64 images"):
        load_images(tiny(search=search))


def test_options_that_a_set_does_not_know_are_refused() -> None:
    with pytest.raises(ValueError, match=r"images.options: .*'size'"):
        load_images(tiny(images={"name": "digits", "image_size": 8, "options": {"size": 3}}))


def test_a_path_scores_as_in_its_best_model() -> None:
    assert path_scores([[0.1, 0.4], [0.3, 0.2]]) == [0.4, 0.3]


def test_loads_are_even_within_three_standard_deviations() -> None:
    # Of 300 steps in 3 models, one standard deviation is 8.2 steps.
    assert loads_are_even([100, 120, 80])
    assert not loads_are_even([100, 126, 74])
    assert loads_are_even([300])
