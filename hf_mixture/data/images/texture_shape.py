"""Images of a shape filled with a texture: the finest detail is one pixel, the largest the whole image.

Letters: S pixels of a side.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import datasets
import numpy as np
from numpy.typing import NDArray

from hf_mixture.data.images.partition import SPLITS, split_generators


TEXTURES = ("rows", "columns", "checks", "dots")
SHAPES = ("disc", "square", "cross", "ring")
CUES = ("texture", "shape", "both")
LEAST_SIZE = 12


def draw_texture(name: str, size: int, generator: np.random.Generator) -> NDArray[np.float64]:
    """Draw a texture whose finest detail is one pixel.

    The textures have the same mean and contrast: lines one pixel apart, checks, or pixels by chance.

    Args:
        name: `"rows"`, `"columns"`, `"checks"` or `"dots"`.
        size: S.
        generator: Source of phase and chance.

    Returns:
        -1 and 1 [S, S].
    """
    y, x = np.indices((size, size)) + generator.integers(2)
    if name == "dots":
        return generator.choice([-1.0, 1.0], size=(size, size))
    parity = {"rows": y, "columns": x, "checks": x + y}[name]
    return np.where(parity % 2 == 0, 1.0, -1.0)


def draw_shape(name: str, size: int, generator: np.random.Generator) -> NDArray[np.bool_]:
    """Draw a shape somewhere in the image, a third to two fifths of it in radius.

    Args:
        name: `"disc"`, `"square"`, `"cross"` or `"ring"`.
        size: S.
        generator: Source of place and size.

    Returns:
        Where the shape is [S, S].
    """
    radius = generator.uniform(0.30, 0.40) * size
    centre = generator.uniform(radius, size - radius, size=2)
    y, x = np.indices((size, size)) + 0.5 - centre[:, None, None]
    far, chess = np.hypot(y, x), np.maximum(abs(y), abs(x))
    if name == "disc":
        return far <= radius
    if name == "ring":
        return (far <= radius) & (far >= 0.55 * radius)
    if name == "square":
        return chess <= 0.88 * radius
    return (chess <= radius) & (np.minimum(abs(y), abs(x)) <= 0.38 * radius)


@dataclass
class TextureShapeConfig(datasets.BuilderConfig):
    """What is drawn, and what the label is.

    Args:
        cue: The label: `"texture"` (4 classes), `"shape"` (4), or `"both"` (their 16 pairs).
        image_size: S, at least 12.
        noise: Standard deviation of the noise of pixels; textures have -1 and 1. At least 0.
        seed: Seed of the images.
        num_train: Images of `train`, at least 1.
        num_validation: Images of `validation`, at least 1.
        num_test: Images of `test`, at least 1.
    """

    cue: str = "both"
    image_size: int = 16
    noise: float = 0.25
    seed: int = 0
    num_train: int = 2000
    num_validation: int = 1000
    num_test: int = 1000

    def check(self) -> None:
        """Check the values, which `datasets` sets one by one.

        Raises:
            ValueError: A value is out of range.
        """
        if self.cue not in CUES:
            raise ValueError(f"cue={self.cue!r} is no cue; the cues are {', '.join(CUES)}")
        least = {"image_size": LEAST_SIZE, "num_train": 1, "num_validation": 1, "num_test": 1, "noise": 0, "seed": 0}
        for name, value in least.items():
            if not getattr(self, name) >= value:
                raise ValueError(f"{name}={getattr(self, name)} must be at least {value}; raise it")

    def label(self, texture: int, shape: int) -> int:
        """Find the label of an image."""
        return {"texture": texture, "shape": shape, "both": texture * len(SHAPES) + shape}[self.cue]

    @property
    def names(self) -> list[str]:
        """Names of the classes."""
        both = [f"{texture}_{shape}" for texture in TEXTURES for shape in SHAPES]
        return {"texture": list(TEXTURES), "shape": list(SHAPES), "both": both}[self.cue]


class TextureShape(datasets.GeneratorBasedBuilder):
    """Builder of shapes with textures; `load_texture_shape` is the short way.

    Example:
        >>> import tempfile
        >>> from hf_mixture.data.images.texture_shape import TextureShape
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     builder = TextureShape(cache_dir=folder, num_train=20, num_validation=5, num_test=5)
        ...     builder.download_and_prepare()
        ...     builder.as_dataset(split="train").features["label"].num_classes
        16
    """

    VERSION = datasets.Version("1.0.0")
    BUILDER_CONFIG_CLASS = TextureShapeConfig

    def _info(self) -> datasets.DatasetInfo:
        self.config.check()
        return datasets.DatasetInfo(
            features=datasets.Features(
                {
                    "image": datasets.Image(),
                    "label": datasets.ClassLabel(names=self.config.names),
                    "texture": datasets.ClassLabel(names=list(TEXTURES)),
                    "shape": datasets.ClassLabel(names=list(SHAPES)),
                }
            )
        )

    def _split_generators(self, dl_manager: Any) -> list[datasets.SplitGenerator]:
        return split_generators()

    def _generate_examples(self, split: str) -> Iterator[tuple[int, dict[str, Any]]]:
        config = self.config
        generator = np.random.default_rng([config.seed, SPLITS.index(split)])
        for key in range(getattr(config, f"num_{split}")):
            texture, shape = (int(generator.integers(len(names))) for names in (TEXTURES, SHAPES))
            inside = draw_shape(SHAPES[shape], config.image_size, generator)
            pattern = draw_texture(TEXTURES[texture], config.image_size, generator)
            pixels = np.where(inside, pattern, 0.0) + config.noise * generator.normal(size=inside.shape)
            image = (127.5 + 48 * pixels).round().clip(0, 255).astype(np.uint8)
            yield key, {"image": image, "label": config.label(texture, shape), "texture": texture, "shape": shape}


def load_texture_shape(
    cue: str = "both",
    *,
    image_size: int = 16,
    noise: float = 0.25,
    num_train: int = 2000,
    num_validation: int = 1000,
    num_test: int = 1000,
    seed: int = 0,
    cache_dir: str | None = None,
) -> datasets.DatasetDict:
    """Draw grey images of shapes with textures, or read them from the cache of `datasets`.

    A texture has details of one pixel; a shape is as large as the image. Where pooling is best may depend on the cue
    that the label asks for, on the noise, and on the training. Textures without noise are easy along every path, as
    the first layer sees them at full resolution.

    Args:
        cue: The label: `"texture"` (4 classes), `"shape"` (4), or `"both"` (16 pairs). Default: `"both"`.
        image_size: Pixels of a side, at least 12. Default: 16.
        noise: Standard deviation of the noise of pixels, in units of the contrast of textures. Default: 0.25.
        num_train: Images of `train`, at least 1. Default: 2,000.
        num_validation: Images of `validation`, at least 1. Default: 1,000.
        num_test: Images of `test`, at least 1. Default: 1,000.
        seed: Seed of the images. Default: 0.
        cache_dir: Where the data are kept. Default: the cache of `datasets`.

    Returns:
        The splits, with `image`, `label`, `texture` and `shape`.

    Raises:
        ValueError: A value is out of range.

    Example:
        >>> import tempfile
        >>> from hf_mixture import load_texture_shape
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     data = load_texture_shape("texture", num_train=8, num_validation=4, num_test=4, cache_dir=folder)
        ...     data["train"].features["label"].names
        ['rows', 'columns', 'checks', 'dots']
    """
    builder = TextureShape(
        cache_dir=cache_dir,
        cue=cue,
        image_size=image_size,
        noise=noise,
        num_train=num_train,
        num_validation=num_validation,
        num_test=num_test,
        seed=seed,
    )
    builder.download_and_prepare()
    return builder.as_dataset()
