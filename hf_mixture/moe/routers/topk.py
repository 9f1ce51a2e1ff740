"""Top-k softmax: the router of Mixtral, Qwen-MoE, OLMoE, Granite and most others.

Letters: T tokens, E experts, K chosen.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from torch import Tensor

from hf_mixture.moe.anatomy import MoeRouter, RouterOutput, SelectionRule, select
from hf_mixture.moe.routers.base import LinearRouter, RouterShape, full_precision
from hf_mixture.moe.routers.checks import check_number
from hf_mixture.moe.routers.registry import register_router


def route_topk_softmax(
    logits: Tensor, top_k: int, *, pre_softmax: bool = True, normalise: bool = True, scale: float = 1.0
) -> RouterOutput:
    """Choose the K largest logits and weigh them by a softmax (https://arxiv.org/abs/2401.04088, section 2.1).

    With p = softmax(z) over all experts, w = p of the chosen, divided by their sum if `normalise`; without
    `pre_softmax`, w = softmax of the chosen logits, which is the same as the normalised form.

    Args:
        logits: Raw logits [T, E].
        top_k: K.
        pre_softmax: Whether the softmax is over all experts, before the choice.
        normalise: Whether the weights are divided by their sum.
        scale: Factor of the weights.

    Returns:
        The logits, weights [T, K] and indices [T, K], largest first.
    """
    rule = _rule(pre_softmax, normalise, scale, float32=False)
    return select(rule, full_precision(logits), top_k)._replace(logits=logits)


def _rule(pre_softmax: bool, normalise: bool, scale: float, *, float32: bool) -> SelectionRule:
    if pre_softmax:
        return SelectionRule(score="softmax", normalise=normalise, scale=scale, float32=float32)
    return SelectionRule(score="identity", gate="softmax_selected", scale=scale, float32=float32)


@register_router(
    "topk_softmax",
    causal=True,
    paper="https://arxiv.org/abs/2401.04088",
    summary="The K largest logits, weighed by a softmax over all experts or over the chosen.",
)
class TopkSoftmaxRouter(LinearRouter):
    """Top-k softmax with a linear gate; by default as the router it replaces, where that is of this kind.

    Args:
        shape: Numbers of experts, of hidden features and of choices.
        pre_softmax: Whether the softmax is over all experts, before the choice.
        normalise: Whether the weights are divided by their sum.
        scale: Factor of the weights, above 0.
        bias: Whether the logits have a bias.
    """

    def __init__(
        self,
        shape: RouterShape,
        *,
        pre_softmax: bool = True,
        normalise: bool = True,
        scale: float = 1.0,
        bias: bool = False,
    ) -> None:
        super().__init__(shape, bias=bias)
        self.pre_softmax = pre_softmax
        self.normalise = normalise
        self.scale = check_number("scale", scale, above=0.0)

    @classmethod
    def stock_options(cls, stock: MoeRouter) -> dict[str, Any]:
        """The kind of softmax, the normalisation, the factor and the bias of the router that is replaced."""
        rule = stock.rule
        if rule is None or (rule.score, rule.gate) not in (("softmax", "scores"), ("identity", "softmax_selected")):
            return super().stock_options(stock)
        return {
            **super().stock_options(stock),
            "pre_softmax": rule.score == "softmax",
            "normalise": rule.normalise or rule.score == "identity",
            "scale": rule.scale,
        }

    def route(self, hidden: Tensor) -> RouterOutput:
        """Choose the K largest logits."""
        logits = self.logits(hidden)
        return route_topk_softmax(
            logits, self.top_k, pre_softmax=self.pre_softmax, normalise=self.normalise, scale=self.scale
        )

    def selection_rule(self) -> SelectionRule:
        """Softmax, before or after the choice."""
        rule = _rule(self.pre_softmax, self.normalise, self.scale, float32=True)
        return rule if self.bias is None else dataclasses.replace(rule, bias_on="logits")
