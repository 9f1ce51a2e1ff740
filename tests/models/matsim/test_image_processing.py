"""The image processor of MatSim: image and mask together, and rows that cannot be used."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from hf_mixture import MatSimImageProcessor


def picture(height: int = 40, width: int = 60) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def right_half(height: int = 40, width: int = 60) -> np.ndarray:
    mask = np.zeros((height, width), dtype=bool)
    mask[:, width // 2 :] = True
    return mask


def processor(**fields: Any) -> MatSimImageProcessor:
    return MatSimImageProcessor(**{"size": {"height": 20, "width": 30}, **fields})


def pixels(*inputs: Any, **fields: Any) -> torch.Tensor:
    return processor(**fields)(*inputs, return_tensors="pt")["pixel_values"]


def test_normalisation_is_the_published_one() -> None:
    found = pixels(picture(), do_resize=False)
    expected = (picture().transpose(2, 0, 1) - np.array([123.68, 116.779, 103.939])[:, None, None]) / 65
    np.testing.assert_allclose(found[0, :3].numpy(), expected, atol=1e-5)
    assert (found[0, 3] == 1).all()


def test_image_and_mask_are_resized_and_cropped_together() -> None:
    # Where the mask is, the image is white.
    image = np.repeat(right_half()[..., None] * np.uint8(255), 3, axis=2)
    settings = {
        "size": {"shortest_edge": 24},
        "do_center_crop": True,
        "crop_size": {"height": 20, "width": 22},
        "do_normalize": False,
    }
    found = pixels(image, right_half(), **settings)
    assert found.shape == (1, 4, 20, 22)
    assert set(found[0, 3].unique().tolist()) == {0.0, 1.0}
    assert ((found[0, 0] > 0.5) == (found[0, 3] == 1)).all()


@pytest.mark.parametrize("resample", [0, 2, 3])
def test_masks_stay_zero_and_one(resample: int) -> None:
    rough = np.random.default_rng(1).random((40, 60)) > 0.5
    found = pixels(picture(), rough, resample=resample)
    nearest = np.array(Image.fromarray(rough.astype(np.uint8)).resize((30, 20), Image.Resampling.NEAREST))
    np.testing.assert_array_equal(found[0, 3].numpy(), nearest)


def test_every_kind_of_input_gives_the_same() -> None:
    image, mask = picture(), right_half()
    expected = pixels(image, mask)
    bytes_of_mask = mask.astype(np.uint8) * 255
    for images, masks in [
        (Image.fromarray(image), Image.fromarray(mask)),
        (image.transpose(2, 0, 1), bytes_of_mask),
        (torch.tensor(image).permute(2, 0, 1), torch.tensor(mask)),
        ([image.astype(np.float32)], [Image.fromarray(bytes_of_mask)]),
        (image[None], bytes_of_mask[None, None]),
    ]:
        torch.testing.assert_close(pixels(images, masks), expected)
    small = pixels(image / np.float32(255), mask, do_rescale=False)
    torch.testing.assert_close(small, expected, atol=0.02, rtol=0)
    both = pixels([image, image], [mask, None])
    torch.testing.assert_close(both[0], expected[0])
    assert (both[1, 3] == 1).all()
    grey = Image.fromarray(image).convert("L")
    assert pixels(grey).shape == (1, 4, 20, 30)


def not_finite() -> np.ndarray:
    image = picture().astype(np.float32)
    image[3, 4, 1] = np.nan
    return image


def speck() -> np.ndarray:
    mask = np.zeros((40, 60), dtype=bool)
    mask[0, 0] = True
    return mask


@pytest.mark.parametrize(
    ("images", "masks", "message"),
    [
        (
            [picture(), np.zeros((40, 60, 4), np.uint8)],
            None,
            r"images\[1\] has the shape \(40, 60, 4\); give 3 channels",
        ),
        ([picture(), np.zeros((40, 60), np.uint8)], None, r"images\[1\] has the shape \(40, 60\)"),
        ([picture(), not_finite()], None, r"images\[1\] has values that are not finite"),
        ([picture(), picture() - np.float32(200)], None, r"images\[1\] has values from -200 to .*from 0 to 255"),
        ([picture(), picture() / np.float32(255)], None, r"images\[1\].*do_rescale=False for images from 0 to 1"),
        ([picture(), None], None, r"images\[1\] is None"),
        ([picture()] * 2, [right_half()], "there are 1 masks and 2 images"),
        ([picture()] * 2, [None, np.zeros((40, 60))], r"masks\[1\] is empty; mark the material"),
        ([picture()] * 2, [None, speck()], r"masks\[1\] is empty at 20 x 30 pixels"),
        ([picture()] * 2, [None, right_half(40, 30)], r"masks\[1\] has the shape \(40, 30\), and images\[1\] 40 x 60"),
        ([picture()] * 2, [None, right_half() * np.nan], r"masks\[1\] has more than 0 and one positive value"),
        ([picture()] * 2, [None, np.arange(2400).reshape(40, 60)], r"masks\[1\] has more than 0"),
        ([picture()] * 2, [None, -right_half().astype(int)], r"masks\[1\] has more than 0 and one positive"),
    ],
)
def test_rows_that_cannot_be_used_are_named(images: Any, masks: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        pixels(images, masks)


def test_images_of_different_sizes_need_a_size() -> None:
    with pytest.raises(ValueError, match=r"images\[1\] becomes 40 x 60 pixels and images\[0\] 50 x 60"):
        pixels([picture(50), picture()], do_resize=False)


def test_images_from_0_to_1_are_checked_too() -> None:
    with pytest.raises(ValueError, match=r"with do_rescale=False they must be from 0 to 1"):
        pixels(picture(), do_rescale=False)
