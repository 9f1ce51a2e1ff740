"""Trajectories of differential equations, far more accurate than what a model can learn from them.

Letters: E environments, N trajectories, T times, D state size, P parameters.
"""

from __future__ import annotations

import numpy as np

from hf_mixture._extras import require
from hf_mixture.models.mixer.systems import Array, Family


def simulate(family: Family, parameters: Array, initial_states: Array, times: Array) -> Array:
    """Integrate one environment of a family from several initial states.

    All trajectories are integrated as one system, with tolerances that hold for each of them: 1e-10 relative and 1e-12
    absolute, in the root mean square over all.

    Args:
        family: The equations.
        parameters: c of the environment [P].
        initial_states: States at the first time [N, D].
        times: Increasing times [T].

    Returns:
        States [N, T, D].

    Raises:
        ValueError: The shapes do not fit the family, or a trajectory ends before the last time or is not finite.
        ImportError: scipy is not installed.
    """
    solve_ivp = require("scipy.integrate", used_for="simulating trajectories", extra="dynamics").solve_ivp
    if parameters.shape != (family.num_parameters,) or initial_states.shape[1:] != (family.state_size,):
        raise ValueError(
            f"parameters has the shape {parameters.shape} and initial_states {initial_states.shape}; {family.name} "
            f"takes [{family.num_parameters}] and [trajectories, {family.state_size}]"
        )
    if family.stiff:
        # One system of all trajectories would have a Jacobian of zeros beyond its diagonal blocks.
        return np.concatenate([_solve(solve_ivp, family, parameters, state[None], times) for state in initial_states])
    return _solve(solve_ivp, family, parameters, initial_states, times)


def _solve(solve_ivp: object, family: Family, parameters: Array, initial_states: Array, times: Array) -> Array:
    shape = initial_states.shape
    # A trajectory that leaves the domain of its equations is reported below.
    with np.errstate(all="ignore"):
        solved = solve_ivp(  # type: ignore[operator]
            lambda _, y: family.field(y.reshape(shape), parameters).ravel(),
            (times[0], times[-1]),
            initial_states.ravel(),
            method="LSODA" if family.stiff else "DOP853",
            t_eval=times,
            rtol=1e-10,
            atol=1e-12,
        )
    if solved.status != 0 or not np.isfinite(solved.y).all():
        raise ValueError(
            f"the trajectories of {family.name} with the parameters {parameters.tolist()} cannot be integrated to "
            f"time {times[-1]:g} ({solved.message}); choose other initial states or parameters, or a shorter time"
        )
    states: Array = solved.y.T.reshape(len(times), *shape)
    return np.swapaxes(states, 0, 1)
