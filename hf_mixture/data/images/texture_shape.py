"""Images of a bright shape in a texture: the finest detail is one pixel, the largest the whole image.

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


# Textures by their kind.
TEXTURES = {
    "repeats": ("across", "down", "falling", "rising"),
    "lines": ("rows", "columns", "checks", "dots"),
}
SHAPES = ("disc", "square", "cross", "ring")
CUES = ("texture", "shape", "both")
LEAST_SIZE = 12
# Pixels after which a texture repeats: one more than a convolution of 3 x 3 sees.
_PERIOD = 3


def draw_texture(name: str, size: int, generator: np.random.Generator) -> NDArray[np.float64]:
    """Draw a texture whose finest detail is one pixel.

    Those of the kind `"repeats"` are signs by chance that come again after three pixels: across, down, or along a
    diagonal that falls or rises. In a window of 3 x 3 all nine signs are independent, whatever the texture, so that no
    single convolution of that size can tell one from another. Those of the kind `"lines"` are lines one pixel apart,
    checks, or pixels by chance. All have the same mean and contrast.

    Args:
        name: One of `TEXTURES`.
        size: S.
        generator: Source of phase and chance.

    Returns:
        -1 and 1 [S, S].
    """
    signs = generator.choice([-1.0, 1.0], size=(2 * size, 2 * size))
    y, x = np.indices((size, size))
    if name == "dots":
        return signs[:size, :size]
    repeats = {
        "across": (y, x % _PERIOD),
        "down": (y % _PERIOD, x),
        "falling": (y % _PERIOD, x - y + size),
        "rising": (y % _PERIOD, x + y),
    }
    if name in repeats:
        return signs[repeats[name]]
    parity = {"rows": y, "columns": x, "checks": x + y}[name] + generator.integers(2)
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
        textures: Kind of the textures: `"repeats"` or `"lines"`.
        image_size: S, at least 12.
        noise: Standard deviation of the noise of pixels; textures have -1 and 1, and shapes add 1. At least 0.
        seed: Seed of the images.
        num_train: Images of `train`, at least 1.
        num_validation: Images of `validation`, at least 1.
        num_test: Images of `test`, at least 1.
    """

    cue: str = "both"
    textures: str = "repeats"
    image_size: int = 16
    noise: float = 1.0
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
        if self.textures not in TEXTURES:
            raise ValueError(f"textures={self.textures!r} is no kind; the kinds are {', '.join(TEXTURES)}")
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
        textures = TEXTURES[self.textures]
        both = [f"{texture}_{shape}" for texture in textures for shape in SHAPES]
        return {"texture": list(textures), "shape": list(SHAPES), "both": both}[self.cue]


class TextureShape(datasets.GeneratorBasedBuilder):
    """Builder of bright shapes in textures; `load_texture_shape` is the short way.

    Example:
        >>> import tempfile
        >>> from hf_mixture.data.images.texture_shape import TextureShape
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     builder = TextureShape(cache_dir=folder, num_train=20, num_validation=5, num_test=5)
        ...     builder.download_and_prepare()
        ...     builder.as_dataset(split="train").features["label"].num_classes
        16
    """

    VERSION = datasets.Version("2.0.0")
    BUILDER_CONFIG_CLASS = TextureShapeConfig

    def _info(self) -> datasets.DatasetInfo:
        self.config.check()
        return datasets.DatasetInfo(
            features=datasets.Features(
                {
                    "image": datasets.Image(),
                    "label": datasets.ClassLabel(names=self.config.names),
                    "texture": datasets.ClassLabel(names=list(TEXTURES[self.config.textures])),
                    "shape": datasets.ClassLabel(names=list(SHAPES)),
                }
            )
        )

    def _split_generators(self, dl_manager: Any) -> list[datasets.SplitGenerator]:
        return split_generators()

    def _generate_examples(self, split: str) -> Iterator[tuple[int, dict[str, Any]]]:
        config = self.config
        textures = TEXTURES[config.textures]
        generator = np.random.default_rng([config.seed, SPLITS.index(split)])
        for key in range(getattr(config, f"num_{split}")):
            texture, shape = (int(generator.integers(len(names))) for names in (textures, SHAPES))
            inside = draw_shape(SHAPES[shape], config.image_size, generator)
            pattern = draw_texture(textures[texture], config.image_size, generator)
            pixels = pattern + inside + config.noise * generator.normal(size=inside.shape)
            image = (115 + 32 * pixels).round().clip(0, 255).astype(np.uint8)
            yield key, {"image": image, "label": config.label(texture, shape), "texture": texture, "shape": shape}


def load_texture_shape(
    cue: str = "both",
    *,
    textures: str = "repeats",
    image_size: int = 16,
    noise: float = 1.0,
    num_train: int = 2000,
    num_validation: int = 1000,
    num_test: int = 1000,
    seed: int = 0,
    cache_dir: str | None = None,
) -> datasets.DatasetDict:
    """Draw grey images of a bright shape in a texture, or read them from the cache of `datasets`.

    A texture fills the image, with details of one pixel; a shape is as large as the image. Where to pool matters for
    the textures of the kind `"repeats"`: what tells them apart lies three pixels away, and much of it is lost to a
    network that halves its maps before it has looked that far. Those of the kind `"lines"` differ within 3 x 3 pixels.

    Args:
        cue: The label: `"texture"` (4 classes), `"shape"` (4), or `"both"` (16 pairs). Default: `"both"`.
        textures: Kind of the textures, `"repeats"` or `"lines"`. Default: `"repeats"`.
        image_size: Pixels of a side, at least 12. Default: 16.
        noise: Standard deviation of the noise of pixels, in units of the contrast of textures. Default: 1.
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
        ['across', 'down', 'falling', 'rising']
    """
    builder = TextureShape(
        cache_dir=cache_dir,
        cue=cue,
        textures=textures,
        image_size=image_size,
        noise=noise,
        num_train=num_train,
        num_validation=num_validation,
        num_test=num_test,
        seed=seed,
    )
    builder.download_and_prepare()
    return builder.as_dataset()
