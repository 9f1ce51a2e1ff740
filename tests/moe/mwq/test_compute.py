"""Nested experts against stock experts with the same weights, forwards and backwards."""

from __future__ import annotations

import pytest
import torch
from moe_families import build_tiny_moe
from tiny_planes import inputs, logits, mix_widths, nested_model

from hf_mixture.moe.mwq.bit_policy import BitPolicy, Choice
from hf_mixture.moe.mwq.compute import Step, run_steps, sort_places
from hf_mixture.moe.mwq.compute import _steps as steps_of
from hf_mixture.moe.mwq.config import MwqConfig
from hf_mixture.moe.mwq.quantise import quantise_experts
from hf_mixture.moe.mwq.targets import make_stock, nested_experts


# Concatenated and interleaved gates, transposed weights with biases, no gate, a norm after each expert.
FAMILIES = ["mixtral", "qwen3_moe", "gpt_oss", "nemotron_h", "deepseek_v3"]


def layer(family="mixtral", **options):
    tiny = build_tiny_moe(family, **options)
    quantise_experts(tiny.model, MwqConfig(group_size=8))
    return next(iter(nested_experts(tiny.model).values()))


def call(experts, num_tokens=12, top_k=2, seed=0):
    generator = torch.Generator().manual_seed(seed)
    size = 8 * experts.planes_of(experts.matrices()[0]).base.shape[-1]
    hidden = torch.randn(num_tokens, size, generator=generator)
    index = torch.rand(num_tokens, experts.num_experts, generator=generator).topk(top_k).indices
    return hidden, index, torch.rand(num_tokens, top_k, generator=generator)


@pytest.mark.parametrize("family", FAMILIES)
def test_nested_experts_compute_what_stock_experts_do(family):
    experts = layer(family)
    hidden, index, weights = call(experts)
    hidden.requires_grad_()
    weights.requires_grad_()
    ours = experts(hidden, index, weights)
    ours.square().sum().backward()
    gradients = hidden.grad.clone(), weights.grad.clone()
    hidden.grad = weights.grad = None

    make_stock(experts, torch.float32)
    experts.config._experts_implementation = "eager"
    theirs = experts(hidden, index, weights)
    theirs.square().sum().backward()
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(gradients[0], hidden.grad, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(gradients[1], weights.grad, rtol=1e-3, atol=1e-4)


def slow(experts, hidden, index, levels, weights):
    """Place by place, with the dequantised matrix of its expert at its width."""
    up, down = (experts.planes_of(name) for name in experts.matrices())
    result = torch.zeros_like(hidden)
    for token, place in torch.cartesian_prod(*map(torch.arange, index.shape)).tolist():
        expert, level = int(index[token, place]), int(levels[token, place])
        if expert == experts.num_experts or level < 0:
            continue
        width = experts.mwq_widths[level]
        inner = experts._apply_gate(hidden[token] @ up.dequantise(width)[expert].T)
        result[token] += weights[token, place] * (down.dequantise(width)[expert] @ inner)
    return result


class Given(BitPolicy):
    """Widths that a test gives."""

    def __init__(self, widths, levels):
        super().__init__(widths)
        self.levels = levels

    def forward(self, hidden, top_k_index, top_k_weights):
        return Choice(top_k_index, self.levels, top_k_weights)


def test_each_token_is_computed_at_its_width():
    experts = layer()
    hidden, index, weights = call(experts)
    levels = torch.randint(-1, 3, index.shape, generator=torch.Generator().manual_seed(1))
    index[0, 1] = index[5, 0] = experts.num_experts
    experts.mwq_policy = Given(experts.mwq_widths, levels)
    torch.testing.assert_close(
        experts(hidden, index, weights), slow(experts, hidden, index, levels, weights), rtol=1e-4, atol=1e-5
    )


def test_one_width_for_all():
    experts = layer()
    hidden, index, weights = call(experts)
    for level, width in enumerate(experts.mwq_widths):
        experts.mwq_width = width
        expected = slow(experts, hidden, index, torch.full_like(index, level), weights)
        torch.testing.assert_close(experts(hidden, index, weights), expected, rtol=1e-4, atol=1e-5)


def test_nobody_is_chosen():
    experts = layer()
    hidden, index, weights = call(experts)
    assert bool((experts(hidden, torch.full_like(index, experts.num_experts), weights) == 0).all())


def test_the_order_of_the_groups_does_not_matter():
    experts = layer()
    hidden, index, weights = call(experts, num_tokens=30)
    levels = torch.randint(0, 3, index.shape, generator=torch.Generator().manual_seed(2))
    places = sort_places(index, levels, experts.num_experts, 3)
    up, down = (experts.planes_of(name) for name in experts.matrices())
    steps = list(steps_of(up, down, places.groups))
    expected = run_steps(experts, hidden, weights, places, steps)
    alone = []
    for group in reversed(places.groups):
        # Each group begins its matrices anew.
        (step,) = steps_of(up, down, [group])
        alone.append(Step(step.expert, 0, step.levels, step.group))
    assert torch.equal(run_steps(experts, hidden, weights, places, alone), expected)


def test_a_token_does_not_depend_on_the_others():
    """To rounding: libraries add up rows of other matrices in other orders."""
    model = mix_widths(nested_model())
    together = logits(model)
    given = inputs()
    for row in range(2):
        with torch.no_grad():
            alone = model(**{name: value[row : row + 1] for name, value in given.items()}).logits
        kept = given["attention_mask"][row].bool()
        torch.testing.assert_close(alone[0, kept], together[row, kept], rtol=1e-4, atol=1e-5)


def test_sorting_places():
    index = torch.tensor([[1, 0], [1, 2]])
    levels = torch.tensor([[0, 1], [0, -1]])
    places = sort_places(index, levels, num_experts=2, num_levels=2)
    assert places.order.tolist() == [1, 0, 2]
    assert [tuple(group) for group in places.groups] == [(0, 1, 0, 1), (1, 0, 1, 3)]


def test_the_backward_pass_does_not_keep_matrices():
    experts = layer(hidden_size=64, intermediate_size=64)
    hidden, index, weights = call(experts, num_tokens=3)
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: saved.append(tensor.numel()) or tensor, lambda t: t):
        experts(hidden.requires_grad_(), index, weights)
    assert max(saved) < 64 * 128
