"""Tiny sparse models, quantised and not, for tests of nested planes."""

from __future__ import annotations

import copy
from functools import cache
from typing import Any

import torch
from moe_families import build_tiny_moe
from transformers import PreTrainedModel

from hf_mixture.moe.mwq.bit_policy import BitPolicy, Choice
from hf_mixture.moe.mwq.config import MwqConfig
from hf_mixture.moe.mwq.planes import NestedPlanes
from hf_mixture.moe.mwq.quantise import quantise_experts
from hf_mixture.moe.mwq.targets import nested_experts


CONFIG = {"widths": (2, 3, 4), "group_size": 16}


@cache
def _full() -> Any:
    return build_tiny_moe("mixtral", hidden_size=32, intermediate_size=32, num_experts=8)


def full_model() -> PreTrainedModel:
    """A Mixtral of a few layers with 8 experts, top 2."""
    return copy.deepcopy(_full().model)


def inputs() -> dict[str, torch.Tensor]:
    """Two rows of text for it, the second with padding."""
    return dict(_full().inputs)


def nested_model(**options: Any) -> PreTrainedModel:
    """The same model, quantised."""
    model = full_model()
    quantise_experts(model, MwqConfig(**{**CONFIG, **options}))
    return model


def logits(model: Any) -> torch.Tensor:
    """What a model answers, without gradients."""
    with torch.no_grad():
        return model(**inputs()).logits


def slow_weight(planes: NestedPlanes, width: int) -> torch.Tensor:
    """A weight of planes [R, ...] at a width, number by number as the formula says."""
    level = planes.widths.index(width)
    num_bits, rows, packed = planes.base.shape
    weight = torch.zeros(rows, 8 * packed)
    for row in range(rows):
        for column in range(8 * packed):
            byte, bit = divmod(column, 8)
            group = column // planes.group_size
            code = sum(((int(planes.base[k, row, byte]) >> bit) & 1) << k for k in range(num_bits))
            value = float(planes.offset[row, group]) + float(planes.scales[0][row, group]) * code
            for step in range(level):
                sign = 1 if (int(planes.signs[step][row, byte]) >> bit) & 1 else -1
                value += float(planes.scales[step + 1][row, group]) * sign
            weight[row, column] = value
    return weight


class ByValue(BitPolicy):
    """A policy for tests: the width depends on the token and its expert, and on nothing else."""

    def forward(self, hidden: torch.Tensor, top_k_index: torch.Tensor, top_k_weights: torch.Tensor) -> Choice:
        token = (hidden.double().abs().sum(-1, keepdim=True) * 1e3).long()
        return Choice(top_k_index, (token + top_k_index) % len(self.widths), top_k_weights)


def mix_widths(model: PreTrainedModel) -> PreTrainedModel:
    """Let every token have a width of its own in every expert."""
    for module in nested_experts(model).values():
        module.mwq_policy = ByValue(module.mwq_widths)
    return model
