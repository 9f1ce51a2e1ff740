"""Configuration of MixER."""

from __future__ import annotations

from typing import Literal

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig


# Smallest value of each size.
_LEAST = {
    "state_size": 1,
    "num_envs": 1,
    "num_experts": 1,
    "context_size": 1,
    "hidden_size": 1,
    "num_layers": 2,
    "num_encoder_layers": 0,
    "intermediate_size": 1,
    "pool_size": 1,
    "kmeans_iterations": 1,
    "num_substeps": 1,
}


@strict
class MixerConfig(PreTrainedConfig):
    """What makes a MixER: environments with contexts, expert vector fields, and a gate (arXiv 2502.05335).

    Args:
        state_size: D, number of variables of the differential equations.
        num_envs: E, number of environments to learn from; at least `num_experts`.
        num_experts: M, number of expert vector fields.
        context_size: d, size of the context of an environment.
        expert_type: `"geps"`, `"ncf"`, `"coda"`, or `"neural_ode"`, which ignores the context.
        split_context: Whether the context is cut into M parts, of which an expert sees its own; the gate sees all. M
            must divide `context_size` then.
        hidden_size: Width of the hidden layers of an expert.
        num_layers: Linear layers of an expert, at least 2; for NCF those of its main network.
        num_encoder_layers: Hidden layers of the two encoders of NCF.
        intermediate_size: Width of what these encoders give.
        same_expert_init: Whether all experts begin with the same weights.
        taylor_order: Order 0, 1 or 2 of the expansion of a vector field around a neighbour's context in training.
        pool_size: Number of neighbours of an environment; the loss is averaged over them.
        pool_strategy: Which neighbours: `"nearest"` (an environment itself first), `"nearest_other"`, `"smallest"`
            contexts, or `"random"`.
        gate: `"least_squares"`, solved for by `MixerTrainer`; or `"gradient"`, trained with the experts, for
            comparison.
        gate_bias: Whether the gate has a row for a constant 1.
        kmeans_iterations: Largest number of iterations of K-means in an update of the gate.
        kmeans_tolerance: Largest move of a converged centroid, in units of the contexts.
        gate_noise: Standard deviation of the noise on the contexts in an update.
        first_centroids: Where K-means begins: `"contexts"`, at contexts far from one another; or `"origin"`, near
            zero, as published.
        solver: `"rk4"`, with fixed steps, or an adaptive one of torchdiffeq: `"dopri5"`, `"dopri8"`, `"bosh3"`,
            `"fehlberg2"` or `"adaptive_heun"`.
        num_substeps: Steps of `"rk4"` between two times.
        rtol: Relative tolerance of adaptive solvers, above 0.
        atol: Absolute tolerance of adaptive solvers, in units of the state, above 0.
        context_penalty: Weight of the mean absolute value of the contexts in the loss, at least 0.

    Example:
        >>> from hf_mixture import MixerConfig
        >>> MixerConfig(num_envs=20, num_experts=4, context_size=8).expert_context_size
        8
    """

    model_type = "mixer"

    state_size: int = 2
    num_envs: int = 9
    num_experts: int = 3
    context_size: int = 6
    expert_type: Literal["geps", "ncf", "coda", "neural_ode"] = "geps"
    split_context: bool = False
    hidden_size: int = 64
    num_layers: int = 3
    num_encoder_layers: int = 1
    intermediate_size: int = 32
    same_expert_init: bool = True
    taylor_order: Literal[0, 1, 2] = 0
    pool_size: int = 1
    pool_strategy: Literal["random", "nearest", "nearest_other", "smallest"] = "nearest"
    gate: Literal["least_squares", "gradient"] = "least_squares"
    gate_bias: bool = True
    kmeans_iterations: int = 20
    kmeans_tolerance: float = 1e-4
    gate_noise: float = 1e-4
    first_centroids: Literal["contexts", "origin"] = "contexts"
    solver: Literal["rk4", "dopri5", "dopri8", "bosh3", "fehlberg2", "adaptive_heun"] = "rk4"
    num_substeps: int = 1
    rtol: float = 1e-3
    atol: float = 1e-6
    context_penalty: float = 0.0

    def check_sizes(self) -> None:
        """Check what a model needs of its configuration.

        Raises:
            ValueError: If a value is out of its range or does not fit the others.
        """
        for name, least in _LEAST.items():
            if getattr(self, name) < least:
                raise ValueError(f"{name}={getattr(self, name)} must be at least {least}; raise it")
        for name in ("rtol", "atol"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name}={getattr(self, name)} must be above 0; raise it")
        for name in ("kmeans_tolerance", "gate_noise", "context_penalty"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 0; raise it")
        if self.num_envs < self.num_experts:
            raise ValueError(
                f"num_experts={self.num_experts} is more than num_envs={self.num_envs}, so that an expert would have "
                "no environment; use fewer experts"
            )
        if self.split_context and self.context_size % self.num_experts:
            raise ValueError(
                f"context_size={self.context_size} must be a multiple of num_experts={self.num_experts} with "
                "split_context; change one of them"
            )
        candidates = self.num_envs - (self.pool_strategy == "nearest_other")
        if self.taylor_order and self.pool_size > candidates:
            raise ValueError(
                f"pool_size={self.pool_size} is more than the {candidates} contexts that pool_strategy="
                f"{self.pool_strategy!r} can choose from; lower it"
            )

    @property
    def expert_context_size(self) -> int:
        """Size of the part of a context that an expert sees."""
        return self.context_size // self.num_experts if self.split_context else self.context_size
