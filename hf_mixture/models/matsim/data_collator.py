"""Batches for MatSim, with the published augmentations.

Letters: B images, H x W pixels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

from hf_mixture.models.matsim.configuration_matsim import NUM_CHANNELS


@dataclass
class MatSimCollator:
    """Makes batches of rows with `image` and `mask`, or with finished `pixel_values`; and their labels.

    Args:
        image_processor: A `MatSimImageProcessor`; rows with `pixel_values` need none.

    Raises:
        ValueError: A row cannot be used; the message names its place in the batch.

    Example:
        >>> import torch
        >>> from hf_mixture.models.matsim.data_collator import MatSimCollator
        >>> rows = [{"pixel_values": torch.ones(4, 8, 8), "set_ids": 3, "ratios": 0.25} for _ in range(2)]
        >>> {name: tuple(values.shape) for name, values in MatSimCollator()(rows).items()}
        {'pixel_values': (2, 4, 8, 8), 'set_ids': (2,), 'ratios': (2,)}
    """

    image_processor: Any = None

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, Tensor]:
        """Make a batch.

        Args:
            rows: Rows with `pixel_values` [4, H, W] or `image` and, where there is one, `mask`; with `set_ids` and
                `ratios`, unless they are only to be embedded.

        Returns:
            `pixel_values` [B, 4, H, W], and `set_ids` and `ratios` [B] where rows have them.
        """
        batch = {"pixel_values": self._pixels(rows)}
        for name, kind in (("set_ids", torch.int64), ("ratios", torch.float32)):
            has = [row.get(name) is not None for row in rows]
            if any(has):
                if not all(has):
                    raise ValueError(f"row {has.index(False)} of a batch has no {name!r}, and others have; add it")
                batch[name] = torch.tensor([row[name] for row in rows], dtype=kind)
        return batch

    def _pixels(self, rows: list[dict[str, Any]]) -> Tensor:
        kind = "pixel_values" if "pixel_values" in rows[0] else "image"
        if kind == "image" and self.image_processor is None:
            raise ValueError("rows have no 'pixel_values', and image_processor=None; give a MatSimImageProcessor")
        for number, row in enumerate(rows):
            if row.get(kind) is None:
                raise ValueError(f"row {number} of a batch has no {kind!r}; add it, or remove the row")
        if kind == "image":
            images, masks = [row["image"] for row in rows], [row.get("mask") for row in rows]
            return self.image_processor(images, masks, return_tensors="pt")["pixel_values"]
        given = [torch.as_tensor(row["pixel_values"]) for row in rows]
        for number, pixels in enumerate(given):
            _check_pixels(number, pixels, given[0])
        return torch.stack(given)


def _check_pixels(number: int, pixels: Tensor, first: Tensor) -> None:
    shape = tuple(pixels.shape)
    if len(shape) != 3 or shape[0] != NUM_CHANNELS:
        raise ValueError(
            f"row {number} of a batch has pixel_values of the shape {shape}; give [{NUM_CHANNELS}, height, width], "
            "RGB and the mask, as MatSimImageProcessor makes it"
        )
    if pixels.shape != first.shape:
        raise ValueError(
            f"row {number} of a batch has pixel_values of the shape {shape}, and row 0 {tuple(first.shape)}; bring "
            "all images to one size"
        )
    if not pixels.isfinite().all():
        raise ValueError(f"row {number} of a batch has pixel_values that are not finite; replace them")
    if not pixels[-1].any():
        raise ValueError(f"row {number} of a batch has an empty mask; mark the material, or all of the image")


def augment(pixels: Tensor) -> Tensor:
    """Flip, darken, turn grey, blur and add noise, each image by chance and by the published rates (arXiv 2212.00648).

    Of all images half are flipped each way together with their masks, 25 percent darkened or lit (by 0.5 to 1.15), 25
    percent moved towards grey, 20 percent blurred and 3.5 percent get noise. Random numbers are those of torch.

    Args:
        pixels: Normalised RGB and mask [B, 4, H, W].

    Returns:
        The same, changed.

    Example:
        >>> import torch
        >>> from hf_mixture.models.matsim.data_collator import augment
        >>> changed = augment(torch.ones(2, 4, 8, 8))
        >>> tuple(changed.shape), changed[:, 3].unique().tolist()
        ((2, 4, 8, 8), [1.0])
    """
    for axis in (2, 3):
        pixels = torch.where(_chosen(pixels, 0.5), pixels.flip(axis), pixels)
    colours, mask = pixels[:, :3], pixels[:, 3:]
    # Black is about -1.8 in normalised units.
    black = colours.new_tensor([-123.68, -116.779, -103.939]).view(1, 3, 1, 1) / 65
    factor = 0.5 + 0.65 * _uniform(pixels)
    colours = torch.where(_chosen(pixels, 0.25), black + (colours - black) * factor, colours)
    grey = (colours - black).mean(dim=1, keepdim=True) + black
    share = _uniform(pixels)
    colours = torch.where(_chosen(pixels, 0.25), colours + share * (grey - colours), colours)
    blurred = avg_pool2d(colours, 3, stride=1, padding=1, count_include_pad=False)
    colours = torch.where(_chosen(pixels, 0.2), blurred, colours)
    colours = torch.where(_chosen(pixels, 0.035), colours + 0.2 * torch.randn_like(colours), colours)
    return torch.cat([colours, mask], dim=1)


def _chosen(pixels: Tensor, rate: float) -> Tensor:
    return _uniform(pixels) < rate


def _uniform(pixels: Tensor) -> Tensor:
    return torch.rand(len(pixels), 1, 1, 1, device=pixels.device)
