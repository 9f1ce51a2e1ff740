"""The model beside its slow twin, its surface on the stack, and its edge cases."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import slow_recommender
import torch
from transformers import AutoConfig, AutoModel, Trainer, TrainingArguments

from hf_mixture import MultiModalRecommender, MultiModalRecommenderConfig, UnlearningOptions
from hf_mixture.models.mm_recommender.modeling_mm_recommender import TrainedRows
from hf_mixture.models.mm_recommender.pairs import PairedInteractions, collate_pairs
from hf_mixture.models.mm_recommender.synthetic import synthetic_recommender
from hf_mixture.models.mm_recommender.unlearning_loss import UnlearningLoss


BACKBONES = pytest.mark.parametrize("backbone", ["vbpr", "lightgcn_mm"])


def tiny(backbone: str = "vbpr", **sizes: int) -> tuple[Any, Any]:
    return synthetic_recommender(backbone=backbone, **{"num_users": 7, "num_items": 9, "per_user": 3, **sizes})


def batch(data: Any) -> dict[str, torch.Tensor]:
    users, items = torch.from_numpy(data.train.users), torch.from_numpy(data.train.items)
    return {"user_ids": users, "item_ids": items, "negative_ids": (items + 4) % data.train.num_items}


@BACKBONES
def test_scores_are_those_of_the_slow_twin(backbone: str) -> None:
    model, data = tiny(backbone)
    model.double()
    # A user and an item without interactions.
    keep = (data.train.users != 3) & (data.train.items != data.train.items[0])
    model.set_graph(torch.from_numpy(data.train.users[keep]), torch.from_numpy(data.train.items[keep]))
    expected = torch.stack(
        [torch.stack([slow_recommender.score(model, user, item) for item in range(9)]) for user in range(7)]
    )
    tables = model.tables()
    torch.testing.assert_close(tables.users @ tables.items.T, expected)
    inputs = batch(data)
    out = model(**inputs)
    torch.testing.assert_close(out.positive_scores, expected[inputs["user_ids"], inputs["item_ids"]])
    torch.testing.assert_close(out.negative_scores, expected[inputs["user_ids"], inputs["negative_ids"]])
    out.loss.backward()
    found = {name: value.grad.clone() for name, value in model.named_parameters()}
    model.zero_grad()
    slow = []
    for user, item, negative in zip(*(ids.tolist() for ids in inputs.values()), strict=True):
        x = slow_recommender.score(model, user, item) - slow_recommender.score(model, user, negative)
        rows = (model.users.weight[user], model.items.weight[item], model.items.weight[negative])
        slow.append(-torch.log(torch.sigmoid(x)) + model.config.penalty * sum(row.square().sum() for row in rows))
    torch.stack(slow).mean().backward()
    for name, value in model.named_parameters():
        torch.testing.assert_close(found[name], value.grad, msg=name)


@BACKBONES
def test_saved_models_come_back_with_features_and_graph(backbone: str, tmp_path: Path) -> None:
    model, data = tiny(backbone)
    model.save_pretrained(tmp_path)
    assert isinstance(AutoConfig.from_pretrained(tmp_path), MultiModalRecommenderConfig)
    again = AutoModel.from_pretrained(tmp_path)
    assert isinstance(again, MultiModalRecommender)
    assert torch.equal(again.recommend(torch.arange(7)), model.recommend(torch.arange(7)))
    assert torch.equal(again.graph, model.graph)
    assert torch.equal(again.has_modality, model.has_modality)
    copied = copy.deepcopy(model)
    assert torch.equal(copied(**batch(data)).positive_scores, model(**batch(data)).positive_scores)


def test_another_graph_is_used_at_once() -> None:
    model, data = tiny("lightgcn_mm")
    before = model.tables().users.clone()
    keep = data.train.users != 2
    model.set_graph(torch.from_numpy(data.train.users[keep]), torch.from_numpy(data.train.items[keep]))
    after = model.tables().users
    assert not torch.equal(before, after)
    # An isolated user has the own row alone, as the mean over three layers has it.
    torch.testing.assert_close(after[2, :8], model.users.weight[2, :8] / 3)


def test_k_above_the_catalogue_gives_all_of_it_and_excluded_items_come_last() -> None:
    model, _ = tiny()
    everything = model.recommend(torch.tensor([1]), k=50)
    assert sorted(everything[0].tolist()) == list(range(9))
    assert torch.equal(model.recommend([1], k=50), everything)
    best = everything[0, 0]
    flags = torch.zeros(9, dtype=torch.bool)
    flags[best] = True
    assert model.recommend(torch.tensor([1]), k=50, exclude=flags)[0, -1] == best


def test_items_without_a_modality_have_the_mean_of_the_others() -> None:
    model, data = tiny()
    image = data.features["image"].clone()
    image[4] = 0
    model.set_features({**data.features, "image": image})
    assert model.has_modality[:, 0].tolist() == [item != 4 for item in range(9)]
    others = torch.nn.functional.normalize(torch.cat([image[:4], image[5:]])).mean(dim=0)
    torch.testing.assert_close(model.features[4, :8], others)
    # All items without it: zeros, and still a model.
    model.set_features({**data.features, "image": torch.zeros_like(image)})
    assert not model.features[:, :8].any()
    assert torch.isfinite(model(**batch(data)).loss)


def test_removed_modalities_are_gone() -> None:
    model, _ = tiny()
    kept = model.features[:, 8:].clone()
    others = model.features[[0, 1, 3, 4, 6, 7, 8], :8].mean(dim=0)
    model.remove_modalities(torch.tensor([2, 5]), ["image"])
    torch.testing.assert_close(model.features[2, :8], others)
    torch.testing.assert_close(model.features[5, :8], others)
    assert torch.equal(model.features[:, 8:], kept)
    with pytest.raises(ValueError, match="modality 'text' is not one of"):
        model.remove_modalities(torch.tensor([2]), ["text"])


@BACKBONES
@pytest.mark.parametrize("pairs", ["forget", "all"])
def test_pairs_reach_only_the_rows_that_they_may_train(backbone: str, pairs: str) -> None:
    model, data = tiny(backbone)
    inputs = batch(data)
    users, items = torch.zeros(7, dtype=torch.bool), torch.zeros(9, dtype=torch.bool)
    users[2] = items[1] = True
    free = model(**inputs)
    model.trained_rows = TrainedRows(users, items, pairs)
    flags = torch.ones(len(inputs["user_ids"]), dtype=torch.bool)
    held = model(**inputs, is_forget=flags)
    torch.testing.assert_close(held.positive_scores, free.positive_scores)
    (held.positive_scores - held.negative_scores).sum().backward()
    assert not model.users.weight.grad[~users].any()
    assert not model.items.weight.grad[~items].any()
    assert model.users.weight.grad[users].any()
    assert model.projection.weight.grad is None or not model.projection.weight.grad.any()
    model.zero_grad()
    # Without a flag, pairs train everything unless all of them are held.
    model(**inputs, is_forget=~flags).loss.backward()
    assert bool(model.users.weight.grad[~users].any()) == (pairs == "forget")


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("user_ids", 7, "user_ids has ids from 0 to 7; they must be 0 to 6"),
        ("item_ids", -1, "item_ids has ids from -1"),
        ("negative_ids", 9, "negative_ids"),
    ],
)
def test_unknown_ids_are_refused(name: str, value: int, message: str) -> None:
    model, data = tiny()
    inputs = batch(data)
    inputs[name] = inputs[name].clone()
    inputs[name][-1] = value
    with pytest.raises(ValueError, match=message):
        model(**inputs)
    with pytest.raises(ValueError, match="user_ids"):
        model.recommend(torch.tensor([7]))
    with pytest.raises(ValueError, match="k=0"):
        model.recommend(torch.tensor([0]), k=0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image": torch.ones(3, 8)}, r"shape \(3, 8\); it must be \(9, 8\)"),
        ({"text": torch.ones(9, 8)}, "the configuration names"),
        ({"image": torch.full((9, 8), torch.nan)}, "not finite"),
    ],
)
def test_features_that_do_not_fit_are_refused(change: dict[str, torch.Tensor], message: str) -> None:
    model, data = tiny()
    before = model.features.clone()
    with pytest.raises(ValueError, match=message):
        model.set_features({**data.features, **change})
    assert torch.equal(model.features, before)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"num_items": 1}, "num_items=1 must be at least 2"),
        ({"modality_sizes": {}}, "modality_sizes"),
        ({"modality_sizes": {"image": 0}}, "modality_sizes"),
        ({"penalty": -1.0}, "penalty"),
        ({"backbone": "mf"}, "backbone='mf' must be"),
        ({"num_propagation_layers": 0}, "num_propagation_layers"),
    ],
)
def test_sizes_that_cannot_work_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MultiModalRecommender(MultiModalRecommenderConfig(**fields))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_graph_is_propagated_over_in_single_precision(dtype: torch.dtype) -> None:
    # Node degrees whose products half precision cannot hold.
    model, _ = synthetic_recommender(backbone="lightgcn_mm", num_users=300, num_items=300, per_user=3)
    every = torch.arange(300)
    model.set_graph(every.repeat_interleave(300), every.repeat(300))
    inputs = {"user_ids": every[:4], "item_ids": every[4:8], "negative_ids": every[8:12]}
    expected = model(**inputs)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        under_autocast = model(**inputs)
        under_autocast.loss.backward()
    torch.testing.assert_close(under_autocast.positive_scores, expected.positive_scores, atol=1e-3, rtol=0.05)
    halved = copy.deepcopy(model).to(dtype)(**inputs)
    assert halved.positive_scores.dtype == dtype
    torch.testing.assert_close(halved.positive_scores.float(), expected.positive_scores, atol=1e-3, rtol=0.05)


def test_the_stock_trainer_trains_and_evaluates_pairs_to_retain(tmp_path: Path) -> None:
    model, data = tiny()
    rows = PairedInteractions(data.train, num_rows=4, retain_pairs=2)
    arguments = TrainingArguments(str(tmp_path), max_steps=1, report_to=[], save_strategy="no", use_cpu=True)
    trainer = Trainer(model, arguments, train_dataset=rows, eval_dataset=rows, data_collator=collate_pairs)
    trainer.train()
    with torch.no_grad():
        expected = model.eval()(**collate_pairs([rows[place] for place in range(4)])).loss.item()
    assert trainer.evaluate()["eval_loss"] == pytest.approx(expected)
    options = UnlearningOptions(schedule="sum", retain_weight=1.0, forget_weight=1.0)
    forget = PairedInteractions(data.train, num_rows=4, retain_pairs=2, forget=data.train)
    arguments = {"args": arguments, "eval_dataset": forget, "data_collator": collate_pairs}
    with pytest.raises(ValueError, match="labels has pairs to forget"):
        Trainer(model, **arguments).evaluate()
    assert Trainer(model, **arguments, compute_loss_func=UnlearningLoss(model, options)).evaluate()["eval_loss"] > 0


def test_recommendations_for_nobody_and_for_no_integers() -> None:
    model, _ = tiny()
    assert model.recommend([], k=3).shape == (0, 3)
    with pytest.raises(ValueError, match=r"user_ids has the type torch\.float32; give integers"):
        model.recommend(torch.tensor([0.5]), k=3)
