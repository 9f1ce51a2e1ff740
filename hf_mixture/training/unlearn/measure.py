"""What an unlearning run measures of a model, and how it chooses without looking at Gold or the test.

Letters: R users whose lists are compared.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np


# Users whose lists are compared with Gold's.
MOST_USERS = 2000


@dataclass(frozen=True, kw_only=True)
class Case:
    """One request to one model.

    Args:
        data: The data.
        request: The request.
        split: The parts of the training interactions.
        k: Length of the lists.
    """

    data: Any
    request: Any
    split: Any
    k: int

    @property
    def compared_users(self) -> Any:
        """Users of the test who are not forgotten [R]."""
        users = np.setdiff1d(np.unique(self.data.test.users), self.split.forgotten_users)
        return users[:: max(1, -(-len(users) // MOST_USERS))]


def measure(tables: Any, case: Case, *, modality: Any = None, gold: Any = None) -> dict[str, Any]:
    """The measures of a model after a request.

    Args:
        tables: Its vectors.
        case: The request.
        modality: Vectors of its modality branch alone. Default: not measured.
        gold: Vectors of the retrained model. Default: the distance is not measured.

    Returns:
        Measures by name.
    """
    from hf_mixture.models.mm_recommender import audit

    split, data, k = case.split, case.data, case.k
    test = audit.utility(tables, split, data.test, k)
    found: dict[str, Any] = {
        "forget_recall": audit.forget_recall(tables, split, k),
        "membership_auc": audit.membership_auc(tables, split, data.validation),
        "validation_recall": audit.utility(tables, split, data.validation, k).recall,
        "test_recall": test.recall,
        "test_ndcg": test.ndcg,
    }
    if modality is not None:
        found["modality_auc"] = audit.membership_auc(modality, split, data.validation)
    if gold is not None:
        found["distance"] = audit.distance_to(tables, gold, split, case.compared_users, k)
    return found


def measure_model(model: Any, case: Case, *, gold: Any = None) -> dict[str, Any]:
    """The measures of a model, with its norms.

    Args:
        model: The model.
        case: The request.
        gold: Vectors of the retrained model.

    Returns:
        Measures by name.
    """
    from hf_mixture.models.mm_recommender import audit

    found = measure(model.tables(), case, modality=audit.modality_tables(model), gold=gold)
    return found | {"norms": audit.group_norms(model)}


def reference_levels(original: Any, case: Case, *, seed: int) -> dict[str, float]:
    """Where a model that had never seen the forgotten interactions would be, as far as this is known without Gold.

    Of whole users and items: a copy whose rows for them are random. Of single interactions: held-out interactions of
    the same users, as the original ranks them.

    Args:
        original: The model before the request.
        case: The request.
        seed: Seed of the random rows.

    Returns:
        Forget recall and membership AUC.
    """
    import copy

    from hf_mixture.models.mm_recommender import audit
    from hf_mixture.models.mm_recommender.interactions import sample_negatives
    from hf_mixture.models.mm_recommender.options import UnlearningOptions
    from hf_mixture.models.mm_recommender.pairs import union
    from hf_mixture.models.mm_recommender.ranking import quality_of
    from hf_mixture.models.mm_recommender.rows import prepare_model

    split, data = case.split, case.data
    if case.request.kinds != ["interactions"]:
        blank = copy.deepcopy(original)
        prepare_model(blank, case.request, split, UnlearningOptions(seed=seed + 1000))
        tables = blank.tables()
        recall, auc = audit.forget_recall(tables, split, case.k), audit.membership_auc(tables, split, data.validation)
    else:
        tables = original.tables()
        held = data.validation.select(np.isin(data.validation.users, split.forget.users))
        known = union(split.retain, split.forget)
        recall = quality_of(tables.users, tables.items, held, k=case.k, masked=known).recall
        drawn = sample_negatives(held.users, union(known, data.validation), np.random.default_rng(seed))
        auc = audit.area_under_curve(
            audit.pair_scores(tables, held.users, held.items), audit.pair_scores(tables, held.users, drawn)
        )
    return {"forget_recall": recall, "membership_auc": auc}


def distance_to_reference(
    measured: Mapping[str, Any], original: Mapping[str, Any], reference: Mapping[str, float]
) -> float:
    """How far a setting is from the reference: shares of the way that forget recall and AUC have left, added.

    Args:
        measured: Measures of the setting.
        original: Measures of the original.
        reference: From `reference_levels`.

    Returns:
        0 at the reference, 2 at the original.

    Example:
        >>> from hf_mixture.training.unlearn.measure import distance_to_reference
        >>> before = {"forget_recall": 0.8, "membership_auc": 0.9}
        >>> after = {"forget_recall": 0.4, "membership_auc": 0.5}
        >>> distance_to_reference(after, before, {"forget_recall": 0.0, "membership_auc": 0.5})
        0.5
    """
    total = 0.0
    for name in ("forget_recall", "membership_auc"):
        # A way of less than 0.05 is within the noise of either measure.
        way = max(original[name] - reference[name], 0.05)
        total += abs(measured[name] - reference[name]) / way
    return total


def choose(
    tried: Sequence[tuple[str, Mapping[str, Any]]],
    original: Mapping[str, Any],
    reference: Mapping[str, float],
    *,
    utility_kept: float,
) -> str:
    """Choose the setting that is nearest to the reference among those that keep the utility on validation.

    Args:
        tried: Name and measures of each setting.
        original: Measures of the original.
        reference: From `reference_levels`.
        utility_kept: Least validation recall over that of the original.

    Returns:
        The name; if none keeps the utility, that of the setting with the highest.
    """
    least = utility_kept * original["validation_recall"]
    able = [(name, found) for name, found in tried if found["validation_recall"] >= least]
    if not able:
        return max(tried, key=lambda pair: pair[1]["validation_recall"])[0]
    return min(able, key=lambda pair: distance_to_reference(pair[1], original, reference))[0]
