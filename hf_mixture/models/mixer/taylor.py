"""Vector fields expanded around the context of a neighbour: contextual self-modulation (arXiv 2405.02154).

f(y, xi) is replaced by its Taylor polynomial in xi around xi', of order 0 (f itself), 1 or 2. It is the polynomial of
s -> f(y, xi' + s (xi - xi')) at s = 0, evaluated at s = 1.

Letters: N environments, R states of each, D state size, d size of the context.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor
from torch.func import jvp

from hf_mixture.models.mixer.experts.layers import Layers, run_layers


VectorField = Callable[[Tensor], Tensor]
PoolStrategy = Literal["random", "nearest", "nearest_other", "smallest"]


def taylor_jet(
    layers_of: Callable[[Tensor], Layers], contexts: Tensor, neighbours: Tensor, order: int
) -> tuple[Layers, ...]:
    """Differentiate the networks of environments on the way from a neighbour's context to their own.

    The derivatives with respect to s do not depend on the state: `torch.func` computes them once. What is left for
    each state, in `run_jet`, is sums and products, which cost far less than derivatives of derivatives.

    Args:
        layers_of: Makes networks of contexts [N, d].
        contexts: Contexts xi [N, d].
        neighbours: Contexts xi' to expand around [N, d]; of no account for order 0.
        order: 0, 1 or 2.

    Returns:
        The networks at s = 0, and as many derivatives; for order 0 those of xi itself.
    """
    if order == 0:
        return (layers_of(contexts),)
    direction = contexts - neighbours
    zero, one = contexts.new_zeros(()), contexts.new_ones(())

    def along(s: Tensor) -> Layers:
        return layers_of(neighbours + s * direction)

    def with_slope(s: Tensor) -> tuple[Layers, Layers]:
        return jvp(along, (s,), (one,))  # type: ignore[return-value]

    if order == 1:
        return with_slope(zero)
    both: tuple[tuple[Layers, Layers], tuple[Layers, Layers]] = jvp(with_slope, (zero,), (one,))  # type: ignore[assignment]
    (base, slope), (_, curvature) = both
    return base, slope, curvature


def field_of_jet(jet: tuple[Layers, ...]) -> VectorField:
    """Make the vector field of networks, or of their Taylor polynomial.

    Args:
        jet: What `taylor_jet` returns.

    Returns:
        y' [N, R, D] as a function of y [N, R, D].
    """
    if len(jet) == 1:
        return lambda y: run_layers(jet[0], y)
    return lambda y: sum_of_jet(run_jet(jet, y))


def run_jet(jet: tuple[Layers, ...], y: Tensor) -> list[Tensor]:
    """Evaluate networks whose layers depend on a number s, and the derivatives of their outputs with respect to s.

    Args:
        jet: The layers and their first one or two derivatives at one s.
        y: States, which do not depend on s [N, R, I].

    Returns:
        The outputs and as many derivatives [N, R, O].
    """
    values: list[Tensor] = [y]
    for place in range(len(jet[0].weights)):
        weights = [layers.weights[place] for layers in jet]
        biases = [layers.biases[place].unsqueeze(1) for layers in jet]
        values = [
            _leibniz(order, values, weights, start=bias, times=torch.matmul) for order, bias in enumerate(biases)
        ]
        if place < len(jet[0].betas):
            values = _swish_jet(values, [layers.betas[place].unsqueeze(-1) for layers in jet])
    return values


def sum_of_jet(derivatives: list[Tensor]) -> Tensor:
    """Evaluate a Taylor polynomial at a distance of 1.

    Args:
        derivatives: A value and its derivatives.

    Returns:
        Their sum, the second derivative halved.
    """
    total = derivatives[0] + derivatives[1]
    return total if len(derivatives) == 2 else torch.add(total, derivatives[2], alpha=0.5)


def _leibniz(
    order: int,
    left: list[Tensor],
    right: list[Tensor],
    *,
    times: Callable[[Tensor, Tensor], Tensor],
    start: Tensor | None = None,
) -> Tensor:
    """A derivative of a product of two jets, the first of which may end early, as its rest is zero."""
    total = start
    for place in range(min(order + 1, len(left))):
        term = times(left[place], right[order - place])
        if order == 2 and place == 1:
            term = 2 * term
        total = term if total is None else total + term
    assert total is not None  # noqa: S101 - there is a term of order 0
    return total


def _swish_jet(x: list[Tensor], beta: list[Tensor]) -> list[Tensor]:
    """The jet of x sigmoid(beta x)."""
    inner = [_leibniz(order, beta, x, times=torch.mul) for order in range(len(x))]
    sigmoid = torch.sigmoid(inner[0])
    slope = sigmoid * (1 - sigmoid)
    outer = [sigmoid, slope * inner[1]]
    if len(x) == 3:
        outer.append(slope * ((1 - 2 * sigmoid) * inner[1].square() + inner[2]))
    return [_leibniz(order, x, outer, times=torch.mul) for order in range(len(x))]


def choose_neighbours(contexts: Tensor, pool: Tensor, *, size: int, strategy: PoolStrategy) -> Tensor:
    """Choose, for each context, the contexts to expand around.

    Args:
        contexts: Contexts of N environments [N, d].
        pool: Contexts to choose from [E, d].
        size: P, how many for each; at most E, or E - 1 with `"nearest_other"`.
        strategy: `"random"`; `"nearest"` by the mean absolute difference, a context that is in the pool itself first;
            `"nearest_other"`, the same without the first; `"smallest"`, those closest to zero.

    Returns:
        Contexts [P, N, d].
    """
    if strategy == "random":
        places = torch.stack([torch.randperm(len(pool), device=pool.device)[:size] for _ in contexts])
    elif strategy == "smallest":
        places = pool.abs().mean(dim=-1).argsort(stable=True)[:size].expand(len(contexts), -1)
    else:
        distances = (contexts.unsqueeze(1) - pool).abs().mean(dim=-1)
        first = int(strategy == "nearest_other")
        places = distances.argsort(dim=1, stable=True)[:, first : first + size]
    return pool[places.T]
