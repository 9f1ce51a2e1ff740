"""Convolution blocks, heads and gates of TaskExpert.

Letters: B images, E experts, D channels, h x w positions.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from transformers import initialization as init

from hf_mixture.models.taskexpert.configuration_taskexpert import TaskExpertConfig


# Channels of MLoRE's two pooled vectors, as a share of D.
_POOL_SHARE = 4


class ConvBlock(nn.Module):
    """Convolution, normalisation and GELU.

    Args:
        config: The configuration.
        in_channels: Channels of its input.
        out_channels: Channels of its output, of each copy.
        copies: Number of independent blocks that read the same input; their outputs lie one after another.
        kernel_size: Side of the convolution. Default: that of the configuration.
    """

    def __init__(
        self,
        config: TaskExpertConfig,
        in_channels: int,
        out_channels: int,
        *,
        copies: int = 1,
        kernel_size: int | None = None,
    ) -> None:
        super().__init__()
        side = kernel_size or config.kernel_size
        self.convolution = nn.Conv2d(in_channels, copies * out_channels, side, padding=side // 2, bias=False)
        self.normalization: nn.Module
        if config.norm == "batch":
            self.normalization = nn.BatchNorm2d(copies * out_channels)
        else:
            self.normalization = nn.GroupNorm(copies * math.gcd(out_channels, 8), copies * out_channels)
        self.activation = nn.GELU()

    def forward(self, features: Tensor) -> Tensor:
        """[B, C, h, w] to [B, copies * out_channels, h, w]."""
        normalised: Tensor = self.activation(self.normalization(self.convolution(features)))
        return normalised


class Head(nn.Module):
    """The head of a task: 3 x 3 convolution block, then 1 x 1 convolution.

    Args:
        config: The configuration.
        num_channels: Channels of the logits map.
    """

    def __init__(self, config: TaskExpertConfig, num_channels: int) -> None:
        super().__init__()
        self.block = ConvBlock(config, config.expert_size, config.expert_size, kernel_size=3)
        self.classifier = nn.Conv2d(config.expert_size, num_channels, 1)

    def forward(self, features: Tensor) -> Tensor:
        """[B, D, h, w] to logits [B, num_channels, h, w]."""
        logits: Tensor = self.classifier(self.block(features))
        return logits


class GateOutput(NamedTuple):
    """What a gate returns.

    Args:
        scores: Weights [B, E + 1] that sum to 1, the memory last.
        logits: What the image alone gives [B, E + 1].
    """

    scores: Tensor
    logits: Tensor


class Gate(nn.Module):
    """Softmax of a linear map of the mean features and the mean memory, over E experts and the memory.

    With `gate="batch_mean"`, the mean of the batch stands for each image in training, a running mean in evaluation.

    Args:
        config: The configuration.
    """

    running_mean: Tensor

    def __init__(self, config: TaskExpertConfig) -> None:
        super().__init__()
        self.is_constant = config.gate == "batch_mean"
        self.momentum = config.gate_momentum
        self.num_slots = config.num_experts + 1
        self._build_pool(config)
        if self.is_constant:
            self.register_buffer("running_mean", torch.full((self.num_slots,), 1 / self.num_slots))

    def _build_pool(self, config: TaskExpertConfig) -> None:
        self.classifier = nn.Linear(2 * config.expert_size, self.num_slots)

    def pool(self, features: Tensor, memory: Tensor) -> Tensor:
        """The context [B, 2 D] of features and memory [B, D, h, w]."""
        return torch.cat([features.mean(dim=(2, 3)), memory.mean(dim=(2, 3))], dim=1)

    def reset_running_mean(self) -> None:
        """Let the running mean begin at equal weights."""
        if self.is_constant:
            init.constant_(self.running_mean, 1 / self.num_slots)

    def forward(self, features: Tensor, memory: Tensor) -> GateOutput:
        """Weights for features and memory [B, D, h, w]."""
        logits = self.classifier(self.pool(features, memory)).float()
        scores = logits.softmax(dim=-1)
        if self.is_constant:
            scores = self._mean_of_batch(scores).expand_as(scores)
        return GateOutput(scores, logits)

    def _mean_of_batch(self, scores: Tensor) -> Tensor:
        if not self.training:
            return self.running_mean
        mean = scores.mean(dim=0)
        with torch.no_grad():
            self.running_mean.lerp_(mean.to(self.running_mean.dtype), self.momentum)
        return mean


class SpatialGate(Gate):
    """A gate that sees two poolings: a mean, and a learned combination of all positions, each of D / 4 channels.

    The router of MLoRE (arXiv 2403.17749), on features and memory beside each other.

    Args:
        config: The configuration.
    """

    def _build_pool(self, config: TaskExpertConfig) -> None:
        assert config.gate_grid is not None  # noqa: S101 - the configuration was checked
        width = config.expert_size // _POOL_SHARE
        self.grid = tuple(config.gate_grid)
        self.channels = nn.Conv2d(2 * config.expert_size, width, 1)
        self.positions = nn.Linear(math.prod(self.grid), 1)
        self.mean_channels = nn.Conv2d(2 * config.expert_size, width, 1)
        self.classifier = nn.Linear(2 * width, self.num_slots)

    def pool(self, features: Tensor, memory: Tensor) -> Tensor:
        """The context [B, D / 2] of features and memory [B, D, h, w]."""
        if tuple(features.shape[2:]) != self.grid:
            raise ValueError(
                f"the first level's map is {tuple(features.shape[2:])} and gate_grid={list(self.grid)}; resize the "
                'images, or use gate_pool="mean", which fits all sizes'
            )
        context = torch.cat([features, memory], dim=1)
        by_position = self.positions(self.channels(context).flatten(2)).squeeze(-1)
        by_mean = self.mean_channels(context.mean(dim=(2, 3), keepdim=True)).flatten(1)
        return torch.cat([by_position, by_mean], dim=1)


def build_gate(config: TaskExpertConfig) -> Gate:
    """Make the gate of one level and task.

    Args:
        config: The configuration.

    Returns:
        The gate.
    """
    return (SpatialGate if config.gate_pool == "spatial_linear" else Gate)(config)
