"""Attribute-level routing of Uni-Perceiver-MoE: a token's attributes, not its content, decide on its experts.

Letters: T tokens, E experts, K chosen, H hidden.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hf_mixture.moe.anatomy import RouterOutput
from hf_mixture.moe.routers.allowed import route_allowed
from hf_mixture.moe.routers.base import RegistryRouter, RouterShape, full_precision
from hf_mixture.moe.routers.registry import register_router


ATTRIBUTE_KEY = "attributes"
NUM_ATTRIBUTES = 8


def attribute_logits(
    attributes: Tensor, *, weight: Tensor, bias: Tensor, norm: Tensor, shift: Tensor, gate: Tensor
) -> Tensor:
    """Logits from attributes: z = W_g LayerNorm(W c + b) (https://arxiv.org/abs/2206.04674, section 3.3).

    Args:
        attributes: Binary vectors c [T, 8]: bits 0 to 5 the modalities of the task and of the token, 6 whether
            attention is causal, 7 where the token comes from.
        weight: W [H, 8].
        bias: b [H].
        norm: Scale of the layer norm [H].
        shift: Shift of the layer norm [H].
        gate: W_g [E, H].

    Returns:
        Raw logits [T, E].
    """
    embedded = F.linear(attributes.to(weight.dtype), weight, bias)
    return F.linear(F.layer_norm(embedded, norm.shape, norm, shift), gate)


@register_router(
    "attribute",
    causal=True,
    context=(ATTRIBUTE_KEY,),
    paper="https://arxiv.org/abs/2206.04674",
    summary="The K best experts for a binary vector of eight attributes of the token (Uni-Perceiver-MoE).",
)
class AttributeRouter(RegistryRouter):
    """Experts by `attributes` of the batch, 8 bits for each sequence [B, 8] or token [B, S, 8].

    Tokens with the same attributes go to the same experts, whatever they say. The weights are a softmax over all
    experts, divided by their sum if K > 1.

    Args:
        shape: Numbers of experts, of hidden features and of choices.
    """

    def __init__(self, shape: RouterShape) -> None:
        super().__init__(shape)
        self.embedding_weight = nn.Parameter(torch.empty(shape.hidden_size, NUM_ATTRIBUTES))
        self.embedding_bias = nn.Parameter(torch.empty(shape.hidden_size))
        self.norm_weight = nn.Parameter(torch.empty(shape.hidden_size))
        self.norm_bias = nn.Parameter(torch.empty(shape.hidden_size))
        self.weight = nn.Parameter(torch.empty(shape.num_experts, shape.hidden_size))

    def reset_parameters(self, std: float) -> None:
        """Draw the matrices from normal distributions; the layer norm starts as one.

        The embedding has a standard deviation of 1, as its scale is lost in the layer norm.
        """
        nn.init.normal_(self.embedding_weight)
        nn.init.zeros_(self.embedding_bias)
        nn.init.ones_(self.norm_weight)
        nn.init.zeros_(self.norm_bias)
        nn.init.normal_(self.weight, std=std)

    def route(self, hidden: Tensor) -> RouterOutput:
        """Choose by the attributes of each token."""
        assert self.context is not None  # noqa: S101 - the entry asks for one
        attributes = self.context.per_token(ATTRIBUTE_KEY, len(hidden), num_features=1)
        _check_attributes(attributes)
        logits = attribute_logits(
            attributes,
            weight=self.embedding_weight,
            bias=self.embedding_bias,
            norm=self.norm_weight,
            shift=self.norm_bias,
            gate=self.weight,
        )
        return route_allowed(full_precision(logits), torch.ones_like(logits, dtype=torch.bool), self.top_k)


def _check_attributes(attributes: Tensor) -> None:
    if attributes.shape[1] != NUM_ATTRIBUTES:
        raise ValueError(
            f"{ATTRIBUTE_KEY!r} has {attributes.shape[1]} entries for each token and must have {NUM_ATTRIBUTES}; give "
            "eight bits for each sequence or token"
        )
    if not torch.compiler.is_compiling() and bool(((attributes != 0) & (attributes != 1)).any()):
        raise ValueError(
            f"{ATTRIBUTE_KEY!r} has entries other than 0 and 1; give eight bits for each sequence or token"
        )
