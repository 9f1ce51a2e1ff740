"""RK4 through the networks of many environments as one operation, with its own backward pass.

The values and gradients are those of `integrate_rk4` over `run_layers`. The forward pass keeps what every layer saw at
every stage; the backward pass goes through the stages once for the states, and gets the gradients of each weight, of
all stages together, by a single product.

Letters: N environments, R trajectories of each, D state size, T times, S stages (4 a step), I inputs and O outputs.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from hf_mixture.models.mixer.experts.layers import Layers


def integrate_layers(layers: Layers, initial: Tensor, times: Tensor, *, num_substeps: int = 1) -> Tensor:
    """Integrate networks by RK4, as `integrate_rk4` does; times get no gradient.

    Args:
        layers: The networks of N environments.
        initial: States at the first time [N, R, D].
        times: Times of each trajectory [N, R, T].
        num_substeps: Steps between two times.

    Returns:
        States [N, R, T, D].
    """
    steps = (times.diff(dim=2) / num_substeps).to(initial.dtype)
    states: Tensor = _FusedRk4.apply(
        initial, steps, num_substeps, len(layers.weights), *layers.weights, *layers.biases, *layers.betas
    )
    return states


class _Network:
    """One network, with room for what its layers see in S stages: whole [S, N, R, I], and by stage."""

    def __init__(self, tensors: tuple[Tensor, ...], depth: int, like: Tensor, num_stages: int) -> None:
        self.weights = tensors[:depth]
        self.biases = [bias.unsqueeze(1) for bias in tensors[depth : 2 * depth]]
        self.betas = [beta.unsqueeze(-1) for beta in tensors[2 * depth :]]
        widths = [self.weights[0].shape[1], *(weight.shape[2] for weight in self.weights)]
        rows = (num_stages, *like.shape[:2])
        self.inputs = [like.new_empty(*rows, width) for width in widths[:-1]]
        self.outputs = [like.new_empty(*rows, width) for width in widths[1:]]
        self.sigmoids = [like.new_empty(*rows, width) for width in widths[1:-1]]
        self.input_of, self.output_of, self.sigmoid_of = map(_by_stage, (self.inputs, self.outputs, self.sigmoids))

    def run(self, stage: int) -> Tensor:
        """From the states in the inputs of a stage to their derivative."""
        for place, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            out = torch.baddbmm(bias, self.input_of[place][stage], weight, out=self.output_of[place][stage])
            if place < len(self.betas):
                sigmoid = torch.mul(out, self.betas[place], out=self.sigmoid_of[place][stage]).sigmoid_()
                torch.mul(out, sigmoid, out=self.input_of[place + 1][stage])
        return out


class _FusedRk4(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, initial: Tensor, steps: Tensor, num_substeps: int, depth: int, *tensors: Tensor) -> Tensor:
        num_steps = steps.shape[2] * num_substeps
        network = _Network(tensors, depth, initial, 4 * num_steps)
        seen = network.input_of[0]
        y, states = initial, [initial]
        for number in range(num_steps):
            step = steps[:, :, number // num_substeps].unsqueeze(-1)
            half, first = step / 2, 4 * number
            seen[first].copy_(y)
            k1 = network.run(first)
            torch.addcmul(y, half, k1, out=seen[first + 1])
            k2 = network.run(first + 1)
            torch.addcmul(y, half, k2, out=seen[first + 2])
            k3 = network.run(first + 2)
            torch.addcmul(y, step, k3, out=seen[first + 3])
            k4 = network.run(first + 3)
            y = torch.addcmul(y, step / 6, torch.add(k1 + k4, k2 + k3, alpha=2))
            if (number + 1) % num_substeps == 0:
                states.append(y)
        ctx.network, ctx.num_substeps = network, num_substeps
        ctx.save_for_backward(steps, *tensors)
        return torch.stack(states, dim=2)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, of_states: Tensor) -> tuple[Tensor | None, ...]:
        steps, *_ = ctx.saved_tensors
        network: _Network = ctx.network
        # x sigmoid (1 - sigmoid), and the slopes of the swish, sigmoid + beta times that, of all stages.
        rising = [
            torch.addcmul(swish, swish, sigmoid, value=-1)
            for swish, sigmoid in zip(network.inputs[1:], network.sigmoids, strict=True)
        ]
        slopes = [
            torch.addcmul(sigmoid, beta, rise)
            for sigmoid, beta, rise in zip(network.sigmoids, network.betas, rising, strict=True)
        ]
        # Products with transposed matrices are slow unless these are copied first.
        weights = [weight.transpose(1, 2).contiguous() for weight in network.weights]
        of_outputs = [torch.empty_like(out) for out in network.outputs]
        of_swishes = [torch.empty_like(out) for out in network.sigmoids]
        of_output, of_swish, slope_of = map(_by_stage, (of_outputs, of_swishes, slopes))

        def back(stage: int) -> Tensor:
            """From the gradient of the derivative to that of the states of a stage."""
            for place in range(len(weights) - 1, 0, -1):
                out = torch.bmm(of_output[place][stage], weights[place], out=of_swish[place - 1][stage])
                torch.mul(out, slope_of[place - 1][stage], out=of_output[place - 1][stage])
            return torch.bmm(of_output[0][stage], weights[0])

        of_y, last = of_states[:, :, -1], of_output[-1]
        for number in reversed(range(steps.shape[2] * ctx.num_substeps)):
            step = steps[:, :, number // ctx.num_substeps].unsqueeze(-1)
            half, first = step / 2, 4 * number
            sixth = torch.mul(of_y, step / 6, out=last[first + 3])
            third = 2 * sixth
            y4 = back(first + 3)
            torch.addcmul(third, step, y4, out=last[first + 2])
            y3 = back(first + 2)
            torch.addcmul(third, half, y3, out=last[first + 1])
            y2 = back(first + 1)
            torch.addcmul(sixth, half, y2, out=last[first])
            of_y = of_y + back(first) + y2 + y3 + y4
            if number % ctx.num_substeps == 0:
                of_y = of_y + of_states[:, :, number // ctx.num_substeps]

        ends = [_by_environment(out) for out in of_outputs]
        of_weights = [
            _by_environment(seen).transpose(1, 2) @ end for seen, end in zip(network.inputs, ends, strict=True)
        ]
        of_betas = [
            rise.mul_(out).mul_(of_out).flatten(2).sum(dim=2).sum(dim=0).unsqueeze(-1)
            for rise, out, of_out in zip(rising, network.outputs, of_swishes, strict=False)
        ]
        return (of_y, None, None, None, *of_weights, *(end.sum(dim=1) for end in ends), *of_betas)


def _by_stage(buffers: list[Tensor]) -> list[tuple[Tensor, ...]]:
    return [buffer.unbind() for buffer in buffers]


def _by_environment(values: Tensor) -> Tensor:
    """From [S, N, R, I] to [N, S R, I]."""
    return values.transpose(0, 1).flatten(1, 2)
