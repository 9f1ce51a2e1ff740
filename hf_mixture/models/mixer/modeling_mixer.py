"""MixER: reconstruction of trajectories by a mixture of meta-learned expert dynamics.

Letters: B trajectories, N environments among them, E all environments, R trajectories of one, T times, D state size,
d context size, M experts, P neighbours.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.utils import ModelOutput

from hf_mixture.models.mixer.adaptation import Start, fit_contexts
from hf_mixture.models.mixer.batches import check_batch, group_by_environment
from hf_mixture.models.mixer.configuration_mixer import MixerConfig
from hf_mixture.models.mixer.experts import EXPERTS, Experts
from hf_mixture.models.mixer.experts.base import ExpertSizes, Stacked
from hf_mixture.models.mixer.experts.layers import Layers, run_layers
from hf_mixture.models.mixer.fused_rk4 import integrate_layers
from hf_mixture.models.mixer.gradient_gate import GradientGate, straight_through
from hf_mixture.models.mixer.solvers import integrate_adaptive, integrate_rk4
from hf_mixture.models.mixer.taylor import VectorField, choose_neighbours, field_of_jet, taylor_jet


if TYPE_CHECKING:
    from hf_mixture.moe.routers.kmeans_least_squares import KMeansLeastSquaresGate


@dataclass
class MixerOutput(ModelOutput):
    """What a forward pass of a MixER returns.

    Args:
        loss: Mean squared error of the trajectories, and the penalty of the contexts; where labels are given.
        trajectories: Predicted states [B, T, D].
        router_indices: Expert of each trajectory's environment [B].
        router_logits: Scores of the gate [B, M].
        expert_losses: Mean squared error of each trajectory under each expert alone [B, M], infinite where that expert
            diverged; where they are asked for.
    """

    loss: Tensor | None = None
    trajectories: Tensor | None = None
    router_indices: Tensor | None = None
    router_logits: Tensor | None = None
    expert_losses: Tensor | None = None


class MixerForTrajectoryReconstruction(PreTrainedModel):
    """Trajectories of many environments, each integrated by the expert that its context chooses (arXiv 2502.05335).

    dy/dt = f_m(y, xi), with m = argmax [xi, 1] W, for an environment with the context xi. The expert's output is not
    multiplied by the gate. Contexts are rows of an embedding that begin at zero; W is a buffer that `MixerTrainer`
    solves for. All environments are integrated at once, each with its winning expert only.

    Args:
        config: The configuration.

    Example:
        >>> import torch
        >>> from hf_mixture import MixerConfig, MixerForTrajectoryReconstruction
        >>> model = MixerForTrajectoryReconstruction(MixerConfig(num_envs=3, num_experts=2))
        >>> times = torch.linspace(0, 1, 5)
        >>> out = model(initial_state=torch.ones(4, 2), times=times, env_ids=torch.tensor([0, 0, 1, 2]))
        >>> tuple(out.trajectories.shape), tuple(out.router_indices.shape)
        ((4, 5, 2), (4,))
    """

    config_class = MixerConfig
    base_model_prefix = ""
    main_input_name = "initial_state"
    # The Trainer divides by its accumulation steps.
    accepts_loss_kwargs = False

    def __init__(self, config: MixerConfig) -> None:
        config.check_sizes()
        super().__init__(config)
        self.contexts = nn.Embedding(config.num_envs, config.context_size)
        self.experts: Experts = EXPERTS[config.expert_type](
            ExpertSizes(
                num_experts=config.num_experts,
                state_size=config.state_size,
                context_size=config.expert_context_size,
                hidden_size=config.hidden_size,
                num_layers=config.num_layers,
                num_encoder_layers=config.num_encoder_layers,
                intermediate_size=config.intermediate_size,
                same_init=config.same_expert_init,
            )
        )
        self.gate: KMeansLeastSquaresGate | GradientGate
        if config.gate == "least_squares":
            # Not above: models without such a gate must not wait for the routers.
            from hf_mixture.moe.routers.kmeans_least_squares import KMeansLeastSquaresGate

            self.gate = KMeansLeastSquaresGate(
                config.context_size,
                config.num_experts,
                bias=config.gate_bias,
                max_iterations=config.kmeans_iterations,
                tolerance=config.kmeans_tolerance,
                noise=config.gate_noise,
                first_centroids=config.first_centroids,
            )
        else:
            self.gate = GradientGate(config.context_size, config.num_experts, bias=config.gate_bias)
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.Embedding):
            init.zeros_(module.weight)
        elif isinstance(module, Stacked) or module is self.gate:
            module.reset_parameters()

    def forward(  # noqa: PLR0917 - as the inputs of a batch
        self,
        initial_state: Tensor,
        times: Tensor,
        env_ids: Tensor,
        labels: Tensor | None = None,
        contexts: Tensor | None = None,
        output_expert_losses: bool = False,
        return_dict: bool | None = None,
    ) -> MixerOutput | tuple[Any, ...]:
        """Integrate trajectories.

        Args:
            initial_state: States at the first time [B, D].
            times: Increasing times, at least 2, of all trajectories [T] or of each [B, T].
            env_ids: Environment of each trajectory [B].
            labels: True states [B, T, D], for the loss.
            contexts: Contexts that `env_ids` counts, such as those that `adapt` returns [E', d]. Defaults to those of
                the model.
            output_expert_losses: Whether to integrate with each expert alone as well, without gradients and by
                `"rk4"`.
            return_dict: Whether to return a `MixerOutput` rather than a tuple. Default: as the configuration says.

        Returns:
            The output.

        Raises:
            ValueError: The inputs do not fit one another or the model, or are not finite, or times do not increase.
            FloatingPointError: A trajectory diverged.
        """
        table = self.contexts.weight if contexts is None else contexts
        if table.dim() != 2 or table.shape[1] != self.config.context_size or not table.isfinite().all():
            raise ValueError(
                f"contexts has the shape {tuple(table.shape)}, or values that are not finite; give finite numbers "
                f"[environments, {self.config.context_size}]"
            )
        times = check_batch(
            initial_state, times, env_ids, labels, state_size=self.config.state_size, num_envs=len(table)
        )
        if output_expert_losses and labels is None:
            raise ValueError("output_expert_losses needs labels to compare with; give them")
        # Errors of half precision would grow from step to step.
        with torch.autocast(initial_state.device.type, enabled=False):
            pool = self._pool(table, env_ids)
            scores = self.gate(table)[1][env_ids]
            trajectories = self._integrate(initial_state, times, env_ids, table, pool)
        if not trajectories.isfinite().all():
            diverged = env_ids[~trajectories.isfinite().flatten(2).all(dim=-1).all(dim=0)].unique().tolist()
            raise FloatingPointError(
                f"trajectories of the environments {diverged} diverged; use more num_substeps or an adaptive solver, "
                "or train with a smaller learning rate"
            )
        loss = None
        if labels is not None:
            loss = (trajectories - labels).square().mean()
            if self.config.context_penalty:
                loss = loss + self.config.context_penalty * table.abs().mean()
        output = MixerOutput(
            loss=loss,
            trajectories=trajectories[0],
            router_indices=scores.argmax(dim=-1),
            router_logits=scores,
            expert_losses=self.expert_losses(initial_state, times, env_ids, labels, table)
            if output_expert_losses and labels is not None
            else None,
        )
        return output if (self.config.return_dict if return_dict is None else return_dict) else output.to_tuple()

    def _pool(self, table: Tensor, env_ids: Tensor) -> Tensor | None:
        """Contexts to expand around [P, E, d], in training with an expansion."""
        if not (self.training and self.config.taylor_order):
            return None
        return choose_neighbours(
            table, self.contexts.weight, size=self.config.pool_size, strategy=self.config.pool_strategy
        )

    def _integrate(
        self, initial_state: Tensor, times: Tensor, env_ids: Tensor, table: Tensor, pool: Tensor | None
    ) -> Tensor:
        """Integrate with the winning experts [P, B, T, D]."""
        if self.config.solver == "rk4":
            return self._integrate_at_once(initial_state, times, env_ids, table, pool)
        # The steps of an adaptive solver end at the times of the observations.
        grids, grid_of = torch.unique(times, dim=0, return_inverse=True)
        members = [(grid_of == number).nonzero().squeeze(1) for number in range(len(grids))]
        parts = [
            self._integrate_at_once(initial_state[rows], times[rows], env_ids[rows], table, pool) for rows in members
        ]
        return torch.cat(parts, dim=1)[:, torch.cat(members).argsort()]

    def _integrate_at_once(
        self, initial_state: Tensor, times: Tensor, env_ids: Tensor, table: Tensor, pool: Tensor | None
    ) -> Tensor:
        config = self.config
        group = group_by_environment(env_ids)
        neighbours = None if pool is None else pool[:, group.environments]
        number = 1 if pool is None else len(pool)
        jet = self._winning_experts(table[group.environments], neighbours)
        initial = initial_state[group.rows].repeat(number, 1, 1)
        if config.solver != "rk4":
            states = self._adaptive(field_of_jet(jet), initial, times[0])
        else:
            given = times[group.rows].repeat(number, 1, 1)
            states = self._rk4(jet, initial, given)
        return states.unflatten(0, (number, -1))[:, group.place, group.slot]

    def _rk4(self, jet: tuple[Layers, ...], initial: Tensor, times: Tensor) -> Tensor:
        if len(jet) == 1 and torch.is_grad_enabled():
            return integrate_layers(jet[0], initial, times, num_substeps=self.config.num_substeps)
        return integrate_rk4(field_of_jet(jet), initial, times, num_substeps=self.config.num_substeps)

    def _adaptive(self, field: VectorField, initial: Tensor, grid: Tensor) -> Tensor:
        try:
            return integrate_adaptive(
                field, initial, grid, solver=self.config.solver, rtol=self.config.rtol, atol=self.config.atol
            )
        except AssertionError as error:
            raise FloatingPointError(
                f"the solver {self.config.solver!r} gave up ({error}); raise rtol and atol, or train with a smaller "
                "learning rate"
            ) from error

    def _winning_experts(self, contexts: Tensor, neighbours: Tensor | None) -> tuple[Layers, ...]:
        """The networks of the winning experts of N environments, or their expansions around P neighbours [P N]."""
        indices, scores = self.gate(contexts)
        own = around = self._seen(contexts, indices)
        order = 0
        if neighbours is not None:
            order, number = self.config.taylor_order, len(neighbours)
            around = torch.cat([self._seen(part, indices) for part in neighbours])
            own, indices, scores = own.repeat(number, 1), indices.repeat(number), scores.repeat(number, 1)

        def layers_of(seen: Tensor) -> Layers:
            layers = self.experts.layers(seen, indices)
            return straight_through(layers, scores, indices) if isinstance(self.gate, GradientGate) else layers

        return taylor_jet(layers_of, own, around, order)

    def _seen(self, contexts: Tensor, experts: Tensor) -> Tensor:
        """The part of each context that its expert sees [N, expert_context_size]."""
        if not self.config.split_context:
            return contexts
        parts = contexts.unflatten(-1, (self.config.num_experts, -1))
        return parts[torch.arange(len(contexts), device=contexts.device), experts]

    @torch.no_grad()
    def expert_losses(
        self, initial_state: Tensor, times: Tensor, env_ids: Tensor, labels: Tensor, contexts: Tensor | None = None
    ) -> Tensor:
        """Mean squared error of each trajectory under each expert alone, integrated by RK4.

        Args:
            initial_state: States at the first time [B, D].
            times: Increasing times [B, T].
            env_ids: Environment of each trajectory [B].
            labels: True states [B, T, D].
            contexts: Contexts that `env_ids` counts. Defaults to those of the model.

        Returns:
            Losses [B, M], infinite where an expert diverged.
        """
        table = self.contexts.weight if contexts is None else contexts
        num_experts = self.config.num_experts
        group = group_by_environment(env_ids)
        number = len(group.environments)
        experts = torch.arange(num_experts, device=env_ids.device).repeat_interleave(number)
        seen = self._seen(table[group.environments].repeat(num_experts, 1), experts)
        layers = self.experts.layers(seen, experts)
        states = integrate_rk4(
            lambda y: run_layers(layers, y),
            initial_state[group.rows].repeat(num_experts, 1, 1),
            times[group.rows].repeat(num_experts, 1, 1),
            num_substeps=self.config.num_substeps,
        )
        errors = (states - labels[group.rows].repeat(num_experts, 1, 1, 1)).square().mean(dim=(2, 3))
        losses = errors.unflatten(0, (num_experts, number))[:, group.place, group.slot].T
        return losses.nan_to_num(nan=torch.inf, posinf=torch.inf)

    def adapt(
        self,
        dataset: Any,
        *,
        num_steps: int = 300,
        learning_rate: float = 1e-2,
        start: Start = "best",
        progress: bool = True,
    ) -> Tensor:
        """Fit contexts of new environments; the weights of the model stay as they are.

        The gate decides by W on the contexts as they move.

        Args:
            dataset: Trajectories of the new environments: rows with `initial_state`, `times`, `labels` and `env_ids`,
                counted from 0.
            num_steps: Optimizer steps, at least 1.
            learning_rate: Learning rate of AdaBelief, above 0; divided by ten after two thirds of the steps.
            start: Where contexts begin: `"zero"`, as published; or `"best"`, for each environment the better of zero
                and of the mean contexts of the environments of each expert, by the loss on `dataset`.
            progress: Whether to show a progress bar.

        Returns:
            Contexts [E', d], those with the lowest loss of each environment on the way; for `forward(contexts=...)`.

        Raises:
            ValueError: A number is out of range, or the rows cannot be used.

        Example:
            >>> from hf_mixture import MixerConfig, MixerForTrajectoryReconstruction
            >>> model = MixerForTrajectoryReconstruction(MixerConfig(num_envs=3, num_experts=2))
            >>> row = {"initial_state": [1.0, 0.0], "times": [0.0, 0.1], "labels": [[1.0, 0.0], [0.9, 0.1]]}
            >>> tuple(model.adapt([row | {"env_ids": 0}], num_steps=2, progress=False).shape)
            (1, 6)
        """
        return fit_contexts(
            self, dataset, num_steps=num_steps, learning_rate=learning_rate, start=start, progress=progress
        )
