"""MobileNetV2 as a backbone: transformers has the model, and no class of it for `AutoBackbone`."""

from __future__ import annotations

from typing import Any

from huggingface_hub.dataclasses import strict
from torch import Tensor
from transformers import MobileNetV2Config, MobileNetV2Model
from transformers.backbone_utils import BackboneConfigMixin, BackboneMixin
from transformers.modeling_outputs import BackboneOutput
from transformers.models.mobilenet_v2.modeling_mobilenet_v2 import MobileNetV2PreTrainedModel


# The last block of each resolution: 1/2, 1/4, 1/8, 1/16 and 1/32 of the image. None is what comes before the blocks.
_LAST_BLOCKS = (None, 1, 4, 11, 15)
STAGES = ("stem", *(f"stage{number}" for number in range(1, len(_LAST_BLOCKS))))


@strict
class MobileNetV2BackboneConfig(BackboneConfigMixin, MobileNetV2Config):
    """Configuration of `MobileNetV2Backbone`: that of MobileNetV2, and which stages it returns.

    Stages are `"stem"` and `"stage1"` to `"stage4"`, at 1/2, 1/4, 1/8, 1/16 and 1/32 of the image's sides.

    Example:
        >>> from hf_mixture.models.taskexpert.mobilenet_v2_backbone import MobileNetV2BackboneConfig
        >>> MobileNetV2BackboneConfig(out_indices=[1, 3]).out_features
        ['stage1', 'stage3']
    """

    model_type = "mobilenet_v2_backbone"
    _out_features: list[str] | None = None
    _out_indices: list[int] | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        self.stage_names = list(STAGES)
        self.set_output_features_output_indices(
            out_indices=kwargs.pop("out_indices", None), out_features=kwargs.pop("out_features", None)
        )
        super().__post_init__(**kwargs)


class MobileNetV2Backbone(BackboneMixin, MobileNetV2PreTrainedModel):
    """Feature maps of MobileNetV2 at several resolutions, for models that take any `AutoBackbone`.

    Args:
        config: The configuration.

    Example:
        >>> import torch
        >>> from transformers import AutoBackbone
        >>> from hf_mixture.models.taskexpert.mobilenet_v2_backbone import MobileNetV2BackboneConfig
        >>> backbone = AutoBackbone.from_config(MobileNetV2BackboneConfig(out_indices=[1, 2])).eval()
        >>> [tuple(maps.shape) for maps in backbone(torch.zeros(1, 3, 64, 64)).feature_maps]
        [(1, 24, 16, 16), (1, 32, 8, 8)]
    """

    config_class = MobileNetV2BackboneConfig
    has_attentions = False

    def __init__(self, config: MobileNetV2BackboneConfig) -> None:
        super().__init__(config)
        self.mobilenet_v2 = MobileNetV2Model(config, add_pooling_layer=False)
        first = self.mobilenet_v2.conv_stem.reduce_1x1.convolution.out_channels
        blocks = self.mobilenet_v2.layer
        self.num_features = [
            first if last is None else blocks[last].reduce_1x1.convolution.out_channels for last in _LAST_BLOCKS
        ]
        self.post_init()

    def forward(self, pixel_values: Tensor, **kwargs: Any) -> BackboneOutput:
        """Compute the maps.

        Args:
            pixel_values: Images [B, 3, H, W].
            kwargs: Not used.

        Returns:
            `feature_maps`, one for each stage of the configuration.
        """
        maps = [self.mobilenet_v2.conv_stem(pixel_values)]
        for block in self.mobilenet_v2.layer:
            maps.append(block(maps[-1]))
        by_stage = dict(zip(STAGES, (maps[0 if last is None else last + 1] for last in _LAST_BLOCKS), strict=True))
        return BackboneOutput(feature_maps=tuple(by_stage[stage] for stage in self.out_features))
