"""Integration of vector fields, many environments at once.

Letters: N environments, R trajectories of each, D state size, T times.
"""

from __future__ import annotations

import torch
from torch import Tensor

from hf_mixture._extras import require
from hf_mixture.models.mixer.taylor import VectorField


# Names of the adaptive solvers of torchdiffeq that step forward with an error estimate.
ADAPTIVE_SOLVERS = ("adaptive_heun", "bosh3", "dopri5", "dopri8", "fehlberg2")


def integrate_rk4(field: VectorField, initial: Tensor, times: Tensor, *, num_substeps: int = 1) -> Tensor:
    """Integrate by the classical Runge-Kutta method of order 4, with equal steps between observations.

    Args:
        field: y' [N, R, D] as a function of y [N, R, D].
        initial: States at the first time [N, R, D].
        times: Times of each trajectory [N, R, T].
        num_substeps: Steps between two times.

    Returns:
        States [N, R, T, D].
    """
    steps = (times.diff(dim=2) / num_substeps).to(initial.dtype)
    y, states = initial, [initial]
    for step in steps.unsqueeze(-1).unbind(dim=2):
        half, sixth = step / 2, step / 6
        for _ in range(num_substeps):
            k1 = field(y)
            k2 = field(torch.addcmul(y, half, k1))
            k3 = field(torch.addcmul(y, half, k2))
            k4 = field(torch.addcmul(y, step, k3))
            y = torch.addcmul(y, sixth, torch.add(k1 + k4, k2 + k3, alpha=2))
        states.append(y)
    return torch.stack(states, dim=2)


def integrate_adaptive(
    field: VectorField, initial: Tensor, times: Tensor, *, solver: str, rtol: float, atol: float
) -> Tensor:
    """Integrate with an adaptive solver of torchdiffeq; all environments share the steps.

    Args:
        field: y' [N, R, D] as a function of y [N, R, D].
        initial: States at the first time [N, R, D].
        times: Times, the same for all environments [T].
        solver: Name of the solver.
        rtol: Relative tolerance.
        atol: Absolute tolerance.

    Returns:
        States [N, R, T, D].

    Raises:
        ImportError: torchdiffeq is not installed.
    """
    odeint = require("torchdiffeq", used_for=f"solver={solver!r}", extra="dynamics").odeint
    states = odeint(lambda _, y: field(y), initial, times.to(initial.dtype), method=solver, rtol=rtol, atol=atol)
    return states.permute(1, 2, 0, 3)
