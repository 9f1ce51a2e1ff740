"""Residual networks that pool where a path says: by their definition, in the stack, and what they refuse."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hub_double import running_hub
from tiny_supernets import stripes, tiny_mixture, tiny_network
from torch import Tensor
from transformers import AutoBackbone, AutoConfig, AutoModelForImageClassification

from hf_mixture import PoolingResNetBackbone, PoolingResNetConfig, PoolingResNetForImageClassification
from hf_mixture.models.pooling_supernet.costs import count_multiply_adds
from hf_mixture.models.pooling_supernet.path_tree import logits_of_paths
from hf_mixture.models.pooling_supernet.paths import enumerate_paths


def normalised(x: Tensor) -> Tensor:
    mean = x.mean(dim=(0, 2, 3), keepdim=True)
    return (x - mean) / (x.var(dim=(0, 2, 3), keepdim=True, unbiased=False) + 1e-5).sqrt()


def slow_logits(model: PoolingResNetForImageClassification, x: Tensor, path: tuple[int, ...]) -> Tensor:
    """A network of basic blocks by its state dictionary: pooling before the layer, statistics of the batch."""
    weights = model.state_dict()

    def convolve(x: Tensor, name: str) -> Tensor:
        weight = weights[f"{name}.0.weight"]
        return normalised(F.conv2d(x, weight, padding=weight.shape[-1] // 2))

    for number, pools in enumerate(path):
        if pools:
            b, c, h, w = x.shape
            x = x[:, :, : h // 2 * 2, : w // 2 * 2].reshape(b, c, h // 2, 2, w // 2, 2).amax(dim=(3, 5))
        name = f"backbone.layers.{number}"
        if number == 0:
            x = convolve(x, name).relu()
            continue
        y = convolve(convolve(x, f"{name}.convolutions.0").relu(), f"{name}.convolutions.1")
        same = f"{name}.shortcut.0.weight" not in weights
        x = (y + (x if same else convolve(x, f"{name}.shortcut"))).relu()
    return x.mean(dim=(2, 3)) @ weights["classifier.weight"].T + weights["classifier.bias"]


def test_every_path_of_a_network_is_its_definition() -> None:
    torch.manual_seed(0)
    x = torch.randn(6, 1, 9, 8)
    for path in enumerate_paths(5, 3):
        model = PoolingResNetForImageClassification(tiny_network(pooling_path=list(path))).double()
        expected = slow_logits(model, x.double(), path)
        for mode in (model.train(), model.eval()):
            torch.testing.assert_close(mode(x.double()).logits, expected, rtol=1e-8, atol=1e-8)


def test_a_tree_of_paths_gives_the_logits_of_each_path_alone() -> None:
    torch.manual_seed(0)
    model = PoolingResNetForImageClassification(tiny_network()).double()
    x = torch.randn(7, 1, 8, 8, dtype=torch.float64)
    paths = [*enumerate_paths(5, 3), *enumerate_paths(5, 2)]
    found = dict(logits_of_paths(model, x, paths))
    assert sorted(found) == list(range(len(paths)))
    for index, path in enumerate(paths):
        alone = model.classify(model.backbone.hidden_states(x, path)[-1])
        torch.testing.assert_close(found[index], alone, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", ["resnet20", "resnet18", "resnet50"])
def test_published_networks_have_their_shapes(name: str) -> None:
    config = PoolingResNetConfig.network(name, num_labels=10)
    with torch.device("meta"):
        model = PoolingResNetForImageClassification(config)
    sizes = {"resnet20": 272_000, "resnet18": 11_170_000, "resnet50": 23_500_000}
    assert model.num_parameters() == pytest.approx(sizes[name], rel=0.02)
    states = model.backbone.hidden_states(torch.empty(2, 3, 32, 32, device="meta"))
    assert [state.shape[1] for state in states] == config.layer_widths
    sides = [32 // 2 ** sum(config.pooling_path[: place + 1]) for place in range(config.num_layers)]
    assert [state.shape[2] for state in states] == sides


def test_multiplications_are_those_of_the_convolutions() -> None:
    for config in (
        tiny_network(pooling_path=[0, 1, 0, 1, 0]),
        tiny_network(layer_type="bottleneck", layer_widths=[4, 8, 8, 16], pooling_path=[0, 0, 1, 0]),
    ):
        model = PoolingResNetForImageClassification(config)
        counted = []

        def count(module: Any, inputs: Any, output: Tensor, counted: list[int] = counted) -> None:
            counted.append(output[0].numel() * module.weight[0].numel())

        for module in model.modules():
            if isinstance(module, torch.nn.Conv2d | torch.nn.Linear):
                module.register_forward_hook(count)
        model(torch.randn(2, 1, 8, 12))
        assert count_multiply_adds(config, (8, 12)) == sum(counted)


def test_the_stack_loads_backbone_and_classifier(tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = tiny_network(pooling_path=[0, 1, 0, 0, 1], out_features=["layer2", "layer4"])
    model = PoolingResNetForImageClassification(config).eval()
    model.save_pretrained(tmp_path)
    x = torch.randn(4, 1, 8, 8)
    loaded = AutoModelForImageClassification.from_pretrained(tmp_path)
    assert torch.equal(loaded(x).logits, model(x).logits)
    assert AutoConfig.from_pretrained(tmp_path).pooling_path == [0, 1, 0, 0, 1]
    backbone = PoolingResNetBackbone.from_pretrained(tmp_path)
    assert backbone.channels == [4, 8]
    out = backbone(x, output_hidden_states=True)
    states = model(x, output_hidden_states=True).hidden_states
    assert len(out.hidden_states) == 5
    for found, expected in zip(out.feature_maps, (states[2], states[4]), strict=True):
        assert torch.equal(found, expected)
    assert isinstance(model(x, return_dict=False), tuple)
    other = AutoBackbone.from_config(tiny_network(out_indices=[0]))
    assert [tuple(m.shape) for m in other(x).feature_maps] == [(4, 4, 8, 8)]


@pytest.mark.slow
def test_a_backbone_loads_from_the_hub(tmp_path: Path) -> None:
    """`AutoBackbone.from_pretrained` takes ids of the Hub alone; it asks the Hub for the repository."""
    torch.manual_seed(0)
    PoolingResNetForImageClassification(tiny_network(out_indices=[1, 4])).save_pretrained(tmp_path / "model")
    code = (
        "import hf_mixture, torch; from transformers import AutoBackbone\n"
        "backbone = AutoBackbone.from_pretrained('tester/pooling')\n"
        "print(type(backbone).__name__, [tuple(m.shape) for m in backbone(torch.ones(2, 1, 8, 8)).feature_maps])"
    )
    with running_hub() as hub:
        hub.push("model", "tester/pooling", tmp_path / "model")
        environment = hub.environment(tmp_path / "home")
        done = subprocess.run(
            [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False
        )
    assert done.returncode == 0, done.stderr
    assert "PoolingResNetBackbone [(2, 4, 8, 8), (2, 8, 4, 4)]" in done.stdout


def test_running_statistics_predict_single_images() -> None:
    torch.manual_seed(0)
    model = PoolingResNetForImageClassification(tiny_network(track_running_stats=True, norm_affine=True))
    x = torch.randn(16, 1, 8, 8)
    for _ in range(3):
        model(x)
    model.eval()
    together = model(x).logits
    torch.testing.assert_close(torch.cat([model(image[None]).logits for image in x]), together, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"pooling_path": [0, 1, 0]}, "must be 5 zeros and ones"),
        ({"pooling_path": [1, 0, 0, 0, 0]}, "begin with 0"),
        ({"layer_widths": [4, 0, 4]}, "widths of at least 1"),
        ({"layer_type": "bottleneck", "layer_widths": [4, 6]}, "multiples of 4"),
        ({"num_channels": 0}, "num_channels=0"),
        ({"num_labels": 1}, "num_labels=1"),
    ],
)
def test_configurations_that_cannot_work_are_refused(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        PoolingResNetForImageClassification(tiny_network(**fields))
    with pytest.raises(ValueError, match="the networks are resnet20"):
        PoolingResNetConfig.network("resnet34")


def test_bad_images_are_refused_by_their_row() -> None:
    model = PoolingResNetForImageClassification(tiny_network(pooling_path=[0, 1, 1, 1, 0]))
    x, labels = torch.randn(4, 1, 8, 8), torch.tensor([0, 1, 0, 1])
    with pytest.raises(ValueError, match=r"\(4, 3, 8, 8\); it must be \[images, 1, height, width\]"):
        model(x.expand(-1, 3, -1, -1))
    with pytest.raises(ValueError, match="at least 8 x 8"):
        model(x[..., :7])
    broken = x.clone()
    broken[2, 0, 3, 3] = torch.nan
    with pytest.raises(ValueError, match="row 2 of pixel_values"):
        model(broken)
    with pytest.raises(ValueError, match="row 2 of pixel_values"):
        model.backbone(broken)
    with pytest.raises(ValueError, match=r"labels has the shape \(3,\) for 4 images"):
        model(x, labels=labels[:3])
    with pytest.raises(ValueError, match="row 3 of labels is 2, which is no class from 0 to 1"):
        model(x, labels=torch.tensor([0, 1, 1, 2]))
    with pytest.raises(ValueError, match="whole numbers"):
        model(x, labels=labels.float())


@pytest.mark.parametrize("dtype", [torch.int32, torch.int16, torch.uint8])
def test_labels_are_whole_numbers_of_any_type(dtype: torch.dtype) -> None:
    rows, network = stripes(6), PoolingResNetForImageClassification(tiny_network())
    expected = network(rows.images, labels=rows.labels).loss
    assert torch.equal(network(rows.images, labels=rows.labels.to(dtype)).loss, expected)
    mixture = tiny_mixture()
    expected = mixture(rows.images, labels=rows.labels, path=1, model_index=0).loss
    assert torch.equal(mixture(rows.images, labels=rows.labels.to(dtype), path=1, model_index=0).loss, expected)
