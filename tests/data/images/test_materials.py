"""Procedural materials: what mixes, what repeats, what no other split has."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest

from hf_mixture import load_materials
from hf_mixture.data.images.materials import PARAMETERS, draw_family, mix_materials
from hf_mixture.data.images.rendering import draw_scene, noise_texture, render


SMALL = {
    "num_sets": 3,
    "num_test_sets": 2,
    "num_families": 2,
    "materials_per_family": 3,
    "scenes": 2,
    "image_size": 32,
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> datasets.DatasetDict:
    return load_materials(**SMALL, cache_dir=str(tmp_path_factory.mktemp("materials")))


def test_splits_have_the_rows_and_labels_asked_for(data: datasets.DatasetDict) -> None:
    assert {name: split.num_rows for name, split in data.items()} == {
        "train": 3 * 5 * 2,
        "validation": 2 * 5 * 2,
        "test": 2 * 5 * 2,
        "retrieval_validation": 2 * 3 * 2,
        "retrieval_test": 2 * 3 * 2,
    }
    train = data["train"]
    assert sorted(set(zip(train["set_ids"], train["ratios"], strict=True))) == [
        (number, ratio) for number in range(3) for ratio in (0.0, 0.25, 0.5, 0.75, 1.0)
    ]
    assert len(set(data["retrieval_test"]["material"])) == 6
    assert len(set(data["retrieval_test"]["family"])) == 2
    for split in data.values():
        for row in split:
            image, mask = np.asarray(row["image"]), np.asarray(row["mask"])
            assert (image.shape, image.dtype, mask.shape) == ((32, 32, 3), np.uint8, (32, 32))
            assert set(np.unique(mask)) == {0, 255}
            # The object is neither a speck nor the whole image.
            assert 0.08 < (mask > 0).mean() < 0.9


def test_the_same_seed_gives_the_same_bytes_and_another_seed_does_not(
    data: datasets.DatasetDict, tmp_path: Path
) -> None:
    again = load_materials(**SMALL, cache_dir=str(tmp_path / "again"))
    other = load_materials(**SMALL, cache_dir=str(tmp_path / "other"), seed=1)
    first, second, third = (np.asarray(found["test"][5]["image"]) for found in (data, again, other))
    np.testing.assert_array_equal(first, second)
    assert (first != third).any()


def test_materials_of_all_splits_differ(data: datasets.DatasetDict) -> None:
    colours = {
        name: [np.asarray(row["image"])[np.asarray(row["mask"]) > 0].mean(axis=0).tolist() for row in split]
        for name, split in data.items()
    }
    seen: list[Any] = [tuple(colour) for found in colours.values() for colour in found]
    assert len(seen) == len(set(seen))


def test_a_mixture_interpolates_parameters_and_not_images() -> None:
    generator = np.random.default_rng(0)
    first, second = draw_family(generator, 2)
    np.testing.assert_allclose(mix_materials(first, second, 0.25), 0.75 * first + 0.25 * second)
    np.testing.assert_array_equal(mix_materials(first, second, 0.0), first)
    scene = draw_scene(generator, background=first, size=64)
    # Frequencies four times apart: the mixture has one between them, where a blend of images would have both.
    coarse, fine = first.copy(), first.copy()
    place = list(PARAMETERS).index("frequency")
    coarse[place], fine[place] = np.log(4.0), np.log(16.0)

    def image(parameters: np.ndarray) -> np.ndarray:
        return render(parameters, scene, np.random.default_rng(1))[0].astype(float)

    blend = (image(coarse) + image(fine)) / 2
    assert np.abs(image(mix_materials(coarse, fine, 0.5)) - blend).mean() > 5


def test_noise_has_the_band_and_the_stretch_that_were_asked_for() -> None:
    def spectrum(**fields: float) -> np.ndarray:
        total = np.zeros((64, 64))
        for seed in range(8):
            values = noise_texture(
                64, **{"slope": 2.0, "stretch": 0.0, "grain": 0.0, **fields}, generator=np.random.default_rng(seed)
            )
            assert abs(values.mean()) < 1e-9
            assert values.std() == pytest.approx(1.0)
            total += np.abs(np.fft.fft2(values)) ** 2
        return total

    k_y, k_x = np.meshgrid(np.fft.fftfreq(64, 1 / 64), np.fft.fftfreq(64, 1 / 64), indexing="ij")

    def mean_frequency(**fields: float) -> float:
        power = spectrum(**fields)
        return float((power * np.hypot(k_x, k_y)).sum() / power.sum())

    found = [mean_frequency(frequency=frequency) for frequency in (4.0, 8.0, 16.0)]
    assert found == sorted(found)
    assert mean_frequency(frequency=6.0, slope=0.5) > mean_frequency(frequency=6.0, slope=3.0)
    stretched = spectrum(frequency=8.0, stretch=1.4)
    along, across = ((stretched * np.abs(k)).sum() for k in (k_x, k_y))
    assert across > 1.5 * along


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"num_sets": 0}, "num_sets=0 must be at least 1"),
        ({"scenes": 1}, "scenes=1 must be at least 2"),
        ({"materials_per_family": 1}, "materials_per_family=1 must be at least 2"),
        ({"image_size": 8}, "image_size=8 must be at least 16"),
        ({"ratios": (0.0,)}, "two or more, each once"),
        ({"ratios": (0.0, 0.0)}, "two or more, each once"),
        ({"ratios": (0.0, 1.5)}, "must be from 0 to 1"),
    ],
)
def test_sizes_that_cannot_be(fields: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        load_materials(**SMALL | fields, cache_dir=str(tmp_path))
