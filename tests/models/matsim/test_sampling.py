"""Batches of whole groups: alone, under Accelerate on two processes, and what is refused."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest
import torch
from datasets import Dataset
from tiny_matsim import material_rows, tiny_matsim, train_on_one_batch
from transformers import TrainingArguments
from two_processes import run_on_two

from hf_mixture import MaterialBatchSampler, MatSimTrainer
from hf_mixture.models.matsim.data_collator import MatSimCollator, augment
from hf_mixture.models.matsim.sampling import MaterialSampler


WORKER = Path(__file__).with_name("matsim_worker.py")
SET_IDS = [row % 7 for row in range(70)]


@pytest.mark.parametrize(("images", "sets"), [(2, 3), (5, 2), (10, 7), (3, 4)])
def test_batches_are_whole_groups_and_rows_are_used_once(images: int, sets: int) -> None:
    sampler = MaterialBatchSampler(SET_IDS, sets_per_batch=sets, images_per_set=images, seed=1)
    seen: list[int] = []
    for batch in sampler:
        assert len(batch) == images * sets
        for start in range(0, len(batch), images):
            assert len({SET_IDS[row] for row in batch[start : start + images]}) == 1
        seen += batch
    assert len(seen) == len(set(seen)) == len(sampler) * images * sets
    assert len(sampler) == 7 * (10 // images) // sets
    # A batch holds a set twice only if all others have had their turn.
    first = Counter(SET_IDS[row] for row in next(iter(sampler)))
    assert len(first) == min(sets, 7)


def test_epochs_differ_and_repeat() -> None:
    sampler = MaterialBatchSampler(SET_IDS, sets_per_batch=2, images_per_set=5, seed=1)
    orders = []
    for epoch in (0, 1, 0):
        sampler.set_epoch(epoch)
        orders.append(list(sampler))
    assert orders[0] == orders[2] != orders[1]
    assert orders[0] != list(MaterialBatchSampler(SET_IDS, sets_per_batch=2, images_per_set=5, seed=2))


@pytest.mark.parametrize(
    ("set_ids", "options", "message"),
    [
        ([0, 0, 1], {"images_per_set": 2}, "set 1, first seen in row 2, has 1 images, fewer than images_per_set=2"),
        ([0, 0], {"images_per_set": 1}, "images_per_set=1 must be at least 2"),
        ([0, 0], {"images_per_set": 2, "sets_per_batch": 0}, "sets_per_batch=0 must be at least 1"),
        ([0, 0], {"images_per_set": 2, "sets_per_batch": 2}, "1 sets make no batch of sets_per_batch=2 groups"),
    ],
)
def test_groups_that_cannot_be_made(set_ids: list[int], options: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MaterialSampler(set_ids, **options)


def test_a_batch_of_broken_groups_is_refused(tmp_path: Path) -> None:
    arguments = TrainingArguments(str(tmp_path), per_device_train_batch_size=8, report_to=[], use_cpu=True)
    with pytest.raises(ValueError, match="batch of 8 images does not consist of whole groups of images_per_set=5"):
        MatSimTrainer(tiny_matsim(), arguments, images_per_set=5, train_dataset=material_rows(2))


def test_a_row_without_a_set_is_named(tmp_path: Path) -> None:
    arguments = TrainingArguments(str(tmp_path), per_device_train_batch_size=10, report_to=[], use_cpu=True)
    rows = material_rows(2)
    del rows[3]["set_ids"]
    with pytest.raises(ValueError, match="row 3 has no set_ids"):
        MatSimTrainer(tiny_matsim(), arguments, images_per_set=5, train_dataset=rows).train()
    columns = Dataset.from_dict({"image": [0] * 10})
    with pytest.raises(ValueError, match="row 0 has no set_ids"):
        MatSimTrainer(tiny_matsim(), arguments, images_per_set=5, train_dataset=columns).train()


def test_rows_that_cannot_be_collated_are_named() -> None:
    rows = material_rows(1)[:2]
    with pytest.raises(ValueError, match="row 1 of a batch has no 'ratios'"):
        MatSimCollator()([rows[0], {"pixel_values": rows[1]["pixel_values"], "set_ids": 0}])
    broken = rows[1]["pixel_values"].clone()
    broken[0, 3, 3] = torch.inf
    for pixels, said in (
        (broken, "pixel_values that are not finite"),
        (broken[:3], r"pixel_values of the shape \(3, \d+, \d+\)"),
        (broken[:, 1:], r"pixel_values of the shape \(4, \d+, \d+\), and row 0"),
        (rows[1]["pixel_values"] * torch.tensor([1, 1, 1, 0]).view(4, 1, 1), "an empty mask"),
        (None, "no 'pixel_values'"),
    ):
        with pytest.raises(ValueError, match=f"row 1 of a batch has {said}"):
            MatSimCollator()([rows[0], {**rows[1], "pixel_values": pixels}])
    with pytest.raises(ValueError, match="image_processor=None"):
        MatSimCollator()([{"image": None}])


def test_augmentation_moves_image_and_mask_together_and_leaves_masks_binary() -> None:
    torch.manual_seed(0)
    pixels = torch.zeros(64, 4, 8, 8)
    pixels[:, :, 0, 0] = 1.0
    changed = augment(pixels)
    assert set(changed[:, 3].unique().tolist()) == {0.0, 1.0}
    places = changed[:, 3].flatten(1).argmax(dim=1)
    assert set(places.tolist()) == {0, 7, 56, 63}
    brightest = changed[:, :3].mean(dim=1).flatten(1).argmax(dim=1)
    # Noise may win over a single pixel.
    assert (brightest == places).float().mean() > 0.8


@pytest.mark.parametrize("way", ["plain", "split_batches", "dispatch_batches"])
def test_groups_stay_whole_on_two_processes(way: str, two: Path) -> None:
    rows = [json.loads((two / f"{way}-{rank}.json").read_text()) for rank in (0, 1)]
    assert rows[0]
    assert len(rows[0]) == len(rows[1])
    for ours, theirs in zip(*rows, strict=True):
        for batch in (ours, theirs):
            assert not any(number % 5 for number in Counter(row % 7 for row in batch).values()), batch
        assert not set(ours) & set(theirs)


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("two")
    run_on_two(WORKER, folder)
    return folder


def test_gathered_images_give_the_gradient_of_one_process(two: Path) -> None:
    """Two processes with four sets each step as one process with eight sets does."""
    together = [torch.load(two / f"{rank}.pt", weights_only=True) for rank in (0, 1)]
    alone = train_on_one_batch(two / "alone", world_size=1)
    for name, value in alone.items():
        for other in together:
            torch.testing.assert_close(other[name], value, rtol=1e-4, atol=1e-6, msg=lambda m, n=name: f"{n}: {m}")
