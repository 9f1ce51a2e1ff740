"""Noisy top-k: the router of the sparsely-gated mixture of experts.

Letters: T tokens, H hidden, E experts, K chosen.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hf_mixture.moe.anatomy import RouterOutput
from hf_mixture.moe.routers.base import LinearRouter, RouterShape, full_precision
from hf_mixture.moe.routers.losses import smooth_load
from hf_mixture.moe.routers.registry import register_router


def route_noisy_topk(
    logits: Tensor, top_k: int, *, spread: Tensor | None = None, noise: Tensor | None = None
) -> RouterOutput:
    """Choose the K largest noisy logits and weigh them by their softmax (https://arxiv.org/abs/1701.06538, eq. 3-5).

    H = z + noise * softplus(spread), w = softmax(KeepTopK(H, K)).

    Args:
        logits: Raw logits z [T, E].
        top_k: K.
        spread: What the softplus turns into the standard deviation of the noise [T, E].
        noise: Standard normal draws [T, E]; without them the choice is the plain one.

    Returns:
        The logits without noise, weights [T, K] and indices [T, K], largest first.
    """
    noisy = full_precision(logits)
    if spread is not None and noise is not None:
        noisy = noisy + noise * F.softplus(full_precision(spread))
    chosen, indices = torch.topk(noisy, top_k, dim=-1)
    return RouterOutput(logits, chosen.softmax(dim=-1), indices)


@register_router(
    "noisy_topk",
    causal=True,
    paper="https://arxiv.org/abs/1701.06538",
    summary="Top-k softmax of logits with learned Gaussian noise in training.",
)
class NoisyTopkRouter(LinearRouter):
    """Noisy top-k with a second matrix, `noise_weight` [E, H], for the spread of the noise. Evaluation has no noise.

    Args:
        shape: Numbers of experts, of hidden features and of choices.
        bias: Whether the logits have a bias.
    """

    def __init__(self, shape: RouterShape, *, bias: bool = False) -> None:
        super().__init__(shape, bias=bias)
        self.noise_weight = nn.Parameter(torch.empty(shape.num_experts, shape.hidden_size))
        # The load loss asks for it, and takes it after each forward.
        self.keeps_load = False
        self.load: Tensor | None = None

    def reset_parameters(self, std: float) -> None:
        """Draw the gate, and set the noise weight to zero as the paper does: a spread of log 2 for every expert."""
        super().reset_parameters(std)
        nn.init.zeros_(self.noise_weight)

    def route(self, hidden: Tensor) -> RouterOutput:
        """Choose the K largest logits, noisy in training."""
        logits = self.logits(hidden)
        if not self.training:
            return route_noisy_topk(logits, self.top_k)
        spread = F.linear(hidden, self.noise_weight)
        noise = torch.randn_like(full_precision(logits))
        if self.keeps_load:
            clean, std = full_precision(logits), F.softplus(full_precision(spread))
            self.load = smooth_load(clean, clean + noise * std, std, self.top_k)
        return route_noisy_topk(logits, self.top_k, spread=spread, noise=noise)
