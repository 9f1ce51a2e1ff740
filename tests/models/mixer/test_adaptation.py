"""Contexts of new environments: weights stay, errors fall, bad rows are refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tiny_mixer import arguments, rotations, tiny_mixer

from hf_mixture import MixerForTrajectoryReconstruction, MixerTrainer
from hf_mixture.models.mixer.batches import collate_trajectories
from hf_mixture.models.mixer.trainer import MixerSchedule


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> MixerForTrajectoryReconstruction:
    model = tiny_mixer(hidden_size=16)
    schedule = MixerSchedule(context_proximity=0.1, expert_proximity=0.1, gate_interval=4)
    settings = arguments(tmp_path_factory.mktemp("trained"), max_steps=240, learning_rate=2e-2, logging_steps=100)
    MixerTrainer(model, settings, schedule=schedule, train_dataset=rotations()).train()
    return model.eval()


def new_environments() -> list[dict[str, Any]]:
    """Rates between those of training: environments 1 and 3 of six, counted anew."""
    rows = [row for row in rotations(environments=6, trajectories=2) if row["env_ids"] in (1, 4)]
    return [row | {"env_ids": (1, 4).index(row["env_ids"])} for row in rows]


def test_check_5_fitted_contexts_leave_less_than_a_tenth_of_the_error_of_zero(
    trained: MixerForTrajectoryReconstruction,
) -> None:
    before = {name: value.clone() for name, value in trained.state_dict().items()}
    rows = new_environments()
    contexts = trained.adapt(rows, num_steps=150, learning_rate=3e-2, progress=False)
    assert all(torch.equal(before[name], value) for name, value in trained.state_dict().items())
    assert all(parameter.grad is None for parameter in trained.parameters())
    batch = collate_trajectories(rows)

    def error(table: torch.Tensor) -> float:
        return trained(**batch, contexts=table).loss.item()

    assert error(contexts) < 0.1 * error(torch.zeros_like(contexts))


def test_environments_are_fitted_independently(trained: MixerForTrajectoryReconstruction) -> None:
    rows = new_environments()
    both = trained.adapt(rows, num_steps=5, start="zero", progress=False)
    alone = trained.adapt([row for row in rows if row["env_ids"] == 0], num_steps=5, start="zero", progress=False)
    torch.testing.assert_close(both[:1], alone, rtol=1e-4, atol=1e-5)


def test_a_start_at_the_best_mean_context_is_no_worse_than_zero(trained: MixerForTrajectoryReconstruction) -> None:
    batch = collate_trajectories(new_environments())
    errors = []
    for start in ("zero", "best"):
        contexts = trained.adapt(new_environments(), num_steps=1, learning_rate=1e-9, start=start, progress=False)
        errors.append(trained(**batch, contexts=contexts).loss.item())
    assert errors[1] <= errors[0]


@pytest.mark.parametrize(
    ("options", "message"),
    [({"num_steps": 0}, "num_steps=0"), ({"learning_rate": 0.0}, "above 0"), ({"start": "mean"}, "'best' or 'zero'")],
)
def test_options_that_cannot_work_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tiny_mixer().adapt(rotations(), **options)


def test_environments_are_counted_from_zero() -> None:
    rows = [row | {"env_ids": row["env_ids"] + 1} for row in rotations()]
    with pytest.raises(ValueError, match="count the new environments from 0"):
        tiny_mixer().adapt(rows, num_steps=1)
