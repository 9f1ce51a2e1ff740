"""Sets of environments to learn from, and new ones to adapt to.

An environment is a family of equations with given parameters. Every collection has four splits: `train` and `test` are
trajectories of the same environments from other initial states; `adapt_train` and `adapt_test` are those of
environments with other parameters.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import numpy as np

from hf_mixture.models.mixer.systems import FAMILIES, Array, Family


SPLITS = ("train", "test", "adapt_train", "adapt_test")


@dataclass(frozen=True)
class Group:
    """The environments of one family in a collection.

    Args:
        family: The equations.
        train: Parameters of the environments of `train` and `test` [E, P].
        adapt: Parameters of those of `adapt_train` and `adapt_test` [E, P].
        low: Lowest initial state [D].
        high: Highest initial state [D].
        times: Times of the observations [T].
        corners: Initial states that every split begins with.
    """

    family: Family
    train: Array
    adapt: Array
    low: Array
    high: Array
    times: Array
    corners: tuple[tuple[float, ...], ...] = ()

    def parameters(self, split: str) -> Array:
        """Parameters of the environments of a split [E, P]."""
        return self.adapt if split.startswith("adapt") else self.train

    def initial_states(self, number: int, generator: np.random.Generator) -> Array:
        """Draw the initial states of a split, the same for all of its environments [number, D]."""
        drawn = generator.uniform(self.low, self.high, (number, self.family.state_size))
        fixed = np.array(self.corners[:number], dtype=np.float64).reshape(-1, self.family.state_size)
        drawn[: len(fixed)] = fixed
        return np.asarray(drawn, dtype=np.float64)


@dataclass(frozen=True)
class Collection:
    """Environments of one or more families.

    Args:
        groups: The families.
        num_trajectories: Trajectories of an environment, by split.
    """

    groups: tuple[Group, ...]
    num_trajectories: dict[str, int]


def _times(step: float, number: int) -> Array:
    return np.asarray(step * np.arange(number), dtype=np.float64)


def _column(values: object) -> Array:
    return np.array(values, dtype=np.float64).reshape(-1, 1)


def _product(*values: tuple[float, ...]) -> Array:
    return np.array(list(itertools.product(*values)), dtype=np.float64)


def _lotka_volterra() -> Collection:
    # The first parameter varies fastest in training, the second one in adaptation.
    group = Group(
        FAMILIES["lotka_volterra"],
        train=_product((0.5, 0.75, 1.0), (0.5, 0.75, 1.0))[:, ::-1].copy(),
        adapt=_product((0.625, 1.125), (0.625, 1.125)),
        low=np.ones(2),
        high=np.full(2, 2.0),
        times=_times(0.5, 20),
    )
    return Collection((group,), dict(zip(SPLITS, (4, 32, 1, 32), strict=True)))


def _selkov() -> Collection:
    regimes = [np.linspace(-1, -0.25, 7), np.linspace(-0.1, 0.1, 7), np.linspace(0.25, 1, 7)]
    group = Group(
        FAMILIES["selkov"],
        train=_column(np.concatenate(regimes)),
        adapt=_column([-1.25, -0.65, -0.05, 0.02, 0.6, 1.2]),
        low=np.zeros(2),
        high=np.full(2, 3.0),
        times=_times(4.0, 11),
    )
    return Collection((group,), dict(zip(SPLITS, (4, 4, 1, 4), strict=True)))


def _glycolytic() -> Collection:
    group = Group(
        FAMILIES["glycolytic"],
        train=_product((100.0, 90.0, 80.0), (1.0, 0.75, 0.5)),
        adapt=_product((85.0, 95.0), (0.625, 0.875)),
        low=np.array([0.15, 0.19, 0.04, 0.10, 0.08, 0.14, 0.05]),
        high=np.array([1.60, 2.16, 0.20, 0.35, 0.30, 2.67, 0.10]),
        times=_times(0.05, 20),
    )
    return Collection((group,), dict(zip(SPLITS, (32, 32, 1, 32), strict=True)))


def _odebench(
    name: str,
    reference: tuple[float, ...],
    corners: tuple[tuple[float, float], tuple[float, float]],
    horizon: float,
    *,
    spread: float,
    environments: int,
) -> Group:
    """A family of ODEBench: parameters on a grid around a reference, initial states in the box between two corners."""
    side = math.ceil(environments ** (1 / len(reference)) - 1e-9)
    axes = [tuple(np.round(np.linspace(1 - spread, 1 + spread, side) * value, 2)) for value in reference]
    box = np.array(corners)
    return Group(
        FAMILIES[name],
        train=_product(*axes)[:environments],
        # Outside of the range of training.
        adapt=np.array([[factor * value for value in reference] for factor in (0.7, 1.3)]),
        low=box.min(axis=0) + 1e-3,
        high=box.max(axis=0) - 1e-3,
        times=_times(horizon / 100, 100),
        corners=corners,
    )


def _odebench_small() -> Collection:
    rows = (
        ("harmonic", (2.1,), ((0.5, 0.5), (0.75, 0.75)), 6.0),
        ("shear_flow", (2.0,), ((0.3, -0.3), (0.5, -0.5)), 6.0),
        ("double_well", (0.1,), ((-0.5, -0.5), (-0.7, -0.7)), 8.0),
        ("van_der_pol", (0.886,), ((0.4, 0.0), (0.3, 0.1)), 8.0),
    )
    groups = tuple(_odebench(*row, spread=0.2, environments=5) for row in rows)
    return Collection(groups, dict(zip(SPLITS, (4, 32, 1, 32), strict=True)))


def _odebench_ten() -> Collection:
    rows: tuple[tuple[str, tuple[float, ...], tuple[tuple[float, float], tuple[float, float]], float], ...] = (
        ("harmonic", (2.1,), ((0.4, -0.03), (0.0, 0.2)), 10.0),
        ("damped_harmonic", (4.5, 0.43), ((0.12, 0.043), (0.0, -0.3)), 8.0),
        ("pendulum", (0.9,), ((-1.9, 0.0), (0.3, 0.8)), 15.0),
        ("double_well", (0.18,), ((-1.8, -1.8), (-2.8, 1.0)), 5.0),
        ("rotating_hoop", (0.93,), ((2.1, 0.0), (-1.2, -0.2)), 20.0),
        ("shear_flow", (4.2,), ((1.13, -0.3), (0.7, -1.7)), 5.0),
        ("van_der_pol", (0.43,), ((2.2, 0.0), (0.1, 3.2)), 15.0),
        ("van_der_pol_simplified", (3.37,), ((0.7, 0.0), (-1.1, -0.7)), 15.0),
        ("glycolytic_2d", (2.4, 0.07), ((0.4, 0.31), (0.2, -0.7)), 4.0),
        # The equation of the seventh with other parameters, so that there are nine fields.
        ("van_der_pol", (0.886,), ((0.63, -0.03), (0.2, 0.2)), 10.0),
    )
    groups = tuple(_odebench(*row, spread=0.1, environments=16) for row in rows)
    return Collection(groups, dict(zip(SPLITS, (4, 32, 1, 32), strict=True)))


COLLECTIONS = {
    "glycolytic": _glycolytic,
    "lotka_volterra": _lotka_volterra,
    "odebench_small": _odebench_small,
    "odebench_ten": _odebench_ten,
    "selkov": _selkov,
}
