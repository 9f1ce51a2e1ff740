"""Edits inside a router's own code: which calls count as the selection, and what happens where none does."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from moe_families import build_tiny_moe
from mote_runs import observe_run
from torch import nn

from hf_mixture.moe.anatomy import UnsupportedRouterError, find_routers
from hf_mixture.moe.mote.edit import ExpertEdit
from hf_mixture.moe.mote.edits import ExpertEdits
from hf_mixture.moe.mote.interceptor import InterceptedForward
from hf_mixture.moe.mote.masks import RouterMasks
from hf_mixture.moe.mote.patch import tune_experts


def edited(module: nn.Module, num_choices: int, *edits: tuple[int, str, float | None]) -> InterceptedForward:
    own = [ExpertEdit("gate", *edit) for edit in edits]
    masks = RouterMasks(num_choices)
    masks.write(own, ExpertEdits(own, force_weight="own"))
    forward = InterceptedForward(module, "gate", masks)
    forward.install()
    return forward


class Calls(nn.Module):
    """Applies a function as a router would."""

    def __init__(self, function: Any) -> None:
        super().__init__()
        self.function = function

    def forward(self, scores: torch.Tensor) -> Any:
        return self.function(scores)


SCORES = torch.tensor([[0.1, 0.9, 0.5, 0.3], [0.7, 0.2, 0.6, 0.4]])


@pytest.mark.parametrize(
    "function",
    [
        lambda s: torch.topk(s, 2),
        lambda s: torch.topk(input=s, k=2, dim=-1, sorted=False),
        lambda s: s.topk(2, -1),
        lambda s: s.topk(2, dim=1),
        lambda s: torch.sort(s, dim=-1, descending=True),
        lambda s: s.sort(descending=True),
        lambda s: torch.max(s, dim=-1, keepdim=True),
        lambda s: s.max(-1, keepdim=True),
    ],
)
def test_the_edited_choice_has_its_own_scores(function: Any) -> None:
    module = Calls(function)
    edited(module, 4, (1, "off", None), (2, "bias", 0.05))
    values, indices = module(SCORES)
    assert indices[:, 0].tolist() == [2, 0]
    assert torch.equal(values, SCORES.gather(-1, indices))


@pytest.mark.parametrize("function", [lambda s: torch.argmax(s, dim=-1), lambda s: s.argmax(-1)])
def test_argmax(function: Any) -> None:
    module = Calls(function)
    edited(module, 4, (1, "off", None))
    assert module(SCORES).tolist() == [2, 0]
    module = Calls(function)
    edited(module, 4, (3, "on", None))
    assert module(SCORES).tolist() == [3, 3]


@pytest.mark.parametrize(
    "function",
    [
        # Over tokens, over everything, over integers, and over another width: no choice of experts.
        lambda s: torch.max(s, dim=0),
        torch.max,
        lambda s: s.argmax(),
        lambda s: torch.topk(s.T.contiguous(), 1),
        lambda s: torch.topk((s * 10).long(), 2),
        lambda s: s.sort(dim=0),
        lambda s: s.softmax(-1),
    ],
)
def test_a_router_that_makes_no_choice_by_these_calls_is_an_error_and_not_a_patch_without_effect(
    function: Any,
) -> None:
    module = Calls(function)
    forward = edited(module, 4, (1, "off", None))
    with pytest.raises(UnsupportedRouterError, match=r"gate \(Calls\) chose no expert .* the edits had no effect"):
        module(SCORES)
    forward.remove()
    plain, again = function(SCORES), module(SCORES)
    assert all(map(torch.equal, plain, again) if isinstance(plain, tuple) else [torch.equal(plain, again)])


def test_groups_are_ranked_by_edited_scores() -> None:
    scores = torch.tensor([[0.9, 0.8, 0.3, 0.2, 0.5, 0.6]])
    ranking = Calls(lambda s: (torch.topk(s, 2), s.view(-1, 3, 2).topk(2, dim=-1)[0].sum(-1).argmax(-1)))
    forward = edited(ranking, 6, (0, "off", None))
    assert ranking(scores)[1].tolist() == [2]
    forward.remove()
    assert ranking(scores)[1].tolist() == [0]


@pytest.mark.parametrize("family", ["phimoe", "switch_transformers", "inkling_text", "qwen3_moe"])
@pytest.mark.parametrize("as_many_as", ["hidden_size", "positions", "tokens"])
def test_as_many_experts_as_something_else_has_entries(family: str, as_many_as: str) -> None:
    """E = H, E = S and E = T are no reason to edit anything else."""
    # The tiny models have 32 hidden entries, 9 positions and 18 tokens.
    num_experts = {"hidden_size": 32, "positions": 9, "tokens": 18}[as_many_as]
    tiny = build_tiny_moe(family, num_experts=num_experts)
    routers = find_routers(tiny.model)
    _, before = observe_run(tiny.model, tiny.inputs)
    off = {
        r.path: int(before[r.path].indices.flatten().bincount(minlength=num_experts)[:num_experts].argmax())
        for r in routers
    }
    edits = ExpertEdits([ExpertEdit(path, expert, "off") for path, expert in off.items()])
    with tune_experts(tiny.model, edits, intercept=True):
        output, after = observe_run(tiny.model, tiny.inputs)
    first = routers[0].path
    assert output.logits.isfinite().all()
    for path, expert in off.items():
        assert (before[path].indices == expert).any()
        assert not (after[path].indices == expert).any()
    # In the first router, tokens that were not sent to the expert keep their choice, where there is no capacity.
    if family != "switch_transformers":
        untouched = ~(before[first].indices == off[first]).any(-1)
        kept, old = (seen[first].indices[untouched].sort(-1).values for seen in (after, before))
        assert untouched.any()
        assert torch.equal(kept, old)
