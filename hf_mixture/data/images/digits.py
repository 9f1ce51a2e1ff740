"""1,797 handwritten digits of 8 x 8 pixels, as scikit-learn brings them along."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import datasets

from hf_mixture._extras import require
from hf_mixture.data.images.partition import PartitionConfig, classified_images, split_generators


class Digits(datasets.GeneratorBasedBuilder):
    """Builder of scikit-learn's digits; `load_digit_images` is the short way.

    Example:
        >>> import tempfile
        >>> from hf_mixture.data.images.digits import Digits
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     builder = Digits(cache_dir=folder, num_train=100)
        ...     builder.download_and_prepare()
        ...     builder.as_dataset(split="train").num_rows
        100
    """

    VERSION = datasets.Version("1.0.0")
    BUILDER_CONFIG_CLASS = PartitionConfig

    def _info(self) -> datasets.DatasetInfo:
        return classified_images(10)

    def _split_generators(self, dl_manager: Any) -> list[datasets.SplitGenerator]:
        return split_generators()

    def _generate_examples(self, split: str) -> Iterator[tuple[int, dict[str, Any]]]:
        found = require("sklearn.datasets", used_for="digits", extra="images").load_digits()
        # Pixels are counts from 0 to 16.
        images = (found.images * 15.9375).round().astype("uint8")
        for key, row in enumerate(self.config.rows(split, len(images))):
            yield key, {"image": images[row], "label": int(found.target[row])}


def load_digit_images(
    *, num_train: int = 600, num_validation: int = 400, seed: int = 0, cache_dir: str | None = None
) -> datasets.DatasetDict:
    """Load the digits that scikit-learn ships, 1,797 grey images of 8 x 8 pixels, in a seeded order.

    Args:
        num_train: Images of `train`, at least 1. Default: 600.
        num_validation: Images of `validation`, at least 1. Default: 400. The others are `test`.
        seed: Seed of the order. Default: 0.
        cache_dir: Where the data are kept. Default: the cache of `datasets`.

    Returns:
        The splits, with `image` and `label`.

    Raises:
        ValueError: A number is out of range.
        ImportError: scikit-learn is not installed.

    Example:
        >>> import tempfile
        >>> from hf_mixture import load_digit_images
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     data = load_digit_images(num_train=300, cache_dir=folder)
        ...     data["test"].num_rows, data["test"][0]["image"].size
        (1097, (8, 8))
    """
    builder = Digits(cache_dir=cache_dir, num_train=num_train, num_validation=num_validation, seed=seed)
    builder.config.rows("test", 1797)
    builder.download_and_prepare()
    return builder.as_dataset()
