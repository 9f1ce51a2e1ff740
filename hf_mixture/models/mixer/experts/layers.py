"""The layers of a vector field with weights of its own for each environment.

Letters: N environments, R states of each, I inputs and O outputs of a layer.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Layers(NamedTuple):
    """A network y -> y' for each of N environments; there is a swish after every layer but the last.

    Args:
        weights: Weight of each layer, inputs first, as products with it are fastest [N, I, O].
        biases: Bias of each layer [N, O].
        betas: Slope beta of each swish, x sigmoid(beta x) [N, 1]; one fewer than layers.
    """

    weights: tuple[Tensor, ...]
    biases: tuple[Tensor, ...]
    betas: tuple[Tensor, ...]


def swish(x: Tensor, beta: Tensor) -> Tensor:
    """Return x sigmoid(beta x).

    Args:
        x: Values [N, R, O].
        beta: Slopes [N, 1].
    """
    return x * torch.sigmoid(beta.unsqueeze(-1) * x)


def run_layers(layers: Layers, y: Tensor) -> Tensor:
    """Evaluate the network of each environment at its states.

    Args:
        layers: The networks of N environments.
        y: States [N, R, I].

    Returns:
        Outputs [N, R, O].
    """
    for place, (weight, bias) in enumerate(zip(layers.weights, layers.biases, strict=True)):
        y = torch.baddbmm(bias.unsqueeze(1), y, weight)
        if place < len(layers.betas):
            y = swish(y, layers.betas[place])
    return y
