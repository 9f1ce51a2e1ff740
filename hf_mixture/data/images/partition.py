"""Splits of image sets that come without: a seeded order, cut into train, validation and test."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import datasets
import numpy as np
from numpy.typing import NDArray


SPLITS = ("train", "validation", "test")


@dataclass
class PartitionConfig(datasets.BuilderConfig):
    """Sizes of the splits.

    Args:
        seed: Seed of the order. Default: 0.
        num_train: Images of `train`, at least 1.
        num_validation: Images of `validation`, at least 1. The others are `test`.
    """

    seed: int = 0
    num_train: int = 600
    num_validation: int = 400

    def rows(self, split: str, num_rows: int) -> NDArray[np.int64]:
        """Choose the images of a split.

        Args:
            split: `"train"`, `"validation"` or `"test"`.
            num_rows: Number of all images.

        Returns:
            Their indices.

        Raises:
            ValueError: A number is out of range, or no image is left for `test`.
        """
        for name in ("num_train", "num_validation"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 1; raise it")
        if self.num_train + self.num_validation >= num_rows:
            raise ValueError(
                f"num_train={self.num_train} and num_validation={self.num_validation} leave none of {num_rows} images "
                "for test; lower one of them"
            )
        order = np.random.default_rng(self.seed).permutation(num_rows)
        bounds = [0, self.num_train, self.num_train + self.num_validation, num_rows]
        place = SPLITS.index(split)
        return order[bounds[place] : bounds[place + 1]]


def split_generators(names: Sequence[str] = SPLITS) -> list[datasets.SplitGenerator]:
    """Make the generators of splits, for a builder whose `_generate_examples` takes `split`.

    Args:
        names: Names of the splits. Default: `train`, `validation` and `test`.

    Returns:
        The generators.
    """
    return [datasets.SplitGenerator(name=name, gen_kwargs={"split": name}) for name in names]


def classified_images(num_labels: int, **others: Any) -> datasets.DatasetInfo:
    """Describe rows with an `image` and its `label`, a digit.

    Args:
        num_labels: Number of classes.
        others: Further features.

    Returns:
        The description.
    """
    names = [str(label) for label in range(num_labels)]
    features = {"image": datasets.Image(), "label": datasets.ClassLabel(names=names), **others}
    return datasets.DatasetInfo(features=datasets.Features(features))
