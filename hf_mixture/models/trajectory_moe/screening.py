"""Screening covariates with a forest of growth models (SEM forest), before any of them enters a mixture.

A tree splits people in two by a covariate where a growth curve of one class for each side fits best. At a node the
scores of people under the node's own estimates say where to look: with S the sum of scores on one side, n of N people
on it and H the sum of squared scores,

    LM = S' H^-1 S N^2 / (n (N - n))

approximates the likelihood ratio of every cut point without a fit. The best cut of the best covariates is then fitted,
and kept if its likelihood ratio is significant at a level divided by the number of cut points and covariates that were
tried. Importance is how much -2 log-likelihood of people outside a tree's bootstrap sample rises when the covariate is
permuted. Brandmaier et al., Psychological Methods 18 (2013) and 21 (2016).

Letters: N people, V parameters.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from hf_mixture.hub.atomic import write_atomic
from hf_mixture.hub.damage import reading
from hf_mixture.hub.reading import read_document
from hf_mixture.models.trajectory_moe.data import data_of_dataset
from hf_mixture.models.trajectory_moe.degenerate import check_support
from hf_mixture.models.trajectory_moe.fit import fit_one_class
from hf_mixture.models.trajectory_moe.layout import Layout, pack, unpack
from hf_mixture.models.trajectory_moe.likelihood import components
from hf_mixture.models.trajectory_moe.polish import polish
from hf_mixture.models.trajectory_moe.products import Observations, observations_of
from hf_mixture.models.trajectory_moe.scores import evaluate
from hf_mixture.models.trajectory_moe.units import units_of


FORMAT = "hf_mixture.trajectory_screening"
# Children are fitted to this gradient criterion, far below what a likelihood ratio is judged by.
TOLERANCE = 1e-3


@dataclass(eq=False)
class _Node:
    """A node of a tree: an inner one has a covariate, a cut and two children, a leaf its parameters."""

    vector: Any
    covariate: int = -1
    cut: float = math.nan
    left: _Node | None = None
    right: _Node | None = None


@dataclass(frozen=True, kw_only=True)
class _Settings:
    min_leaf: int
    max_depth: int
    num_tried: int
    level: float


def screen_covariates(
    dataset: Any,
    covariates: Sequence[str],
    *,
    curve: str = "bilinear",
    num_trees: int = 30,
    min_leaf: int = 50,
    max_depth: int = 3,
    num_tried: int | None = None,
    level: float = 0.05,
    seed: int = 0,
    journal: str | PathLike[str] | None = None,
) -> Any:
    """Rank covariates by how much they say of people's growth curves.

    Args:
        dataset: As for `TrajectoryMoEModel.fit`.
        covariates: Names of columns of numbers.
        curve: The growth curve. Default: `"bilinear"`.
        num_trees: Trees of the forest. Default: 30.
        min_leaf: Least number of people on each side of a cut; more than the parameters of the curve. Default: 50.
        max_depth: Most cuts on the way to a leaf. Default: 3.
        num_tried: Covariates that are tried at a node, drawn at random. Default: the root of their number, rounded up.
        level: Level of the test of a cut, in (0, 1), before Bonferroni's correction. Default: 0.05.
        seed: Seed. Default: 0.
        journal: File in which finished trees are kept, to continue after a kill. Default: none.

    Returns:
        A `pandas.DataFrame`, most important first: `covariate`, `importance` (mean rise of -2 log-likelihood for each
        person out of the bag), `standard_error` over trees, `num_cuts`.

    Raises:
        ValueError: If there are no covariates, too few people for a cut, or as `fit`.

    Example:
        >>> import numpy as np
        >>> from hf_mixture import screen_covariates
        >>> rng = np.random.default_rng(0)
        >>> useful, noise = rng.standard_normal((2, 150))
        >>> values = useful[:, None] * np.arange(4.0) + rng.standard_normal((150, 4))
        >>> data = {"values": values, "times": np.tile(np.arange(4.0), (150, 1)), "useful": useful, "noise": noise}
        >>> table = screen_covariates(data, ["useful", "noise"], curve="linear", num_trees=4, min_leaf=30)
        >>> table.covariate[0]
        'useful'
    """
    import pandas as pd
    from tqdm.auto import tqdm

    if not covariates:
        raise ValueError("covariates is empty; name at least one column")
    # The cluster covariates of a one-class model are read and checked, and enter no likelihood.
    data = data_of_dataset(dataset, cluster_covariates=list(covariates))
    layout = Layout(num_classes=1, curve=curve, num_outcomes=data.num_outcomes)
    check_support(data, layout)
    if data.num_people < 2 * min_leaf or min_leaf <= layout.num_parameters:
        raise ValueError(
            f"min_leaf={min_leaf} must be above {layout.num_parameters}, the parameters of the curve, and at most "
            f"half of the {data.num_people} people"
        )
    settings = _Settings(
        min_leaf=min_leaf,
        max_depth=max_depth,
        num_tried=num_tried or math.ceil(math.sqrt(len(covariates))),
        level=level,
    )
    table, plain = (
        data.cluster_covariates,
        replace(data, cluster_covariates=data.cluster_covariates[:, :0], labels=None),
    )
    observations = observations_of(units_of(plain).standardise(plain))
    root = polish(pack(fit_one_class(observations, layout), layout)[0], observations, layout).vector
    identity = [list(covariates), curve, vars(settings), seed, data.num_people, float(np.sum(root))]
    path = None if journal is None else Path(journal)
    trees = _known_trees(path, identity)
    grower = _Grower(table, observations, layout, settings)
    for tree in tqdm(range(num_trees), desc="trees", unit="tree", delay=2.0):
        if str(tree) in trees:
            continue
        trees[str(tree)] = _one_tree(root, grower, np.random.default_rng([seed, tree]))
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(path, json.dumps({"format": FORMAT, "identity": identity, "trees": trees}))
    rises = np.array([trees[str(tree)]["rises"] for tree in range(num_trees)])
    cuts = np.array([trees[str(tree)]["cuts"] for tree in range(num_trees)])
    found = pd.DataFrame(
        {
            "covariate": list(covariates),
            "importance": rises.mean(axis=0),
            "standard_error": rises.std(axis=0, ddof=1) / math.sqrt(num_trees) if num_trees > 1 else math.nan,
            "num_cuts": cuts.sum(axis=0),
        }
    )
    return found.sort_values("importance", ascending=False, ignore_index=True)


def _known_trees(path: Path | None, identity: list[Any]) -> dict[str, Any]:
    if path is None or not path.exists():
        return {}
    remedy = "choose another file, or remove it"
    content = read_document(path, FORMAT, None, allow_nan=True, remedy=remedy)
    if content.get("identity") != identity:
        raise ValueError(f"journal={str(path)!r} is of another screening; {remedy}")
    with reading(path, remedy):
        num_covariates = len(identity[0])
        for number, tree in content["trees"].items():
            if any(len([float(value) for value in tree[name]]) != num_covariates for name in ("rises", "cuts")):
                raise ValueError(f"tree {number} has not one rise and one number of cuts for each covariate")
        return dict(content["trees"])


@dataclass(frozen=True)
class _Grower:
    """What all trees share."""

    table: Any
    observations: Observations
    layout: Layout
    settings: _Settings

    def fit(self, start: Any, counts: Any) -> tuple[float, Any]:
        """Log-likelihood and estimates of a node."""
        weighted = replace(self.observations, weights=counts[None])
        found = polish(start, weighted, self.layout, tolerance=TOLERANCE)
        return found.log_likelihood, found.vector

    def grow(self, fitted: tuple[float, Any], counts: Any, generator: np.random.Generator, depth: int = 0) -> _Node:
        """The tree of people with these counts, whose fit is known."""
        settings, table = self.settings, self.table
        value, vector = fitted
        node = _Node(vector)
        if depth == settings.max_depth or counts.sum() < 2 * settings.min_leaf:
            return node
        tried = generator.choice(table.shape[1], size=min(settings.num_tried, table.shape[1]), replace=False)
        weighted = replace(self.observations, weights=counts[None])
        scores = evaluate(vector[None], weighted, self.layout, each_person=True).person_scores[0]
        candidates = [_best_cut(scores, counts, table[:, covariate], settings.min_leaf) for covariate in tried]
        best = max(range(len(tried)), key=lambda place: candidates[place][0])
        covariate, (statistic, cut, _) = int(tried[best]), candidates[best]
        if not np.isfinite(statistic):
            return node
        sides = [counts * (table[:, covariate] <= cut), counts * (table[:, covariate] > cut)]
        fits = [self.fit(vector, side) for side in sides]
        ratio = 2 * (sum(fit[0] for fit in fits) - value)
        num_tests = sum(candidate[2] for candidate in candidates)
        if _chi_squared_tail(ratio, self.layout.num_parameters) * num_tests > settings.level:
            return node
        node.covariate, node.cut = covariate, cut
        node.left, node.right = (
            self.grow(fit, side, generator, depth + 1) for fit, side in zip(fits, sides, strict=True)
        )
        return node


def _one_tree(root: Any, grower: _Grower, generator: np.random.Generator) -> dict[str, list[float]]:
    """Grow a tree on a bootstrap sample; what permuting each covariate costs the people outside it."""
    table = grower.table
    num_people = len(table)
    counts = np.bincount(generator.integers(num_people, size=num_people), minlength=num_people).astype(np.float64)
    tree = grower.grow(grower.fit(root, counts), counts, generator)
    leaves: list[_Node] = []
    cuts = [0] * table.shape[1]
    _collect(tree, leaves, cuts)
    parameters = unpack(np.stack([leaf.vector for leaf in leaves]), grower.layout)
    density = components(parameters, grower.observations, grower.layout).log_density[:, 0]
    outside = np.flatnonzero(counts == 0)

    def minus2ll(covariates: Any) -> float:
        places = [leaves.index(_leaf_of(tree, row)) for row in covariates]
        return float(-2 * density[places, outside].mean())

    own = table[outside]
    before = minus2ll(own)
    rises = []
    for covariate in range(table.shape[1]):
        permuted = own.copy()
        permuted[:, covariate] = generator.permutation(permuted[:, covariate])
        rises.append(minus2ll(permuted) - before if cuts[covariate] else 0.0)
    return {"rises": rises, "cuts": [float(cut) for cut in cuts]}


def _best_cut(scores: Any, counts: Any, covariate: Any, min_leaf: int) -> tuple[float, float, int]:
    """The largest LM statistic over admissible cuts, where to cut, and how many cuts there are."""
    order = np.argsort(covariate, kind="stable")
    ordered, people = covariate[order], np.cumsum(counts[order])
    total = people[-1]
    # Person scores carry the count once, so their outer products are divided by it.
    scaled = scores[:, counts > 0] / np.sqrt(counts[counts > 0])
    information = scaled @ scaled.T
    scale = np.sqrt(np.maximum(np.diagonal(information), 1e-300))
    values, vectors = np.linalg.eigh(information / np.outer(scale, scale))
    usable = values > 1e-8 * values[-1]
    root = (vectors[:, usable] / np.sqrt(values[usable])).T / scale
    sums = np.cumsum((root @ scores)[:, order], axis=1)
    is_cut = np.append(ordered[:-1] < ordered[1:], False)
    admissible = np.flatnonzero(is_cut & (people >= min_leaf) & (total - people >= min_leaf))
    if not len(admissible):
        return -np.inf, math.nan, 0
    statistic = (sums[:, admissible] ** 2).sum(axis=0) * total**2 / (people[admissible] * (total - people[admissible]))
    best = int(statistic.argmax())
    place = admissible[best]
    return float(statistic[best]), float((ordered[place] + ordered[place + 1]) / 2), len(admissible)


def _chi_squared_tail(value: float, degrees: int) -> float:
    import torch

    half = torch.tensor([degrees / 2, max(value, 0.0) / 2], dtype=torch.float64)
    return float(torch.special.gammaincc(half[0], half[1]))


def _collect(node: _Node, leaves: list[_Node], cuts: list[int]) -> None:
    if node.left is None or node.right is None:
        leaves.append(node)
        return
    cuts[node.covariate] += 1
    _collect(node.left, leaves, cuts)
    _collect(node.right, leaves, cuts)


def _leaf_of(node: _Node, covariates: Any) -> _Node:
    while node.left is not None and node.right is not None:
        node = node.left if covariates[node.covariate] <= node.cut else node.right
    return node
