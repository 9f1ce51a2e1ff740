"""Sigmoid scores with a selection bias, and groups of experts: the router of DeepSeek-V3.

Letters: T tokens, E experts, K chosen, G groups.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hf_mixture.moe.anatomy import GroupRule, MoeRouter, RouterOutput, SelectionRule, select
from hf_mixture.moe.routers.base import LinearRouter, RouterShape, copy_values, full_precision
from hf_mixture.moe.routers.checks import check_integer, check_number
from hf_mixture.moe.routers.registry import register_router


GroupScore = Literal["top2_sum", "max"]

# What transformers and Megatron-Core add to the sum of the weights.
_EPS = 1e-20


def route_sigmoid(
    logits: Tensor,
    top_k: int,
    *,
    bias: Tensor | None = None,
    group: GroupRule | None = None,
    normalise: bool = True,
    scale: float = 1.0,
) -> RouterOutput:
    """Choose the K largest biased sigmoids, within the best groups (https://arxiv.org/abs/2412.19437, eq. 12-16).

    s = sigmoid(z); the chosen are the K largest of s + b, which only groups with a high score may supply; their
    weights are s without b, divided by their sum.

    Args:
        logits: Raw logits z [T, E].
        top_k: K.
        bias: Selection bias b [E].
        group: Groups of neighbouring experts, and how many of them a token may use.
        normalise: Whether the weights are divided by their sum.
        scale: Factor of the weights.

    Returns:
        The logits, weights [T, K] and indices [T, K].
    """
    rule = _rule(group, normalise, scale, float32=False)
    return select(rule, full_precision(logits), top_k, bias)._replace(logits=logits)


def _rule(group: GroupRule | None, normalise: bool, scale: float, *, float32: bool) -> SelectionRule:
    return SelectionRule(
        score="sigmoid",
        bias_on="scores",
        group=group,
        normalise=normalise,
        eps=_EPS,
        scale=scale,
        float32=float32,
    )


@register_router(
    "sigmoid_bias",
    causal=True,
    paper="https://arxiv.org/abs/2412.19437",
    summary="Sigmoid scores, a selection bias that balances the load without a loss, groups if wanted (DeepSeek-V3).",
)
class SigmoidBiasRouter(LinearRouter):
    """Sigmoid router with the selection bias `e_score_correction_bias` [E]; by default as a sigmoid one it replaces.

    The bias is a buffer in float32 that no optimizer sees and that every save contains; logits are float32 as well.

    Args:
        shape: Numbers of experts, of hidden features and of choices.
        num_groups: G, a divisor of E; None for no groups.
        num_kept_groups: Number of groups that a token may use, 1 to G; needed with `num_groups`.
        group_score: What ranks a group: `"top2_sum"`, the sum of its two best choices, or `"max"`, its best choice.
        normalise: Whether the weights are divided by their sum.
        scale: Factor of the weights, above 0.
    """

    float32_tensors = ("e_score_correction_bias",)
    selection_bias = "e_score_correction_bias"

    def __init__(
        self,
        shape: RouterShape,
        *,
        num_groups: int | None = None,
        num_kept_groups: int | None = None,
        group_score: GroupScore = "top2_sum",
        normalise: bool = True,
        scale: float = 1.0,
    ) -> None:
        super().__init__(shape)
        self.group = _group(shape, num_groups, num_kept_groups, group_score)
        self.normalise = normalise
        self.scale = check_number("scale", scale, above=0.0)
        self.e_score_correction_bias = nn.Buffer(torch.zeros(shape.num_experts, dtype=torch.float32))

    @classmethod
    def stock_options(cls, stock: MoeRouter) -> dict[str, Any]:
        """The groups, the normalisation and the factor of a sigmoid router that is replaced."""
        rule = stock.rule
        if rule is None or (rule.score, rule.gate) != ("sigmoid", "scores"):
            return {}
        options: dict[str, Any] = {"normalise": rule.normalise, "scale": rule.scale}
        # One group is no limit.
        if rule.group is not None and rule.group.num_groups > 1:
            options["num_groups"] = rule.group.num_groups
            options["num_kept_groups"] = rule.group.num_kept
            options["group_score"] = rule.group.score
        return options

    def reset_parameters(self, std: float) -> None:
        """Draw the gate, and set the selection bias to zero."""
        super().reset_parameters(std)
        nn.init.zeros_(self.e_score_correction_bias)

    def keep(self, stock: MoeRouter) -> tuple[str, ...]:
        """Take over the gate, and the selection bias of a router with one on its scores."""
        kept = super().keep(stock)
        bias = stock.bias
        if bias is not None and stock.rule is not None and stock.rule.bias_on == "scores":
            flat = bias.tensor.reshape(-1).to(torch.float32)
            if copy_values(self.e_score_correction_bias, flat.detach()):
                return (*kept, "e_score_correction_bias")
        return kept

    def route(self, hidden: Tensor) -> RouterOutput:
        """Choose the K largest biased sigmoids."""
        logits = F.linear(full_precision(hidden), full_precision(self.weight))
        return route_sigmoid(
            logits,
            self.top_k,
            bias=self.e_score_correction_bias,
            group=self.group,
            normalise=self.normalise,
            scale=self.scale,
        )

    def selection_rule(self) -> SelectionRule:
        """Sigmoid with a bias on the scores, and groups."""
        return _rule(self.group, self.normalise, self.scale, float32=True)


def _group(shape: RouterShape, num_groups: int | None, num_kept: int | None, score: GroupScore) -> GroupRule | None:
    if (num_groups is None) != (num_kept is None):
        raise ValueError(
            f"num_groups={num_groups!r} and num_kept_groups={num_kept!r} belong together; give both or neither"
        )
    if num_groups is None or num_kept is None:
        return None
    check_integer("num_groups", num_groups, at_least=1)
    check_integer("num_kept_groups", num_kept, at_least=1, at_most=num_groups)
    size, rest = divmod(shape.num_experts, num_groups)
    if rest:
        raise ValueError(f"num_groups={num_groups} must divide the {shape.num_experts} experts; give a divisor")
    if score not in ("top2_sum", "max"):
        raise ValueError(f"group_score={score!r} must be 'top2_sum' or 'max'; give one of them")
    if size < 2 and score == "top2_sum":
        raise ValueError(
            f"num_groups={num_groups} leaves one expert a group, and group_score='top2_sum' needs two; give fewer "
            "groups or group_score='max'"
        )
    if size * num_kept < shape.top_k:
        raise ValueError(
            f"num_kept_groups={num_kept} leaves {size * num_kept} experts, and a token takes {shape.top_k}; keep more"
        )
    return GroupRule(num_groups=num_groups, num_kept=num_kept, score=score)
