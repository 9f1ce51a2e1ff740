"""What a retrieval run measures of lists.

Letters: Q users, K list length.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from hf_mixture.metrics import load_metric
from hf_mixture.training.retrieval.data import Split, rows_of


CUTS = (10, 20, 50)
# The length of lists whose diversity and coverage are measured, and for how many of the users.
DEPTH = 20
MOST_LISTS = 500


class Judge:
    """Measures lists of the users of a split against its test or validation edges.

    Args:
        split: The split.
        part: `"test"` or `"validation"`.

    Attributes:
        users: The users who are measured.
        known: Edges that a system may learn from.
    """

    def __init__(self, split: Split, part: str) -> None:
        gold = getattr(split, part)
        self.known = split.train if part == "test" else split.fit
        self.users = split.users[np.diff(gold.indptr)[split.users] > 0]
        self.relevant = rows_of(gold, self.users)
        transposed = self.known.T.tocsr()
        self.item_sets = (transposed.indptr, transposed.indices)
        self._recall = load_metric("recall_at_k")
        self._ndcg = load_metric("ndcg_at_k")
        self._diversity = load_metric("intra_list_diversity")
        self._coverage = load_metric("cluster_coverage")

    def recall(self, lists: Any, k: int) -> float:
        """Recall of lists, hits over all relevant items of all users.

        Args:
            lists: Items [Q, at least k].
            k: Length that counts.

        Returns:
            The recall.
        """
        return float(
            self._recall.compute(predictions=lists[:, :k].tolist(), references=self.relevant, k=k)["recall_at_k"]
        )

    def hits(self, lists: Any, k: int) -> tuple[Any, Any]:
        """Number of hits and of relevant items of each user [Q], [Q]."""
        found = self._recall.compute(predictions=lists[:, :k].tolist(), references=self.relevant, k=k)
        sizes = np.array([len(row) for row in self.relevant])
        return np.rint(np.array(found["per_user"]) * sizes), sizes

    def all_of(self, lists: dict[int, Any], clusters: Any, num_scored: float) -> dict[str, Any]:
        """Everything the table has of one system.

        Args:
            lists: Items [Q, K] for each of the cuts.
            clusters: Clusters of the items, the same for all systems.
            num_scored: Items whose scores were computed for a user, on average, at the largest cut.

        Returns:
            Numbers by name.
        """
        found: dict[str, Any] = {f"recall@{k}": self.recall(lists[k], k) for k in CUTS}
        rows = lists[10].tolist()
        found["ndcg@10"] = self._ndcg.compute(predictions=rows, references=self.relevant, k=10)["ndcg_at_k"]
        rows = lists[DEPTH].tolist()
        diversity = self._diversity.compute(predictions=rows[:MOST_LISTS], item_sets=self.item_sets, k=DEPTH)
        coverage = self._coverage.compute(predictions=rows, item_clusters=clusters, k=DEPTH)
        return {
            **found,
            f"diversity@{DEPTH}": diversity["intra_list_diversity"],
            f"clusters@{DEPTH}": coverage["clusters_per_list"],
            f"coverage@{DEPTH}": coverage["item_coverage"],
            "num_scored": num_scored,
        }


def lists_of_cuts(model: Any, users: Any, method: str) -> tuple[dict[int, Any], float]:
    """Lists for each cut, which are not nested, and the number of scored items at the largest.

    Args:
        model: A fitted model.
        users: The users.
        method: Method of `retrieve`.

    Returns:
        Lists by cut, and the number.
    """
    found = {k: model.retrieve(users, k, method=method) for k in CUTS}
    lists = {k: output.item_ids.numpy() for k, output in found.items()}
    return lists, float(found[CUTS[-1]].num_scored.mean())
