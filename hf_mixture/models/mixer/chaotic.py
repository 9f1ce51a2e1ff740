"""Chaotic systems of the package `dysts` as families of environments (https://arxiv.org/abs/2110.05266)."""

from __future__ import annotations

import difflib
import functools
from typing import Any

import numpy as np

from hf_mixture._extras import is_installed, require
from hf_mixture.models.mixer.collections import SPLITS, Collection, Group
from hf_mixture.models.mixer.systems import Array, Family


# Factors of all parameters: environments of training, and new ones.
_TRAIN = (0.96, 0.98, 1.0, 1.02, 1.04)
_ADAPT = (0.95, 1.05)
_POINTS = 50
# The command that installs the package without what it needs for other purposes.
INSTALL = "pip install --no-deps dysts==0.96 gluonts==0.17.0 toolz==0.12.1"


def dysts_collection(systems: tuple[str, ...]) -> Collection:
    """Make environments of chaotic systems: five for each, with all parameters times 0.96 to 1.04.

    States are divided by the standard deviation of each variable after its mean is taken off, and time by the dominant
    period of the system, so that different systems have the same scale. A trajectory has 50 points of half a period,
    and begins near the attractor.

    Args:
        systems: Names, for example `("Lorenz", "Rossler")`; all of the same number of variables.

    Returns:
        The collection.

    Raises:
        ImportError: `dysts` is not installed.
        ValueError: There is no system, an unknown one, or systems of different sizes.
    """
    if not is_installed("dysts"):
        raise ImportError(f"the chaotic systems need the package 'dysts', which is not installed; {INSTALL}")
    flows = require("dysts.flows", used_for="chaotic systems", extra="dynamics")
    base = require("dysts.base", used_for="chaotic systems", extra="dynamics")
    if not systems:
        raise ValueError("systems is empty; name chaotic systems of dysts, for example ('Lorenz', 'Rossler')")
    known = [name for name, value in vars(flows).items() if isinstance(value, type) and issubclass(value, base.DynSys)]
    for name in systems:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            raise ValueError(
                f"systems has {name!r}, which is no system of dysts{f'; did you mean {near[0]!r}?' if near else ''}"
            )
    groups = tuple(_group(name, getattr(flows, name)) for name in systems)
    sizes = {group.family.name: group.family.state_size for group in groups}
    if len(set(sizes.values())) > 1:
        raise ValueError(f"the systems have different numbers of variables ({sizes}); choose systems of one size")
    return Collection(groups, dict(zip(SPLITS, (4, 16, 1, 16), strict=True)))


def _group(name: str, system_class: Any) -> Group:
    system = system_class()
    names = sorted(system.params)
    reference = np.array([float(system.params[key]) for key in names])
    mean, scale = np.asarray(system.mean, dtype=np.float64), np.asarray(system.std, dtype=np.float64)
    period = float(system.period)

    @functools.cache
    def with_parameters(*values: float) -> Any:
        return system_class(parameters=dict(zip(names, values, strict=True)))

    def field(y: Array, parameters: Array) -> Array:
        slopes = with_parameters(*parameters.tolist()).rhs(mean + scale * y, 0.0)
        return period * np.stack(np.broadcast_arrays(*slopes), axis=-1) / scale

    start = (np.asarray(system.ic, dtype=np.float64).reshape(-1) - mean) / scale
    return Group(
        Family(f"dysts_{name}", field, len(start), len(reference)),
        train=np.outer(_TRAIN, reference),
        adapt=np.outer(_ADAPT, reference),
        low=start - 0.1,
        high=start + 0.1,
        times=np.linspace(0, 0.5, _POINTS, endpoint=False, dtype=np.float64),
    )
