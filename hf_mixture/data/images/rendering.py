"""Pictures of procedural materials: a noise texture on a lit superellipsoid before another material.

Letters: H pixels in height and width, P parameters in the order of `hf_mixture.data.images.materials.PARAMETERS`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


Array = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Scene:
    """What surrounds a material.

    Args:
        size: H, height and width in pixels.
        centre: Centre of the object, in units of half the image.
        radii: Half axes of the object, in the same units.
        exponent: Exponent of its outline: 2 is an ellipse, more is squarer.
        turn: Direction of the object in radians.
        grain: Direction of the texture in radians.
        zoom: Factor of the texture's frequency.
        light: Unit vector towards the light.
        colour: Colour of the light, around 1.
        ambient: Share of light that comes from everywhere.
        background: Parameters of the material behind [P].
    """

    size: int
    centre: Array
    radii: Array
    exponent: float
    turn: float
    grain: float
    zoom: float
    light: Array
    colour: Array
    ambient: float
    background: Array


def draw_scene(generator: np.random.Generator, *, background: Array, size: int) -> Scene:
    """Draw a scene at random.

    Args:
        generator: Source of random numbers.
        background: Parameters of the material behind [P].
        size: H.

    Returns:
        The scene.
    """
    light = np.array([*generator.uniform(-0.7, 0.7, 2), 1.0])
    return Scene(
        size=size,
        centre=generator.uniform(-0.15, 0.15, 2),
        radii=generator.uniform(0.6, 0.9, 2),
        exponent=generator.uniform(1.6, 5.0),
        turn=generator.uniform(0, 2 * np.pi),
        grain=generator.uniform(0, 2 * np.pi),
        zoom=generator.uniform(0.85, 1.2),
        light=light / np.linalg.norm(light),
        colour=generator.uniform(0.6, 1.15) * np.exp(0.15 * generator.standard_normal(3)),
        ambient=generator.uniform(0.25, 0.5),
        background=background,
    )


def render(
    parameters: Array, scene: Scene, generator: np.random.Generator
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Draw a material in a scene; the details of its texture are random.

    Args:
        parameters: Parameters of the material [P].
        scene: The scene.
        generator: Source of the random details.

    Returns:
        Image [H, H, 3] from 0 to 255, and mask [H, H] with 255 where the material is.
    """
    axis = np.linspace(-1, 1, scene.size)
    x, y = np.meshgrid(axis, axis)
    dx, dy = x - scene.centre[0], y - scene.centre[1]
    cos, sin = np.cos(scene.turn), np.sin(scene.turn)
    u = (cos * dx + sin * dy) / scene.radii[0]
    v = (cos * dy - sin * dx) / scene.radii[1]
    radius = np.abs(u) ** scene.exponent + np.abs(v) ** scene.exponent
    inside = radius < 1
    height = np.sqrt(np.clip(1 - radius, 0, None))
    flat = np.zeros_like(height)
    front = _shade(parameters, height, inside, scene, generator)
    behind = _shade(scene.background, flat, np.ones_like(inside), scene, generator)
    image = np.where(inside[..., None], front, behind)
    return (np.clip(image, 0, 1) * 255).round().astype(np.uint8), inside.astype(np.uint8) * 255


def noise_texture(
    size: int, *, frequency: float, slope: float, stretch: float, grain: float, generator: np.random.Generator
) -> Array:
    """Band-limited noise of mean 0 and standard deviation 1.

    The spectrum rises below the frequency k0 as k and falls above it as k^-slope; distances in it are stretched by
    exp(stretch / 2) along the grain and shrunk by as much across.

    Args:
        size: H.
        frequency: k0, in periods of the image.
        slope: How steeply high frequencies fall.
        stretch: Logarithm of the ratio of lengths along and across the grain.
        grain: Direction of the grain in radians.
        generator: Source of random numbers.

    Returns:
        Values [H, H].
    """
    k_y, k_x = np.meshgrid(np.fft.fftfreq(size, 1 / size), np.fft.rfftfreq(size, 1 / size), indexing="ij")
    along = (np.cos(grain) * k_x + np.sin(grain) * k_y) * np.exp(stretch / 2)
    across = (np.cos(grain) * k_y - np.sin(grain) * k_x) * np.exp(-stretch / 2)
    k = np.hypot(along, across) / frequency
    amplitude = k / (1 + k ** (1 + slope))
    waves = np.fft.rfft2(generator.standard_normal((size, size))) * amplitude
    values = np.fft.irfft2(waves, s=(size, size))
    return (values - values.mean()) / values.std()


def _shade(
    parameters: Array, height: Array, inside: NDArray[np.bool_], scene: Scene, generator: np.random.Generator
) -> Array:
    """Light of a material on a surface of the given height [H, H, 3]."""
    first, second = parameters[:3], parameters[3:6]
    frequency, slope, stretch, sharpness, relief, gloss, shine = parameters[6:]
    texture = noise_texture(
        scene.size,
        frequency=np.exp(frequency) * scene.zoom,
        slope=slope,
        stretch=stretch,
        grain=scene.grain,
        generator=generator,
    )
    share = 1 / (1 + np.exp(-sharpness * texture))
    albedo = first + share[..., None] * (second - first)
    surface = height * 0.5 * scene.size * scene.radii.mean() + relief * texture
    slope_y, slope_x = np.gradient(surface)
    # Near the outline a superellipsoid is steeper than pixels can show.
    steepest = 2.0
    normal = np.stack([-np.clip(slope_x, -steepest, steepest), -np.clip(slope_y, -steepest, steepest)], axis=-1)
    normal = np.concatenate([normal, np.ones((*height.shape, 1))], axis=-1)
    normal /= np.linalg.norm(normal, axis=-1, keepdims=True)
    diffuse = np.clip(normal @ scene.light, 0, None)
    half = scene.light + np.array([0.0, 0.0, 1.0])
    highlight = shine * np.clip(normal @ (half / np.linalg.norm(half)), 0, None) ** np.exp(gloss)
    lit = albedo * (scene.ambient + (1 - scene.ambient) * diffuse)[..., None] + highlight[..., None]
    return np.where(inside[..., None], lit * scene.colour, 0.0)
