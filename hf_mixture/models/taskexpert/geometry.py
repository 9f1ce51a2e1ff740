"""Changes of an image together with all of its label maps, as pure functions.

Letters: H x W pixels. An image is [H, W, 3]; a label map [H, W], or [3, H, W] for normals.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from hf_mixture.models.taskexpert.tasks import TASKS


class Sample(NamedTuple):
    """An image and its label maps.

    Args:
        image: [H, W, 3], uint8 or float.
        labels: Label maps by task.
    """

    image: Any
    labels: dict[str, Any]


def resize_nearest(label: Any, size: tuple[int, int]) -> Any:
    """Resize a label map by the nearest pixel, so that no value is invented.

    Args:
        label: [..., H, W].
        size: New height and width.

    Returns:
        [..., *size], of the same type.

    Example:
        >>> import numpy as np
        >>> from hf_mixture.models.taskexpert.geometry import resize_nearest
        >>> resize_nearest(np.array([[1, 2]]), (2, 4)).tolist()
        [[1, 1, 2, 2], [1, 1, 2, 2]]
    """
    rows, columns = (
        ((np.arange(new) + 0.5) * old / new).astype(int) for new, old in zip(size, label.shape[-2:], strict=True)
    )
    return label[..., rows[:, None], columns]


def resize_image(image: Any, size: tuple[int, int]) -> Any:
    """Resize an image [H, W, 3] by bilinear interpolation, with antialiasing where it shrinks."""
    from PIL import Image

    if image.dtype == np.uint8:
        return np.asarray(Image.fromarray(image).resize(size[::-1], Image.Resampling.BILINEAR))
    channels = [
        Image.fromarray(channel.astype(np.float32)).resize(size[::-1], Image.Resampling.BILINEAR)
        for channel in np.moveaxis(image, -1, 0)
    ]
    return np.stack([np.asarray(channel) for channel in channels], axis=-1)


def resize(sample: Sample, size: tuple[int, int]) -> Sample:
    """Bring an image and its maps to a size; values stay.

    Args:
        sample: The image and its maps.
        size: New height and width.

    Returns:
        Both, resized.
    """
    labels = {task: resize_nearest(label, size) for task, label in sample.labels.items()}
    return Sample(resize_image(sample.image, size), labels)


def zoom(sample: Sample, scale: float, ignore_value: int) -> Sample:
    """Enlarge an image, as if its scene were nearer: depth is divided by the scale, and normals stay.

    Args:
        sample: The image and its maps.
        scale: Ratio of new to old sides, above 0.
        ignore_value: Label of pixels that do not count, which stays.

    Returns:
        Both, zoomed.
    """
    height, width = sample.image.shape[:2]
    image, labels = resize(sample, (max(1, round(height * scale)), max(1, round(width * scale))))
    if "depth" in labels:
        depth = labels["depth"].astype(np.float32)
        labels["depth"] = np.where(depth == ignore_value, depth, depth / np.float32(scale))
    return Sample(image, labels)


def flip(sample: Sample, ignore_value: int) -> Sample:
    """Mirror an image left to right; the x component of normals changes its sign.

    Args:
        sample: The image and its maps.
        ignore_value: Label of pixels that do not count, which stays.

    Returns:
        Both, mirrored.
    """
    labels = {task: label[..., ::-1].copy() for task, label in sample.labels.items()}
    if "normals" in labels:
        x = labels["normals"][0]
        labels["normals"][0] = np.where(x == ignore_value, x, -x)
    return Sample(sample.image[:, ::-1].copy(), labels)


def pad(sample: Sample, size: tuple[int, int], fill: Any, ignore_value: int) -> Sample:
    """Extend an image below and to the right where it is smaller than a size.

    Args:
        sample: The image and its maps.
        size: Least height and width.
        fill: Colour [3] of new pixels.
        ignore_value: Label of new pixels.

    Returns:
        Both, of at least that size.
    """
    height, width = sample.image.shape[:2]
    missing = [(0, max(0, size[0] - height)), (0, max(0, size[1] - width))]
    image = np.empty((height + missing[0][1], width + missing[1][1], 3), dtype=sample.image.dtype)
    image[:] = np.asarray(fill).astype(image.dtype)
    image[:height, :width] = sample.image
    labels = {
        task: np.pad(label, [(0, 0)] * (label.ndim - 2) + missing, constant_values=ignore_value)
        for task, label in sample.labels.items()
    }
    return Sample(image, labels)


def crop(sample: Sample, top: int, left: int, size: tuple[int, int]) -> Sample:
    """Cut a rectangle out of an image and its maps."""
    rows, columns = slice(top, top + size[0]), slice(left, left + size[1])
    return Sample(
        sample.image[rows, columns], {task: label[..., rows, columns] for task, label in sample.labels.items()}
    )


def random_crop(sample: Sample, size: tuple[int, int], max_ratio: float, ignore_value: int, generator: Any) -> Sample:
    """Cut a random rectangle in which no class has more than a share of the pixels; the tenth try is taken as it is.

    Args:
        sample: The image and its maps, at least of that size.
        size: Height and width.
        max_ratio: Largest share of a class of `semseg` among the pixels with a label.
        ignore_value: Label of pixels that do not count.
        generator: Random numbers.

    Returns:
        Both, cut.
    """
    height, width = sample.image.shape[:2]
    cut = sample
    for _ in range(10):
        top, left = generator.integers(height - size[0] + 1), generator.integers(width - size[1] + 1)
        cut = crop(sample, int(top), int(left), size)
        if largest_share(cut.labels, ignore_value) < max_ratio:
            break
    return cut


def largest_share(labels: Mapping[str, Any], ignore_value: int) -> float:
    """Share of the most frequent class of `semseg`; 0 without that map, 1 where none of it counts."""
    if "semseg" not in labels:
        return 0.0
    counted = labels["semseg"][labels["semseg"] != ignore_value]
    return 1.0 if counted.size == 0 else float(np.unique(counted, return_counts=True)[1].max() / counted.size)


def distort_colours(image: Any, generator: Any) -> Any:
    """Change brightness, contrast, saturation and hue at random, each with a probability of one half.

    Args:
        image: [H, W, 3], uint8.
        generator: Random numbers.

    Returns:
        An image of the same kind.
    """
    from PIL import Image

    values = image.astype(np.float32)
    brighter, sharper, richer, turned = generator.integers(2, size=4)
    shift, contrast, saturation = generator.uniform([-32, 0.5, 0.5], [32, 1.5, 1.5])
    hue = generator.uniform(-18, 18)
    values = values + brighter * shift
    if sharper:
        values = values * contrast
    image = np.clip(values, 0, 255).astype(np.uint8)
    if not (richer or turned):
        return image
    colours = np.asarray(Image.fromarray(image).convert("HSV")).astype(np.float32)
    # PIL's circle of hues has 256 steps.
    colours[..., 0] = (colours[..., 0] + turned * hue * 256 / 360) % 256
    if richer:
        colours[..., 1] = np.clip(colours[..., 1] * saturation, 0, 255)
    return np.asarray(Image.fromarray(colours.astype(np.uint8), mode="HSV").convert("RGB"))


def label_dtype(task: str) -> type:
    """NumPy type of the label map of a task."""
    return np.int64 if TASKS[task].kind in ("class", "binary") else np.float32
