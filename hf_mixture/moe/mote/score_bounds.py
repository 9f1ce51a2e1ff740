"""How far the scores of a router can lie apart: what makes a finite bias as good as minus infinity.

A router reads the output of a norm layer, whose length is bounded: |h| <= sqrt(H) max|g| for a gain g, plus the length
of the bias of the layer. So a logit is at most |w| times that.

Letters: C classes that the selection ranks, H hidden size.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from hf_mixture.moe.anatomy import MoeRouter


class ScoreBounds(NamedTuple):
    """Bounds of what the selection bias is added to.

    Args:
        low: Lower bound for each class, float64 [C].
        high: Upper bound for each class, float64 [C].
    """

    low: Tensor
    high: Tensor


def score_bounds(model: nn.Module, router: MoeRouter) -> ScoreBounds | None:
    """Bound the scores of a router for every possible input.

    Args:
        model: The model that the router lies in, with its norm layers.
        router: The router.

    Returns:
        The bounds, for a bias on the logits those of the logits without it; None where nothing is known.
    """
    size = _logit_size(model, router)
    score = "identity" if router.rule is None else router.rule.score
    if score == "softmax":
        zeros = torch.zeros(router.num_choices, dtype=torch.float64)
        return ScoreBounds(zeros, zeros + 1)
    if score == "sigmoid":
        size = torch.full((router.num_choices,), float("inf"), dtype=torch.float64) if size is None else size
        return ScoreBounds((-size).sigmoid(), size.sigmoid())
    if size is None:
        return None
    if score == "sqrtsoftplus":
        return ScoreBounds(nn.functional.softplus(-size).sqrt(), nn.functional.softplus(size).sqrt())
    # The scores of all routers known, also of those without an explicit rule, are no larger than 1 or their logit.
    size = size if router.rule is not None else size.clamp(min=1)
    return ScoreBounds(-size, size)


def _logit_size(model: nn.Module, router: MoeRouter) -> Tensor | None:
    """Bound of the absolute logit of each class, without biases [C]."""
    weight = router.weight
    if weight is None or weight.dim() != 2 or not weight.is_floating_point() or weight.shape[0] < router.num_choices:
        return None
    lengths = [_output_length(module, weight.shape[1]) for module in model.modules()]
    longest = max((length for length in lengths if length is not None), default=None)
    if longest is None:
        return None
    return weight[: router.num_choices].detach().double().norm(dim=1).cpu() * longest


def _output_length(module: nn.Module, width: int) -> float | None:
    """Bound of the length of what a norm layer returns."""
    gain = getattr(module, "weight", None)
    if not type(module).__name__.endswith("Norm") or not isinstance(gain, Tensor) or gain.shape != (width,):
        return None
    gain = gain.detach().double()
    # Some families store the gain less 1.
    largest = max(float(gain.abs().max()), float((1 + gain).abs().max()))
    bias = getattr(module, "bias", None)
    return width**0.5 * largest + (float(bias.detach().double().norm()) if isinstance(bias, Tensor) else 0.0)
