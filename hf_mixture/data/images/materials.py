"""Procedural materials and their mixtures as a data set: a builder of `datasets`, drawn from a seed.

A material is a point in a space of parameters; the mixture of two materials at the ratio f is the point between them,
(1 - f) a + f b, as maps of physically based materials are interpolated (arXiv 2212.00648). Images are never blended.

Letters: P parameters.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import datasets
import numpy as np
from numpy.typing import NDArray

from hf_mixture.data.images.partition import split_generators
from hf_mixture.data.images.rendering import Scene, draw_scene, render


Array = NDArray[np.float64]

# Parameters of a material and their ranges.
PARAMETERS: dict[str, tuple[float, float]] = {
    "first_red": (0.1, 0.9),
    "first_green": (0.1, 0.9),
    "first_blue": (0.1, 0.9),
    "second_red": (0.1, 0.9),
    "second_green": (0.1, 0.9),
    "second_blue": (0.1, 0.9),
    "frequency": (np.log(4.0), np.log(24.0)),
    "slope": (0.3, 3.0),
    "stretch": (0.0, 1.4),
    "sharpness": (0.5, 6.0),
    "relief": (0.0, 0.5),
    "gloss": (np.log(4.0), np.log(80.0)),
    "shine": (0.0, 0.6),
}
_LOW, _HIGH = (np.array([bounds[side] for bounds in PARAMETERS.values()]) for side in (0, 1))
# Materials of a family differ from its centre by this share of each range.
_SPREAD = 0.15

SPLITS = ("train", "validation", "test", "retrieval_validation", "retrieval_test")


@dataclass
class MaterialsConfig(datasets.BuilderConfig):
    """Sizes of the data set.

    Args:
        num_sets: Material sets in `train`.
        num_test_sets: Material sets in `validation` and in `test`.
        num_families: Families of materials in each of the two retrieval splits.
        materials_per_family: Materials of each family there.
        scenes: Images of each mixture, and of each material for retrieval, at least 2.
        ratios: Mixing ratios of a set, at least two, each once, from 0 to 1.
        image_size: Height and width in pixels, at least 16.
        seed: Seed of everything.
    """

    num_sets: int = 200
    num_test_sets: int = 40
    num_families: int = 10
    materials_per_family: int = 10
    scenes: int = 4
    ratios: tuple[float, ...] = (0.0, 0.25, 0.5, 0.75, 1.0)
    image_size: int = 64
    seed: int = 0

    def check(self) -> None:
        """Check the values, which `datasets` sets one by one.

        Raises:
            ValueError: A value is out of range.
        """
        least = {"num_sets": 1, "num_test_sets": 1, "num_families": 1, "materials_per_family": 2, "scenes": 2}
        for name, number in {**least, "image_size": 16, "seed": 0}.items():
            if getattr(self, name) < number:
                raise ValueError(f"{name}={getattr(self, name)} must be at least {number}; raise it")
        if len(self.ratios) < 2 or len(set(self.ratios)) < len(self.ratios):
            raise ValueError(f"ratios={self.ratios} must be two or more, each once")
        if not all(0 <= ratio <= 1 for ratio in self.ratios):
            raise ValueError(f"ratios={self.ratios} must be from 0 to 1; correct them")


class MaterialMixtures(datasets.GeneratorBasedBuilder):
    """Builder of images of mixed materials; `load_materials` is the short way.

    Example:
        >>> import tempfile
        >>> from hf_mixture.data.images.materials import MaterialMixtures
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     builder = MaterialMixtures(cache_dir=folder, num_sets=2, num_test_sets=1, num_families=1)
        ...     builder.download_and_prepare()
        ...     builder.as_dataset(split="train").num_rows
        40
    """

    VERSION = datasets.Version("1.0.0")
    BUILDER_CONFIG_CLASS = MaterialsConfig

    def _info(self) -> datasets.DatasetInfo:
        self.config.check()
        return datasets.DatasetInfo(
            description="Procedural materials, mixed at known ratios by interpolation of their parameters.",
            features=datasets.Features(
                {
                    "image": datasets.Image(),
                    "mask": datasets.Image(),
                    "set_ids": datasets.Value("int64"),
                    "ratios": datasets.Value("float32"),
                    "material": datasets.Value("string"),
                    "family": datasets.Value("string"),
                }
            ),
        )

    def _split_generators(self, dl_manager: Any) -> list[datasets.SplitGenerator]:
        return split_generators(SPLITS)

    def _generate_examples(self, split: str) -> Iterator[tuple[int, dict[str, Any]]]:
        config = self.config
        generator = np.random.default_rng([config.seed, SPLITS.index(split)])
        rows = _retrieval_rows if split.startswith("retrieval") else _mixture_rows
        for key, (labels, parameters) in enumerate(rows(config, split, generator)):
            image, mask = render(parameters, _scene(generator, config.image_size), generator)
            yield key, {"image": _png(image), "mask": _png(mask), **labels}


def draw_family(generator: np.random.Generator, number: int) -> Array:
    """Draw materials that are alike: around a random centre, within the ranges.

    Args:
        generator: Source of random numbers.
        number: Number of materials.

    Returns:
        Parameters [number, P].

    Example:
        >>> import numpy as np
        >>> from hf_mixture.data.images.materials import draw_family
        >>> draw_family(np.random.default_rng(0), 3).shape
        (3, 13)
    """
    centre = generator.uniform(_LOW, _HIGH)
    moved = centre + _SPREAD * (_HIGH - _LOW) * generator.standard_normal((number, len(centre)))
    return np.clip(moved, _LOW, _HIGH)


def mix_materials(first: Array, second: Array, ratio: float) -> Array:
    """Parameters of a mixture: (1 - f) a + f b.

    Args:
        first: Parameters of the material a [P].
        second: Those of b [P].
        ratio: f, from 0 to 1.

    Returns:
        Parameters [P].

    Example:
        >>> import numpy as np
        >>> from hf_mixture.data.images.materials import mix_materials
        >>> mix_materials(np.array([0.0, 4.0]), np.array([1.0, 2.0]), 0.25).tolist()
        [0.25, 3.5]
    """
    return (1 - ratio) * first + ratio * second


def load_materials(
    *,
    num_sets: int = 200,
    num_test_sets: int = 40,
    num_families: int = 10,
    materials_per_family: int = 10,
    scenes: int = 4,
    ratios: tuple[float, ...] = (0.0, 0.25, 0.5, 0.75, 1.0),
    image_size: int = 64,
    seed: int = 0,
    cache_dir: str | None = None,
) -> datasets.DatasetDict:
    """Draw images of mixed materials, or read them from the cache of `datasets`; nothing is downloaded.

    A material has 13 parameters: two colours, frequency, slope, stretch and sharpness of a noise texture that mixes
    them, relief, gloss and shine. Each image shows one material on a superellipsoid of random shape, place and
    direction, under a random coloured light, before a background of another material; the mask is its silhouette.

    The splits `train`, `validation` and `test` have material sets: two materials and their mixtures. Those of
    `retrieval_validation` and `retrieval_test` have unmixed materials in families of similar ones. No material is in
    two splits.

    Args:
        num_sets: Material sets in `train`. Default: 200.
        num_test_sets: Material sets in `validation` and in `test`. Default: 40.
        num_families: Families of materials in each of the two retrieval splits. Default: 10.
        materials_per_family: Materials of each family there, at least 2. Default: 10.
        scenes: Images of each mixture, and of each material for retrieval, at least 2. Default: 4.
        ratios: Mixing ratios of a set, at least two, each once, from 0 to 1. Default: five, 0.25 apart.
        image_size: Height and width in pixels, at least 16. Default: 64.
        seed: Seed of everything. Default: 0.
        cache_dir: Where the data are kept. Default: the cache of `datasets`.

    Returns:
        The splits. A row is one image: `image`, `mask`, `set_ids` (for retrieval, the number of the material),
        `ratios`, `material` and `family` (the material set, for mixtures).

    Raises:
        ValueError: A value is out of range.

    Example:
        >>> import tempfile
        >>> from hf_mixture import load_materials
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     data = load_materials(num_sets=2, num_test_sets=1, num_families=1, image_size=16, cache_dir=folder)
        ...     data["test"][0]["material"], data["train"].num_rows
        ('set 0 at 0', 40)
    """
    builder = MaterialMixtures(
        cache_dir=cache_dir,
        num_sets=num_sets,
        num_test_sets=num_test_sets,
        num_families=num_families,
        materials_per_family=materials_per_family,
        scenes=scenes,
        ratios=tuple(ratios),
        image_size=image_size,
        seed=seed,
    )
    builder.download_and_prepare()
    return builder.as_dataset()


def _mixture_rows(
    config: MaterialsConfig, split: str, generator: np.random.Generator
) -> Iterator[tuple[dict[str, Any], Array]]:
    for number in range(config.num_sets if split == "train" else config.num_test_sets):
        first, second = (draw_family(generator, 1)[0] for _ in range(2))
        for ratio in config.ratios:
            labels = {"material": f"set {number} at {ratio:g}", "family": f"set {number}"}
            for _ in range(config.scenes):
                yield {"set_ids": number, "ratios": ratio, **labels}, mix_materials(first, second, ratio)


def _retrieval_rows(
    config: MaterialsConfig, split: str, generator: np.random.Generator
) -> Iterator[tuple[dict[str, Any], Array]]:
    for family in range(config.num_families):
        for place, material in enumerate(draw_family(generator, config.materials_per_family)):
            number = family * config.materials_per_family + place
            labels = {"material": f"family {family}, {place}", "family": f"family {family}"}
            for _ in range(config.scenes):
                yield {"set_ids": number, "ratios": 0.0, **labels}, material


def _scene(generator: np.random.Generator, size: int) -> Scene:
    return draw_scene(generator, background=draw_family(generator, 1)[0], size=size)


def _png(pixels: NDArray[np.uint8]) -> dict[str, Any]:
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="png")
    return {"bytes": buffer.getvalue(), "path": None}
