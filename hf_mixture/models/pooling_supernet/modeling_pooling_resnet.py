"""Residual networks that pool where a path says: a backbone and an image classifier.

Letters: B images, C channels, H height, W width, L layers, K classes.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.backbone_utils import BackboneMixin, filter_output_hidden_states
from transformers.modeling_outputs import BackboneOutput, ImageClassifierOutputWithNoAttention
from transformers.utils.generic import can_return_tuple

from hf_mixture.models.pooling_supernet.checks import check_images
from hf_mixture.models.pooling_supernet.configuration_pooling_resnet import PoolingResNetConfig


class _ConvNorm(nn.Sequential):
    """A convolution of stride 1 and batch normalisation."""

    def __init__(self, config: PoolingResNetConfig, in_width: int, out_width: int, kernel_size: int) -> None:
        super().__init__(
            nn.Conv2d(in_width, out_width, kernel_size, padding=kernel_size // 2, bias=False),
            nn.BatchNorm2d(out_width, affine=config.norm_affine, track_running_stats=config.track_running_stats),
        )


class _Stem(_ConvNorm):
    """The first layer."""

    def __init__(self, config: PoolingResNetConfig) -> None:
        super().__init__(config, config.num_channels, config.layer_widths[0], 3)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(super().forward(x))


class _Block(nn.Module):
    """A residual block; the shortcut is a convolution only where the width changes."""

    def __init__(self, config: PoolingResNetConfig, in_width: int, out_width: int) -> None:
        super().__init__()
        inner = out_width if config.layer_type == "basic" else out_width // 4
        sizes = [(in_width, inner, 3), (inner, inner, 3)]
        if config.layer_type == "bottleneck":
            sizes = [(in_width, inner, 1), (inner, inner, 3), (inner, out_width, 1)]
        self.convolutions = nn.ModuleList(_ConvNorm(config, *size) for size in sizes)
        self.shortcut = _ConvNorm(config, in_width, out_width, 1) if in_width != out_width else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        y = x
        for number, convolution in enumerate(self.convolutions):
            y = convolution(F.relu(y) if number else y)
        return F.relu(y + self.shortcut(x))


class PoolingResNetPreTrainedModel(PreTrainedModel):
    """What the backbone and the classifier share."""

    config_class = PoolingResNetConfig
    base_model_prefix = "backbone"
    main_input_name = "pixel_values"
    input_modalities = ("image",)
    _no_split_modules = ["_Block"]  # noqa: RUF012 - an attribute of transformers
    # The loss is a mean over images, which the Trainer divides by its accumulation steps.
    accepts_loss_kwargs = False

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.Conv2d):
            init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(module, nn.Linear):
            bound = 1 / math.sqrt(module.in_features)
            init.uniform_(module.weight, -bound, bound)
            init.uniform_(module.bias, -bound, bound)
        elif isinstance(module, nn.BatchNorm2d):
            if module.affine:
                init.ones_(module.weight)
                init.zeros_(module.bias)
            if module.track_running_stats:
                init.zeros_(module.running_mean)
                init.ones_(module.running_var)
                init.zeros_(module.num_batches_tracked)


class PoolingResNetBackbone(BackboneMixin, PoolingResNetPreTrainedModel):
    """A residual network whose feature maps are halved where the path says (arXiv 2306.11982).

    Where `pooling_path` has a 1, a max-pooling of 2 x 2 precedes the layer; all convolutions have stride 1, and widths
    do not depend on the path.

    Args:
        config: The configuration.

    Example:
        >>> import torch
        >>> from hf_mixture import PoolingResNetBackbone, PoolingResNetConfig
        >>> config = PoolingResNetConfig(out_features=["layer3", "layer9"])
        >>> maps = PoolingResNetBackbone(config)(torch.randn(2, 3, 32, 32)).feature_maps
        >>> [tuple(feature_map.shape) for feature_map in maps]
        [(2, 16, 32, 32), (2, 64, 8, 8)]
    """

    has_attentions = False

    def __init__(self, config: PoolingResNetConfig) -> None:
        config.check()
        super().__init__(config)
        widths = config.layer_widths
        self.num_features = list(widths)
        blocks = [_Block(config, before, after) for before, after in itertools.pairwise(widths)]
        self.layers = nn.ModuleList([_Stem(config), *blocks])
        self.post_init()

    def hidden_states(self, pixel_values: Tensor, path: Sequence[int] | None = None) -> list[Tensor]:
        """Compute what every layer puts out.

        Args:
            pixel_values: Images [B, C, H, W].
            path: Another path than that of the configuration [L].

        Returns:
            L maps [B, width, h, w].
        """
        x, states = pixel_values, []
        for layer, pools in zip(self.layers, path or self.config.pooling_path, strict=True):
            x = layer(halve(x) if pools else x)
            states.append(x)
        return states

    @can_return_tuple
    @filter_output_hidden_states
    def forward(self, pixel_values: Tensor, output_hidden_states: bool | None = None, **kwargs: Any) -> BackboneOutput:
        """Compute the feature maps of the layers `config.out_features`.

        Args:
            pixel_values: Images [B, C, H, W].
            output_hidden_states: Whether to return what every layer puts out.
            kwargs: `return_dict`, as every backbone takes it.

        Returns:
            The maps.

        Raises:
            ValueError: The images do not fit the network, or are not finite.
        """
        check_images(
            pixel_values,
            None,
            num_channels=self.config.num_channels,
            num_labels=self.config.num_labels,
            least_size=2 ** (self.config.num_scales - 1),
        )
        states = self.hidden_states(pixel_values)
        maps = tuple(state for state, name in zip(states, self.stage_names, strict=True) if name in self.out_features)
        return BackboneOutput(feature_maps=maps, hidden_states=tuple(states) if output_hidden_states else None)


class PoolingResNetForImageClassification(PoolingResNetPreTrainedModel):
    """A `PoolingResNetBackbone`, the mean of its last map, and a linear layer (arXiv 2306.11982).

    Args:
        config: The configuration, with `num_labels`.

    Example:
        >>> import torch
        >>> from hf_mixture import PoolingResNetConfig, PoolingResNetForImageClassification
        >>> config = PoolingResNetConfig(num_channels=1, layer_widths=[4, 4, 8], pooling_path=[0, 0, 1], num_labels=10)
        >>> model = PoolingResNetForImageClassification(config)
        >>> out = model(torch.randn(5, 1, 8, 8), labels=torch.arange(5))
        >>> tuple(out.logits.shape), out.loss.dim()
        ((5, 10), 0)
    """

    def __init__(self, config: PoolingResNetConfig) -> None:
        super().__init__(config)
        self.num_labels = config.num_labels
        self.backbone = PoolingResNetBackbone(config)
        self.classifier = nn.Linear(config.layer_widths[-1], config.num_labels)
        self.post_init()

    def classify(self, last_state: Tensor) -> Tensor:
        """Compute the logits of the last map.

        Args:
            last_state: What the last layer puts out [B, width, h, w].

        Returns:
            Logits [B, K].
        """
        return self.classifier(last_state.mean(dim=(2, 3)))

    @can_return_tuple
    def forward(
        self,
        pixel_values: Tensor,
        labels: Tensor | None = None,
        output_hidden_states: bool | None = None,
        **kwargs: Any,
    ) -> ImageClassifierOutputWithNoAttention:
        """Classify images.

        Args:
            pixel_values: Images [B, C, H, W].
            labels: Classes [B], for the loss, a cross-entropy.
            output_hidden_states: Whether to return what every layer puts out.
            kwargs: `return_dict`, as every model takes it.

        Returns:
            Loss and logits [B, K].

        Raises:
            ValueError: Images or labels do not fit the network or each other, or are not finite.
        """
        check_images(
            pixel_values,
            labels,
            num_channels=self.config.num_channels,
            num_labels=self.num_labels,
            least_size=2 ** (self.config.num_scales - 1),
        )
        states = self.backbone.hidden_states(pixel_values)
        logits = self.classify(states[-1])
        return ImageClassifierOutputWithNoAttention(
            loss=None if labels is None else F.cross_entropy(logits.float(), labels.long()),
            logits=logits,
            hidden_states=tuple(states) if output_hidden_states else None,
        )


def halve(x: Tensor) -> Tensor:
    """Halve a feature map by max-pooling of 2 x 2.

    Args:
        x: The map [B, width, h, w].

    Returns:
        The map [B, width, h // 2, w // 2].
    """
    return F.max_pool2d(x, 2)
