"""The memorial mixture of experts: one level of TaskExpert.

X_e = f_e(F): E task-generic expert maps of one feature map F.
g_t = softmax(gate_t([pool F ; pool M_t])): E + 1 weights for each image and task, not for each position.
Z_t = sum_e g_te X_e + g_t,E+1 M_t: the memory of the task is one more expert.
M_t <- Update_t(Z_t, M_t).

Letters: B images, T tasks, E experts, D channels, h x w positions.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn

from hf_mixture.models.taskexpert.configuration_taskexpert import TaskExpertConfig
from hf_mixture.models.taskexpert.layers import ConvBlock, build_gate


class LevelOutput(NamedTuple):
    """What one level returns.

    Args:
        memory: The new memory [B, D, h, w] of each task.
        assembled: Z [B, D, h, w] of each task.
        gate_scores: g [B, T, E + 1].
        gate_logits: Logits of the gates [B, T, E + 1].
    """

    memory: dict[str, Tensor]
    assembled: dict[str, Tensor]
    gate_scores: Tensor
    gate_logits: Tensor


def assemble(experts: Tensor, memory: Tensor, scores: Tensor) -> Tensor:
    """Mix expert maps and memories: Z_t = sum_e g_te X_e + g_t,E+1 M_t.

    Args:
        experts: X [B, E, D, h, w].
        memory: M [B, T, D, h, w].
        scores: g [B, T, E + 1], the memory last.

    Returns:
        Z [B, T, D, h, w].

    Example:
        >>> import torch
        >>> from hf_mixture.models.taskexpert.mixture import assemble
        >>> experts, memory = torch.full((1, 2, 3, 4, 4), 1.0), torch.full((1, 1, 3, 4, 4), 5.0)
        >>> assemble(experts, memory, torch.tensor([[[0.25, 0.25, 0.5]]])).unique()
        tensor([3.])
    """
    of_experts = torch.bmm(scores[..., :-1], experts.flatten(2)).unflatten(2, experts.shape[2:])
    return of_experts + scores[..., -1, None, None, None] * memory


class MemorialMixture(nn.Module):
    """One level: experts, a gate for each task, and the update of each task's memory.

    Args:
        config: The configuration.
    """

    def __init__(self, config: TaskExpertConfig) -> None:
        super().__init__()
        self.num_experts = config.num_experts
        self.is_residual = config.memory_update == "residual"
        # One convolution of E times as many channels is E convolutions.
        self.experts = ConvBlock(config, config.expert_size, config.expert_size, copies=config.num_experts)
        self.gates = nn.ModuleDict({task: build_gate(config) for task in config.tasks})
        self.updates = nn.ModuleDict(
            {task: ConvBlock(config, config.expert_size, config.expert_size) for task in config.tasks}
        )

    def expert_maps(self, features: Tensor) -> Tensor:
        """X [B, E, D, h, w] of the features [B, D, h, w] of a level."""
        return self.experts(features).unflatten(1, (self.num_experts, -1))

    def forward(self, features: Tensor, memory: Mapping[str, Tensor]) -> LevelOutput:
        """Assemble the experts for each task and write its memory.

        Args:
            features: Projected features of the level [B, D, h, w].
            memory: Memory of each task [B, D, h, w].

        Returns:
            The new memory, and how it came about.
        """
        gates = {task: gate(features, memory[task]) for task, gate in self.gates.items()}
        scores = torch.stack([gate.scores for gate in gates.values()], dim=1)
        stacked = torch.stack([memory[task] for task in gates], dim=1)
        mixed = assemble(self.expert_maps(features), stacked, scores.to(stacked.dtype))
        assembled = dict(zip(gates, mixed.unbind(1), strict=True))
        written = {task: self.updates[task](assembled[task]) for task in gates}
        if self.is_residual:
            written = {task: memory[task] + values for task, values in written.items()}
        return LevelOutput(written, assembled, scores, torch.stack([gate.logits for gate in gates.values()], dim=1))
