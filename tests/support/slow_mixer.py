"""MixER one environment, one state and one number at a time: the slow twin of the vectorised model."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor

from hf_mixture.models.mixer.experts.base import Experts, Network
from hf_mixture.models.mixer.experts.coda import CodaExperts
from hf_mixture.models.mixer.experts.geps import GepsExperts
from hf_mixture.models.mixer.experts.ncf import NcfExperts
from hf_mixture.models.mixer.modeling_mixer import MixerForTrajectoryReconstruction


def swish(x: Tensor, beta: Tensor) -> Tensor:
    return x / (1 + torch.exp(-beta * x))


def network(layers: Network, expert: int, x: Tensor) -> Tensor:
    for layer in layers:
        x = layer.weight[expert].T @ x + layer.bias[expert]
        if layer.beta is not None:
            x = swish(x, layer.beta[expert])
    return x


def expert_field(experts: Experts, expert: int, y: Tensor, context: Tensor) -> Tensor:
    """y' [D] of one state y [D] in an environment with a context [d], by the definition of the kind of expert."""
    if isinstance(experts, NcfExperts):
        joined = torch.cat([network(experts.of_data, expert, y), network(experts.of_context, expert, context)])
        return network(experts.main, expert, joined)
    x = y
    for place, layer in enumerate(experts.network):
        weight, bias, beta = layer.weight[expert].T, layer.bias[expert], layer.beta
        beta = None if beta is None else beta[expert]
        if isinstance(experts, GepsExperts):
            part = experts.subspaces[place]
            weight = weight + part.of_outputs[expert].T @ torch.diag(context) @ part.of_inputs[expert].T
            bias = bias + part.of_bias[expert] @ context
            beta = None if beta is None else beta + part.of_beta[expert] @ context
        elif isinstance(experts, CodaExperts):
            part = experts.hypernetworks[place]
            weight = weight + (part.of_weight[expert] @ context).reshape(layer.weight.shape[1:]).T
            bias = bias + part.of_bias[expert] @ context
            beta = None if beta is None else beta + part.of_beta[expert] @ context
        x = weight @ x + bias
        if beta is not None:
            x = swish(x, beta)
    return x


def rk4(field, y: Tensor, times: Tensor, num_substeps: int) -> Tensor:
    """States [T, D] from one initial state [D]."""
    states = [y]
    for start, end in itertools.pairwise(times):
        h = (end - start) / num_substeps
        for _ in range(num_substeps):
            k1 = field(y)
            k2 = field(y + h / 2 * k1)
            k3 = field(y + h / 2 * k2)
            k4 = field(y + h * k3)
            y = y + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
        states.append(y)
    return torch.stack(states)


def trajectory(
    model: MixerForTrajectoryReconstruction, initial: Tensor, times: Tensor, context: Tensor, expert: int | None = None
) -> Tensor:
    """States [T, D] of one trajectory, by the expert that the gate chooses, or by a given one."""
    config = model.config
    if expert is None:
        inputs = torch.cat([context, context.new_ones(1)]) if config.gate_bias else context
        expert = int((inputs @ model.gate.weight).argmax())
    seen = context.chunk(config.num_experts)[expert] if config.split_context else context
    return rk4(lambda y: expert_field(model.experts, expert, y, seen), initial, times, config.num_substeps)
