"""The images of a MatSim run as tensors, and features of colour that need no training.

Letters: N images, H x W pixels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from hf_mixture.training.matsim.recipe import MatSimRecipe


# Bins of a histogram for each of three colours.
_BINS = 8


@dataclass(frozen=True, kw_only=True)
class Split:
    """One split in memory.

    Args:
        pixels: Normalised RGB and mask [N, 4, H, W].
        set_ids: Material set or material of each image [N].
        ratios: Mixing ratio of each image [N].
        materials: Name of the material or mixture of each image.
        families: Name of its family or set.
    """

    pixels: Any
    set_ids: Any
    ratios: Any
    materials: list[str]
    families: list[str]

    def rows(self) -> list[dict[str, Any]]:
        """The images as rows for the Trainer."""
        return [
            {"pixel_values": pixels, "set_ids": int(set_id), "ratios": float(ratio)}
            for pixels, set_id, ratio in zip(self.pixels, self.set_ids, self.ratios, strict=True)
        ]


def load_data(recipe: MatSimRecipe) -> Any:
    """Draw the materials of a recipe, or read them from the cache."""
    from hf_mixture.data.images.materials import load_materials

    return load_materials(**recipe.materials)


def image_processor(recipe: MatSimRecipe) -> Any:
    """The image processor of all models of a recipe."""
    from hf_mixture.models.matsim.image_processing_matsim import MatSimImageProcessor

    side = recipe.pixels or recipe.materials.get("image_size", 64)
    return MatSimImageProcessor(size={"height": side, "width": side})


def load_split(data: Any, processor: Any) -> Split:
    """Read a split into memory.

    Args:
        data: A split of `load_materials`.
        processor: The image processor.

    Returns:
        The split.
    """
    batch = processor(list(data["image"]), list(data["mask"]), return_tensors="pt")
    return Split(
        pixels=batch["pixel_values"],
        set_ids=np.array(data["set_ids"]),
        ratios=np.array(data["ratios"], dtype=np.float32),
        materials=list(data["material"]),
        families=list(data["family"]),
    )


def mean_colours(data: Any) -> Any:
    """Mean colour under each mask [N, 3], to be compared by Euclidean distance."""
    return np.stack([colours.mean(axis=0) for colours in _marked(data)]).astype(np.float32)


def colour_histograms(data: Any) -> Any:
    """Roots of colour histograms under each mask [N, 512]; their dot product is the Bhattacharyya coefficient."""
    found = []
    for colours in _marked(data):
        places = (colours // (256 // _BINS)).astype(int) @ np.array([_BINS**2, _BINS, 1])
        counts = np.bincount(places, minlength=_BINS**3)
        found.append(np.sqrt(counts / counts.sum()))
    return np.stack(found).astype(np.float32)


def _marked(data: Any) -> list[Any]:
    """Colours under each mask [pixels, 3]."""
    return [np.asarray(image)[np.asarray(mask) > 0] for image, mask in zip(data["image"], data["mask"], strict=True)]
