"""Training of the embeddings by the stock Trainer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from tiny_knn_embed import groups, trainer_of
from two_processes import run_alone, run_on_two

from hf_mixture import KnnEmbedConfig, KnnEmbedModel, NegativeCollator


def own(edges: Any) -> NegativeCollator:
    return NegativeCollator(36, num_negatives=4, shared=False, history=edges.history)


@pytest.mark.parametrize(
    ("fields", "negatives"),
    [
        ({"loss": "twhin", "negative_weight": 2.0}, None),
        ({"loss": "sampled_softmax", "translation": False}, None),
        ({"loss": "bpr", "embedding_penalty": 1e-3}, own),
    ],
)
def test_each_loss_learns_the_groups(fields: dict[str, Any], negatives: Any, tmp_path: Path) -> None:
    trainer = trainer_of(tmp_path, fields=fields, negatives=negatives, max_steps=40, learning_rate=6e-2)
    model = trainer.model
    before = [parameter.detach().clone() for parameter in model.parameters()]
    trainer.train()
    assert all(not torch.equal(old, new) for old, new in zip(before, model.parameters(), strict=True))
    model.fit_mixture(groups())
    same = (torch.arange(24).unsqueeze(1) % 3) == torch.arange(36) % 3
    scores = model.user_vectors() @ model.item_embeddings.weight.detach().T
    assert scores[same].mean() > scores[~same].mean() + 0.5
    lists = model.retrieve(range(24), 2, mask_seen=False).item_ids
    assert (lists % 3 == torch.arange(24).unsqueeze(1) % 3).float().mean() > 0.9


def test_a_step_is_that_of_plain_torch(tmp_path: Path) -> None:
    trainer = trainer_of(tmp_path, max_steps=3, max_grad_norm=0.0, lr_scheduler_type="constant", optim="adamw_torch")
    model, batches = trainer.model, []
    collate = trainer.data_collator

    def noted(rows: Any) -> Any:
        batches.append(collate(rows))
        return batches[-1]

    trainer.data_collator = noted
    users, items = (
        torch.nn.Parameter(table.weight.detach().clone()) for table in (model.user_embeddings, model.item_embeddings)
    )
    shift = torch.nn.Parameter(torch.zeros(8))
    optimizer = torch.optim.AdamW([users, items, shift], lr=3e-2, weight_decay=0.0)
    trainer.train()
    for batch in batches[:3]:
        query = users[batch["user_ids"]] + shift
        positive = (query * items[batch["item_ids"]]).sum(1)
        negative = query @ items[batch["negatives"]].T
        loss = -torch.sigmoid(positive).log().mean() - 10 * torch.sigmoid(-negative).log().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    torch.testing.assert_close(model.user_embeddings.weight, users, atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(model.item_embeddings.weight, items, atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(model.translation.weight[0], shift, atol=1e-4, rtol=1e-3)


def test_an_item_is_no_negative_of_itself_in_a_softmax() -> None:
    config = KnnEmbedConfig(num_users=1, num_items=3, embedding_size=2, loss="sampled_softmax", translation=False)
    model = KnnEmbedModel(config)
    one = torch.tensor([0])
    loss = model(user_ids=one, item_ids=one, negatives=torch.tensor([0, 1, 0])).loss
    scores = model.user_embeddings.weight @ model.item_embeddings.weight.T
    assert loss.item() == pytest.approx(-torch.log_softmax(scores[0, :2], 0)[0].item())


def test_a_dataset_trains_too_and_ids_are_checked(tmp_path: Path) -> None:
    trainer = trainer_of(tmp_path, max_steps=2)
    trainer.train_dataset = Dataset.from_dict({name: ids.tolist() for name, ids in groups().items()})
    trainer.train()
    with pytest.raises(ValueError, match="user_ids has ids from 24 to 24; give ids from 0 to 23"):
        trainer.model(user_ids=torch.tensor([24]), item_ids=torch.tensor([0]))
    scores = trainer.model(user_ids=torch.tensor([3]), item_ids=torch.tensor([0]))
    assert scores.loss is None
    assert scores.scores.shape == (1,)


def test_a_resumed_run_is_the_uninterrupted_one(tmp_path: Path) -> None:
    whole = trainer_of(tmp_path / "a", max_steps=8)
    whole.train()
    saving = {"save_strategy": "steps", "save_steps": 5, "max_steps": 8}
    trainer_of(tmp_path / "b", **saving).train()
    again = trainer_of(tmp_path / "b", **saving)
    again.train(resume_from_checkpoint=str(tmp_path / "b" / "checkpoint-5"))
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, again.model.state_dict()[name]), name


@pytest.mark.slow
def test_two_processes_train_one_model(tmp_path: Path) -> None:
    worker = Path(__file__).parent / "embed_worker.py"
    run_on_two(worker, tmp_path, 2)
    run_alone(worker, tmp_path, 1)
    first, second, alone = (torch.load(tmp_path / f"{name}.pt", weights_only=True) for name in ("2-0", "2-1", "1-0"))
    for name, value in first.items():
        assert torch.equal(value, second[name]), name
    # The processes draw negatives of their own: near the model of one process, and not the same.
    assert not torch.equal(first["item_embeddings.weight"], alone["item_embeddings.weight"])
    cosine = torch.nn.functional.cosine_similarity(first["item_embeddings.weight"], alone["item_embeddings.weight"])
    assert cosine.mean() > 0.8
    assert np.isfinite(first["item_embeddings.weight"].numpy()).all()


def test_the_trainer_reports_an_evaluation_loss(tmp_path: Path) -> None:
    trainer = trainer_of(tmp_path, per_device_eval_batch_size=512)
    edges = trainer.train_dataset
    batch = trainer.data_collator(edges.__getitems__(range(len(edges))))
    with torch.no_grad():
        expected = trainer.model(**batch).loss.item()
        assert trainer.model(**batch, return_loss=False).loss is None
        assert trainer.model(**batch, return_dict=False)[0].item() == expected
    assert trainer.evaluate(edges)["eval_loss"] == pytest.approx(expected, rel=1e-5)
