"""Rows of images as tensors: as the image processor of transformers makes them, and errors that name the row."""

from __future__ import annotations

from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from PIL import Image
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

from hf_mixture.data.images.pixels import PixelRows, load_pixels


def some_images(mode: str, number: int = 4, size: tuple[int, int] = (10, 8)) -> list[Image.Image]:
    generator = np.random.default_rng(0)
    shape = (size[1], size[0]) if mode == "L" else (size[1], size[0], 3)
    return [Image.fromarray(generator.integers(0, 256, shape).astype(np.uint8), mode) for _ in range(number)]


@pytest.mark.parametrize(("mode", "channels"), [("L", 1), ("RGB", 3)])
def test_pixels_are_those_of_the_image_processor(mode: str, channels: int) -> None:
    images = some_images(mode)
    rows = load_pixels(
        [{"image": image, "label": 1} for image in images], image_size=(12, 6), num_channels=channels, num_labels=2
    )
    processor = ViTImageProcessorPil(
        size={"height": 12, "width": 6}, image_mean=[0.5] * channels, image_std=[0.5] * channels, do_convert_rgb=False
    )
    expected = processor(images, return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(rows.pixel_values, expected, rtol=0, atol=1e-6)
    assert torch.equal(rows[2]["pixel_values"], rows.pixel_values[2])
    joined = rows + rows
    assert len(joined) == 8
    assert torch.equal(joined[6]["pixel_values"], rows[2]["pixel_values"])


def test_a_folder_of_images_is_read(tmp_path: Path) -> None:
    for name, image in zip("abcd", some_images("RGB"), strict=True):
        (tmp_path / "train" / name).mkdir(parents=True)
        image.save(tmp_path / "train" / name / "0.png")
    data = datasets.load_dataset("imagefolder", data_dir=str(tmp_path), cache_dir=str(tmp_path / "cache"))["train"]
    rows = load_pixels(data, image_size=8, num_channels=3, num_labels=4)
    assert sorted(rows.labels.tolist()) == [0, 1, 2, 3]
    grey = data.cast_column("image", datasets.Image(mode="L"))
    assert load_pixels(grey, image_size=8, num_channels=1, num_labels=4).pixel_values.shape == (4, 1, 8, 8)
    whole = (tmp_path / "train" / "c" / "0.png").read_bytes()
    for content in (whole[:60], b"no image"):
        (tmp_path / "train" / "c" / "0.png").write_bytes(content)
        with pytest.raises(ValueError, match=r"row 2 has an image that cannot be read, .*; repair or remove it"):
            load_pixels(data, image_size=8, num_channels=3, num_labels=4)


def test_bad_rows_are_named() -> None:
    fine = np.full((8, 8), 0.5)
    broken = fine.copy()
    broken[3, 3] = np.nan

    def load(*rows: object, **options: object) -> PixelRows:
        given = {"image_size": 8, "num_channels": 1, "num_labels": 3} | options
        return load_pixels(list(rows), **given)  # type: ignore[arg-type]

    good = {"image": fine, "label": 0}
    for bad, said in (
        (
            {"image": some_images("RGB")[0], "label": 0},
            "row 1 has an image of the mode 'RGB', which has not 1 channel;",
        ),
        ({"image": np.zeros((8, 8, 4)), "label": 0}, r"row 1 has an image of the shape \(8, 8, 4\)"),
        ({"image": broken, "label": 0}, "row 1 has an image with values that are not from 0 to 1"),
        ({"image": fine * 255, "label": 0}, "row 1 has an image with values that are not from 0 to 1"),
        ({"image": None, "label": 0}, "row 1 has no image"),
        ({"image": fine, "label": 3}, "row 1 has the label 3, which is no class from 0 to 2"),
        ({"image": fine, "label": None}, "row 1 has the label None"),
        ({"image": fine}, "row 1 has image and no 'label'"),
    ):
        with pytest.raises(ValueError, match=said):
            load(good, bad)
    with pytest.raises(ValueError, match="has no rows"):
        load()
    with pytest.raises(ValueError, match="2 images have 3 labels"):
        PixelRows(torch.zeros(2, 1, 4, 4), torch.zeros(3))


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"mean": (0.4, 0.5, 0.6)}, "must have 1 number or num_channels=1"),
        ({"std": (0.4, 0.5, 0.6)}, "must have 1 number or num_channels=1"),
        ({"std": (0.0,)}, "must be above 0"),
    ],
)
def test_means_that_do_not_fit_the_channels_are_refused(given: dict[str, tuple[float, ...]], said: str) -> None:
    rows = [{"image": some_images("L", 1)[0], "label": 1}]
    with pytest.raises(ValueError, match=said):
        load_pixels(rows, image_size=8, num_channels=1, num_labels=2, **given)
