"""Ray casting of small scenes with exact labels: two walls of a room, and spheres, boxes and panels in it.

The camera is at the origin, x to the right, y up, z towards the viewer, so that visible points have z < 0. A ray
through a pixel is t (x, y, -1): t is the depth along the optical axis, in metres. Letters: H = W pixels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np


SEMSEG = ("floor", "wall", "sphere", "box", "panel")
PARTS = ("none", "sphere top", "sphere bottom", "box top", "box front", "box side", "panel")
DOMAINS = ("checks", "stripes")
# Half of the field of view of 60 degrees, as a slope.
_SLOPE = np.tan(np.pi / 6)
# A ray that meets nothing.
_FAR = np.inf


@dataclass(frozen=True)
class Hit:
    """Where the rays of an image meet one object.

    Args:
        depth: [H, W], infinite where they miss it.
        normals: [3, H, W], of length 1, towards the camera.
        faces: Face of the object [H, W], counted from 0.
    """

    depth: Any
    normals: Any
    faces: Any


def rays(image_size: int) -> Any:
    """Directions of the rays through the centres of the pixels.

    Args:
        image_size: H.

    Returns:
        [3, H, W], with z = -1.
    """
    steps = ((np.arange(image_size) + 0.5) / image_size * 2 - 1) * _SLOPE
    x, y = np.meshgrid(steps, -steps)
    return np.stack([x, y, -np.ones_like(x)])


def cast_plane(directions: Any, point: Any, normal: Any) -> Hit:
    """Meet an endless plane through a point.

    Args:
        directions: Rays [3, H, W].
        point: A point of it [3].
        normal: Its normal [3], of length 1, towards the camera.

    Returns:
        Where the rays meet it.
    """
    towards = np.tensordot(normal, directions, axes=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        depth = normal @ point / towards
    depth = np.where((towards < 0) & (depth > 0), depth, _FAR)
    return Hit(depth, np.broadcast_to(normal[:, None, None], directions.shape), np.zeros(depth.shape, np.int64))


def cast_sphere(directions: Any, centre: Any, radius: float) -> Hit:
    """Meet a sphere; its faces are the half above its centre and the half below.

    Args:
        directions: Rays [3, H, W].
        centre: Its centre [3].
        radius: Its radius.

    Returns:
        Where the rays meet it.
    """
    squared = (directions**2).sum(axis=0)
    middle = np.tensordot(centre, directions, axes=1) / squared
    inside = middle**2 - (centre @ centre - radius**2) / squared
    depth = np.where(inside > 0, middle - np.sqrt(np.maximum(inside, 0)), _FAR)
    depth = np.where(depth > 0, depth, _FAR)
    points = np.where(np.isfinite(depth), depth, 0) * directions
    normals = (points - centre[:, None, None]) / radius
    return Hit(depth, normals, (normals[1] < 0).astype(np.int64))


def cast_box(directions: Any, centre: Any, half_sides: Any, yaw: float) -> Hit:
    """Meet a box that is turned about the vertical; its faces are top or bottom, front or back, and the sides.

    Args:
        directions: Rays [3, H, W].
        centre: Its centre [3].
        half_sides: Half of its sides [3].
        yaw: Angle about the vertical, in radians.

    Returns:
        Where the rays meet it.
    """
    turn = np.array([[np.cos(yaw), 0, -np.sin(yaw)], [0, 1, 0], [np.sin(yaw), 0, np.cos(yaw)]])
    origin, local = -turn @ centre, np.tensordot(turn, directions, axes=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        bounds = np.stack([(side * half_sides - origin)[:, None, None] / local for side in (-1, 1)])
    enter, leave = bounds.min(axis=0), bounds.max(axis=0)
    axis = enter.argmax(axis=0)
    first = enter.max(axis=0)
    depth = np.where((first < leave.min(axis=0)) & (first > 0), first, _FAR)
    normals = np.zeros_like(local)
    np.put_along_axis(normals, axis[None], -np.sign(np.take_along_axis(local, axis[None], 0)), 0)
    return Hit(depth, np.tensordot(turn.T, normals, axes=1), np.array([2, 0, 1])[axis])


def cast_panel(directions: Any, centre: Any, half_sides: Any, yaw: float, pitch: float) -> Hit:
    """Meet a thin rectangle.

    Args:
        directions: Rays [3, H, W].
        centre: Its centre [3].
        half_sides: Half of its width and height [2].
        yaw: Angle about the vertical, in radians.
        pitch: Angle about its horizontal axis, in radians.

    Returns:
        Where the rays meet it.
    """
    right = np.array([np.cos(yaw), 0, -np.sin(yaw)])
    normal = np.array([np.sin(yaw) * np.cos(pitch), np.sin(pitch), np.cos(yaw) * np.cos(pitch)])
    hit = cast_plane(directions, centre, normal)
    points = np.where(np.isfinite(hit.depth), hit.depth, 0) * directions - centre[:, None, None]
    inside = (np.abs(np.tensordot(right, points, axes=1)) < half_sides[0]) & (
        np.abs(np.tensordot(np.cross(normal, right), points, axes=1)) < half_sides[1]
    )
    return Hit(np.where(inside, hit.depth, _FAR), hit.normals, hit.faces)


def render_scene(image_size: int, domain: int, generator: Any) -> dict[str, Any]:
    """Draw a scene at random, with the labels of six tasks.

    Surfaces have random colours. In the domain `checks` they are chequered and the light comes from the left; in
    `stripes` they are striped, the light comes from the right and the image is darker and noisy: the same shading
    means the opposite slope.

    Args:
        image_size: H, at least 8.
        domain: 0 for `checks`, 1 for `stripes`.
        generator: Random numbers.

    Returns:
        `image` uint8 [H, W, 3]; `semseg`, `parts`, `saliency` and `edges` uint8 [H, W]; `normals` float32 [3, H, W];
        `depth` float32 [H, W], in metres. Salient is the object with the most pixels; an edge is a pixel whose right
        or lower neighbour is on another face.
    """
    directions = rays(image_size)
    while True:
        classes, hits = _objects(directions, generator)
        nearest = np.stack([hit.depth for hit in hits]).argmin(axis=0)
        areas = [(nearest == place).sum() for place in range(2, len(hits))]
        # An object that is hidden, or all but hidden, has no label to speak of.
        if max(areas) >= image_size**2 / 64:
            break
    salient = 2 + int(np.argmax(areas))

    def chosen(maps: Any) -> Any:
        return np.take_along_axis(np.stack(maps), nearest[None], 0)[0]

    depth, faces = chosen([hit.depth for hit in hits]), chosen([hit.faces for hit in hits])
    normals = np.stack([chosen([hit.normals[axis] for hit in hits]) for axis in range(3)])
    semseg = np.array(classes)[nearest]
    surface = nearest * 8 + faces
    edges = np.zeros((image_size, image_size), bool)
    edges[:, :-1] |= surface[:, :-1] != surface[:, 1:]
    edges[:-1] |= surface[:-1] != surface[1:]
    first_part = np.array([0, 0, 1, 3, 6])[semseg]
    return {
        "image": _shade(depth * directions, normals, surface, domain, generator),
        "semseg": semseg.astype(np.uint8),
        "parts": np.where(semseg > 1, first_part + faces, 0).astype(np.uint8),
        "saliency": (nearest == salient).astype(np.uint8),
        "normals": normals.astype(np.float32),
        "edges": edges.astype(np.uint8),
        "depth": depth.astype(np.float32),
    }


def _objects(directions: Any, generator: Any) -> tuple[list[int], list[Hit]]:
    """Classes and hits of the surfaces of a scene: floor, wall, and two to five objects."""
    height = generator.uniform(0.8, 1.4)
    wall, turn = generator.uniform(5.5, 8), generator.uniform(-0.5, 0.5)
    hits = [
        cast_plane(directions, np.array([0, -height, 0]), np.array([0.0, 1, 0])),
        cast_plane(directions, np.array([0, 0, -wall]), np.array([np.sin(turn), 0, np.cos(turn)])),
    ]
    classes = [0, 1]
    for _ in range(generator.integers(2, 6)):
        kind = int(generator.integers(2, 5))
        depth = generator.uniform(2, 4.5)
        across = generator.uniform(-0.75, 0.75) * depth * _SLOPE
        if kind == 2:
            radius = generator.uniform(0.25, 0.6)
            hits.append(cast_sphere(directions, np.array([across, radius - height, -depth]), radius))
        elif kind == 3:
            sides = generator.uniform(0.2, 0.5, 3)
            centre = np.array([across, sides[1] - height, -depth])
            hits.append(cast_box(directions, centre, sides, generator.uniform(-0.8, 0.8)))
        else:
            sides = generator.uniform(0.25, 0.6, 2)
            centre = np.array([across, generator.uniform(-0.3, 0.7), -depth])
            hits.append(
                cast_panel(directions, centre, sides, generator.uniform(-0.9, 0.9), generator.uniform(-0.5, 0.5))
            )
        classes.append(kind)
    return classes, hits


def _shade(points: Any, normals: Any, surface: Any, domain: int, generator: Any) -> Any:
    """Colours uint8 [H, W, 3] of visible points."""
    colours = generator.uniform(0.3, 1.0, (surface.max() // 8 + 1, 3))[surface // 8]
    # A grid that no surface is parallel to.
    tilted = points + 0.37 * points[[1, 2, 0]] + generator.uniform(0, 1, 3)[:, None, None]
    frequency = generator.uniform(1.5, 3)
    if domain == 0:
        pattern = np.floor(tilted * frequency).astype(np.int64).sum(axis=0) % 2
        light, ambient, noise = np.array([-0.75, 0.45, 0.5]), 0.35, 0.01
    else:
        pattern = np.sin(2 * np.pi * frequency * (tilted[0] + tilted[1])) > 0
        light, ambient, noise = np.array([0.75, 0.45, 0.5]), 0.1, 0.05
    light = light + generator.uniform(-0.1, 0.1, 3)
    facing = np.maximum(np.tensordot(light / np.linalg.norm(light), normals, axes=1), 0)
    contrast = generator.uniform(0.15, 0.4)
    colours = colours * (1 - contrast * pattern)[..., None] * (ambient + (1 - ambient) * facing)[..., None]
    colours = colours * (1 - 0.35 * domain) + generator.normal(0, noise, colours.shape)
    return (np.clip(colours, 0, 1) * 255).round().astype(np.uint8)
