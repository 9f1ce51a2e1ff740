"""Contexts of new environments, fitted with all weights frozen.

Letters: B trajectories, E environments, d context size.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from hf_mixture.models.mixer.adabelief import AdaBelief
from hf_mixture.models.mixer.batches import collate_trajectories


if TYPE_CHECKING:
    from hf_mixture.models.mixer.modeling_mixer import MixerForTrajectoryReconstruction

Start = Literal["best", "zero"]


def fit_contexts(
    model: MixerForTrajectoryReconstruction,
    dataset: Any,
    *,
    num_steps: int,
    learning_rate: float,
    start: Start,
    progress: bool,
) -> Tensor:
    """Fit contexts; see `MixerForTrajectoryReconstruction.adapt`.

    Args:
        model: The model, whose weights stay as they are.
        dataset: Rows, one trajectory each.
        num_steps: Optimizer steps.
        learning_rate: Learning rate.
        start: Where contexts begin.
        progress: Whether to show a progress bar.

    Returns:
        Contexts [E, d].

    Raises:
        ValueError: A number is out of range, or the rows cannot be used.
    """
    if num_steps < 1 or not learning_rate > 0:
        raise ValueError(f"num_steps={num_steps} and learning_rate={learning_rate} must be at least 1 and above 0")
    if start not in ("best", "zero"):
        raise ValueError(f"start={start!r} must be 'best' or 'zero'; give one of them")
    batch = {name: value.to(model.device) for name, value in collate_trajectories(list(dataset)).items()}
    num_envs = int(batch["env_ids"].max()) + 1
    if batch["env_ids"].unique().tolist() != list(range(num_envs)):
        raise ValueError(
            f"env_ids has the values {batch['env_ids'].unique().tolist()}; count the new environments from 0, without "
            "gaps"
        )
    training = model.training
    model.eval()
    try:
        contexts = _first_contexts(model, batch, num_envs, start)
        return _fit(model, batch, contexts, num_steps=num_steps, learning_rate=learning_rate, progress=progress)
    finally:
        model.train(training)


def _fit(
    model: MixerForTrajectoryReconstruction,
    batch: dict[str, Tensor],
    contexts: Tensor,
    *,
    num_steps: int,
    learning_rate: float,
    progress: bool,
) -> Tensor:
    from tqdm.auto import tqdm

    num_envs = len(contexts)
    contexts.requires_grad_()
    optimizer = AdaBelief([contexts], lr=learning_rate)
    best, lowest = contexts.detach().clone(), torch.full((num_envs,), torch.inf, device=contexts.device)
    for step in tqdm(range(num_steps + 1), desc="adapt", disable=not progress, delay=2.0):
        losses = _losses(model, batch, contexts)
        better = losses.detach() < lowest
        best[better], lowest[better] = contexts.detach()[better], losses.detach()[better]
        if step == num_steps:
            break
        if step == 2 * num_steps // 3:
            optimizer.param_groups[0]["lr"] = learning_rate / 10
        # Environments do not influence each other, so that their sum has the gradient of each.
        (contexts.grad,) = torch.autograd.grad(losses.sum(), contexts)
        optimizer.step()
    return best


def _losses(model: MixerForTrajectoryReconstruction, batch: dict[str, Tensor], contexts: Tensor) -> Tensor:
    """Mean squared error of each environment [E]."""
    inputs = {name: batch[name] for name in ("initial_state", "times", "env_ids")}
    errors = (model(**inputs, contexts=contexts).trajectories - batch["labels"]).square().mean(dim=(1, 2))
    return _mean_by_environment(errors, batch["env_ids"], len(contexts))


def _mean_by_environment(values: Tensor, env_ids: Tensor, num_envs: int) -> Tensor:
    sums = values.new_zeros(num_envs).index_add(0, env_ids, values)
    return sums / torch.bincount(env_ids, minlength=num_envs)


@torch.no_grad()
def _first_contexts(
    model: MixerForTrajectoryReconstruction, batch: dict[str, Tensor], num_envs: int, start: Start
) -> Tensor:
    """Zero, or the best of zero and the mean training context of each expert, for each environment [E, d]."""
    trained = model.contexts.weight
    zero = torch.zeros_like(trained[0])
    if start == "zero":
        return zero.expand(num_envs, -1).clone()
    indices = model.gate(trained)[0]
    means = [trained[indices == expert].mean(dim=0) for expert in indices.unique()]
    candidates, losses = torch.stack([zero, *means]), []
    for candidate in candidates:
        table = candidate.expand(num_envs, -1)
        chosen = model.gate(candidate.unsqueeze(0))[0]
        errors = model.expert_losses(**batch, contexts=table)[:, chosen].squeeze(1)
        losses.append(_mean_by_environment(errors, batch["env_ids"], num_envs))
    return candidates[torch.stack(losses).argmin(dim=0)].clone()
