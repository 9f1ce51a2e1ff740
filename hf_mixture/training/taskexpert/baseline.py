"""A decoder without experts: one trunk that all tasks share, with as many parameters as experts, gates and memory.

Letters: B images, L levels, D channels of a level, W channels inside, h x w positions.
"""

from __future__ import annotations

from torch import Tensor, nn

from hf_mixture.models.taskexpert.configuration_taskexpert import TaskExpertConfig
from hf_mixture.models.taskexpert.layers import ConvBlock
from hf_mixture.models.taskexpert.modeling_taskexpert import TaskExpertForMultiTaskVision


class SharedTrunkForMultiTaskVision(TaskExpertForMultiTaskVision):
    """Backbone and heads of a TaskExpert; each level is two convolution blocks, and the levels are added up.

    Args:
        config: The configuration of the TaskExpert to compare with.
        width: W.
    """

    def __init__(self, config: TaskExpertConfig, width: int) -> None:
        super().__init__(config)
        del self.levels, self.first_memory
        size = config.expert_size
        self.trunk = nn.ModuleList(
            nn.Sequential(ConvBlock(config, size, width), ConvBlock(config, width, size)) for _ in self.projections
        )
        for module in self.trunk.modules():
            self._init_weights(module)

    def decode(self, feature_maps: tuple[Tensor, ...]) -> tuple[dict[str, Tensor], None, None]:
        """Pass the feature maps of the backbone through the trunk; all tasks get its result."""
        grid = feature_maps[0].shape[2:]
        levels = [
            block(nn.functional.interpolate(projection(features), size=grid, mode="bilinear", align_corners=False))
            for projection, block, features in zip(self.projections, self.trunk, feature_maps, strict=True)
        ]
        shared = sum(levels[1:], levels[0])
        return dict.fromkeys(self.config.tasks, shared), None, None


def matched_width(config: TaskExpertConfig) -> int:
    """The width with which a shared trunk has the number of parameters that is nearest to that of a TaskExpert.

    Args:
        config: The configuration of the TaskExpert.

    Returns:
        W, at least 1.
    """
    wanted = TaskExpertForMultiTaskVision(config).num_parameters()
    one, two = (SharedTrunkForMultiTaskVision(config, width).num_parameters() for width in (1, 2))
    # The number of parameters is linear in the width.
    return max(1, round(1 + (wanted - one) / (two - one)))
