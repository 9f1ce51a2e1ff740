"""Experts, the gate and expansions against numbers of the published code."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from hf_mixture import MixerConfig, MixerForTrajectoryReconstruction
from hf_mixture.models.mixer.taylor import field_of_jet, taylor_jet


ARRAYS = np.load(Path(__file__).parent / "fixtures" / "expert_parity.npz")
SIZES = {
    "NCF": {"num_layers": 3, "hidden_size": 10, "num_encoder_layers": 1, "intermediate_size": 8},
    "GEPS": {"num_layers": 3, "hidden_size": 10},
    "CoDA": {"num_layers": 3, "hidden_size": 10},
}


def array(name: str) -> Tensor:
    return torch.from_numpy(ARRAYS[name])


def fill(parameter: nn.Parameter, expert: int, value: Tensor) -> None:
    with torch.no_grad():
        parameter[expert].copy_(value)


def fill_network(network: Any, expert: int, prefix: str) -> None:
    for place, layer in enumerate(network):
        fill(layer.weight, expert, array(f"{prefix}{place}_weight").T)
        fill(layer.bias, expert, array(f"{prefix}{place}_bias"))
        if layer.beta is not None:
            fill(layer.beta, expert, array(f"{prefix}{place}_beta"))


def fill_coda(experts: Any, expert: int, prefix: str) -> None:
    """Their weights are one vector and their hypernetwork one matrix: weight, bias and slope of each layer in turn."""
    root, hyper = array(f"{prefix}root"), array(f"{prefix}hyper")
    shapes = [tuple(map(int, text.split("x"))) for text in ARRAYS[f"{prefix}shapes"].tolist()]
    pieces = []
    for shape in shapes:
        size = int(np.prod(shape))
        pieces.append((root[:size].view(shape), hyper[:size].view(*shape, -1)))
        root, hyper = root[size:], hyper[size:]
    for layer, part in zip(experts.network, experts.hypernetworks, strict=True):
        weight, of_weight = pieces.pop(0)
        fill(layer.weight, expert, weight.T)
        fill(part.of_weight, expert, of_weight.transpose(0, 1).flatten(0, 1))
        for name in ("bias", "beta"):
            if getattr(layer, name) is not None:
                value, of_value = pieces.pop(0)
                fill(getattr(layer, name), expert, value)
                fill(getattr(part, f"of_{name}"), expert, of_value)
    assert not pieces


def published(kind: str) -> MixerForTrajectoryReconstruction:
    """A model with the weights of theirs."""
    config = MixerConfig(
        num_envs=6, num_experts=3, context_size=6, split_context=True, expert_type=kind.lower(), **SIZES[kind]
    )
    model = MixerForTrajectoryReconstruction(config).double()
    for expert in range(3):
        prefix = f"{kind}_e{expert}_"
        if kind == "NCF":
            fill_network(model.experts.of_context, expert, f"{prefix}ctx")
            fill_network(model.experts.of_data, expert, f"{prefix}data")
            fill_network(model.experts.main, expert, f"{prefix}main")
        elif kind == "GEPS":
            fill_network(model.experts.network, expert, f"{prefix}root")
            for place, part in enumerate(model.experts.subspaces):
                fill(part.of_outputs, expert, array(f"{prefix}left{place}_weight").T)
                fill(part.of_inputs, expert, array(f"{prefix}right{place}_weight").T)
                fill(part.of_bias, expert, array(f"{prefix}left{place}_bias"))
                if part.of_beta is not None:
                    fill(part.of_beta, expert, array(f"{prefix}left{place}_beta"))
        else:
            fill_coda(model.experts, expert, prefix)
    model.gate.weight.copy_(array(f"{kind}_gate"))
    return model


@pytest.mark.parametrize("order", [0, 1, 2])
@pytest.mark.parametrize("kind", SIZES)
def test_check_3_fields_and_expansions_are_those_of_the_published_code(kind: str, order: int) -> None:
    model = published(kind)
    contexts, neighbours, states = (array(f"{kind}_{name}") for name in ("ctx", "neighbour", "y"))
    experts, scores = model.gate(contexts)
    torch.testing.assert_close(scores.softmax(dim=-1), array(f"{kind}_probs"), rtol=1e-10, atol=1e-12)
    assert len(set(experts.tolist())) > 1
    own, around = model._seen(contexts, experts), model._seen(neighbours, experts)
    found = field_of_jet(taylor_jet(lambda seen: model.experts.layers(seen, experts), own, around, order))(states)
    # Theirs expands the field of the expert that the neighbour chooses; ours, of the expert of the environment itself.
    compared = array(f"{kind}_same_winner") if order else torch.ones(6, dtype=torch.bool)
    assert compared.sum() >= 4
    torch.testing.assert_close(found[compared], array(f"{kind}_order{order}")[compared], rtol=1e-9, atol=1e-10)
