"""What a MixER run measures of a model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any


def errors_by_environment(
    model: Any, rows: Sequence[Any], *, contexts: Any = None, until: int | None = None
) -> list[float]:
    """Mean squared error of each environment over all of its trajectories; infinite where one diverged.

    Args:
        model: The model.
        rows: Trajectories.
        contexts: Contexts that their `env_ids` count. Default: those of the model.
        until: Number of times that count, from the first. Default: all.

    Returns:
        Errors, by environment.
    """
    import torch

    from hf_mixture.models.mixer.batches import collate_trajectories

    batch = collate_trajectories(rows)
    if until is not None:
        batch |= {"times": batch["times"][:, :until], "labels": batch["labels"][:, :until]}
    table = model.contexts.weight if contexts is None else contexts
    with torch.no_grad():
        experts = model.gate(table)[0][batch["env_ids"]]
        losses = model.expert_losses(**batch, contexts=table).gather(1, experts.unsqueeze(1)).squeeze(1)
    return [float(losses[batch["env_ids"] == environment].mean()) for environment in range(len(table))]


def family_purity(experts: Sequence[int], families: Sequence[str]) -> float:
    """Share of the environments that belong to the most frequent family of their expert.

    Args:
        experts: Expert of each environment.
        families: Family of each environment.

    Returns:
        From 1 / number of families, if one expert takes all, to 1.
    """
    total = 0
    for expert in set(experts):
        total += Counter(f for e, f in zip(experts, families, strict=True) if e == expert).most_common(1)[0][1]
    return total / len(experts)


def by_family(errors: Sequence[float], families: Sequence[str]) -> dict[str, float]:
    """Mean error of the environments of each family."""
    found = {}
    for family in dict.fromkeys(families):
        members = [error for error, name in zip(errors, families, strict=True) if name == family]
        found[family] = sum(members) / len(members)
    return found


def finite(value: float) -> float | str:
    """A number as JSON has it: `"diverged"` where it is infinite."""
    return value if value < float("inf") else "diverged"
