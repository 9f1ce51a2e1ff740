"""Configuration of residual networks that pool where a path says."""

from __future__ import annotations

from typing import Any, Literal

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig
from transformers.backbone_utils import BackboneConfigMixin

from hf_mixture.models.pooling_supernet.paths import check_path, layers_of


# Published networks for small images: widths of the stem and of the blocks.
_NETWORKS: dict[str, dict[str, Any]] = {
    "resnet20": {"layer_type": "basic", "layer_widths": [16] * 4 + [32] * 3 + [64] * 3},
    "resnet18": {"layer_type": "basic", "layer_widths": [64] * 3 + [128] * 2 + [256] * 2 + [512] * 2},
    "resnet50": {
        "layer_type": "bottleneck",
        "layer_widths": [64] + [256] * 3 + [512] * 4 + [1024] * 6 + [2048] * 3,
    },
}


@strict
class PoolingResNetConfig(BackboneConfigMixin, PreTrainedConfig):
    """A residual network whose pooling positions are free, and its widths fixed (arXiv 2306.11982).

    Args:
        num_channels: Channels of an image.
        layer_widths: Channels that each of the L layers puts out; the first is the stem, a convolution, the others are
            residual blocks. Default: those of ResNet-20.
        pooling_path: L zeros and ones: a 1 halves the feature map, by max-pooling, before its layer; the first is 0.
            Default: a 1 wherever a block is wider than the one before, as residual networks have it.
        layer_type: `"basic"`, two 3 x 3 convolutions; or `"bottleneck"`, whose inner width is a quarter.
        norm_affine: Whether batch normalisation has weights and biases. Default: no, as published.
        track_running_stats: Whether batch normalisation keeps running statistics for evaluation. Default: no, as
            published: predictions depend on the images they are made with. Needed to predict single images.
        out_features: Layers that the backbone returns: of `"stem"`, `"layer1"` and so on. Default: the last.
        out_indices: The same by index.

    Example:
        >>> from hf_mixture import PoolingResNetConfig
        >>> PoolingResNetConfig().layers_of_scales
        (4, 3, 3)
        >>> config = PoolingResNetConfig.network("resnet18", pooling_path=[0, 1, 0, 1, 0, 0, 0, 1, 0], num_labels=10)
        >>> config.num_scales, config.stage_names[-1]
        (4, 'layer8')
    """

    model_type = "pooling_resnet"

    num_channels: int = 3
    layer_widths: list[int] | tuple[int, ...] = (16,) * 4 + (32,) * 3 + (64,) * 3
    pooling_path: list[int] | tuple[int, ...] | None = None
    layer_type: Literal["basic", "bottleneck"] = "basic"
    norm_affine: bool = False
    track_running_stats: bool = False

    def __post_init__(self, **kwargs: Any) -> None:
        self.layer_widths = list(self.layer_widths)
        if self.pooling_path is None:
            widths = self.layer_widths
            # The stem of a bottleneck network is narrower than its first block, which is no reason to pool.
            first = 2 if self.layer_type == "bottleneck" else 1
            self.pooling_path = [int(i >= first and w > widths[i - 1]) for i, w in enumerate(widths)]
        self.pooling_path = list(self.pooling_path)
        self.stage_names = ["stem", *(f"layer{number}" for number in range(1, len(self.layer_widths)))]
        self.set_output_features_output_indices(
            out_features=kwargs.pop("out_features", None), out_indices=kwargs.pop("out_indices", None)
        )
        super().__post_init__(**kwargs)

    @classmethod
    def network(cls, name: str, **fields: Any) -> PoolingResNetConfig:
        """Make the configuration of a published network for small images.

        Args:
            name: `"resnet20"` (10 layers), `"resnet18"` (9) or `"resnet50"` (17).
            fields: Other fields of the configuration.

        Returns:
            The configuration.

        Raises:
            ValueError: There is no such network.
        """
        if name not in _NETWORKS:
            raise ValueError(f"name={name!r} is no network; the networks are {', '.join(_NETWORKS)}")
        return cls(**_NETWORKS[name] | fields)

    @property
    def num_layers(self) -> int:
        """L, the stem counted."""
        return len(self.layer_widths)

    @property
    def num_scales(self) -> int:
        """Number of resolutions."""
        return 1 + sum(self.pooling_path or ())

    @property
    def layers_of_scales(self) -> tuple[int, ...]:
        """Number of layers at each resolution."""
        return layers_of(self.pooling_path or ())

    def check(self) -> None:
        """Check what a model needs of its configuration.

        Raises:
            ValueError: A value is out of its range or does not fit the others.
        """
        if self.num_channels < 1:
            raise ValueError(f"num_channels={self.num_channels} must be at least 1; raise it")
        if not self.layer_widths or min(self.layer_widths) < 1:
            raise ValueError(f"layer_widths={self.layer_widths} must be widths of at least 1, one for each layer")
        if self.layer_type == "bottleneck" and any(width % 4 for width in self.layer_widths[1:]):
            raise ValueError(
                f"layer_widths={self.layer_widths} must be multiples of 4 after the first with layer_type="
                "'bottleneck', whose inner width is a quarter"
            )
        if self.num_labels < 2:
            raise ValueError(f"num_labels={self.num_labels} must be at least 2; raise it")
        check_path(self.pooling_path or (), self.num_layers)
