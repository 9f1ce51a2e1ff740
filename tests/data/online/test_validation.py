"""Validation losses: means over tokens, without a trace in the training."""

from __future__ import annotations

import math
import random
from typing import Any

import numpy as np
import pytest
import torch
from online_run import tiny_model

from hf_mixture.data.online.validation import ValidationSets, undisturbed


class Drawing(torch.nn.Module):
    """A language model that draws from every generator in its forward, also when evaluated."""

    def __init__(self) -> None:
        super().__init__()
        self.head = torch.nn.Embedding(8, 8)
        self.frozen = torch.nn.Dropout()

    def forward(self, input_ids: torch.Tensor, **kwargs: Any) -> Any:
        assert not self.training
        random.random()  # noqa: S311
        np.random.random()
        torch.rand(1)
        return type("Output", (), {"logits": self.head(input_ids)})


def test_random_states_and_modes_are_put_back():
    model = Drawing()
    model.frozen.eval()
    states = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    ValidationSets({"a": [{"input_ids": [1, 2, 3]}]}).losses(model)
    assert states == (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist())
    assert (model.training, model.head.training, model.frozen.training) == (True, True, False)
    with pytest.raises(KeyError), undisturbed(model):
        raise KeyError
    assert (model.training, model.frozen.training) == (True, False)


@pytest.mark.parametrize("batch_size", [1, 3, 100])
def test_losses_are_means_over_tokens_for_any_batches_and_padding(batch_size):
    torch.manual_seed(0)
    model = tiny_model(0.0)
    rows = {
        "a": [{"input_ids": [1, 2, 3, 4]}, {"input_ids": [5, 6]}, {"input_ids": [7, 8, 9], "labels": [7, -100, 9]}],
        "b": [{"input_ids": [9, 9, 9, 9, 9]}],
    }
    found = ValidationSets(rows).losses(model, batch_size=batch_size)
    expected = []
    for group in rows.values():
        nats = tokens = 0.0
        for row in group:
            logits = model(input_ids=torch.tensor([row["input_ids"]])).logits[0]
            for place, label in enumerate(row.get("labels", row["input_ids"])[1:]):
                if label != -100:
                    nats -= math.log(torch.softmax(logits[place].double(), 0)[label].item())
                    tokens += 1
        expected.append(nats / tokens)
    assert found == pytest.approx(expected, abs=1e-6)
