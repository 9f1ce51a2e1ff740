"""DoGE: its scores are those of the ordinary backward pass."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from online_run import NAMES, held_out, make, tiny_model

from hf_mixture.data.online import DoGECallback


@pytest.mark.parametrize("full", [False, True])
def test_doge_scores_are_inner_products_of_gradients(tmp_path, full):
    """Against the ordinary backward pass, on a model that does not move."""
    callback = DoGECallback(held_out(), update_steps=12, num_rows=2, full=full, mu=1e-9)
    trainer = make(tmp_path, callback, learning_rate=1e-12, dropout=0.0)
    trainer.train()

    def gradient(rows: list[list[int]]) -> torch.Tensor:
        model = tiny_model(0.0)
        model(input_ids=torch.tensor(rows), labels=torch.tensor(rows)).loss.backward()
        flat = torch.cat([parameter.grad.flatten() for parameter in model.parameters()])
        return flat / max(flat.norm(), 1)

    positions = np.arange(48)
    sources, _ = trainer.train_dataset.plan.draws(positions)
    rows = trainer.train_dataset.rows
    train = [gradient([row["input_ids"] for row in rows(positions[sources == d][-2:])]) for d in range(3)]
    targets = [held_out()[name]["input_ids"][:2] for name in NAMES]
    targets = [gradient(part) for part in (targets if full else [[row for part in targets for row in part]])]
    norm = np.mean([part.norm() for part in train]) + 1e-6
    expected = [[float(a @ b) / norm / len(targets) for b in train] for a in targets]
    assert callback.history[0]["effects"] == pytest.approx(np.array(expected), rel=1e-3)
