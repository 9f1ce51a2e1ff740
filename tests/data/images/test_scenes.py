"""Procedural scenes: geometry against direct computation, labels that agree, a reproducible builder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hf_mixture import load_scenes
from hf_mixture.data.images import scene_rendering as rendering


def scene(seed: int, size: int = 32) -> dict[str, Any]:
    return rendering.render_scene(size, seed % 2, np.random.default_rng(seed))


def test_rays_look_ahead() -> None:
    directions = rendering.rays(4)
    assert (directions[2] == -1).all()
    # Right and up are positive.
    assert directions[0, 0, -1] > 0 > directions[0, 0, 0]
    assert directions[1, 0, 0] > 0 > directions[1, -1, 0]


def test_points_of_a_sphere_lie_on_it() -> None:
    directions, centre = rendering.rays(33), np.array([0.3, -0.2, -3.0])
    hit = rendering.cast_sphere(directions, centre, 0.7)
    seen = np.isfinite(hit.depth)
    assert 0 < seen.sum() < seen.size
    points = (hit.depth * directions)[:, seen]
    np.testing.assert_allclose(np.linalg.norm(points - centre[:, None], axis=0), 0.7)
    np.testing.assert_allclose(hit.normals[:, seen] * 0.7, points - centre[:, None], atol=1e-12)
    # Nearest points: normals look at the camera.
    assert ((hit.normals * directions).sum(axis=0)[seen] < 0).all()
    missed = [np.linalg.norm(np.cross(centre, d / np.linalg.norm(d))) for d in directions[:, ~seen].T]
    assert min(missed) > 0.7


@pytest.mark.parametrize("yaw", [0.0, 0.5, -1.2])
def test_points_of_a_box_lie_on_its_faces(yaw: float) -> None:
    directions, centre, half = rendering.rays(33), np.array([0.2, -0.6, -3.0]), np.array([0.5, 0.3, 0.4])
    hit = rendering.cast_box(directions, centre, half, yaw)
    seen = np.isfinite(hit.depth)
    turn = np.array([[np.cos(yaw), 0, -np.sin(yaw)], [0, 1, 0], [np.sin(yaw), 0, np.cos(yaw)]])
    local = turn @ ((hit.depth * directions)[:, seen] - centre[:, None])
    shares = np.abs(local) / half[:, None]
    np.testing.assert_allclose(shares.max(axis=0), 1)
    normals = turn @ hit.normals[:, seen]
    axis = shares.argmax(axis=0)
    np.testing.assert_allclose(np.take_along_axis(normals, axis[None], 0)[0], np.sign(local)[axis, range(len(axis))])
    assert ((hit.normals * directions).sum(axis=0)[seen] < 0).all()
    # Faces: 0 top, 1 front, 2 side.
    assert np.array_equal(hit.faces[seen], np.array([2, 0, 1])[axis])
    # From the middle of the box no ray misses it.
    inside = np.abs(turn @ ((-centre[2]) * directions.reshape(3, -1) - centre[:, None])) < half[:, None]
    assert seen.ravel()[inside.all(axis=0)].all()


def test_points_of_a_panel_lie_within_it() -> None:
    directions, centre = rendering.rays(33), np.array([0.1, 0.2, -2.5])
    hit = rendering.cast_panel(directions, centre, np.array([0.6, 0.3]), 0.4, -0.2)
    seen = np.isfinite(hit.depth)
    offsets = (hit.depth * directions)[:, seen] - centre[:, None]
    normal = hit.normals[:, 0, 0]
    np.testing.assert_allclose(normal @ offsets, 0, atol=1e-12)
    assert np.linalg.norm(normal) == pytest.approx(1)
    assert 0.3 < np.linalg.norm(offsets, axis=0).max() <= np.hypot(0.6, 0.3)


@pytest.mark.parametrize("seed", range(6))
def test_labels_agree_with_one_another(seed: int) -> None:
    labels = scene(seed)
    np.testing.assert_allclose(np.linalg.norm(labels["normals"], axis=0), 1, atol=1e-6)
    assert np.isfinite(labels["depth"]).all()
    assert labels["depth"].min() > 0
    assert labels["depth"].max() < 20
    assert set(np.unique(labels["semseg"])) <= set(range(5))
    # Parts belong to their classes.
    classes_of_parts = np.array([-1, 2, 2, 3, 3, 3, 4])
    objects = labels["semseg"] > 1
    assert np.array_equal(classes_of_parts[labels["parts"]][objects], labels["semseg"][objects])
    assert (labels["parts"][~objects] == 0).all()
    # Floors look up, spheres' upper halves too.
    assert (labels["normals"][1][labels["semseg"] == 0] == 1).all()
    assert (labels["normals"][1][labels["parts"] == 1] >= 0).all()
    # What is salient is one object.
    salient = labels["saliency"] == 1
    assert salient.sum() >= 32 * 32 / 64
    assert len(np.unique(labels["semseg"][salient])) == 1
    assert objects[salient].all()
    # A change of class or part to the right or below is an edge.
    for task in ("semseg", "parts", "saliency"):
        across = labels[task][:, :-1] != labels[task][:, 1:]
        assert (labels["edges"][:, :-1][across] == 1).all()
        down = labels[task][:-1] != labels[task][1:]
        assert (labels["edges"][:-1][down] == 1).all()
    # Away from edges, a flat surface is flat.
    flat = np.isin(labels["semseg"][:, :-1], [0, 1, 4]) & (labels["edges"][:, :-1] == 0)
    assert np.abs(np.diff(labels["normals"], axis=2))[:, flat].max() < 1e-6


def test_depth_and_normals_are_those_of_one_surface() -> None:
    """Differences of neighbouring points are at right angles to the normal, on flat surfaces."""
    labels = scene(3, size=64)
    points = labels["depth"] * rendering.rays(64)
    steps = np.diff(points, axis=2)
    inner = np.isin(labels["semseg"][:, :-1], [0, 1, 4]) & (labels["edges"][:, :-1] == 0)
    slopes = (steps * labels["normals"][:, :, :-1]).sum(axis=0) / np.linalg.norm(steps, axis=0)
    assert np.abs(slopes[inner]).max() < 1e-3


def test_domains_are_lit_from_opposite_sides() -> None:
    """The same surfaces are bright in one domain where they are dark in the other."""
    brightness: dict[int, list[float]] = {0: [], 1: []}
    for seed in range(40):
        labels = scene(seed)
        left = labels["normals"][0] < -0.4
        right = labels["normals"][0] > 0.4
        if left.sum() > 8 and right.sum() > 8:
            image = labels["image"].mean(axis=-1)
            brightness[seed % 2].append(float(np.log((image[left].mean() + 1) / (image[right].mean() + 1))))
    assert np.mean(brightness[0]) > 0 > np.mean(brightness[1])


def test_the_builder_is_reproducible_and_grows(tmp_path: Path) -> None:
    options = {"image_size": 16, "num_validation": 2, "num_test": 2, "seed": 3}
    small = load_scenes(num_train=4, cache_dir=str(tmp_path / "a"), **options)
    large = load_scenes(num_train=6, cache_dir=str(tmp_path / "b"), **options)
    assert small["train"]["domain"][:] == [0, 1, 0, 1]
    for row in range(4):
        one, other = small["train"][row], large["train"][row]
        assert one.pop("image").tobytes() == other.pop("image").tobytes()
        assert one == other
    assert small["test"][0]["depth"] != small["train"][0]["depth"]
    arrays = small["train"].with_format("numpy")[0]
    assert arrays["normals"].shape == (3, 16, 16)
    assert arrays["image"].shape == (16, 16, 3)


@pytest.mark.parametrize("options", [{"image_size": 4}, {"num_train": 0}, {"seed": -1}])
def test_bad_options_are_refused(options: dict[str, int], tmp_path: Path) -> None:
    (name,) = options
    with pytest.raises(ValueError, match=f"{name}=.* must be at least"):
        load_scenes(cache_dir=str(tmp_path), **options)
