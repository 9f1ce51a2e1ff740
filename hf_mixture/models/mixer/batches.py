"""Batches of trajectories: collating, checking, and grouping by environment.

Letters: B trajectories, N environments among them, R the most trajectories of one environment, T times, D state size.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor


FIELDS = ("initial_state", "times", "labels", "env_ids")


class Grouped(NamedTuple):
    """Trajectories of a batch, by environment.

    Args:
        environments: The environments [N], sorted.
        rows: Trajectories of each environment [N, R]; where it has fewer, its first one again.
        place: Environment of each trajectory, as a place in `environments` [B].
        slot: Its place among those of its environment [B].
    """

    environments: Tensor
    rows: Tensor
    place: Tensor
    slot: Tensor


def group_by_environment(env_ids: Tensor) -> Grouped:
    """Group trajectories by environment.

    Args:
        env_ids: Environment of each trajectory [B].

    Returns:
        The groups.
    """
    environments, place, counts = torch.unique(env_ids, return_inverse=True, return_counts=True)
    order = place.argsort(stable=True)
    first = counts.cumsum(0) - counts
    slots = torch.arange(len(env_ids), device=env_ids.device) - first.repeat_interleave(counts)
    slot = torch.empty_like(place)
    slot[order] = slots
    rows = order[first].unsqueeze(1).repeat(1, int(counts.max()))
    rows[place, slot] = torch.arange(len(env_ids), device=env_ids.device)
    return Grouped(environments, rows, place, slot)


def collate_trajectories(rows: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
    """Make a batch of trajectories; the data collator of `MixerTrainer`.

    Args:
        rows: Trajectories with `initial_state` [D], `times` [T], `labels` [T, D] and `env_ids`; other fields are left
            out.

    Returns:
        The fields, stacked, in float32 and int64.

    Raises:
        ValueError: A field is missing, or trajectories have different numbers of times or variables.

    Example:
        >>> from hf_mixture.models.mixer.batches import collate_trajectories
        >>> row = {"initial_state": [1.0], "times": [0.0, 1.0], "labels": [[1.0], [0.5]], "env_ids": 3}
        >>> {name: tuple(value.shape) for name, value in collate_trajectories([row, row]).items()}
        {'initial_state': (2, 1), 'times': (2, 2), 'labels': (2, 2, 1), 'env_ids': (2,)}
    """
    batch = {}
    for name in FIELDS:
        if name not in rows[0]:
            raise ValueError(f"the trajectories have no {name!r}; give the fields {', '.join(FIELDS)}")
        dtype = torch.int64 if name == "env_ids" else torch.float32
        values = [torch.as_tensor(row[name], dtype=dtype) for row in rows]
        if len({value.shape for value in values}) > 1:
            raise ValueError(
                f"{name} has the shapes {sorted({tuple(value.shape) for value in values})} in one batch; give "
                "trajectories with equal numbers of times and variables"
            )
        batch[name] = torch.stack(values)
    return batch


def check_batch(
    initial_state: Tensor, times: Tensor, env_ids: Tensor, labels: Tensor | None, *, state_size: int, num_envs: int
) -> Tensor:
    """Check a batch, and give each trajectory its times.

    Args:
        initial_state: [B, D].
        times: [T] or [B, T].
        env_ids: [B].
        labels: [B, T, D], or None.
        state_size: D of the model.
        num_envs: Number of its environments.

    Returns:
        The times [B, T].

    Raises:
        ValueError: A shape does not fit, a value is not finite, times do not increase, or an environment is unknown.
    """
    if initial_state.dim() != 2 or initial_state.shape[1] != state_size:
        raise ValueError(
            f"initial_state has the shape {tuple(initial_state.shape)}; give [trajectories, {state_size}], as "
            "state_size says"
        )
    num_rows = len(initial_state)
    if not num_rows:
        raise ValueError("initial_state has no trajectories; give at least one")
    if times.dim() not in (1, 2) or (times.dim() == 2 and len(times) != num_rows):
        raise ValueError(
            f"times has the shape {tuple(times.shape)}; give [times] or [{num_rows}, times], a row for each trajectory"
        )
    if times.shape[-1] < 2:
        raise ValueError(
            f"times has {times.shape[-1]} time for each trajectory; give at least 2, the first being that of "
            "initial_state"
        )
    if env_ids.shape != (num_rows,):
        raise ValueError(f"env_ids has the shape {tuple(env_ids.shape)}; give [{num_rows}], one for each trajectory")
    expected = (num_rows, times.shape[-1], state_size)
    if labels is not None and labels.shape != expected:
        raise ValueError(f"labels has the shape {tuple(labels.shape)}; give {list(expected)}")
    for name, values in (("initial_state", initial_state), ("times", times), ("labels", labels)):
        if values is not None and not values.isfinite().all():
            raise ValueError(f"{name} has values that are not finite; remove those trajectories")
    if not (times.diff(dim=-1) > 0).all():
        raise ValueError("times must increase along each trajectory; sort them, and remove times that occur twice")
    if env_ids.min() < 0 or env_ids.max() >= num_envs:
        raise ValueError(
            f"env_ids has values from {int(env_ids.min())} to {int(env_ids.max())}, and there are {num_envs} "
            f"contexts; give values from 0 to {num_envs - 1}, or contexts of the environments"
        )
    return times.expand(num_rows, -1)
