"""What an audit measures of a model that was asked to forget.

Letters: U users, I items, N pairs, k length of a list, d embedding size.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from hf_mixture.models.mm_recommender.interactions import Ids, Interactions, sample_negatives
from hf_mixture.models.mm_recommender.modeling_mm_recommender import MultiModalRecommender, Tables
from hf_mixture.models.mm_recommender.pairs import union
from hf_mixture.models.mm_recommender.ranking import RankingQuality, quality_of, top_items
from hf_mixture.models.mm_recommender.requests import Split


def forget_recall(tables: Tables, split: Split, k: int = 20) -> float:
    """Recall of the forgotten pairs, retained ones masked and forgotten ones not.

    Args:
        tables: Vectors of a model.
        split: The parts of the interactions.
        k: Length of the lists. Default: 20.

    Returns:
        The mean over the users of forgotten pairs.
    """
    return quality_of(tables.users, tables.items, split.forget, k=k, masked=split.retain).recall


def unobserved_recall(tables: Tables, split: Split, k: int = 20, *, seed: int = 0) -> float:
    """Recall of as many random pairs of the same users that neither part has: what was never learned.

    Args:
        tables: Vectors of a model.
        split: The parts of the interactions.
        k: Length of the lists. Default: 20.
        seed: Seed of the pairs. Default: 0.

    Returns:
        The mean over those users.
    """
    forget = split.forget
    drawn = sample_negatives(forget.users, union(split.retain, forget), np.random.default_rng(seed))
    pairs = Interactions.of(forget.users, drawn, num_users=forget.num_users, num_items=forget.num_items)
    return quality_of(tables.users, tables.items, pairs, k=k, masked=split.retain).recall


def utility(tables: Tables, split: Split, wanted: Interactions, k: int = 20) -> RankingQuality:
    """Recall and NDCG of held-out pairs, without forgotten users and items.

    Forgotten items are no candidates, and no pair of training is, retained or forgotten: otherwise a model that still
    knows what it was asked to forget would be worse only because such items fill its lists.

    Args:
        tables: Vectors of a model.
        split: The parts of the interactions.
        wanted: Held-out interactions.
        k: Length of the lists. Default: 20.

    Returns:
        The means over the other users.
    """
    kept = ~np.isin(wanted.users, split.forgotten_users) & ~np.isin(wanted.items, split.forgotten_items)
    seen = union(split.retain, split.forget)
    return quality_of(
        tables.users, tables.items, wanted.select(kept), k=k, masked=seen, left_out=split.forgotten_items
    )


def pair_scores(tables: Tables, users: Ids, items: Ids) -> Tensor:
    """Scores of pairs.

    Args:
        tables: Vectors of a model.
        users: User of each pair [N].
        items: Its item [N].

    Returns:
        Scores [N].
    """
    with torch.no_grad():
        return (tables.users[torch.from_numpy(users)] * tables.items[torch.from_numpy(items)]).sum(dim=1).cpu()


def membership_auc(tables: Tables, split: Split, unseen: Interactions | None = None, *, seed: int = 0) -> float:
    """How well the score tells forgotten training pairs from pairs of the same users that were never seen.

    Args:
        tables: Vectors of a model.
        split: The parts of the interactions.
        unseen: Further interactions that are no never-seen pairs, such as held-out ones.
        seed: Seed of the never-seen pairs, one for each forgotten pair. Default: 0.

    Returns:
        Area under the curve: 0.5 if the score tells nothing, 1 if all forgotten pairs score higher.
    """
    forget = split.forget
    known = union(split.retain, forget)
    if unseen is not None:
        known = union(known, unseen)
    drawn = sample_negatives(forget.users, known, np.random.default_rng(seed))
    return area_under_curve(pair_scores(tables, forget.users, forget.items), pair_scores(tables, forget.users, drawn))


def area_under_curve(positives: Tensor, negatives: Tensor) -> float:
    """Chance that a positive scores above a negative; ties count half.

    Args:
        positives: Scores.
        negatives: Scores.

    Returns:
        From 0 to 1.

    Example:
        >>> import torch
        >>> from hf_mixture.models.mm_recommender.audit import area_under_curve
        >>> area_under_curve(torch.tensor([2.0, 3.0]), torch.tensor([1.0, 2.0]))
        0.875
    """
    ordered = negatives.sort().values
    below = torch.searchsorted(ordered, positives) + torch.searchsorted(ordered, positives, right=True)
    return float(below.double().mean() / (2 * len(negatives)))


def modality_tables(model: MultiModalRecommender) -> Tables:
    """The modality branch alone: what of a forgotten item is reachable through its vectors.

    Args:
        model: The model.

    Returns:
        Tables of which only the second halves are left.
    """
    half = model.config.embedding_size
    tables = model.tables()
    return Tables(tables.users[:, half:], tables.items[:, half:])


def group_norms(model: MultiModalRecommender) -> dict[str, float]:
    """Norm of each group of parameters.

    Args:
        model: The model.

    Returns:
        `users`, `items` and `projection`.
    """
    groups = {"users": model.users, "items": model.items, "projection": model.projection}
    return {
        name: float(torch.stack([p.detach().double().square().sum() for p in module.parameters()]).sum().sqrt())
        for name, module in groups.items()
    }


def mean_difference(tables: Tables, split: Split, *, seed: int = 0) -> float:
    """Mean of x = s(u, i) - s(u, j) over the forgotten pairs, with the same random j for every model.

    Args:
        tables: Vectors of a model.
        split: The parts of the interactions.
        seed: Seed of the j. Default: 0.

    Returns:
        The mean.
    """
    forget = split.forget
    drawn = sample_negatives(
        forget.users, union(split.retain, forget), np.random.default_rng(seed), never=split.forgotten_items
    )
    scores = pair_scores(tables, forget.users, forget.items) - pair_scores(tables, forget.users, drawn)
    return float(scores.mean())


def list_overlap(first: Ids, second: Ids) -> float:
    """Mean Jaccard index of two lists of items for each user.

    Args:
        first: Items [R, k]; none twice in a list, -1 for an empty place.
        second: Items of the same users [R, k].

    Returns:
        From 0 to 1; two empty lists count as equal.

    Example:
        >>> import numpy as np
        >>> from hf_mixture.models.mm_recommender.audit import list_overlap
        >>> list_overlap(np.array([[1, 2, 3]]), np.array([[3, 4, 1]]))
        0.5
    """
    there = first >= 0
    common = ((first[:, :, None] == second[:, None, :]) & there[:, :, None]).sum(axis=(1, 2))
    either = there.sum(axis=1) + (second >= 0).sum(axis=1) - common
    return float(np.divide(common, either, out=np.ones(len(first)), where=either > 0).mean())


def distance_to(tables: Tables, gold: Tables, split: Split, user_ids: Ids, k: int = 20) -> dict[str, Any]:
    """How far a model is from one that was trained without the forgotten interactions.

    Args:
        tables: Vectors of the model.
        gold: Vectors of that other one.
        split: The parts of the interactions.
        user_ids: Users whose lists are compared.
        k: Length of the lists. Default: 20.

    Returns:
        Differences of forget recall and of the mean x of forgotten pairs, and the mean Jaccard index of the lists.
    """
    lists = [top_items(t.users, t.items, user_ids, k, masked=split.retain) for t in (tables, gold)]
    return {
        "forget_recall": abs(forget_recall(tables, split, k) - forget_recall(gold, split, k)),
        "mean_difference": mean_difference(tables, split) - mean_difference(gold, split),
        "jaccard": list_overlap(*lists),
    }
