"""Which parameters carry what is to be forgotten, and their removal before any step is taken.

Letters: U users, I items, d embedding size.
"""

from __future__ import annotations

import numpy as np
import torch

from hf_mixture.models.mm_recommender.interactions import Ids, Interactions
from hf_mixture.models.mm_recommender.modeling_mm_recommender import MultiModalRecommender, TrainedRows
from hf_mixture.models.mm_recommender.options import UnlearningOptions
from hf_mixture.models.mm_recommender.requests import Split, UnlearningRequest


def requested_rows(request: UnlearningRequest, split: Split) -> tuple[Ids, Ids]:
    """Rows that a request is about.

    Args:
        request: The request.
        split: Its parts.

    Returns:
        Users: those asked for, those of single interactions that go, and those of whom nothing stays. Items: those
        asked for, and no item of a single interaction, whose row is shared by its other users.
    """
    single = np.asarray(request.interactions, dtype=np.int64).reshape(-1, 2)[:, 0]
    users = np.unique(np.concatenate([np.asarray(request.users, np.int64), single, split.forgotten_users]))
    return users, split.forgotten_items


@torch.no_grad()
def prepare_model(
    model: MultiModalRecommender, request: UnlearningRequest, split: Split, options: UnlearningOptions
) -> None:
    """Remove what needs no training: graph edges, modality vectors and, where the schedule says so, identity rows.

    Args:
        model: The model, changed in place.
        request: The request.
        split: Its parts.
        options: The options.
    """
    model.set_graph(torch.from_numpy(split.retain.users), torch.from_numpy(split.retain.items))
    if options.modality == "remove" and len(split.forgotten_items):
        model.remove_modalities(torch.from_numpy(split.forgotten_items), list(model.config.modality_sizes))
    for name in model.config.modality_sizes:
        without = [item for item, names in request.modalities.items() if name in names]
        if without:
            model.remove_modalities(torch.tensor(without), [name])
    if options.resets_rows:
        users, items = requested_rows(request, split)
        reset_rows(model.users.weight, users, seed=options.seed)
        reset_rows(model.items.weight, items, seed=options.seed + 1)


def reset_rows(table: torch.Tensor, rows: Ids, *, seed: int) -> None:
    """Draw rows of an embedding anew, as Xavier's uniform rule does for the whole table.

    Args:
        table: The embedding, changed in place [rows, size].
        rows: The rows.
        seed: Seed of the numbers; the same on all processes.
    """
    bound = (6 / sum(table.shape)) ** 0.5
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.empty(len(rows), table.shape[1]).uniform_(-bound, bound, generator=generator)
    table[torch.from_numpy(rows)] = drawn.to(table)


def rows_to_train(
    model: MultiModalRecommender, request: UnlearningRequest, split: Split, options: UnlearningOptions
) -> TrainedRows | None:
    """What `MultiModalRecommender.trained_rows` is in a run.

    Args:
        model: The model.
        request: The request.
        split: Its parts.
        options: The options.

    Returns:
        The restriction, or None.
    """
    if options.schedule not in ("mask", "refit"):
        return None
    users, items = requested_rows(request, split)
    return TrainedRows(
        users=_flags(users, model.config.num_users, model.device),
        items=_flags(items, model.config.num_items, model.device),
        pairs="all" if options.schedule == "refit" else "forget",
    )


def pairs_to_retain(request: UnlearningRequest, split: Split, options: UnlearningOptions) -> Interactions:
    """The retained interactions that a run trains on.

    Args:
        request: The request.
        split: Its parts.
        options: The options.

    Returns:
        All of them; for `"refit"` those of the rows that it trains, which may be none.
    """
    if options.schedule != "refit":
        return split.retain
    users, items = requested_rows(request, split)
    return split.retain.select(np.isin(split.retain.users, users) | np.isin(split.retain.items, items))


def _flags(rows: Ids, size: int, device: torch.device) -> torch.Tensor:
    flags = torch.zeros(size, dtype=torch.bool, device=device)
    flags[torch.from_numpy(rows)] = True
    return flags
