"""The image processor: geometry of images with all label maps, predictions, and what it refuses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_taskexpert as tiny
import torch
from PIL import Image
from transformers import AutoImageProcessor

from hf_mixture import TaskExpertImageProcessor
from hf_mixture.models.taskexpert import geometry


def sample(height: int = 6, width: int = 8) -> geometry.Sample:
    """An image whose red channel counts columns and whose label maps say where they are."""
    rows, columns = np.mgrid[:height, :width]
    image = np.stack([columns * 10, rows * 10, rows * 0], axis=-1).astype(np.uint8)
    labels = {
        "semseg": (columns % 3).astype(np.int64),
        "depth": (1.0 + columns + 0.1 * rows).astype(np.float32),
        "normals": np.stack([0.6 + 0 * columns, 0 * columns, 0.8 + 0 * columns]).astype(np.float32),
        "edges": (columns == 2).astype(np.int64),
    }
    labels["depth"][0, 0] = 255
    labels["normals"][:, 0, 0] = 255
    return geometry.Sample(image, labels)


def test_a_mirror_image_turns_the_x_of_normals_and_nothing_else() -> None:
    before = sample()
    after = geometry.flip(before, 255)
    assert np.array_equal(after.image, before.image[:, ::-1])
    for task in ("semseg", "depth", "edges"):
        assert np.array_equal(after.labels[task], before.labels[task][:, ::-1])
    assert after.labels["normals"][:, 3, 3].tolist() == pytest.approx([-0.6, 0, 0.8])
    # Pixels without a label stay so, and the corner has gone to the other side.
    assert (after.labels["normals"][:, 0, -1] == 255).all()
    twice = geometry.flip(after, 255)
    assert all(np.array_equal(twice.labels[task], before.labels[task]) for task in before.labels)
    assert before.labels["normals"][0, 3, 3] == pytest.approx(0.6)


@pytest.mark.parametrize("scale", [0.5, 2.0])
def test_a_zoom_divides_depth(scale: float) -> None:
    before = sample()
    after = geometry.zoom(before, scale, 255)
    size = (int(6 * scale), int(8 * scale))
    assert after.image.shape[:2] == size
    plain = geometry.resize_nearest(before.labels["depth"], size)
    wanted = np.where(plain == 255, 255, plain / scale)
    np.testing.assert_allclose(after.labels["depth"], wanted, rtol=1e-6)
    assert set(np.unique(after.labels["semseg"])) <= {0, 1, 2}
    np.testing.assert_allclose(after.labels["normals"][:, -1, -1], [0.6, 0, 0.8], rtol=1e-6)


def test_a_plain_resize_leaves_depth_as_it_is() -> None:
    before = sample()
    batch = TaskExpertImageProcessor(size={"height": 12, "width": 16})(
        before.image, labels=before.labels, return_tensors="pt"
    )
    assert batch["pixel_values"].shape == (1, 3, 12, 16)
    assert set(batch["labels"]["depth"].unique().tolist()) == set(before.labels["depth"].ravel().tolist())
    assert batch["task_masks"]["depth"].tolist() == [True]


def test_image_and_maps_stay_together_under_augmentation() -> None:
    """Every crop is found again by what its red channel, its depth and its edges say of its columns."""
    before = sample(16, 24)
    processor = TaskExpertImageProcessor(
        size={"height": 8, "width": 8},
        scale_range=[1.0, 1.0],
        do_rescale=False,
        do_normalize=False,
        distort_colours=False,
        category_max_ratio=1.1,
    )
    seen_flip, seen_columns = set(), set()
    for seed in range(12):
        batch = processor([before.image], labels=[before.labels], augment=True, seed=seed, return_tensors="np")
        columns = batch["pixel_values"][0][0] / 10
        labels = {task: values[0] for task, values in batch["labels"].items()}
        valid = labels["depth"] != 255
        rows = batch["pixel_values"][0][1] / 10
        np.testing.assert_allclose(labels["depth"][valid], (1 + columns + 0.1 * rows)[valid], rtol=1e-5)
        assert np.array_equal(labels["edges"], columns == 2)
        flipped = bool(columns[0, 0] > columns[0, 1])
        np.testing.assert_allclose(labels["normals"][0][valid], -0.6 if flipped else 0.6, rtol=1e-6)
        seen_flip.add(flipped)
        seen_columns.add(float(columns.min()))
        same = processor([before.image], labels=[before.labels], augment=True, seed=seed, return_tensors="np")
        assert np.array_equal(same["pixel_values"][0], batch["pixel_values"][0])
    assert seen_flip == {False, True}
    assert len(seen_columns) > 3


def test_small_images_are_padded_with_pixels_that_do_not_count() -> None:
    processor = TaskExpertImageProcessor(size={"height": 16, "width": 16}, scale_range=[1.0, 1.0])
    batch = processor(sample().image, labels=sample().labels, augment=True, seed=0, return_tensors="pt")
    assert batch["pixel_values"].shape == (1, 3, 16, 16)
    assert (batch["labels"]["semseg"] != 255).sum() == 48
    assert (batch["labels"]["depth"] != 255).sum() == 47
    # The mean colour, which becomes about 0.
    assert batch["pixel_values"][0, :, 8:].abs().max() < 0.2


def test_crops_full_of_one_class_are_avoided() -> None:
    image = np.zeros((8, 64, 3), np.uint8)
    semseg = np.zeros((8, 64), np.int64)
    semseg[:, 40:44] = 1
    generator = np.random.default_rng(0)
    found = [
        geometry.largest_share(
            geometry.random_crop(geometry.Sample(image, {"semseg": semseg}), (8, 8), 0.75, 255, generator).labels, 255
        )
        for _ in range(40)
    ]
    free = np.mean([1.0 if abs(left - 38) > 5 else 0.5 for left in range(57)])
    assert np.mean(found) < free


def test_colours_are_distorted_and_stay_colours() -> None:
    image = np.random.default_rng(0).integers(0, 256, (8, 8, 3)).astype(np.uint8)
    changed = [geometry.distort_colours(image, np.random.default_rng(seed)) for seed in range(20)]
    assert all(values.dtype == np.uint8 and values.shape == image.shape for values in changed)
    assert len({values.tobytes() for values in changed}) > 10


def test_saved_processors_come_back(tmp_path: Path) -> None:
    processor = TaskExpertImageProcessor(size={"height": 8, "width": 16}, ignore_value=254)
    processor.save_pretrained(tmp_path)
    tiny.config().save_pretrained(tmp_path)
    again = AutoImageProcessor.from_pretrained(tmp_path)
    assert isinstance(again, TaskExpertImageProcessor)
    assert again.to_dict() == processor.to_dict()


def test_predictions_are_classes_probabilities_vectors_and_numbers() -> None:
    model = tiny.model().eval()
    out = model(tiny.images(2))
    first, second = TaskExpertImageProcessor().post_process_tasks(out, target_sizes=[(32, 32), (10, 12)])
    assert torch.equal(first["semseg"], out.logits["semseg"][0].argmax(dim=0))
    torch.testing.assert_close(first["saliency"], out.logits["saliency"][0].softmax(dim=0)[1])
    torch.testing.assert_close(first["edges"], out.logits["edges"][0, 0].sigmoid())
    torch.testing.assert_close(first["normals"].norm(dim=0), torch.ones(32, 32))
    assert torch.equal(first["depth"], out.logits["depth"][0, 0])
    assert second["normals"].shape == (3, 10, 12)


def changed(task: str, change: Any) -> dict[str, Any]:
    labels = sample().labels
    return labels | {task: change(labels[task])}


@pytest.mark.parametrize(
    ("image", "labels", "message"),
    [
        (np.zeros((6, 8, 4), np.uint8), {}, r"row 1: the image has the shape \(6, 8, 4\)"),
        (np.zeros((6, 8), np.uint8), {}, r"row 1: the image has the shape \(6, 8\)"),
        (np.zeros((0, 8, 3), np.uint8), {}, "row 1: the image has the shape"),
        (Image.new("L", (8, 6)), {}, "row 1: the image has the mode 'L'"),
        (np.full((6, 8, 3), np.nan), {}, "row 1: the image has pixels that are not finite"),
        (None, changed("depth", lambda d: d[:4]), r"row 1: labels\['depth'\] has the shape \(4, 8\)"),
        (None, changed("depth", lambda d: d * np.nan), r"row 1: labels\['depth'\] has values that are not finite"),
        (None, changed("depth", lambda d: d * 0), r"row 1: labels\['depth'\] has a depth of 0.0"),
        (None, changed("semseg", lambda s: s * 0 + 255), r"row 1: labels\['semseg'\] has no pixel with a label"),
        (None, changed("semseg", lambda s: s + 0.5), "must hold whole numbers"),
        (None, changed("semseg", lambda s: s - 1), "must hold whole numbers from 0"),
        (None, changed("edges", lambda e: e * 2), "must hold 0, 1 or 255; found 2"),
        (None, {"dept": np.zeros((6, 8))}, "there is no such task"),
    ],
)
def test_rows_that_cannot_be_used_are_named(image: Any, labels: dict[str, Any], message: str) -> None:
    good = sample()
    with pytest.raises(ValueError, match=message):
        TaskExpertImageProcessor()([good.image, good.image if image is None else image], labels=[good.labels, labels])


@pytest.mark.parametrize("size", [{"height": 8}, {"shortest_edge": 8}, {"height": 8, "width": 0}])
def test_sizes_have_two_sides(size: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="must have height and width"):
        TaskExpertImageProcessor(size=size)


def test_images_and_labels_must_be_as_many() -> None:
    with pytest.raises(ValueError, match="2 images and labels for 1"):
        TaskExpertImageProcessor()([sample().image] * 2, labels=[{}])
