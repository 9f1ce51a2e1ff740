"""The set of textures and shapes, in which it matters where a network pools."""

from __future__ import annotations

from pathlib import Path

import pytest

from hf_mixture.models.pooling_supernet.paths import path_of
from hf_mixture.training.resolve import find_recipe
from hf_mixture.training.supernets.data import load_images
from hf_mixture.training.supernets.networks import network_config, train_alone
from hf_mixture.training.supernets.recipe import resolve_supernets


@pytest.mark.slow
def test_pooling_early_destroys_fine_textures(tmp_path: Path) -> None:
    """Late against early pooling, trained alone with three seeds: half a minute of one core."""
    recipe = resolve_supernets(
        find_recipe("supernets_digits"),
        overrides=[
            ("images", {"name": "texture_shape", "image_size": 16, "options": {"cue": "texture", "seed": 2}}),
            ("network.layer_widths", [4, 4, 4, 4, 8, 8]),
            ("alone.max_steps", 200),
        ],
    )
    images, names = load_images(recipe)
    early, late = (
        [
            train_alone(recipe, network_config(recipe, names, pooling_path=path), images, seed, tmp_path)[1]["test"]
            for seed in (4, 5, 6)
        ]
        for path in (list(path_of([1, 1, 4])), list(path_of([4, 1, 1])))
    )
    assert min(late) > max(early) + 0.1
