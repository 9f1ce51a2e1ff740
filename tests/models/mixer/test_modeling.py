"""The model against its slow twin, its surface on the stack, and what it refuses."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
import slow_mixer
import torch
from torch import Tensor
from transformers import AutoConfig, AutoModel

from hf_mixture import MixerConfig, MixerForTrajectoryReconstruction
from hf_mixture.models.mixer.batches import collate_trajectories, group_by_environment
from hf_mixture.models.mixer.experts import EXPERTS


def mixer(**fields: Any) -> MixerForTrajectoryReconstruction:
    torch.manual_seed(0)
    given = {"num_envs": 6, "num_experts": 3, "context_size": 6, "hidden_size": 8, "same_expert_init": False}
    model = MixerForTrajectoryReconstruction(MixerConfig(**given | fields))
    torch.nn.init.normal_(model.contexts.weight, std=0.3)
    # Without a constant, so that environments choose different experts.
    with torch.no_grad():
        model.gate.weight[-1] = 0
    return model


def batch(dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    """Seven trajectories of four environments, unequally many, with times of their own."""
    generator = torch.Generator().manual_seed(1)
    return {
        "initial_state": torch.randn(7, 2, generator=generator, dtype=dtype),
        "times": torch.rand(7, 5, generator=generator, dtype=dtype).add(0.1).cumsum(dim=1),
        "env_ids": torch.tensor([4, 0, 4, 5, 2, 4, 0]),
        "labels": torch.randn(7, 5, 2, generator=generator, dtype=dtype),
    }


def test_trajectories_are_grouped_by_environment_and_found_again() -> None:
    env_ids = batch()["env_ids"]
    group = group_by_environment(env_ids)
    assert group.environments.tolist() == [0, 2, 4, 5]
    assert group.rows.tolist() == [[1, 6, 1], [4, 4, 4], [0, 2, 5], [3, 3, 3]]
    assert torch.equal(group.rows[group.place, group.slot], torch.arange(7))


# The adaptive solver is compared with 40 steps of the other.
@pytest.mark.parametrize(
    ("kind", "split_context", "solver"),
    [
        *itertools.product(sorted(EXPERTS), (False, True), ["rk4"]),
        *(("neural_ode", False, "dopri5"), ("coda", True, "dopri5")),
        *(
            pytest.param(kind, split_context, "dopri5", marks=pytest.mark.slow)
            for kind, split_context in itertools.product(sorted(EXPERTS), (False, True))
            if (kind, split_context) not in (("neural_ode", False), ("coda", True))
        ),
    ],
)
def test_a_batch_is_its_trajectories_one_by_one(kind: str, split_context: bool, solver: str) -> None:
    model = mixer(expert_type=kind, split_context=split_context, num_substeps=2, solver=solver, rtol=1e-9, atol=1e-9)
    model.double()
    data = batch(torch.float64)
    out = model(**data, output_expert_losses=True)
    assert len(set(out.router_indices.tolist())) > 1
    model.config.num_substeps = 2 if solver == "rk4" else 40
    for row in range(7):
        context = model.contexts.weight[data["env_ids"][row]]
        slow = slow_mixer.trajectory(model, data["initial_state"][row], data["times"][row], context)
        tolerance = 1e-10 if solver == "rk4" else 1e-5
        torch.testing.assert_close(out.trajectories[row], slow, rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(out.loss, (out.trajectories - data["labels"]).square().mean())


def test_losses_of_experts_are_those_of_each_alone() -> None:
    model = mixer().double()
    data = batch(torch.float64)
    out = model(**data, output_expert_losses=True)
    for row in range(7):
        context = model.contexts.weight[data["env_ids"][row]]
        for expert in range(3):
            states = slow_mixer.trajectory(model, data["initial_state"][row], data["times"][row], context, expert)
            torch.testing.assert_close(out.expert_losses[row, expert], (states - data["labels"][row]).square().mean())


def test_gradients_are_those_of_the_trajectories_one_by_one() -> None:
    model = mixer().double()
    data = batch(torch.float64)
    model(**data).loss.backward()
    found = {name: parameter.grad for name, parameter in model.named_parameters()}
    model.zero_grad()
    rows = []
    for row in range(7):
        context = model.contexts.weight[data["env_ids"][row]]
        states = slow_mixer.trajectory(model, data["initial_state"][row], data["times"][row], context)
        rows.append((states - data["labels"][row]).square().mean())
    torch.stack(rows).mean().backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(found[name], parameter.grad, rtol=1e-8, atol=1e-12, msg=name)


def test_exactly_one_expert_answers_even_where_all_scores_are_equal() -> None:
    model = mixer(num_substeps=2)
    model.gate.weight.zero_()
    data = batch()
    out = model(**data)
    assert out.router_indices.tolist() == [0] * 7
    context = model.contexts.weight[4]
    alone = slow_mixer.trajectory(model, data["initial_state"][0], data["times"][0], context, expert=0)
    torch.testing.assert_close(out.trajectories[0], alone, rtol=1e-4, atol=1e-5)


def test_in_training_expansions_are_averaged_over_the_pool() -> None:
    model = mixer(taylor_order=2, pool_size=3, pool_strategy="random").train()
    assert torch.isfinite(model(**batch()).loss)
    with torch.no_grad():
        model.contexts.weight.copy_(model.contexts.weight[:1].expand(6, -1).clone())
    # All contexts are equal, so that every expansion is the field itself.
    training = model(**batch())
    exact = model.eval()(**batch())
    torch.testing.assert_close(training.loss, exact.loss)
    torch.testing.assert_close(training.trajectories, exact.trajectories)


def test_contexts_begin_at_zero_and_the_gate_is_a_buffer() -> None:
    model = MixerForTrajectoryReconstruction(MixerConfig())
    assert not model.contexts.weight.any()
    assert not any(name.startswith("gate") for name, _ in model.named_parameters())
    assert "gate.weight" in model.state_dict()
    assert model.gate.weight.abs().max() <= 1 / 7**0.5


def test_the_gradient_gate_has_the_same_values_and_gets_a_gradient() -> None:
    model, other = mixer(gate="gradient"), mixer()
    other.load_state_dict(model.state_dict(), strict=False)
    out = model(**batch())
    assert torch.equal(out.trajectories, other(**batch()).trajectories)
    out.loss.backward()
    assert model.gate.weight.grad.abs().max() > 0


@pytest.mark.parametrize("kind", sorted(EXPERTS))
def test_saved_models_come_back_through_auto_classes(kind: str, tmp_path: Path) -> None:
    model = mixer(expert_type=kind)
    model.gate.has_centroids.fill_(True)
    model.save_pretrained(tmp_path)
    assert isinstance(AutoConfig.from_pretrained(tmp_path), MixerConfig)
    again = AutoModel.from_pretrained(tmp_path)
    assert isinstance(again, MixerForTrajectoryReconstruction)
    assert torch.equal(again(**batch()).trajectories, model.eval()(**batch()).trajectories)
    assert again.gate.has_centroids


def test_an_expert_that_diverges_has_an_infinite_loss_and_a_winner_that_does_is_an_error() -> None:
    model = mixer(num_experts=2)
    model.gate.weight.zero_()
    with torch.no_grad():
        for layer in model.experts.network:
            layer.weight[1] *= 1e20
    out = model(**batch(), output_expert_losses=True)
    assert out.expert_losses[:, 0].isfinite().all()
    assert (out.expert_losses[:, 1] == torch.inf).all()
    model.gate.weight[-1, 1] = 100.0
    with pytest.raises(FloatingPointError, match=r"environments \[0, 2, 4, 5\] diverged"):
        model(**batch())


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("times", lambda t: t.flip(1), "times must increase"),
        ("times", lambda t: t[:, :1], "at least 2"),
        ("times", lambda t: t[:, [0, 0, 1, 2, 3]], "times must increase"),
        ("times", lambda t: t[:3], r"\[7, times\]"),
        ("times", lambda t: t.where(t < t.max(), torch.nan), "times has values that are not finite"),
        ("initial_state", lambda y: y.where(y < y.max(), torch.inf), "initial_state has values"),
        ("initial_state", lambda y: y[:, :1], "as state_size says"),
        ("labels", lambda y: y.where(y < y.max(), torch.nan), "labels has values"),
        ("labels", lambda y: y[:, :4], r"give \[7, 5, 2\]"),
        ("env_ids", lambda e: e + 1, "from 0 to 5"),
        ("env_ids", lambda e: e - 1, "from 0 to 5"),
        ("env_ids", lambda e: e[:2], r"give \[7\]"),
    ],
)
def test_bad_batches_are_refused(name: str, change: Any, message: str) -> None:
    data = batch()
    data[name] = change(data[name])
    with pytest.raises(ValueError, match=message):
        mixer()(**data)


def test_contexts_that_are_not_finite_or_of_another_size_are_refused() -> None:
    for contexts in (torch.full((6, 6), torch.nan), torch.zeros(6, 5)):
        with pytest.raises(ValueError, match="give finite numbers"):
            mixer()(**batch(), contexts=contexts)
    data = batch()
    del data["labels"]
    with pytest.raises(ValueError, match="needs labels"):
        mixer()(**data, output_expert_losses=True)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"num_envs": 2, "num_experts": 3}, "an expert would have no environment"),
        ({"context_size": 7, "split_context": True}, "multiple of num_experts"),
        ({"num_layers": 1}, "num_layers=1 must be at least 2"),
        ({"rtol": 0.0}, "rtol=0.0 must be above 0"),
        ({"gate_noise": -1.0}, "gate_noise=-1.0 must be at least 0"),
        ({"taylor_order": 1, "pool_size": 6, "pool_strategy": "nearest_other"}, "lower it"),
    ],
)
def test_configurations_that_cannot_work_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        mixer(**fields)


def test_rows_of_different_lengths_are_refused() -> None:
    row = {"initial_state": [1.0], "times": [0.0, 1.0], "labels": [[1.0], [0.5]], "env_ids": 0}
    with pytest.raises(ValueError, match="equal numbers of times"):
        collate_trajectories([row, row | {"times": [0.0, 1.0, 2.0]}])
    with pytest.raises(ValueError, match="no 'times'"):
        collate_trajectories([{"initial_state": [1.0]}])


@pytest.mark.parametrize("taylor_order", [0, 2])
def test_trajectories_are_integrated_in_single_precision_under_autocast(taylor_order: int) -> None:
    model = mixer(taylor_order=taylor_order).train()
    expected = model(**batch())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = model(**batch())
    assert torch.equal(found.trajectories, expected.trajectories)
    found.loss.backward()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters() if parameter.grad is not None)


def test_no_trajectories_are_refused() -> None:
    with pytest.raises(ValueError, match="initial_state has no trajectories"):
        mixer()(**{name: values[:0] for name, values in batch().items()})
