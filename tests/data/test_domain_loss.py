from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from mixture_run_process import tiny_model

from hf_mixture.data import domain_loss
from hf_mixture.data.domain_loss import DomainLoss, sample_losses


@pytest.mark.parametrize("at_once", [2**24, 1, 3 * 20 * 400])
def test_the_loss_of_a_sample_is_that_of_the_model(at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(domain_loss, "_LOGITS_AT_ONCE", at_once)
    model = tiny_model().eval()
    ids = torch.randint(400, (7, 20), generator=torch.Generator().manual_seed(0))
    labels = ids.clone()
    labels[2, 5:] = -100
    labels[3] = -100
    with torch.no_grad():
        nats, tokens = sample_losses(model(input_ids=ids).logits, labels)
        for row in range(7):
            alone = model(input_ids=ids[row : row + 1], labels=labels[row : row + 1]).loss
            assert tokens[row] == {2: 4, 3: 0}.get(row, 19)
            expected = 0.0 if row == 3 else alone.item() * tokens[row].item()
            assert nats[row].item() == pytest.approx(expected, abs=1e-4)


def collector(**arguments: Any) -> DomainLoss:
    return DomainLoss(3, lambda positions: positions % 3, readers=("a", "b"), **arguments)


def batch(rows: int = 3) -> dict[str, torch.Tensor]:
    ids = torch.arange(5).repeat(rows, 1)
    return {"input_ids": ids, "labels": ids}


def test_only_the_first_training_forward_that_is_expected_counts() -> None:
    model, losses = tiny_model(), collector()
    losses.attach(model)
    model.train()(**batch())
    assert not losses.take("a").any()
    losses.expect(4)
    model.eval()(**batch())
    model.train()(**batch(2))
    model.train()(**batch(2))
    assert losses.take("a")[1].tolist() == [0, 4, 4]
    losses.detach()
    losses.expect(0)
    model.train()(**batch())
    assert not losses.take("a").any()


def test_each_reader_takes_everything_once() -> None:
    model, losses = tiny_model().train(), collector()
    losses.attach(model)
    for step in range(3):
        losses.expect(step)
        model(**batch(1))
        if step == 0:
            first = losses.take("a")
            assert np.count_nonzero(first[1]) == 1
    rest, whole = losses.take("a"), losses.take("b")
    assert np.array_equal(first + rest, whole)
    assert whole[1].tolist() == [4, 4, 4]
    assert not losses.take("b").any()


def test_a_long_wait_does_not_pile_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(domain_loss, "_FOLD_AFTER", 4)
    model, losses = tiny_model().train(), collector()
    losses.attach(model)
    for step in range(10):
        losses.expect(step)
        model(**batch(1))
        assert len(losses._pending) < 4
    assert losses.take("a")[1].tolist() == [16, 12, 12]


def test_the_forward_builds_no_graph_for_the_losses() -> None:
    model, losses = tiny_model().train(), collector()
    losses.attach(model)
    losses.expect(0)
    model(**batch()).loss.backward()
    ((_, nats, _),) = losses._pending
    assert not nats.requires_grad
