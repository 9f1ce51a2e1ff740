"""Families of ordinary differential equations y' = f(y, c), by their definitions.

A field takes states y [..., D] and parameters c [..., P], whose leading dimensions broadcast, and returns y' [..., D].
Sources: the systems of MixER (https://arxiv.org/abs/2502.05335) and of ODEBench (https://arxiv.org/abs/2310.05573).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


Array = NDArray[np.float64]
Field = Callable[[Array, Array], Array]


@dataclass(frozen=True)
class Family:
    """One family of differential equations.

    Args:
        name: Its name.
        field: y' as a function of states [..., D] and parameters [..., P].
        state_size: D.
        num_parameters: P.
        stiff: Whether an implicit method integrates it.
    """

    name: str
    field: Field
    state_size: int
    num_parameters: int
    stiff: bool = False


def _lotka_volterra(y: Array, c: Array) -> Array:
    prey, predators = y[..., 0], y[..., 1]
    met = prey * predators
    return np.stack([0.5 * prey - c[..., 0] * met, c[..., 1] * met - 0.5 * predators], axis=-1)


def _selkov(y: Array, c: Array) -> Array:
    a, product = 0.1, y[..., 0] ** 2 * y[..., 1]
    return np.stack([-y[..., 0] + a * y[..., 1] + product, c[..., 0] - a * y[..., 1] - product], axis=-1)


def _glycolytic(y: Array, c: Array) -> Array:
    s1, s2, s3, s4, s5, s6, s7 = np.moveaxis(y, -1, 0)
    rate = c[..., 0] * s1 * s6 / (1 + (s6 / c[..., 1]) ** 4)
    second, third = 6 * s2 * (1 - s5), 16 * s3 * (4 - s6)
    fourth, sixth, outflow = 100 * s4 * s5, 12 * s2 * s5, 13 * (s4 - s7)
    return np.stack(
        [
            2.5 - rate,
            2 * rate - second - sixth,
            second - third,
            third - fourth - outflow,
            second - fourth - sixth,
            -2 * rate + 2 * third - 1.28 * s6,
            0.1 * outflow - 1.8 * s7,
        ],
        axis=-1,
    )


def _harmonic(y: Array, c: Array) -> Array:
    return np.stack([y[..., 1], -c[..., 0] * y[..., 0]], axis=-1)


def _damped_harmonic(y: Array, c: Array) -> Array:
    return np.stack([y[..., 1], -c[..., 0] * y[..., 0] - c[..., 1] * y[..., 1]], axis=-1)


def _pendulum(y: Array, c: Array) -> Array:
    return np.stack([y[..., 1], -c[..., 0] * np.sin(y[..., 0])], axis=-1)


def _double_well(y: Array, c: Array) -> Array:
    return np.stack([y[..., 1], -c[..., 0] * y[..., 1] - y[..., 0] ** 3 + y[..., 0]], axis=-1)


def _rotating_hoop(y: Array, c: Array) -> Array:
    return np.stack([y[..., 1], (np.cos(y[..., 0]) - c[..., 0]) * np.sin(y[..., 0])], axis=-1)


def _shear_flow(y: Array, c: Array) -> Array:
    turned = np.sin(y[..., 0]) * (c[..., 0] * np.sin(y[..., 1]) ** 2 + np.cos(y[..., 1]) ** 2)
    return np.stack([np.cos(y[..., 0]) / np.tan(y[..., 1]), turned], axis=-1)


def _van_der_pol(y: Array, c: Array) -> Array:
    return np.stack([y[..., 1], c[..., 0] * y[..., 1] * (1 - y[..., 0] ** 2) - y[..., 0]], axis=-1)


def _van_der_pol_simplified(y: Array, c: Array) -> Array:
    return np.stack([c[..., 0] * (y[..., 0] - y[..., 0] ** 3 / 3 + y[..., 1]), -y[..., 0] / c[..., 0]], axis=-1)


def _glycolytic_2d(y: Array, c: Array) -> Array:
    product = y[..., 0] ** 2 * y[..., 1]
    return np.stack(
        [c[..., 0] * y[..., 1] + product - y[..., 0], -c[..., 0] * y[..., 0] + c[..., 1] - product], axis=-1
    )


# ODEBench calls the van der Pol equation "Duffing" in one place; it is listed by what it is.
FAMILIES: dict[str, Family] = {
    family.name: family
    for family in (
        Family("lotka_volterra", _lotka_volterra, 2, 2),
        Family("selkov", _selkov, 2, 1),
        Family("glycolytic", _glycolytic, 7, 2, stiff=True),
        Family("harmonic", _harmonic, 2, 1),
        Family("damped_harmonic", _damped_harmonic, 2, 2),
        Family("pendulum", _pendulum, 2, 1),
        Family("double_well", _double_well, 2, 1),
        Family("rotating_hoop", _rotating_hoop, 2, 1),
        Family("shear_flow", _shear_flow, 2, 1),
        Family("van_der_pol", _van_der_pol, 2, 1),
        Family("van_der_pol_simplified", _van_der_pol_simplified, 2, 1),
        Family("glycolytic_2d", _glycolytic_2d, 2, 2),
    )
}
