"""Rows of images as tensors that a model takes: resized, normalised, and checked one by one.

Letters: N images, C channels, H height, W width.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset


class PixelRows(Dataset[dict[str, Tensor]]):
    """Images and labels in memory, as rows with `pixel_values` and `labels`.

    Args:
        pixel_values: Images [N, C, H, W].
        labels: Classes [N].

    Raises:
        ValueError: Their numbers differ.
    """

    def __init__(self, pixel_values: Tensor, labels: Tensor) -> None:
        if len(pixel_values) != len(labels):
            raise ValueError(f"{len(pixel_values)} images have {len(labels)} labels; give one for each")
        self.pixel_values, self.labels = pixel_values, labels

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {"pixel_values": self.pixel_values[index], "labels": self.labels[index]}

    def __add__(self, other: Any) -> Any:
        """Join two sets of rows."""
        if not isinstance(other, PixelRows):
            return NotImplemented
        return PixelRows(torch.cat([self.pixel_values, other.pixel_values]), torch.cat([self.labels, other.labels]))


def load_pixels(
    dataset: Any,
    *,
    image_size: int | tuple[int, int],
    num_channels: int,
    num_labels: int,
    image_column: str = "image",
    label_column: str = "label",
    mean: Sequence[float] = (0.5,),
    std: Sequence[float] = (0.5,),
) -> PixelRows:
    """Read images into memory: (resized image / 255 - mean) / std, as image processors of transformers do.

    Args:
        dataset: Rows with an image, of PIL or an array with values from 0 to 1, and a label.
        image_size: Height and width in pixels, or one number for both; images are resized bilinearly.
        num_channels: C, 1 for grey images and 3 for colours.
        num_labels: Number of classes.
        image_column: Name of the images' column.
        label_column: Name of the labels' column.
        mean: Of each channel, or one number. Default: 0.5.
        std: Of each channel, or one number. Default: 0.5.

    Returns:
        The rows.

    Raises:
        ValueError: A column is missing; an image or label cannot be used, with its row; or `mean` or `std` does not
            fit the channels.

    Example:
        >>> import numpy as np
        >>> from hf_mixture.data.images.pixels import load_pixels
        >>> rows = load_pixels([{"image": np.ones((8, 8)), "label": 3}], image_size=4, num_channels=1, num_labels=10)
        >>> rows[0]["pixel_values"].shape, float(rows[0]["pixel_values"].mean())
        (torch.Size([1, 4, 4]), 1.0)
    """
    height, width = (image_size, image_size) if isinstance(image_size, int) else image_size
    for name, given in (("mean", mean), ("std", std)):
        if len(given) not in (1, num_channels):
            raise ValueError(f"{name}={tuple(given)} must have 1 number or num_channels={num_channels}; change one")
    if not all(value > 0 for value in std):
        raise ValueError(f"std={tuple(std)} must be above 0; raise it")
    images, labels = [], []
    for number, row in enumerate(_decoded(dataset)):
        for column in (image_column, label_column):
            if column not in row:
                raise ValueError(f"row {number} has {', '.join(row)} and no {column!r}; name the right column")
        images.append(_image(row[image_column], number, (height, width), num_channels))
        labels.append(_label(row[label_column], number, num_labels))
    if not images:
        raise ValueError("dataset has no rows; give some")
    pixels = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous()
    centre, scale = (torch.tensor(values, dtype=torch.float32).view(-1, 1, 1) for values in (mean, std))
    return PixelRows((pixels - centre) / scale, torch.tensor(labels))


def _decoded(dataset: Any) -> Iterator[Any]:
    """The rows; `datasets` decodes an image when its row is read."""
    rows, number = iter(dataset), 0
    while True:
        try:
            row = next(rows)
        except StopIteration:
            return
        except OSError as error:
            raise ValueError(f"row {number} has an image that cannot be read, {error}; repair or remove it") from error
        yield row
        number += 1


def _image(image: Any, number: int, size: tuple[int, int], num_channels: int) -> NDArray[np.float32]:
    """One image as [H, W, C] from 0 to 1."""
    from PIL import Image

    if image is None:
        raise ValueError(f"row {number} has no image; remove the row")
    is_array = not isinstance(image, Image.Image)
    given = np.asarray(image, dtype=np.float32 if is_array else None)
    if given.ndim == 2:
        given = given[:, :, None]
    if given.ndim != 3 or given.shape[2] != num_channels:
        found = f"of the shape {given.shape}" if is_array else f"of the mode {image.mode!r}"
        raise ValueError(
            f"row {number} has an image {found}, which has not {num_channels} channel{'s' * (num_channels > 1)}; "
            "cast the column to datasets.Image(mode='L') for 1 or 'RGB' for 3 (images.mode of a recipe), or set "
            "num_channels"
        )
    if not is_array and given.dtype != np.uint8:
        raise ValueError(f"row {number} has an image of the mode {image.mode!r}; cast it to datasets.Image(mode='L')")
    if is_array and not (np.isfinite(given).all() and given.min() >= 0 and given.max() <= 1):
        raise ValueError(f"row {number} has an image with values that are not from 0 to 1; scale or remove it")
    channels = [
        np.asarray(Image.fromarray(channel).resize((size[1], size[0]), Image.Resampling.BILINEAR), dtype=np.float32)
        for channel in np.ascontiguousarray(given.transpose(2, 0, 1))
    ]
    pixels = np.stack(channels, axis=-1)
    return pixels if is_array else pixels / np.float32(255)


def _label(label: Any, number: int, num_labels: int) -> int:
    if isinstance(label, bool) or not isinstance(label, int | np.integer) or not 0 <= label < num_labels:
        raise ValueError(
            f"row {number} has the label {label!r}, which is no class from 0 to {num_labels - 1}; correct it, or set "
            "num_labels"
        )
    return int(label)
