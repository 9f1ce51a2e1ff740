"""Experts, Taylor polynomials and solvers against their definitions, one state at a time, and against torch.func."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import slow_mixer
import torch
from torch import Tensor
from torch.func import jvp

from hf_mixture import MixerConfig, MixerForTrajectoryReconstruction
from hf_mixture.models.mixer.experts import EXPERTS
from hf_mixture.models.mixer.experts.layers import Layers, run_layers
from hf_mixture.models.mixer.experts.ncf import geometric_widths
from hf_mixture.models.mixer.fused_rk4 import integrate_layers
from hf_mixture.models.mixer.solvers import integrate_adaptive, integrate_rk4
from hf_mixture.models.mixer.taylor import choose_neighbours, field_of_jet, taylor_jet


KINDS = sorted(EXPERTS)


def mixer(**fields: Any) -> MixerForTrajectoryReconstruction:
    """A small model in float64 with contexts that are not zero."""
    torch.manual_seed(0)
    given = {"num_envs": 5, "num_experts": 3, "context_size": 6, "hidden_size": 8, "same_expert_init": False}
    model = MixerForTrajectoryReconstruction(MixerConfig(**given | fields)).double()
    torch.nn.init.normal_(model.contexts.weight, std=0.5)
    return model


@pytest.mark.parametrize("split_context", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_networks_of_experts_are_their_definitions(kind: str, split_context: bool) -> None:
    model = mixer(expert_type=kind, split_context=split_context)
    size = model.config.expert_context_size
    contexts, states = torch.randn(4, size, dtype=torch.float64), torch.randn(4, 2, 2, dtype=torch.float64)
    experts = torch.tensor([2, 0, 1, 2])
    found = run_layers(model.experts.layers(contexts, experts), states)
    for place, expert in enumerate(experts.tolist()):
        for state, derivative in zip(states[place], found[place], strict=True):
            slow = slow_mixer.expert_field(model.experts, expert, state, contexts[place])
            torch.testing.assert_close(derivative, slow, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_experts_that_begin_alike_are_alike_and_others_are_not(kind: str) -> None:
    for same in (True, False):
        model = mixer(expert_type=kind, same_expert_init=same)
        for parameter in model.experts.parameters():
            assert torch.equal(parameter[0], parameter[1]) is same


def test_widths_of_encoders_are_geometric_and_even() -> None:
    # int(2 * 16 ** (1 / 2)) = 8; int(768 * (128 / 768) ** (1 / 3)) = 422, int(... ** (2 / 3)) = 232
    assert geometric_widths(2, 32, 1) == [2, 8, 32]
    assert geometric_widths(768, 128, 2) == [768, 422, 232, 128]
    assert geometric_widths(2, 26, 2) == [2, 4, 12, 26]
    assert geometric_widths(3, 5, 0) == [3, 5]


def nested_derivatives(layers_of: Any, contexts: Tensor, neighbours: Tensor, order: int, y: Tensor) -> Tensor:
    """The Taylor polynomial by derivatives of derivatives through the whole network."""
    zero, one = torch.zeros((), dtype=y.dtype), torch.ones((), dtype=y.dtype)

    def along(s: Tensor) -> Tensor:
        return run_layers(layers_of(neighbours + s * (contexts - neighbours)), y)

    def slope_of(before: Any) -> Any:
        return lambda s: jvp(before, (s,), (one,))[1]

    total, derivative = along(zero), along
    for number in range(1, order + 1):
        derivative = slope_of(derivative)
        total = total + derivative(zero) / math.factorial(number)
    return total


@pytest.mark.parametrize("order", [0, 1, 2])
@pytest.mark.parametrize("kind", KINDS)
def test_expansions_are_derivatives_of_derivatives(kind: str, order: int) -> None:
    model = mixer(expert_type=kind)
    contexts, neighbours = torch.randn(2, 3, 6, dtype=torch.float64)
    experts = torch.tensor([0, 2, 1])
    y = torch.randn(3, 4, 2, dtype=torch.float64)
    if order == 0:
        neighbours = contexts

    def layers_of(seen: Tensor) -> Layers:
        return model.experts.layers(seen, experts)

    found = field_of_jet(taylor_jet(layers_of, contexts, neighbours, order))(y)
    slow = nested_derivatives(layers_of, contexts, neighbours, order, y)
    torch.testing.assert_close(found, slow, rtol=1e-11, atol=1e-12)
    parameters = list(model.experts.parameters())
    weights = torch.randn_like(found)
    of_found = torch.autograd.grad((found * weights).sum(), parameters, allow_unused=True)
    of_slow = torch.autograd.grad((slow * weights).sum(), parameters, allow_unused=True)
    for parameter, ours, theirs in zip(parameters, of_found, of_slow, strict=True):
        zeros = torch.zeros_like(parameter)
        torch.testing.assert_close(
            zeros if ours is None else ours, zeros if theirs is None else theirs, rtol=1e-9, atol=1e-10
        )


def quadratic_layers(contexts: Tensor) -> Layers:
    """A field that is quadratic in the context: linear layers without a swish between, both of them linear in xi."""
    first = torch.stack([contexts[:, :2], contexts[:, 1:]], dim=1)
    second = torch.stack([contexts[:, 1:], contexts[:, :2] + 1], dim=1)
    # A slope of zero makes the swish x / 2.
    zeros = torch.zeros_like(contexts[:, :2])
    return Layers((first, second), (contexts[:, :2], zeros), (zeros[:, :1],))


def test_check_3_the_second_order_is_exact_for_fields_quadratic_in_the_context() -> None:
    contexts, neighbours = torch.randn(2, 4, 3)
    y = torch.randn(4, 5, 2)
    exact = run_layers(quadratic_layers(contexts), y)
    second = field_of_jet(taylor_jet(quadratic_layers, contexts, neighbours, 2))(y)
    torch.testing.assert_close(second, exact, rtol=1e-5, atol=1e-5)
    first = field_of_jet(taylor_jet(quadratic_layers, contexts, neighbours, 1))(y)
    assert (first - exact).abs().max() > 1e-2


@pytest.mark.parametrize("kind", KINDS)
def test_an_expansion_around_the_own_context_is_the_field(kind: str) -> None:
    model = mixer(expert_type=kind)
    contexts, experts = torch.randn(3, 6, dtype=torch.float64), torch.tensor([0, 1, 2])
    y = torch.randn(3, 4, 2, dtype=torch.float64)
    fields = [
        field_of_jet(taylor_jet(lambda c: model.experts.layers(c, experts), contexts, contexts, order))(y)
        for order in (0, 1, 2)
    ]
    torch.testing.assert_close(fields[1], fields[0])
    torch.testing.assert_close(fields[2], fields[0])


def test_pools_hold_the_neighbours_that_their_names_say() -> None:
    pool = torch.tensor([[0.0, 0.1], [1.0, 1.0], [1.2, 1.0], [-3.0, 0.0]])

    def chosen(strategy: Any, size: int = 2) -> list[list[float]]:
        found = choose_neighbours(pool, pool, size=size, strategy=strategy)
        assert found.shape == (size, 4, 2)
        return [[pool.tolist().index(context) for context in contexts] for contexts in found.tolist()]

    assert chosen("nearest") == [[0, 1, 2, 3], [1, 2, 1, 0]]
    assert chosen("nearest_other") == [[1, 2, 1, 0], [2, 0, 0, 1]]
    assert chosen("smallest") == [[0, 0, 0, 0], [1, 1, 1, 1]]
    several = chosen("random", size=4)
    assert all(sorted(column) == [0, 1, 2, 3] for column in zip(*several, strict=True))


def random_layers(number: int, widths: list[int]) -> Layers:
    def draw(*shape: int) -> Tensor:
        return (0.4 * torch.randn(*shape, dtype=torch.float64)).requires_grad_()

    return Layers(
        tuple(draw(number, before, after) for before, after in itertools.pairwise(widths)),
        tuple(draw(number, width) for width in widths[1:]),
        tuple(draw(number, 1) for _ in widths[2:]),
    )


@pytest.mark.parametrize("num_substeps", [1, 3])
@pytest.mark.parametrize("widths", [[2, 5, 4, 2], [3, 6, 3], [2, 2]])
def test_one_fused_integration_is_autograd_through_the_steps(widths: list[int], num_substeps: int) -> None:
    torch.manual_seed(0)
    layers = random_layers(3, widths)
    initial = torch.randn(3, 2, widths[0], dtype=torch.float64, requires_grad=True)
    times = torch.rand(3, 2, 5, dtype=torch.float64).cumsum(dim=-1)
    fused = integrate_layers(layers, initial, times, num_substeps=num_substeps)
    plain = integrate_rk4(lambda y: run_layers(layers, y), initial, times, num_substeps=num_substeps)
    assert torch.equal(fused, plain)
    inputs = [initial, *layers.weights, *layers.biases, *layers.betas]
    weights = torch.randn_like(plain)
    ours = torch.autograd.grad((fused * weights).sum(), inputs)
    theirs = torch.autograd.grad((plain * weights).sum(), inputs)
    for found, slow in zip(ours, theirs, strict=True):
        torch.testing.assert_close(found, slow, rtol=1e-10, atol=1e-12)


def test_solvers_follow_a_rotation_at_their_order() -> None:
    layers = Layers(
        (torch.tensor([[[0.0, -1.0], [1.0, 0.0]]], dtype=torch.float64),), (torch.zeros(1, 2).double(),), ()
    )
    initial = torch.tensor([[[1.0, 0.0]]], dtype=torch.float64)
    times = torch.linspace(0, 3, 7, dtype=torch.float64)
    exact = torch.stack([times.cos(), -times.sin()], dim=-1)

    def field(y: Tensor) -> Tensor:
        return run_layers(layers, y)

    errors = [
        (integrate_rk4(field, initial, times.expand(1, 1, -1), num_substeps=n)[0, 0] - exact).abs().max().item()
        for n in (1, 2, 4)
    ]
    # Half the step, a sixteenth of the error.
    assert 14 < errors[0] / errors[1] < 18
    assert 14 < errors[1] / errors[2] < 18
    adaptive = integrate_adaptive(field, initial, times, solver="dopri5", rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(adaptive[0, 0], exact, rtol=0, atol=1e-7)
