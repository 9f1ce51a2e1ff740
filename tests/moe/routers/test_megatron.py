"""The routers against the functions of Megatron-Core, on 1000 random cases.

Set HF_MIXTURE_MEGATRON to the root of a checkout of github.com/NVIDIA/Megatron-LM to run this. The functions are taken
out of their file, as the import of their package needs triton.
"""

from __future__ import annotations

import ast
import os
import pathlib
from types import SimpleNamespace
from typing import Optional

import pytest
import torch

from hf_mixture.moe.anatomy import GroupRule
from hf_mixture.moe.routers.sigmoid_bias import route_sigmoid
from hf_mixture.moe.routers.sinkhorn import balance, route_sinkhorn
from hf_mixture.moe.routers.topk import route_topk_softmax


NUM_CASES = 1000
CHECKOUT = os.environ.get("HF_MIXTURE_MEGATRON")
FUNCTIONS = ("topk_routing_with_score_function", "group_limited_topk", "sinkhorn")

pytestmark = pytest.mark.skipif(CHECKOUT is None, reason="HF_MIXTURE_MEGATRON names no checkout of Megatron-LM")


@pytest.fixture(scope="module")
def megatron():
    path = pathlib.Path(CHECKOUT) / "megatron" / "core" / "transformer" / "moe" / "moe_utils.py"
    tree = ast.parse(path.read_text())
    tree.body = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name in FUNCTIONS]
    assert len(tree.body) == len(FUNCTIONS)
    names = {
        "Optional": Optional,
        "Tuple": tuple,
        "torch": torch,
        # In inference Megatron does not sort the chosen experts; sorted, the indices can be compared one by one.
        "is_batch_invariant_mode_enabled": lambda: True,
    }
    exec(compile(tree, str(path), "exec"), names)  # noqa: S102 - the checkout that the user names
    return SimpleNamespace(**{name: names[name] for name in FUNCTIONS})


def cases(seed, *, groups=False):
    generator = torch.Generator().manual_seed(seed)

    def draw(low, high):
        return int(torch.randint(low, high + 1, (), generator=generator))

    for _ in range(NUM_CASES):
        num_groups, size = (draw(2, 4), draw(2, 4)) if groups else (1, draw(2, 16))
        logits = torch.randn(draw(2, 16), num_groups * size, generator=generator) * 2
        bias = torch.randn(num_groups * size, generator=generator)
        yield logits, bias, num_groups, size, draw


@pytest.mark.parametrize("pre_softmax", [False, True])
def test_topk_softmax(megatron, pre_softmax):
    for logits, _, _, size, draw in cases(0):
        top_k = draw(1, size)
        weights, indices = megatron.topk_routing_with_score_function(
            logits, top_k, use_pre_softmax=pre_softmax, scaling_factor=1.5, dense_output=True
        )
        ours = route_topk_softmax(logits, top_k, pre_softmax=pre_softmax, normalise=False, scale=1.5)
        assert torch.equal(ours.indices, indices)
        assert torch.equal(ours.weights, weights)


def test_sigmoid_with_bias(megatron):
    for logits, bias, _, size, draw in cases(1):
        top_k = draw(1, size)
        weights, indices = megatron.topk_routing_with_score_function(
            logits, top_k, score_function="sigmoid", expert_bias=bias, scaling_factor=2.5, dense_output=True
        )
        # Megatron does not normalise the weight of a single expert.
        ours = route_sigmoid(logits, top_k, bias=bias, normalise=top_k > 1, scale=2.5)
        assert torch.equal(ours.indices, indices)
        assert torch.equal(ours.weights, weights)


@pytest.mark.parametrize("score", ["top2_sum", "max"])
def test_group_limited(megatron, score):
    for logits, bias, num_groups, _, draw in cases(2, groups=True):
        num_kept = draw(1, num_groups)
        # Megatron ranks a group by its K / num_kept best experts.
        top_k = num_kept * (2 if score == "top2_sum" else 1)
        weights, indices = megatron.topk_routing_with_score_function(
            logits,
            top_k,
            num_groups=num_groups,
            group_topk=num_kept,
            score_function="sigmoid",
            expert_bias=bias,
            dense_output=True,
        )
        group = GroupRule(num_groups=num_groups, num_kept=num_kept, score=score)
        ours = route_sigmoid(logits, top_k, bias=bias, group=group, normalise=top_k > 1)
        assert torch.equal(ours.indices, indices)
        assert torch.equal(ours.weights, weights)


def test_sinkhorn(megatron):
    for single, _, _, size, draw in cases(3):
        logits, top_k = single.double(), draw(1, size)
        plan = megatron.sinkhorn(logits)
        assert float((balance(logits) - plan).abs().max()) <= 1e-6  # the small number in the divisions
        indices = torch.topk(plan, top_k, dim=-1).indices
        scores = logits.sigmoid() if top_k == 1 else logits.softmax(-1)
        ours = route_sinkhorn(logits, top_k, balanced=True)
        assert torch.equal(ours.indices, indices)
        assert torch.equal(ours.weights, scores.gather(-1, indices))
