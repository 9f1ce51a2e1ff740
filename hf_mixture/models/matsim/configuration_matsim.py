"""Configuration of MatSim."""

from __future__ import annotations

from typing import Any, Literal

from huggingface_hub.dataclasses import strict
from transformers import AutoConfig, PreTrainedConfig


# RGB and the mask.
NUM_CHANNELS = 4
# ConvNeXt-Base, the published backbone.
_BASE = {"model_type": "convnext", "depths": [3, 3, 27, 3], "hidden_sizes": [128, 256, 512, 1024]}


@strict
class MatSimConfig(PreTrainedConfig):
    """What makes a MatSim encoder: a vision backbone with four input channels, and its objective (arXiv 2212.00648).

    Args:
        backbone_config: Configuration of the backbone with `num_channels=4`: ConvNeXt, DINOv2 or another vision model
            of transformers. Default: ConvNeXt-Base, as published.
        embedding_size: D, size of the embeddings, at least 1.
        feature_size: Size of the pooled output of the backbone. Default: as its configuration says.
        objective: `"ranking"`, the margin-gated ranking loss; or `"info_nce"` on hard labels, for comparison.
        margin_mode: Margin of `"ranking"`: `"symmetric"`, or `"reference"` as the published code has it.
        temperature: T of the loss, above 0.
        freeze_batch_norm: Whether batch normalisation of the backbone keeps its statistics in training: a few material
            sets are no sample of all images.
        gather_across_processes: Whether images of all processes are compared with one another in the loss.

    Example:
        >>> from transformers import ConvNextConfig
        >>> from hf_mixture import MatSimConfig
        >>> backbone = ConvNextConfig(num_channels=4, depths=[1, 1, 1, 1], hidden_sizes=[8, 16, 24, 32])
        >>> MatSimConfig(backbone_config=backbone, embedding_size=16).size_of_features
        32
    """

    model_type = "matsim"
    sub_configs = {"backbone_config": AutoConfig}  # noqa: RUF012 - an attribute of transformers
    keys_to_ignore_at_inference = ["num_terms"]  # noqa: RUF012

    backbone_config: dict[str, Any] | PreTrainedConfig | None = None
    embedding_size: int = 512
    feature_size: int | None = None
    objective: Literal["ranking", "info_nce"] = "ranking"
    margin_mode: Literal["symmetric", "reference"] = "symmetric"
    temperature: float = 0.2
    freeze_batch_norm: bool = True
    gather_across_processes: bool = False

    def __post_init__(self, **kwargs: Any) -> None:
        if self.backbone_config is None:
            self.backbone_config = {**_BASE, "num_channels": NUM_CHANNELS}
        if isinstance(self.backbone_config, dict):
            fields = dict(self.backbone_config)
            self.backbone_config = AutoConfig.for_model(fields.pop("model_type"), **fields)
        super().__post_init__(**kwargs)

    def check_sizes(self) -> None:
        """Check what a model needs of its configuration.

        Raises:
            ValueError: If a value is out of its range, or the backbone does not take four channels.
        """
        if self.embedding_size < 1:
            raise ValueError(f"embedding_size={self.embedding_size} must be at least 1; raise it")
        if not self.temperature > 0:
            raise ValueError(f"temperature={self.temperature} must be above 0; raise it")
        channels = getattr(self.backbone_config, "num_channels", None)
        if channels != NUM_CHANNELS:
            raise ValueError(
                f"backbone_config.num_channels={channels} must be {NUM_CHANNELS}, RGB and the mask; set it, or widen "
                "a pretrained model with MatSimModel.from_backbone"
            )
        _ = self.size_of_features

    @property
    def size_of_features(self) -> int:
        """Size of the pooled output of the backbone.

        Raises:
            ValueError: If `feature_size` is not given and the backbone's configuration does not say.
        """
        if self.feature_size is not None:
            return self.feature_size
        backbone: Any = self.backbone_config
        if backbone.model_type == "mobilenet_v2":
            from transformers.models.mobilenet_v2.modeling_mobilenet_v2 import apply_depth_multiplier

            narrow = backbone.finegrained_output and backbone.depth_multiplier < 1.0
            return 1280 if narrow else int(apply_depth_multiplier(backbone, 1280))
        sizes = getattr(backbone, "hidden_sizes", None) or [getattr(backbone, "hidden_size", None)]
        if sizes[-1] is None:
            raise ValueError(
                f"feature_size=None, and the configuration of {backbone.model_type!r} has no hidden_size or "
                "hidden_sizes; give feature_size, the size of its pooled output"
            )
        return int(sizes[-1])
