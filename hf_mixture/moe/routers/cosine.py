"""Cosine router: experts are directions, and a token goes to those nearest to its own.

Letters: T tokens, H hidden, D projected, E experts, K chosen.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hf_mixture.moe.anatomy import RouterOutput, SelectionRule
from hf_mixture.moe.routers.base import RegistryRouter, RouterShape, full_precision
from hf_mixture.moe.routers.checks import check_integer, check_number
from hf_mixture.moe.routers.registry import register_router
from hf_mixture.moe.routers.topk import route_topk_softmax


_MIN_TEMPERATURE = 0.01
# As in torch.nn.functional.normalize; a zero vector has the cosine 0 with everything.
_EPS = 1e-12


def cosine_logits(projected: Tensor, embeddings: Tensor, temperature: Tensor | float) -> Tensor:
    """Cosine of each token with each expert, over the temperature (https://arxiv.org/abs/2206.04046, section 4.3).

    z_j = E_j · W x / (τ ‖W x‖ ‖E_j‖).

    Args:
        projected: Projected hidden states W x [T, D].
        embeddings: Expert embeddings E [E, D].
        temperature: τ, above 0.

    Returns:
        Raw logits [T, E].
    """
    projected, embeddings = full_precision(projected), full_precision(embeddings)
    return F.normalize(projected, dim=-1, eps=_EPS) @ F.normalize(embeddings, dim=-1, eps=_EPS).T / temperature


@register_router(
    "cosine",
    causal=True,
    paper="https://arxiv.org/abs/2206.04046",
    summary="Top k of the cosine between projected tokens and expert embeddings (GMoE).",
)
class CosineRouter(RegistryRouter):
    """Cosine router with a learned temperature; `weight` [E, D] are the expert embeddings.

    Args:
        shape: Numbers of experts, of hidden features and of choices.
        projection_dim: D; None for the smaller of H and 256.
        temperature: Initial τ, at least 0.01, which also is its lower bound in training.
        normalise: Whether the weights are divided by their sum.
    """

    def __init__(
        self,
        shape: RouterShape,
        *,
        projection_dim: int | None = None,
        temperature: float = 0.5,
        normalise: bool = True,
    ) -> None:
        super().__init__(shape)
        dim = min(shape.hidden_size, 256) if projection_dim is None else projection_dim
        check_integer("projection_dim", dim, at_least=1)
        self.initial_temperature = check_number("temperature", temperature, at_least=_MIN_TEMPERATURE)
        self.normalise = normalise
        self.weight = nn.Parameter(torch.empty(shape.num_experts, dim))
        self.projection = nn.Parameter(torch.empty(dim, shape.hidden_size))
        self.log_temperature = nn.Parameter(torch.empty(1))

    def reset_parameters(self, std: float) -> None:
        """Draw embeddings and projection, whose lengths do not matter, and set the temperature."""
        nn.init.normal_(self.weight, std=std)
        nn.init.normal_(self.projection, std=std)
        nn.init.constant_(self.log_temperature, math.log(self.initial_temperature))

    def route(self, hidden: Tensor) -> RouterOutput:
        """Choose the K nearest experts."""
        temperature = full_precision(self.log_temperature).exp().clamp(min=_MIN_TEMPERATURE)
        logits = cosine_logits(F.linear(hidden, self.projection), self.weight, temperature)
        return route_topk_softmax(logits, self.top_k, normalise=self.normalise)

    def selection_rule(self) -> SelectionRule:
        """Softmax before the choice."""
        return SelectionRule(score="softmax", normalise=self.normalise)
