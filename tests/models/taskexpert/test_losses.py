"""Losses against loops, their published values, and labels that are missing."""

from __future__ import annotations

import math

import pytest
import slow_taskexpert
import tiny_taskexpert as tiny
import torch
import torch.nn.functional as F

from hf_mixture import collate_scenes
from hf_mixture.models.taskexpert.losses import count_labels, mask_labels, sum_counts, task_loss


CHANNELS = {"semseg": 5, "parts": 7, "saliency": 2, "normals": 3, "edges": 1, "depth": 1}


def small(task: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits and labels of 2 images of 6 x 5 pixels, a third of which do not count."""
    generator = torch.Generator().manual_seed(3)
    labels = tiny.labels(2)[task][..., :6, :5].clone()
    missing = torch.rand(2, 6, 5, generator=generator) < 0.3
    if task == "normals":
        labels[:, 1].masked_fill_(missing, 255)
    else:
        labels.masked_fill_(missing, 255)
    return torch.randn(2, CHANNELS[task], 6, 5, generator=generator), labels


@pytest.mark.parametrize("task", tiny.TASKS)
def test_losses_against_loops(task: str) -> None:
    logits, labels = small(task)
    assert float(task_loss(task, logits, labels)) == pytest.approx(
        slow_taskexpert.loss(task, logits, labels), rel=1e-5
    )
    if task == "edges":
        found = float(task_loss(task, logits, labels, edge_positive_weight=None))
        assert found == pytest.approx(slow_taskexpert.loss(task, logits, labels, edge_weight=None), rel=1e-5)


def test_normals_are_brought_to_length_one_and_counted_by_pixels() -> None:
    labels = tiny.labels()["normals"]
    assert task_loss("normals", 7 * labels, labels).item() == pytest.approx(0, abs=1e-6)
    negated = task_loss("normals", -labels, labels).item()
    assert negated == pytest.approx((2 * labels).abs().sum(dim=1).mean().item(), rel=1e-5)


def test_edges_at_logit_zero() -> None:
    labels = tiny.labels()["edges"]
    rate = labels.float().mean().item()
    found = task_loss("edges", torch.zeros(3, 1, 32, 32), labels).item()
    assert found == pytest.approx(math.log(2) * (0.95 * rate + 0.05 * (1 - rate)), rel=1e-5)
    # The published form: BCE with a positive weight, divided by a factor.
    logits = torch.randn(3, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    factor = 1 / (1 - 0.95)
    published = F.binary_cross_entropy_with_logits(
        logits[:, 0], labels.float(), pos_weight=torch.tensor(0.95 * factor)
    )
    assert task_loss("edges", logits, labels).item() == pytest.approx(published.item() / factor, rel=1e-4)


@pytest.mark.parametrize("task", ["saliency", "edges"])
def test_without_a_positive_pixel_the_loss_has_a_gradient(task: str) -> None:
    logits = torch.zeros(1, CHANNELS[task], 4, 4, requires_grad=True)
    loss = task_loss(task, logits, torch.zeros(1, 4, 4, dtype=torch.int64), edge_positive_weight=None)
    loss.backward()
    assert loss.item() == 0
    assert torch.equal(logits.grad, torch.zeros_like(logits))


@pytest.mark.parametrize("task", tiny.TASKS)
def test_without_a_label_the_loss_is_zero_and_has_a_gradient(task: str) -> None:
    logits, labels = small(task)
    logits.requires_grad_()
    loss = task_loss(task, logits, torch.full_like(labels, 255))
    loss.backward()
    assert loss.item() == 0
    assert torch.equal(logits.grad, torch.zeros_like(logits))


@pytest.mark.parametrize("task", tiny.TASKS)
def test_a_pixel_that_does_not_count_has_no_gradient(task: str) -> None:
    logits, labels = small(task)
    logits.requires_grad_()
    task_loss(task, logits, labels).backward()
    missing = (labels == 255).any(dim=1) if task == "normals" else labels == 255
    assert missing.any()
    assert (logits.grad.abs().sum(dim=1)[missing] == 0).all()
    assert (logits.grad.abs().sum(dim=1)[~missing] > 0).all()


@pytest.mark.parametrize("task", tiny.TASKS)
def test_parts_that_are_divided_by_the_counts_of_the_whole_add_up(task: str) -> None:
    logits, labels = small(task)
    counts = sum_counts([{task: count_labels(task, part, 255)} for part in labels.split(1)])[task]
    parts = [
        task_loss(task, part, label, counts=counts)
        for part, label in zip(logits.split(1), labels.split(1), strict=True)
    ]
    torch.testing.assert_close(sum(parts), task_loss(task, logits, labels))


def test_masked_images_do_not_count() -> None:
    model = tiny.model().eval()
    images, labels = tiny.images(), tiny.labels()
    mask = torch.tensor([True, False, True])
    masked = model(images, labels=labels, task_masks=dict.fromkeys(tiny.TASKS, mask))
    kept = model(images[mask], labels={task: values[mask] for task, values in labels.items()})
    torch.testing.assert_close(masked.loss, kept.loss)
    hidden = mask_labels("normals", labels["normals"], mask, 255)
    assert (hidden[1] == 255).all()
    assert torch.equal(hidden[0], labels["normals"][0])


def test_the_total_is_the_weighted_sum_of_the_published_weights() -> None:
    model = tiny.model(task_weights={"depth": 3.0}).eval()
    out = model(tiny.images(), labels=tiny.labels())
    weights = {"semseg": 1, "parts": 2, "saliency": 5, "normals": 10, "edges": 50, "depth": 3}
    torch.testing.assert_close(out.loss, sum(weights[task] * loss for task, loss in out.task_losses.items()))


def test_rows_that_lack_tasks_are_collated() -> None:
    rows = tiny.rows(3)
    del rows[0]["labels"]["depth"]
    rows[1]["labels"]["normals"] = None
    rows[2]["labels"] = None
    batch = collate_scenes(rows)
    assert batch["task_masks"]["depth"].tolist() == [False, True, False]
    assert batch["task_masks"]["normals"].tolist() == [True, False, False]
    assert (batch["labels"]["normals"][1] == 255).all()
    assert torch.isfinite(tiny.model()(**batch).loss)
    for row in rows:
        row["labels"] = {}
    empty = collate_scenes(rows)
    assert empty["labels"] == empty["task_masks"] == {}
    loss = tiny.model()(**empty).loss
    loss.backward()
    assert loss.item() == 0
    assert collate_scenes([{"pixel_values": row["pixel_values"]} for row in rows]).keys() == {"pixel_values"}


def test_rows_that_do_not_fit_are_named() -> None:
    rows = tiny.rows(3)
    rows[2]["labels"] |= {"depth": torch.ones(4, 4)}
    with pytest.raises(ValueError, match=r"row 2: labels\['depth'\] has the shape \(4, 4\)"):
        collate_scenes(rows)
    rows[1]["labels"] |= {"dept": torch.ones(4, 4)}
    with pytest.raises(ValueError, match="row 1: labels has 'dept'"):
        collate_scenes(rows)
    rows[1]["pixel_values"] = torch.zeros(3, 8, 8)
    with pytest.raises(ValueError, match=r"row 1: pixel_values has the shape \(3, 8, 8\)"):
        collate_scenes(rows)
    for task, value, said in (
        ("normals", torch.nan, "has values that are not finite"),
        ("semseg", 0.5, "has values that are no whole numbers"),
        ("depth", -2.0, "has a depth of -2, and depths are above 0"),
    ):
        rows = tiny.rows(3)
        label = rows[1]["labels"][task].float()
        label[..., 2, 2] = value
        rows[1]["labels"][task] = label
        with pytest.raises(ValueError, match=rf"row 1: labels\['{task}'\] {said}"):
            collate_scenes(rows)
    rows[2]["pixel_values"][0, 2, 2] = torch.inf
    with pytest.raises(ValueError, match="row 2: pixel_values has values that are not finite"):
        collate_scenes(rows)
    del rows[1]["pixel_values"]
    with pytest.raises(ValueError, match="row 1: there is no 'pixel_values'"):
        collate_scenes(rows)
