"""How often the nearest image shows the same material: one-shot retrieval, averaged over classes.

Letters: N images, D embedding size, Q queries, V votes.
"""

from typing import Any

import datasets
import evaluate
import numpy as np
from numpy.typing import ArrayLike


_DESCRIPTION = """
One-shot retrieval as in MatSim (arXiv 2212.00648). Every image is a query; all others are ranked by their similarity,
and the class of the most similar one, or of the majority of the first ones, is the prediction. Accuracy is averaged
over classes with equal weight. In the mode all every image is a candidate, in the mode subclass those of the query's
superclass.
"""

_KWARGS_DESCRIPTION = """
Args:
    embeddings (list of list of float): Embedding of each image; of length 1, for cosines.
    classes (list of str): Class of each image within its superclass; two images or more of each.
    superclasses (list of str): Superclass of each image; the same text for all where there is one level only.
    votes (int): Number V of first images that vote, besides the first one alone. Never more than the class of the
        query has besides the query; -1 for as many. Of equal numbers of votes the one with the more similar image
        wins. Default: 5.
    similarity (str): "dot", as published, or "euclidean", for features of any length. Default: "dot".
Returns:
    top1_all: Class-balanced accuracy of the first image among all.
    top1_subclass: The same among the images of the superclass.
    votes_all, votes_subclass: Class-balanced accuracies of the votes.
    chance_all, chance_subclass: Expected class-balanced accuracies of a random order, first image.
    classes: A dictionary of the accuracy of the first image in the mode all for each "superclass/class".
    superclasses: A dictionary of the mean accuracy in the mode subclass over the classes of each superclass. Their
        mean is what the published script prints for that mode.
Examples:
    >>> metric = evaluate.load("one_shot_retrieval")
    >>> rows = {"classes": ["a", "a", "b", "b"], "superclasses": ["x"] * 4}
    >>> metric.compute(embeddings=[[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, 1.0]], **rows)["top1_all"]
    1.0
"""

# Queries whose similarities are in memory at once.
_BLOCK = 1024


def retrieve(
    embeddings: ArrayLike, classes: ArrayLike, *, votes: int, similarity: str = "dot"
) -> tuple[np.ndarray, np.ndarray]:
    """Tell for every image whether the first image, and the first V of them, have its class.

    Args:
        embeddings: Embeddings [N, D].
        classes: Class of each image, counted from 0 [N]; two images or more of each.
        votes: V, or -1.
        similarity: `"dot"` or `"euclidean"`.

    Returns:
        Two arrays of truth values [N].
    """
    vectors, labels = np.asarray(embeddings, dtype=np.float32), np.asarray(classes)
    number = len(labels)
    others = np.bincount(labels)[labels] - 1
    limits = others if votes == -1 else np.minimum(votes, others)
    # |a - b|^2 / 2 = |a|^2 / 2 - a b + |b|^2 / 2, where the first part is the same for all candidates.
    offsets = np.square(vectors).sum(axis=1) / 2 if similarity == "euclidean" else np.zeros(number, np.float32)
    first, majority = np.empty(number, dtype=bool), np.empty(number, dtype=bool)
    for start in range(0, number, _BLOCK):
        queries = np.arange(start, min(start + _BLOCK, number))
        scores = vectors[queries] @ vectors.T - offsets
        scores[np.arange(len(queries)), queries] = -np.inf
        first[queries] = labels[scores.argmax(axis=1)] == labels[queries]
        width = int(limits[queries].max())
        if width == 1:
            majority[queries] = first[queries]
            continue
        near = np.argpartition(-scores, min(width, number - 1), axis=1)[:, :width]
        order = np.argsort(-np.take_along_axis(scores, near, axis=1), axis=1, kind="stable")
        voters = labels[np.take_along_axis(near, order, axis=1)]
        majority[queries] = _elected(voters, limits[queries]) == labels[queries]
    return first, majority


def _elected(voters: np.ndarray, limits: np.ndarray) -> np.ndarray:
    """Class with the most votes among the first ones of each row [Q, V]; of equal ones that of the first."""
    counts = np.full(voters.shape, -1)
    votes = np.arange(voters.shape[1]) < limits[:, None]
    for place in range(voters.shape[1]):
        same = (voters == voters[:, place, None]) & votes
        counts[:, place] = np.where(votes[:, place], same.sum(axis=1), -1)
    return voters[np.arange(len(voters)), counts.argmax(axis=1)]


def class_means(right: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """Accuracy of each class."""
    return np.bincount(classes, weights=right) / np.bincount(classes)


def chance(classes: np.ndarray) -> np.ndarray:
    """Expected accuracy of each class when the order is random."""
    sizes = np.bincount(classes)
    return (sizes - 1) / (len(classes) - 1)


def check_rows(vectors: np.ndarray, classes: list[str], superclasses: list[str]) -> None:
    """Refuse what cannot be scored.

    Raises:
        ValueError: An embedding is not finite, or a class has one image only; the message names the row.
    """
    broken = ~np.isfinite(vectors).all(axis=1)
    if broken.any():
        raise ValueError(f"embeddings[{int(broken.argmax())}] has values that are not finite; leave that image out")
    rows: dict[tuple[str, str], list[int]] = {}
    for row, pair in enumerate(zip(superclasses, classes, strict=True)):
        rows.setdefault(pair, []).append(row)
    for (superclass, name), members in rows.items():
        if len(members) < 2:
            raise ValueError(
                f"row {members[0]} is the only image of class {name!r} in superclass {superclass!r}, so that no "
                "answer could be right; add another image, or leave it out"
            )


def one_shot_retrieval(
    embeddings: ArrayLike,
    classes: list[str],
    superclasses: list[str],
    *,
    votes: int = 5,
    similarity: str = "dot",
) -> dict[str, Any]:
    """Score embeddings; arguments and results are those of the metric.

    Raises:
        ValueError: The arguments cannot be used.
    """
    if votes != -1 and votes < 1:
        raise ValueError(f"votes={votes} must be at least 1, or -1 for the size of the class")
    if similarity not in ("dot", "euclidean"):
        raise ValueError(f"similarity={similarity!r} must be 'dot' or 'euclidean'")
    vectors = _rectangular(embeddings)
    for name, values in (("classes", classes), ("superclasses", superclasses)):
        if len(values) != len(vectors):
            raise ValueError(
                f"{name} has {len(values)} rows and embeddings has {len(vectors)}; give one for each image"
            )
    check_rows(vectors, classes, superclasses)
    names, labels = np.unique([f"{s}/{c}" for s, c in zip(superclasses, classes, strict=True)], return_inverse=True)
    above, groups = np.unique(superclasses, return_inverse=True)
    first, majority = retrieve(vectors, labels, votes=votes, similarity=similarity)
    inner_first, inner_majority = np.empty_like(first), np.empty_like(first)
    inner_chance = np.empty(len(names))
    for group in range(len(above)):
        members = np.flatnonzero(groups == group)
        found, places = np.unique(labels[members], return_inverse=True)
        inner_first[members], inner_majority[members] = retrieve(
            vectors[members], places, votes=votes, similarity=similarity
        )
        inner_chance[found] = chance(places)
    by_class, by_inner = class_means(first, labels), class_means(inner_first, labels)
    group_of = np.empty(len(names), dtype=int)
    group_of[labels] = groups
    return {
        "top1_all": float(by_class.mean()),
        "top1_subclass": float(by_inner.mean()),
        "votes_all": float(class_means(majority, labels).mean()),
        "votes_subclass": float(class_means(inner_majority, labels).mean()),
        "chance_all": float(chance(labels).mean()),
        "chance_subclass": float(inner_chance.mean()),
        "classes": {str(name): float(value) for name, value in zip(names, by_class, strict=True)},
        "superclasses": {str(name): float(by_inner[group_of == g].mean()) for g, name in enumerate(above)},
    }


def _rectangular(embeddings: ArrayLike) -> np.ndarray:
    if not isinstance(embeddings, np.ndarray):
        rows: Any = embeddings
        for place, row in enumerate(rows):
            if len(row) != len(rows[0]):
                raise ValueError(
                    f"embeddings[{place}] has {len(row)} numbers and embeddings[0] has {len(rows[0])}; give equally "
                    "many"
                )
    vectors = np.asarray(embeddings, dtype=np.float32)
    if vectors.ndim != 2 or len(vectors) < 2:
        raise ValueError(f"embeddings has the shape {vectors.shape}; give two or more rows of equally many numbers")
    return vectors


class OneShotRetrieval(evaluate.Metric):
    """Class-balanced accuracy of one-shot retrieval."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation="",
            inputs_description=_KWARGS_DESCRIPTION,
            features=datasets.Features(
                {
                    "embeddings": datasets.Sequence(datasets.Value("float32")),
                    "classes": datasets.Value("string"),
                    "superclasses": datasets.Value("string"),
                }
            ),
        )

    def _compute(
        self,
        embeddings: list[list[float]],
        classes: list[str],
        superclasses: list[str],
        votes: int = 5,
        similarity: str = "dot",
    ) -> dict[str, Any]:
        return one_shot_retrieval(embeddings, list(classes), list(superclasses), votes=votes, similarity=similarity)
