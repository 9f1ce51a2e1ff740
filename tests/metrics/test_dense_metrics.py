"""Metrics of dense prediction against loops over pixels and against hand-made cases."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

from hf_mixture.metrics import load_metric


@pytest.fixture(scope="module")
def metrics() -> dict[str, Any]:
    names = ("segmentation_miou", "saliency_maxf", "normals_mean_angle", "edges_odsf", "depth_rmse")
    return {name: load_metric(name) for name in names}


def maps(seed: int, high: int) -> tuple[np.ndarray, np.ndarray]:
    """Predicted and true maps of three images, a fifth of which does not count."""
    rng = np.random.default_rng(seed)
    true = rng.integers(0, high, (3, 6, 5))
    predicted = np.where(rng.random(true.shape) < 0.6, true, rng.integers(0, high, true.shape))
    return predicted, np.where(rng.random(true.shape) < 0.2, 255, true)


def test_miou_against_loops(metrics: dict[str, Any]) -> None:
    predicted, true = maps(0, 4)
    ious = []
    for label in range(5):
        both = either = 0
        for p, t in zip(predicted.ravel().tolist(), true.ravel().tolist(), strict=True):
            if t != 255:
                both += p == label and t == label
                either += label in (p, t)
        ious.append(both / either if either else None)
    for image in range(3):
        metrics["segmentation_miou"].add_batch(
            predictions=predicted[image : image + 1], references=true[image : image + 1]
        )
    found = metrics["segmentation_miou"].compute(num_classes=5)
    assert found["iou_by_class"] == pytest.approx(ious)
    # The fifth class occurs nowhere.
    assert found["iou_by_class"][4] is None
    assert found["miou"] == pytest.approx(np.mean(ious[:4]))


def test_max_f_against_loops(metrics: dict[str, Any]) -> None:
    _, true = maps(1, 2)
    probability = np.random.default_rng(2).random(true.shape).astype(np.float32)
    for b in (1.0, 0.3):
        scores = {}
        for step in range(1, 10):
            threshold, hit, marked, actual = step * 0.1, 0, 0, 0
            for p, t in zip(probability.ravel().tolist(), true.ravel().tolist(), strict=True):
                if t != 255:
                    hit += p >= threshold and t == 1
                    marked += p >= threshold
                    actual += t == 1
            precision, recall = hit / max(marked, 1), hit / actual
            scores[threshold] = (1 + b) * precision * recall / max(b * precision + recall, 1e-12)
        found = metrics["saliency_maxf"].compute(
            predictions=probability, references=true, beta_squared=b, threshold_step=0.1
        )
        assert found["max_f"] == pytest.approx(max(scores.values()))
        assert min(abs(found["threshold"] - t) for t, s in scores.items() if s == max(scores.values())) < 1e-9


def test_angles(metrics: dict[str, Any]) -> None:
    rng = np.random.default_rng(3)
    true = rng.normal(size=(2, 3, 4, 5))
    true /= np.linalg.norm(true, axis=1, keepdims=True)
    predicted = rng.normal(size=true.shape)
    true[0, 1, 0, 0] = 255
    slow = []
    for image, y, x in itertools.product(range(2), range(4), range(5)):
        if (image, y, x) != (0, 0, 0):
            p, t = predicted[image, :, y, x], true[image, :, y, x]
            slow.append(np.degrees(np.arccos(p @ t / np.linalg.norm(p))))
    metric = metrics["normals_mean_angle"]
    found = metric.compute(predictions=predicted, references=true)
    assert found == pytest.approx({"mean_angle": np.mean(slow), "median_angle": np.median(slow)}, rel=1e-4)
    # Length does not matter.
    assert metric.compute(predictions=7 * predicted, references=true)["mean_angle"] == pytest.approx(
        np.mean(slow), rel=1e-4
    )
    flat = np.zeros((1, 3, 1, 3))
    flat[0, 2] = 1
    other = flat.copy()
    other[0, :, 0, 1], other[0, :, 0, 2] = (0, 0, -1), 0
    assert metric.compute(predictions=other, references=flat)["mean_angle"] == pytest.approx((0 + 180 + 90) / 3)


def test_rmse(metrics: dict[str, Any]) -> None:
    predicted, true = np.array([[[1.0, 2.0]], [[4.0, 5.0]]]), np.array([[[2.0, 255.0]], [[4.0, 2.0]]])
    found = metrics["depth_rmse"].compute(predictions=predicted, references=true)
    assert found["rmse"] == pytest.approx(np.sqrt((1 + 0 + 9) / 3))


def slow_matches(predicted: np.ndarray, true: np.ndarray, distance: float) -> int:
    """Largest number of pairs, by trying every choice."""
    places = [tuple(place) for place in np.argwhere(true)]

    def best(left: list[tuple[int, ...]], taken: frozenset[tuple[int, ...]]) -> int:
        if not left:
            return 0
        (y, x), rest = left[0], left[1:]
        found = best(rest, taken)
        for place in places:
            if place not in taken and (place[0] - y) ** 2 + (place[1] - x) ** 2 <= distance**2:
                found = max(found, 1 + best(rest, taken | {place}))
        return found

    return best([tuple(place) for place in np.argwhere(predicted)], frozenset())


@pytest.mark.parametrize("distance", [0.0, 1.0, 1.5])
def test_edges_are_matched_one_to_one_as_many_as_possible(distance: float, metrics: dict[str, Any]) -> None:
    rng = np.random.default_rng(4)
    for _ in range(8):
        predicted, true = rng.random((4, 4)) < 0.35, rng.random((4, 4)) < 0.35
        if not (predicted.any() and true.any()):
            continue
        found = metrics["edges_odsf"].compute(
            predictions=[predicted.astype(float)],
            references=[true.astype(int)],
            max_distance=distance / np.hypot(4, 4) + 1e-9,
            num_thresholds=1,
            thin=False,
        )
        matched = slow_matches(predicted, true, distance)
        assert found["precision"] == pytest.approx(matched / predicted.sum())
        assert found["recall"] == pytest.approx(matched / true.sum())
        assert found["ods_f"] == pytest.approx(2 * matched / (predicted.sum() + true.sum()))


def test_one_threshold_serves_all_images(metrics: dict[str, Any]) -> None:
    line = np.zeros((2, 9, 9), int)
    line[:, 4] = 1
    # Each image alone has a perfect threshold, and there is none for both.
    predicted = np.stack([np.where(line[0], 0.9, 0.5), np.where(line[1], 0.45, 0.05)])
    found = metrics["edges_odsf"].compute(predictions=predicted, references=line, num_thresholds=9, thin=False)
    assert found["ods_f"] < 0.9
    for image in range(2):
        alone = metrics["edges_odsf"].compute(
            predictions=predicted[image : image + 1], references=line[:1], num_thresholds=9, thin=False
        )
        assert alone["ods_f"] == 1


def test_thick_edges_are_thinned_to_their_middle(metrics: dict[str, Any]) -> None:
    line = np.zeros((1, 15, 15), int)
    line[0, 7] = 1
    thick = np.zeros((1, 15, 15))
    thick[0, 6:9] = 0.9
    options = {"predictions": thick, "references": line, "num_thresholds": 1}
    assert metrics["edges_odsf"].compute(**options, thin=False)["precision"] == pytest.approx(1 / 3)
    thinned = metrics["edges_odsf"].compute(**options, max_distance=0.06)
    assert thinned["precision"] == 1
    assert thinned["recall"] > 0.85


def test_a_thinned_ring_stays_a_ring() -> None:
    from importlib.util import module_from_spec, spec_from_file_location
    from pathlib import Path

    import scipy.ndimage

    import hf_mixture.metrics

    place = Path(hf_mixture.metrics.__file__).parent / "edges_odsf" / "edges_odsf.py"
    spec = spec_from_file_location("edges_odsf_module", place)
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    y, x = np.mgrid[:31, :31] - 15
    ring = (np.hypot(y, x) > 7) & (np.hypot(y, x) < 12)
    thinned = module.thin_lines(ring[None])[0]
    assert (thinned & ~ring).sum() == 0
    assert 40 < thinned.sum() < 90
    around = np.ones((3, 3))
    assert scipy.ndimage.label(thinned, around)[1] == 1
    # Its inside stays apart from its outside.
    assert scipy.ndimage.label(~thinned)[1] == 2
    # No square of four pixels is left.
    assert not (thinned[:-1, :-1] & thinned[1:, :-1] & thinned[:-1, 1:] & thinned[1:, 1:]).any()


@pytest.mark.parametrize(
    ("name", "rows", "said"),
    [
        ("segmentation_miou", {"predictions": [[[7]]], "references": [[[0]]], "num_classes": 2}, "num_classes=2"),
        ("segmentation_miou", {"predictions": [[[0]]], "references": [[[255]]], "num_classes": 2}, "no pixel"),
        ("segmentation_miou", {"predictions": [[[0, 1]]], "references": [[[0]]], "num_classes": 2}, "has the shape"),
        ("saliency_maxf", {"predictions": [[[2.0]]], "references": [[[1]]]}, "probabilities"),
        ("saliency_maxf", {"predictions": [[[0.5]]], "references": [[[0]]]}, "no pixel of references is salient"),
        ("normals_mean_angle", {"predictions": [[[[1.0]]] * 3], "references": [[[[0.0]]] * 3]}, "length 0"),
        ("edges_odsf", {"predictions": [[[-1.0]]], "references": [[[1]]]}, "apply a sigmoid"),
        ("edges_odsf", {"predictions": [[[0.5]]], "references": [[[0]]]}, "no pixel of references is an edge"),
        ("depth_rmse", {"predictions": [[[0.5]]], "references": [[[255.0]]]}, "no pixel"),
    ],
)
def test_bad_input(name: str, rows: dict[str, Any], said: str, metrics: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=said):
        metrics[name].compute(**rows)
