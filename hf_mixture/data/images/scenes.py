"""Procedural scenes as a data set with exact labels of six dense prediction tasks; a builder of `datasets`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import datasets
import numpy as np

from hf_mixture.data.images.partition import SPLITS, split_generators
from hf_mixture.data.images.scene_rendering import DOMAINS, render_scene


@dataclass
class ScenesConfig(datasets.BuilderConfig):
    """How many scenes, and how large.

    Args:
        image_size: Height and width in pixels, at least 8.
        num_train: Scenes in `train`.
        num_validation: Scenes in `validation`.
        num_test: Scenes in `test`.
        seed: Seed of the scenes.
    """

    image_size: int = 64
    num_train: int = 1024
    num_validation: int = 128
    num_test: int = 256
    seed: int = 0

    def check(self) -> None:
        """Check the values, which `datasets` sets one by one.

        Raises:
            ValueError: A number is out of range.
        """
        for name, least in (("image_size", 8), ("seed", 0), *((f"num_{split}", 1) for split in SPLITS)):
            if getattr(self, name) < least:
                raise ValueError(f"{name}={getattr(self, name)} must be at least {least}; raise it")


class Scenes(datasets.GeneratorBasedBuilder):
    """Builder of procedural scenes; `load_scenes` is the short way.

    Example:
        >>> import tempfile
        >>> from hf_mixture.data.images.scenes import Scenes
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     builder = Scenes(cache_dir=folder, image_size=16, num_train=4, num_validation=2, num_test=2)
        ...     builder.download_and_prepare()
        ...     builder.as_dataset(split="train").num_rows
        4
    """

    BUILDER_CONFIG_CLASS = ScenesConfig
    BUILDER_CONFIGS = [  # noqa: RUF012 - an attribute of `datasets`
        ScenesConfig(name="scenes", version=datasets.Version("1.0.0"))
    ]
    DEFAULT_CONFIG_NAME = "scenes"

    def _info(self) -> datasets.DatasetInfo:
        self.config.check()
        size = self.config.image_size
        flat = datasets.Array2D((size, size), "uint8")
        return datasets.DatasetInfo(
            features=datasets.Features(
                {
                    "image": datasets.Image(),
                    "domain": datasets.ClassLabel(names=list(DOMAINS)),
                    "semseg": flat,
                    "parts": flat,
                    "saliency": flat,
                    "normals": datasets.Array3D((3, size, size), "float32"),
                    "edges": flat,
                    "depth": datasets.Array2D((size, size), "float32"),
                }
            )
        )

    def _split_generators(self, dl_manager: Any) -> list[datasets.SplitGenerator]:
        return split_generators()

    def _generate_examples(self, split: str) -> Iterator[tuple[int, dict[str, Any]]]:
        for number in range(getattr(self.config, f"num_{split}")):
            # A scene of its own generator: more scenes change none of those before.
            generator = np.random.default_rng([self.config.seed, SPLITS.index(split), number])
            domain = number % len(DOMAINS)
            yield number, {"domain": domain, **render_scene(self.config.image_size, domain, generator)}


def load_scenes(
    *,
    image_size: int = 64,
    num_train: int = 1024,
    num_validation: int = 128,
    num_test: int = 256,
    seed: int = 0,
    cache_dir: str | None = None,
) -> datasets.DatasetDict:
    """Draw procedural scenes with exact labels, or read them from the cache of `datasets`.

    A room with two to five spheres, boxes and panels, by analytic ray casting. Half of the scenes are chequered with
    light from the left, half striped, darker and noisy with light from the right.

    Args:
        image_size: Height and width in pixels, at least 8. Default: 64.
        num_train: Scenes in `train`, at least 1. Default: 1,024.
        num_validation: Scenes in `validation`, at least 1. Default: 128.
        num_test: Scenes in `test`, at least 1. Default: 256.
        seed: Seed of the scenes. Default: 0.
        cache_dir: Where they are kept. Default: the cache of `datasets`.

    Returns:
        The splits `train`, `validation` and `test`. A row has `image`; `domain`; `semseg` (5 classes), `parts` (7),
        `saliency` and `edges` [H, W]; `normals` [3, H, W], of length 1, x to the right, y up, z to the camera; `depth`
        [H, W] in metres.

    Raises:
        ValueError: A number is out of range.

    Example:
        >>> import tempfile
        >>> from hf_mixture import load_scenes
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     data = load_scenes(image_size=16, num_train=4, num_validation=2, num_test=2, cache_dir=folder)
        ...     data["train"].num_rows, data["test"][0]["image"].size
        (4, (16, 16))
    """
    builder = Scenes(
        cache_dir=cache_dir,
        image_size=image_size,
        num_train=num_train,
        num_validation=num_validation,
        num_test=num_test,
        seed=seed,
    )
    builder.download_and_prepare()
    return builder.as_dataset()
