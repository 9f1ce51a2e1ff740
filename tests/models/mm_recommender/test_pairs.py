"""Interactions, requests, negatives, rows for the Trainer, rankings and audits, beside slow twins."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import slow_recommender
import torch

from hf_mixture import Interactions, UnlearningRequest
from hf_mixture.models.mm_recommender.audit import (
    area_under_curve,
    forget_recall,
    list_overlap,
    unobserved_recall,
    utility,
)
from hf_mixture.models.mm_recommender.interactions import sample_negatives
from hf_mixture.models.mm_recommender.modeling_mm_recommender import Tables
from hf_mixture.models.mm_recommender.pairs import PairedInteractions, collate_pairs, union
from hf_mixture.models.mm_recommender.ranking import quality_of, top_items
from hf_mixture.models.mm_recommender.requests import split_interactions
from hf_mixture.models.mm_recommender.shards import ensemble_tables, shards_of_interactions, touched_shards
from hf_mixture.models.mm_recommender.synthetic import synthetic_interactions


DATA = synthetic_interactions()
TRAIN = DATA.train


def as_set(pairs: Interactions) -> set[tuple[int, int]]:
    return set(zip(pairs.users.tolist(), pairs.items.tolist(), strict=True))


def random_tables(seed: int = 0) -> Tables:
    generator = torch.Generator().manual_seed(seed)
    return Tables(torch.randn(60, 6, generator=generator), torch.randn(40, 6, generator=generator))


@pytest.mark.parametrize(
    "request_",
    [
        UnlearningRequest(users=[3, 50]),
        UnlearningRequest(items=[0, 7, 39]),
        UnlearningRequest(interactions=[(int(TRAIN.users[5]), int(TRAIN.items[5]))]),
        UnlearningRequest(users=[1], items=[2], interactions=[(int(TRAIN.users[40]), int(TRAIN.items[40]))]),
    ],
)
def test_a_request_parts_the_interactions(request_: UnlearningRequest) -> None:
    split = split_interactions(TRAIN, request_)
    single = set(request_.interactions)
    gone = {(u, i) for u, i in as_set(TRAIN) if u in request_.users or i in request_.items or (u, i) in single}
    assert as_set(split.forget) == gone
    assert as_set(split.retain) == as_set(TRAIN) - gone
    assert as_set(union(split.retain, split.forget)) == as_set(TRAIN)
    users = {u for u, _ in as_set(TRAIN)} - {u for u, _ in as_set(split.retain)}
    assert set(split.forgotten_users.tolist()) == users
    assert split.forgotten_items.tolist() == sorted(request_.items)


def test_requests_in_turn_are_the_request_for_both() -> None:
    first, second = UnlearningRequest(users=[3]), UnlearningRequest(items=[4], modalities={6: ["image"]})
    names = ["image", "audio"]
    after_first = split_interactions(TRAIN, first)
    after_second = split_interactions(after_first.retain, second, modality_names=names)
    both = split_interactions(TRAIN, first + second, modality_names=names)
    assert np.array_equal(after_second.retain.keys, both.retain.keys)
    assert as_set(after_first.forget) | as_set(after_second.forget) == as_set(both.forget)


def test_requests_are_identified_by_content_and_salt_only() -> None:
    salt = bytes(range(16))
    one = UnlearningRequest(users=[3, 1], modalities={2: ["b", "a"]})
    same = UnlearningRequest(users=(1, 3), modalities={2: ["a", "b"]})
    assert one.salted_hash(salt) == same.salted_hash(salt)
    assert one.salted_hash(salt) != one.salted_hash(salt[::-1])
    assert one.salted_hash(salt) != UnlearningRequest(users=[1]).salted_hash(salt)
    assert UnlearningRequest.from_dict(same.to_dict()) == same + UnlearningRequest()
    with pytest.raises(ValueError, match="salt has 3 bytes"):
        one.salted_hash(b"abc")
    with pytest.raises(ValueError, match="unknown keys"):
        UnlearningRequest.from_dict({"user": [1]})


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (UnlearningRequest(), "the request is empty"),
        (UnlearningRequest(modalities={1: []}), "the request is empty"),
        (UnlearningRequest(users=[60]), r"unknown ids \[60\]; they must be 0 to 59"),
        (UnlearningRequest(items=[-1]), "items of the request"),
        (UnlearningRequest(interactions=[(0, 40)]), "items of the request"),
        (UnlearningRequest(modalities={40: ["image"]}), "modalities of the request"),
        (UnlearningRequest(modalities={1: ["text"]}), r"modalities \['text'\]; the model has \['image'\]"),
        (UnlearningRequest(users=list(range(60))), "leaves no interaction"),
    ],
)
def test_requests_that_cannot_be_met_are_refused(request_: UnlearningRequest, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        split_interactions(TRAIN, request_, modality_names=["image"])


def test_absent_interactions_are_refused_and_users_without_any_are_nothing_to_forget() -> None:
    absent = next((0, item) for item in range(40) if (0, item) not in as_set(TRAIN))
    with pytest.raises(ValueError, match="are not among those"):
        split_interactions(TRAIN, UnlearningRequest(interactions=[absent]))
    without = TRAIN.select(TRAIN.users != 9)
    with pytest.raises(ValueError, match="nothing to forget"):
        split_interactions(without, UnlearningRequest(users=[9]))
    # The modality vectors of an item without interactions can go.
    cold = TRAIN.select(TRAIN.items != 0)
    split = split_interactions(cold, UnlearningRequest(items=[0], modalities={0: ["image"]}), modality_names=["image"])
    assert (split.forgotten_items.tolist(), len(split.forget)) == ([0], 0)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        # As an integer this would be someone else.
        ({"users": [1.5]}, "users of the request has the type float64; give integers"),
        ({"items": ["7"]}, "items of the request has the type"),
        ({"interactions": [(0, 1, 2)]}, "must be pairs"),
        ({"interactions": [3, 5]}, "must be pairs"),
        ({"modalities": {"1": ["image"]}}, "modalities of the request has the type"),
        ({"modalities": {1: "image"}}, "modalities of item 1 are 'image'; give a list"),
    ],
)
def test_requests_that_are_none_are_refused_when_they_are_made(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        UnlearningRequest(**fields)


def test_interactions_are_sorted_once_each_and_checked() -> None:
    pairs = Interactions.of([1, 0, 1, 1], [2, 1, 0, 2], num_users=3, num_items=3)
    assert as_set(pairs) == {(0, 1), (1, 0), (1, 2)}
    assert pairs.starts().tolist() == [0, 1, 3, 3]
    read = Interactions.from_dataset({"user_id": [1], "item_id": [2]}, num_users=3, num_items=3)
    assert as_set(read) == {(1, 2)}
    with pytest.raises(ValueError, match="no column 'item_id'"):
        Interactions.from_dataset({"user_id": [1]}, num_users=3, num_items=3)
    with pytest.raises(ValueError, match="unknown ids"):
        Interactions.of([3], [0], num_users=3, num_items=3)
    with pytest.raises(ValueError, match="items has the type float64"):
        Interactions.of([0], [0.5], num_users=3, num_items=3)
    with pytest.raises(ValueError, match="as many of both"):
        Interactions.of([0], [0, 1], num_users=3, num_items=3)


def test_no_negative_is_observed_or_forgotten_in_a_hundred_thousand_draws() -> None:
    split = split_interactions(TRAIN, UnlearningRequest(items=[1, 2, 3], users=[0]))
    rows = PairedInteractions(
        split.retain, num_rows=12_500, retain_pairs=8, forget=split.forget, forgotten_items=split.forgotten_items
    )
    batch = collate_pairs(rows.__getitems__(range(12_500)))
    assert len(batch["labels"]) == 112_500
    kept = batch["labels"] == 0
    assert not np.isin(batch["negative_ids"][kept], split.forgotten_items).any()
    assert not TRAIN.contains(batch["user_ids"], batch["negative_ids"]).any()
    # Every negative that is allowed is drawn.
    assert set(batch["negative_ids"][kept].tolist()) == set(range(40)) - {1, 2, 3}
    assert np.isin(batch["negative_ids"][~kept], split.forgotten_items).any()
    # The pairs are the observed ones, in passes.
    assert split.retain.contains(batch["user_ids"][kept], batch["item_ids"][kept]).all()
    assert split.forget.contains(batch["user_ids"][~kept], batch["item_ids"][~kept]).all()
    first = np.stack([batch[name][kept][: len(split.retain)].numpy() for name in ("user_ids", "item_ids")])
    assert set(map(tuple, first.T.tolist())) == as_set(split.retain)


def test_a_user_of_every_item_has_no_negative() -> None:
    pairs = Interactions.of([0, 0, 1], [0, 1, 0], num_users=2, num_items=2)
    with pytest.raises(ValueError, match=r"users \[0\] have interacted with every item"):
        sample_negatives(np.array([1, 0]), pairs, np.random.default_rng(0))
    assert sample_negatives(np.array([1]), pairs, np.random.default_rng(0)).tolist() == [1]


def test_rows_hold_both_kinds_in_proportion_and_do_not_depend_on_who_reads_them() -> None:
    split = split_interactions(TRAIN, UnlearningRequest(users=[0]))
    rows = PairedInteractions(split.retain, num_rows=6, retain_pairs=4, forget=split.forget, forget_pairs=2, seed=5)
    whole = collate_pairs(rows.__getitems__([0, 1, 2, 3]))
    halves = [collate_pairs([rows[0], rows[1]]), collate_pairs(rows.__getitems__([2, 3]))]
    for half in halves:
        assert half["labels"].tolist() == [0, 0, 0, 0, 1, 1] * 2
    keys = ("user_ids", "item_ids", "negative_ids")

    def bag(*batches: dict[str, torch.Tensor]) -> list[list[int]]:
        return sorted(torch.stack([torch.cat([b[key] for b in batches]) for key in keys], dim=1).tolist())

    assert bag(whole) == bag(*halves)
    # The pairs to retain are the same without the others.
    alone = PairedInteractions(split.retain, num_rows=6, retain_pairs=4, forget=split.forget, forget_pairs=0, seed=5)
    for key in keys:
        assert torch.equal(alone[3][key], rows[3][key][:4])
    for wrong, message in (
        ({"num_rows": 0}, "num_rows=0"),
        ({"num_rows": 1, "retain_pairs": 0, "forget_pairs": 0}, "both 0"),
        ({"num_rows": 1, "forget_pairs": 1}, "no interactions to fill"),
    ):
        with pytest.raises(ValueError, match=message):
            PairedInteractions(split.retain, **wrong)


@pytest.mark.parametrize("k", [1, 5, 100])
def test_recall_and_ndcg_are_those_of_the_slow_twin(k: int) -> None:
    tables = random_tables()
    scores = (tables.users @ tables.items.T).tolist()
    found = quality_of(tables.users, tables.items, DATA.test, k=k, masked=TRAIN, left_out=np.array([4, 5]))
    slow = slow_recommender.recall_and_ndcg(scores, as_set(DATA.test), k, as_set(TRAIN), {4, 5})
    assert (found.recall, found.ndcg) == pytest.approx(slow)
    assert found.num_users == 60


def test_audits_mask_what_they_should() -> None:
    tables = random_tables()
    scores = (tables.users @ tables.items.T).tolist()
    split = split_interactions(TRAIN, UnlearningRequest(users=[2], items=[1, 8]))
    slow = slow_recommender.recall_and_ndcg(scores, as_set(split.forget), 5, as_set(split.retain))
    assert forget_recall(tables, split, 5) == pytest.approx(slow[0])
    kept = {(u, i) for u, i in as_set(DATA.test) if u != 2 and i not in {1, 8}}
    slow = slow_recommender.recall_and_ndcg(scores, kept, 5, as_set(TRAIN), {1, 8})
    found = utility(tables, split, DATA.test, 5)
    assert (found.recall, found.ndcg) == pytest.approx(slow)
    # A model that knows nothing finds random pairs as often as k of 40 items would.
    several = [unobserved_recall(random_tables(seed), split, 8, seed=seed) for seed in range(30)]
    assert np.mean(several) == pytest.approx(8 / 40, abs=0.06)
    nothing = quality_of(tables.users, tables.items, TRAIN.select(TRAIN.users < 0))
    assert (nothing.recall, nothing.num_users) == (0.0, 0)


def test_lists_end_where_no_item_is_left() -> None:
    tables = random_tables()
    lists = top_items(tables.users, tables.items, np.array([0]), 40, masked=TRAIN)
    count = int((TRAIN.users == 0).sum())
    assert (lists[0, -count:] == -1).all()
    assert (lists[0, :-count] >= 0).all()
    assert list_overlap(lists, lists) == 1.0
    # Empty places are no items that two lists share.
    assert list_overlap(np.array([[3, 1, -1, -1]]), np.array([[1, 5, -1, -1]])) == pytest.approx(1 / 3)
    assert list_overlap(np.array([[-1, -1]]), np.array([[-1, -1]])) == 1.0


def test_area_under_the_curve_is_that_of_all_comparisons() -> None:
    generator = torch.Generator().manual_seed(0)
    positives = torch.randint(8, (30,), generator=generator).float()
    negatives = torch.randint(6, (20,), generator=generator).float()
    slow = slow_recommender.area_under_curve(positives.tolist(), negatives.tolist())
    assert area_under_curve(positives, negatives) == pytest.approx(slow)


def test_an_ensemble_has_the_mean_of_normalised_scores() -> None:
    parts = shards_of_interactions(TRAIN.select(TRAIN.users != 0), 3)
    assert sum(map(len, parts)) == len(TRAIN) - int((TRAIN.users == 0).sum())
    tables = [random_tables(seed) for seed in range(3)]
    found = ensemble_tables(tables, parts)
    scores = found.users @ found.items.T
    normal = []
    for table in tables:
        own = table.users @ table.items.T
        normal.append((own - own.mean(dim=1, keepdim=True)) / own.std(dim=1, keepdim=True, unbiased=False))
    # Nobody knows user 0.
    torch.testing.assert_close(scores[0], torch.stack(normal).mean(dim=0)[0], rtol=1e-4, atol=1e-5)
    for user in (1, 17, 59):
        (shard,) = (number for number, part in enumerate(parts) if (part.users == user).any())
        torch.testing.assert_close(scores[user], normal[shard][user], rtol=1e-4, atol=1e-5)
    assert touched_shards(TRAIN.select(TRAIN.users == 1), 3) == [
        number for number, part in enumerate(parts) if (part.users == 1).any()
    ]
    with pytest.raises(ValueError, match="num_shards=1"):
        shards_of_interactions(TRAIN, 1)
