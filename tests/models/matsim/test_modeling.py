"""The MatSim model: the mask channel, saving and loading, the pipeline, labels that do not fit."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_matsim import material_rows, tiny_backbone, tiny_matsim
from transformers import (
    AutoImageProcessor,
    AutoModel,
    ConvNextConfig,
    Dinov2Config,
    MobileNetV2Config,
    PreTrainedModel,
    ResNetConfig,
    SwinConfig,
    ViTConfig,
    pipeline,
)

from hf_mixture import MatSimConfig, MatSimImageProcessor, MatSimModel, widen_patch_embedding
from hf_mixture.models.matsim.widening import first_convolution


SMALL = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 32, "patch_size": 8}
BACKBONES = {
    "convnext": ConvNextConfig(depths=[1, 1, 1, 1], hidden_sizes=[8, 8, 16, 24]),
    "dinov2": Dinov2Config(**SMALL),
    "mobilenet_v2": MobileNetV2Config(depth_multiplier=0.35, image_size=32, initializer_range=0.3),
    "resnet": ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1]),
    "vit": ViTConfig(**SMALL, intermediate_size=16),
    "swin": SwinConfig(image_size=32, embed_dim=8, depths=[1, 1], num_heads=[1, 1], window_size=4),
}


def narrow_backbone(name: str) -> PreTrainedModel:
    return AutoModel.from_config(copy.deepcopy(BACKBONES[name]))


@pytest.mark.parametrize("name", BACKBONES)
def test_a_widened_backbone_computes_what_it_did_with_any_mask_until_one_step(name: str) -> None:
    torch.manual_seed(0)
    narrow = narrow_backbone(name).double().eval()
    pixels = torch.rand(3, 3, 32, 32, dtype=torch.float64)
    masks = [torch.randint(0, 2, (3, 1, 32, 32)).double() for _ in range(2)]
    with torch.no_grad():
        expected = narrow(pixels).pooler_output.flatten(1)
    model = MatSimModel.from_backbone(narrow, embedding_size=8).eval()
    assert model.dtype == torch.float64
    outs = [model(torch.cat([pixels, mask], dim=1)) for mask in masks]
    for out in outs:
        torch.testing.assert_close(out.pooler_output, expected, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(out.image_embeds.norm(dim=-1), torch.ones(3, dtype=torch.float64))
    # Adding exact zeros changes no bit.
    assert torch.equal(outs[0].image_embeds, outs[1].image_embeds)

    model.train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    labels = {"set_ids": torch.tensor([0, 0, 1]), "ratios": torch.tensor([0.0, 0.0, 0.0])}
    model(torch.cat([pixels, masks[0]], dim=1), **labels).loss.backward()
    optimizer.step()
    model.eval()
    inputs = torch.cat([pixels, masks[0]], dim=1).requires_grad_()
    model(inputs).image_embeds[:, 0].sum().backward()
    assert inputs.grad[:, 3].abs().max() > 0


def test_a_new_model_is_blind_to_the_mask_and_sees_it_after_loading_a_trained_one(tmp_path: Path) -> None:
    model = tiny_matsim().eval()
    pixels = torch.rand(1, 4, 32, 32)
    inputs = pixels.clone().requires_grad_()
    model(inputs).image_embeds[:, 0].sum().backward()
    assert inputs.grad[:, 3].abs().max() == 0
    _, convolution = first_convolution(model.backbone)
    torch.nn.init.normal_(convolution.weight)
    model.save_pretrained(tmp_path)
    loaded = AutoModel.from_pretrained(tmp_path).eval()
    assert isinstance(loaded, MatSimModel)
    with torch.no_grad():
        torch.testing.assert_close(loaded(pixels).image_embeds, model(pixels).image_embeds)


def test_widening_copies_the_bias_and_keeps_what_is_frozen() -> None:
    model = narrow_backbone("convnext")
    name, narrow = first_convolution(model)
    torch.nn.init.normal_(narrow.bias)
    narrow.weight.requires_grad_(False)
    wide = widen_patch_embedding(model).get_submodule(name)
    assert torch.equal(wide.weight[:, :3], narrow.weight)
    assert wide.weight[:, 3].abs().max() == 0
    assert torch.equal(wide.bias, narrow.bias)
    assert not wide.weight.requires_grad
    assert model.config.num_channels == 4
    with pytest.raises(ValueError, match=r"takes 4 channels in 1 groups; only a first convolution of 3"):
        widen_patch_embedding(model)
    with pytest.raises(TypeError, match="Linear without a two-dimensional convolution"):
        widen_patch_embedding(torch.nn.Linear(3, 3))


def test_batch_norm_keeps_its_statistics_unless_told_otherwise() -> None:
    for freezes in (True, False):
        backbone = narrow_backbone("mobilenet_v2")
        model = MatSimModel.from_backbone(backbone, embedding_size=8, freeze_batch_norm=freezes).train()
        before = model.backbone.conv_1x1.normalization.running_mean.clone()
        model(torch.rand(2, 4, 32, 32))
        assert torch.equal(before, model.backbone.conv_1x1.normalization.running_mean) == freezes


def test_the_pipeline_takes_images_without_and_with_a_mask(tmp_path: Path) -> None:
    model = tiny_matsim()
    torch.nn.init.normal_(first_convolution(model.backbone)[1].weight)
    model.save_pretrained(tmp_path)
    MatSimImageProcessor(size={"height": 32, "width": 32}).save_pretrained(tmp_path)
    processor = AutoImageProcessor.from_pretrained(tmp_path)
    assert isinstance(processor, MatSimImageProcessor)
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8))
    mask = np.zeros((40, 50), dtype=bool)
    mask[10:30, 10:30] = True
    extractor = pipeline("image-feature-extraction", model=str(tmp_path))
    whole = np.array(extractor(image))
    marked = np.array(extractor(image, image_processor_kwargs={"masks": mask}))
    for found, given in ((whole, None), (marked, mask)):
        with torch.no_grad():
            expected = model.eval()(processor(image, given, return_tensors="pt")["pixel_values"]).image_embeds
        np.testing.assert_allclose(found, expected.numpy(), atol=1e-6)
    assert np.abs(whole - marked).max() > 1e-4
    assert np.array(extractor([image, image])).shape == (2, 1, 8)


def test_the_loss_follows_the_objective() -> None:
    rows = material_rows(2)
    batch = {
        "pixel_values": torch.stack([row["pixel_values"] for row in rows]),
        "set_ids": torch.tensor([row["set_ids"] for row in rows]),
        "ratios": torch.tensor([row["ratios"] for row in rows]),
    }
    losses = {
        (objective, mode): tiny_matsim(objective=objective, margin_mode=mode)(**batch)
        for objective, mode in [("ranking", "symmetric"), ("ranking", "reference"), ("info_nce", "symmetric")]
    }
    assert losses["ranking", "symmetric"].num_terms != losses["ranking", "reference"].num_terms
    # Each mixture occurs once, so that no image has a positive on hard labels.
    assert losses["info_nce", "symmetric"].loss == 0
    as_tuple = tiny_matsim()(batch["pixel_values"], return_dict=False)
    assert as_tuple[0].shape == (10, 8)


def test_a_batch_without_pairs_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    from transformers.utils import logging

    logging.get_logger("transformers").propagate = True
    model = tiny_matsim().train()
    out = model(torch.rand(3, 4, 32, 32), set_ids=torch.arange(3), ratios=torch.zeros(3))
    assert out.loss == 0
    assert "No two images of a batch" in caplog.text


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({"pixel_values": torch.rand(2, 3, 32, 32)}, r"shape \(2, 3, 32, 32\); it must be \[B, 4, H, W\]"),
        ({"pixel_values": torch.rand(4, 32, 32)}, r"shape \(4, 32, 32\)"),
        ({"set_ids": torch.zeros(2)}, "ratios is None"),
        ({"ratios": torch.zeros(2)}, "set_ids is None"),
        ({"set_ids": torch.zeros(3), "ratios": torch.zeros(2)}, r"set_ids has the shape \(3,\), and there are 2"),
        ({"set_ids": torch.zeros(2), "ratios": torch.zeros(2, 1)}, r"ratios has the shape \(2, 1\)"),
        ({"set_ids": torch.zeros(2), "ratios": torch.tensor([0.5, 1.5])}, r"ratios\[1\]=1.5 must be from 0 to 1"),
        ({"set_ids": torch.zeros(2), "ratios": torch.tensor([torch.nan, 0.0])}, r"ratios\[0\]=nan"),
    ],
)
def test_inputs_that_do_not_fit(inputs: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tiny_matsim()(**{"pixel_values": torch.rand(2, 4, 32, 32), **inputs})


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"backbone_config": tiny_backbone(num_channels=3)}, "num_channels=3 must be 4.*from_backbone"),
        ({"embedding_size": 0}, "embedding_size=0 must be at least 1"),
        ({"temperature": 0.0}, r"temperature=0.0 must be above 0"),
        ({"backbone_config": {"model_type": "efficientnet", "num_channels": 4, "hidden_dim": 8}}, "give feature_size"),
    ],
)
def test_configurations_that_do_not_work(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MatSimModel(MatSimConfig(**{"backbone_config": tiny_backbone(), **fields}))


def test_the_default_is_the_published_backbone() -> None:
    config = MatSimConfig()
    assert (config.backbone_config.depths, config.size_of_features) == ([3, 3, 27, 3], 1024)
    assert issubclass(MatSimModel, PreTrainedModel)


def test_gradient_checkpointing_changes_no_gradient() -> None:
    rows = material_rows(2)
    pixels = torch.stack([row["pixel_values"] for row in rows])
    labels = {"set_ids": torch.arange(10) // 5, "ratios": torch.arange(10) % 5 / 4}
    gradients = []
    for checkpoints in (False, True):
        torch.manual_seed(0)
        model = MatSimModel.from_backbone(narrow_backbone("dinov2"), embedding_size=8).train()
        if checkpoints:
            model.gradient_checkpointing_enable()
            assert model.is_gradient_checkpointing
        model(pixels, **labels).loss.backward()
        gradients.append(first_convolution(model.backbone)[1].weight.grad)
    torch.testing.assert_close(*gradients)


def test_a_backbone_is_named_by_text_or_path(tmp_path: Path) -> None:
    narrow = narrow_backbone("convnext").eval()
    narrow.save_pretrained(tmp_path)
    pixels = torch.rand(1, 4, 32, 32)
    for place in (tmp_path, str(tmp_path)):
        pooled = MatSimModel.from_backbone(place, embedding_size=8).eval()(pixels).pooler_output
        torch.testing.assert_close(pooled, narrow(pixels[:, :3]).pooler_output)
