"""One-shot retrieval: a hand-made example, loops, chance, and rows that cannot be scored."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest

from hf_mixture.metrics import load_metric
from hf_mixture.metrics.one_shot_retrieval.one_shot_retrieval import one_shot_retrieval


def angles(*degrees: float) -> list[list[float]]:
    return [[float(np.cos(np.radians(a))), float(np.sin(np.radians(a)))] for a in degrees]


def test_six_images_by_hand() -> None:
    """On a circle: oak at 0, 10 and 90 degrees, pine at 100 and 12, slate at 95.5 and 130."""
    rows = {
        "embeddings": angles(0, 10, 90, 100, 12, 95.5, 130),
        "classes": ["oak", "oak", "oak", "pine", "pine", "grey", "grey"],
        "superclasses": ["wood"] * 5 + ["slate"] * 2,
    }
    found = load_metric("one_shot_retrieval").compute(**rows, votes=1)
    # Among all: 0 -> 10 right; 10 -> 12 wrong; 90 -> 95.5 wrong; 100 -> 95.5 wrong; 12 -> 10 wrong; 95.5 -> 100 wrong;
    # 130 -> 100 wrong.
    assert found["classes"] == {"slate/grey": 0.0, "wood/oak": pytest.approx(1 / 3), "wood/pine": 0.0}
    assert found["top1_all"] == pytest.approx(1 / 9)
    # Within wood: 0 right; 10 -> 12, 90 -> 100, 100 -> 90 and 12 -> 10 wrong. Within slate both are right.
    assert found["superclasses"] == {"slate": 1.0, "wood": pytest.approx((1 / 3 + 0) / 2)}
    # Averaged over three classes, not over seven images.
    assert found["top1_subclass"] == pytest.approx((1 / 3 + 0 + 1) / 3)
    assert found["votes_all"] == found["top1_all"]
    assert found["chance_all"] == pytest.approx((2 / 6 + 1 / 6 + 1 / 6) / 3)
    assert found["chance_subclass"] == pytest.approx((2 / 4 + 1 / 4 + 1) / 3)


def test_votes_by_hand() -> None:
    # The query at 0 has b at 1, then a at 2 and 3: one vote says b, three votes say a.
    rows = {"classes": ["a", "b", "a", "a", "b", "a"], "superclasses": ["x"] * 6}
    embeddings = angles(0, 1, 2, 3, 90, 180)
    for votes, right in ((1, False), (2, False), (3, True), (-1, True)):
        found = one_shot_retrieval(embeddings, **rows, votes=votes)
        alone = slow_votes(np.array(embeddings), [f"x/{c}" for c in rows["classes"]], votes)
        assert alone[0] is right, votes
        assert found["votes_all"] == pytest.approx(class_balanced(alone, rows["classes"]))


def slow_votes(vectors: np.ndarray, classes: list[str], votes: int) -> list[bool]:
    right = []
    for i in range(len(classes)):
        limit = classes.count(classes[i]) - 1
        near = sorted((j for j in range(len(classes)) if j != i), key=lambda j: -float(vectors[i] @ vectors[j]))
        voters = [classes[j] for j in near[: limit if votes == -1 else min(votes, limit)]]
        most = max(Counter(voters).values())
        # Of equally frequent classes the one that comes first.
        right.append(next(c for c in voters if voters.count(c) == most) == classes[i])
    return right


def class_balanced(right: list[bool], classes: list[str]) -> float:
    return float(np.mean([np.mean([r for r, c in zip(right, classes, strict=True) if c == n]) for n in set(classes)]))


@pytest.mark.parametrize("votes", [1, 2, 5, -1])
def test_against_loops_with_classes_of_different_sizes(votes: int) -> None:
    rng = np.random.default_rng(votes + 1)
    classes = [f"c{i}" for i, size in enumerate(rng.integers(2, 9, 12)) for _ in range(size)]
    superclasses = [f"s{int(c[1:]) % 3}" for c in classes]
    centres = {c: rng.normal(size=6) for c in sorted(set(classes))}
    vectors = np.array([centres[c] + 1.2 * rng.normal(size=6) for c in classes])
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    vectors = vectors.astype(np.float32).astype(float)
    order = rng.permutation(len(classes))
    classes, superclasses, vectors = [classes[i] for i in order], [superclasses[i] for i in order], vectors[order]
    found = one_shot_retrieval(vectors, classes, superclasses, votes=votes)
    assert found["top1_all"] == pytest.approx(class_balanced(slow_votes(vectors, classes, 1), classes))
    assert found["votes_all"] == pytest.approx(class_balanced(slow_votes(vectors, classes, votes), classes))
    inner: dict[int, bool] = {}
    for name in set(superclasses):
        members = [i for i, s in enumerate(superclasses) if s == name]
        inner |= dict(zip(members, slow_votes(vectors[members], [classes[i] for i in members], votes), strict=True))
    assert found["votes_subclass"] == pytest.approx(class_balanced([inner[i] for i in range(len(classes))], classes))


def test_random_embeddings_are_at_chance_and_one_hot_ones_are_perfect() -> None:
    rng = np.random.default_rng(0)
    # Large classes and small ones, so that a plain mean over images would be far from the class-balanced one.
    sizes = [2] * 40 + [40] * 10
    classes = [f"c{i}" for i, size in enumerate(sizes) for _ in range(size)]
    superclasses = [f"s{int(c[1:]) % 5}" for c in classes]
    scores = {"top1_all": [], "top1_subclass": []}
    for _ in range(30):
        vectors = rng.normal(size=(len(classes), 16))
        found = one_shot_retrieval(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), classes, superclasses)
        for name, values in scores.items():
            values.append(found[name])
    for name, values in scores.items():
        sigma = np.std(values, ddof=1) / np.sqrt(len(values))
        assert abs(np.mean(values) - found[name.replace("top1", "chance")]) < 3 * sigma, name
    one_hot = np.eye(50)[[int(c[1:]) for c in classes]]
    found = one_shot_retrieval(one_hot, classes, superclasses)
    assert {found[name] for name in ("top1_all", "top1_subclass", "votes_all", "votes_subclass")} == {1.0}


def test_many_queries_are_the_same_in_blocks() -> None:
    rng = np.random.default_rng(2)
    number = 2500
    classes = [f"c{i % 300}" for i in range(number)]
    vectors = rng.normal(size=(number, 8)).astype(np.float32)
    found = one_shot_retrieval(vectors, classes, ["x"] * number, votes=1)
    scores = vectors @ vectors.T
    np.fill_diagonal(scores, -np.inf)
    right = [classes[j] == c for j, c in zip(scores.argmax(axis=1), classes, strict=True)]
    assert found["top1_all"] == pytest.approx(class_balanced(right, classes), abs=1e-3)


def test_euclidean_similarity_orders_by_distance() -> None:
    rows = {"classes": ["a", "a", "b", "b"], "superclasses": ["x"] * 4}
    embeddings = [[1.0, 0.0], [1.2, 0.0], [5.0, 0.0], [5.5, 0.0]]
    assert one_shot_retrieval(embeddings, **rows, similarity="euclidean")["top1_all"] == 1.0
    assert one_shot_retrieval(embeddings, **rows, similarity="dot")["top1_all"] == 0.5


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"embeddings": [[1.0], [1.0], [np.nan], [1.0]]}, r"embeddings\[2\] has values that are not finite"),
        (
            {"embeddings": [[1.0], [1.0], [1.0, 2.0], [1.0]]},
            r"embeddings\[2\] has 2 numbers and embeddings\[0\] has 1",
        ),
        ({"embeddings": [[1.0]] * 3}, "classes has 4 rows and embeddings has 3"),
        ({"superclasses": ["x"] * 3}, "superclasses has 3 rows and embeddings has 4"),
        ({"classes": ["a", "a", "b", "a"]}, "row 2 is the only image of class 'b' in superclass 'x'"),
        ({"superclasses": ["x", "y", "x", "x"]}, "row 0 is the only image of class 'a' in superclass 'x'"),
        ({"votes": 0}, "votes=0 must be at least 1"),
        ({"similarity": "cosine"}, "similarity='cosine' must be 'dot' or 'euclidean'"),
    ],
)
def test_rows_that_cannot_be_scored_are_named(change: dict[str, Any], message: str) -> None:
    rows = {"embeddings": [[1.0]] * 4, "classes": ["a", "a", "b", "b"], "superclasses": ["x"] * 4}
    with pytest.raises(ValueError, match=message):
        one_shot_retrieval(**{**rows, **change})
