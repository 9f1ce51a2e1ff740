"""Backbones with trained weights: from folders, offline, and MobileNetV2, which transformers has no backbone of."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import tiny_taskexpert as tiny
import torch
from transformers import (
    AutoBackbone,
    AutoModel,
    BertConfig,
    Dinov2Model,
    MobileNetV2Config,
    MobileNetV2Model,
    ResNetBackbone,
    TimmBackboneConfig,
)

from hf_mixture import TaskExpertConfig, TaskExpertForMultiTaskVision
from hf_mixture.models.taskexpert.backbones import load_pretrained_backbone
from hf_mixture.models.taskexpert.mobilenet_v2_backbone import MobileNetV2BackboneConfig
from hf_mixture.training.mobilenet import load_mobilenet_backbone


@pytest.mark.slow
def test_a_backbone_on_disk_loads_offline_in_a_fresh_process(tmp_path: Path) -> None:
    backbone = ResNetBackbone(tiny.resnet()).eval()
    backbone.save_pretrained(tmp_path / "backbone")
    code = (
        "from hf_mixture import TaskExpertForMultiTaskVision\n"
        "import torch\n"
        "model = TaskExpertForMultiTaskVision.from_pretrained_backbone('backbone', tasks=['depth'], expert_size=8)\n"
        "maps = model.eval().backbone(torch.ones(1, 3, 32, 32)).feature_maps\n"
        "torch.save(list(maps), 'maps.pt')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = torch.load(tmp_path / "maps.pt", weights_only=True)
    for one, other in zip(found, backbone(torch.ones(1, 3, 32, 32)).feature_maps, strict=True):
        assert torch.equal(one, other)


def test_stages_are_chosen_and_the_whole_model_serves_as_well(tmp_path: Path) -> None:
    Dinov2Model(tiny.dinov2()).save_pretrained(tmp_path)
    model = TaskExpertForMultiTaskVision.from_pretrained_backbone(
        tmp_path, out_indices=[2, 3], tasks=["edges"], expert_size=8
    )
    assert len(model.levels) == 2
    saved = Dinov2Model.from_pretrained(tmp_path).state_dict()
    assert all(torch.equal(value, saved[name]) for name, value in model.backbone.state_dict().items())


@pytest.mark.parametrize(("name", "stages"), [("resnet18", [1, 2, 3, 4]), ("convnext_atto", [0, 1, 2, 3])])
def test_a_backbone_of_timm_comes_back(name: str, stages: list[int], tmp_path: Path) -> None:
    pytest.importorskip("timm")
    backbone = TimmBackboneConfig(backbone=name, use_pretrained_backbone=False, out_indices=stages)
    model = TaskExpertForMultiTaskVision(
        TaskExpertConfig(backbone_config=backbone, tasks=["depth", "edges"], expert_size=8)
    )
    model.save_pretrained(tmp_path)
    again = TaskExpertForMultiTaskVision.from_pretrained(tmp_path)
    pixels = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        found, expected = (one.eval()(pixel_values=pixels).logits for one in (again, model))
    assert set(found) == {"depth", "edges"}
    assert all(torch.equal(value, again.state_dict()[key]) for key, value in model.state_dict().items())
    # Loaded weights lie elsewhere in memory, which changes the last bit of a convolution.
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_a_model_type_that_is_no_backbone_is_refused(tmp_path: Path) -> None:
    BertConfig().save_pretrained(tmp_path)
    with pytest.raises(TypeError, match=r"is a 'bert', which is no backbone of transformers; .*dinov2"):
        load_pretrained_backbone(tmp_path)


def test_mobilenet_is_a_backbone_of_the_stock_model(tmp_path: Path) -> None:
    torch.manual_seed(0)
    stock = MobileNetV2Model(MobileNetV2Config(depth_multiplier=0.35)).eval()
    images = torch.randn(2, 3, 64, 64)
    backbone = AutoBackbone.from_config(
        MobileNetV2BackboneConfig(depth_multiplier=0.35, out_features=["stem", "stage1", "stage2", "stage3", "stage4"])
    ).eval()
    backbone.mobilenet_v2.load_state_dict(stock.state_dict())
    maps = backbone(images).feature_maps
    hidden = stock(images, output_hidden_states=True).hidden_states
    for found, place in zip(maps[1:], (1, 4, 11, 15), strict=True):
        assert torch.equal(found, hidden[place])
    assert [tuple(found.shape[2:]) for found in maps] == [(32, 32), (16, 16), (8, 8), (4, 4), (2, 2)]
    assert backbone.channels == [found.shape[1] for found in maps]
    backbone.save_pretrained(tmp_path)
    again = load_pretrained_backbone(tmp_path, out_indices=[2]).eval()
    assert torch.equal(again(images).feature_maps[0], maps[2])


@pytest.mark.slow
def test_a_model_on_a_real_pretrained_backbone_comes_back_bit_by_bit(tmp_path: Path) -> None:
    try:
        load_mobilenet_backbone().save_pretrained(tmp_path / "backbone")
    except ValueError as error:
        pytest.skip(str(error))
    model = TaskExpertForMultiTaskVision.from_pretrained_backbone(
        tmp_path / "backbone", tasks=["depth", "semseg"], num_semseg_labels=5, expert_size=16
    )
    trained, fresh = model.backbone.state_dict(), load_mobilenet_backbone().state_dict()
    assert all(torch.equal(value, fresh[name]) for name, value in trained.items())
    model.save_pretrained(tmp_path / "model")
    again = AutoModel.from_pretrained(tmp_path / "model")
    images = torch.randn(1, 3, 64, 64)
    assert torch.equal(again(images).logits["depth"], model.eval()(images).logits["depth"])


def test_a_backbone_in_half_precision_makes_a_model_in_half_precision(tmp_path: Path) -> None:
    AutoBackbone.from_config(tiny.resnet()).bfloat16().save_pretrained(tmp_path)
    fields = {"tasks": ["depth"], "expert_size": 8, "num_experts": 2}
    model = TaskExpertForMultiTaskVision.from_pretrained_backbone(tmp_path, **fields)
    out = model.eval()(tiny.images(2).bfloat16())
    assert out.logits["depth"].dtype == torch.bfloat16
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
