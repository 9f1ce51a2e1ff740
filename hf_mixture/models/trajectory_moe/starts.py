"""Where a fit starts: classes of people by what their own curves look like.

The growth factors of each person are estimated with almost no prior, at the knot or rate of the one-class model.
Starts are then made in turn by K-means from random people, and by nearness to random people in random directions, with
knots or rates of their own; the first maximisation of ECM makes parameters of them.

Letters: S starts, K classes, N people, D outcomes, Q growth factors.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from hf_mixture.models.trajectory_moe.ecm import maximise
from hf_mixture.models.trajectory_moe.layout import Layout, Parameters
from hf_mixture.models.trajectory_moe.likelihood import components
from hf_mixture.models.trajectory_moe.products import Observations


# Standard deviation of the growth factors, on standardised units, that stands for knowing nothing.
VAGUE = 5.0
# Probability of the class that a start puts a person in; the rest is shared out.
CERTAINTY = 0.85


def one_class_starts(observations: Observations, layout: Layout, *, num_starts: int = 5) -> Parameters:
    """Starts of the model of one class: knots or rates evenly over the range that starts are drawn from.

    Args:
        observations: The data, standardised.
        layout: The sizes, with one class.
        num_starts: S, for curves with a shape. Default: 5.
    """
    count = num_starts if layout.family.num_shapes else 1
    shapes = np.sort(layout.family.first_shapes(np.random.default_rng(0), (200, layout.num_outcomes)), axis=0)
    chosen = shapes[((np.arange(count) + 0.5) / count * len(shapes)).astype(int)]
    shape = chosen[:, None, :] if layout.family.num_shapes else np.zeros((1, 1, 0))
    return from_classes(np.ones((count, 1, observations.num_people)), shape, observations, layout)


def draw_starts(
    one_class: Parameters, observations: Observations, layout: Layout, *, seed: int, indices: list[int]
) -> Parameters:
    """Random starts; the start of an index depends on the seed and the index alone.

    Args:
        one_class: The estimated model of one class.
        observations: The data, standardised.
        layout: The sizes.
        seed: Seed.
        indices: Index of each start; even ones use K-means.
    """
    features = person_features(one_class, observations, layout)
    probabilities, shapes = [], []
    for index in indices:
        generator = np.random.default_rng([seed, index])
        classes = (_k_means if index % 2 == 0 else _random_split)(features, layout.num_classes, generator)
        probabilities.append(soft_classes(classes, layout.num_classes))
        size = (layout.num_classes, layout.num_outcomes * layout.family.num_shapes)
        # With K-means, knots stay near the one of all people; otherwise they are anywhere.
        drawn = layout.family.first_shapes(generator, size)
        if index % 2 == 0 and layout.family.num_shapes:
            around = layout.family.free_from_shape(one_class.shape[0])
            drawn = layout.family.shape_from_free(around + 0.4 * generator.standard_normal(size))
        shapes.append(drawn)
    return from_classes(np.stack(probabilities), np.stack(shapes), observations, layout)


def soft_classes(classes: Any, num_classes: int) -> Any:
    """Class probabilities [K, N] that lean to given classes [N].

    Args:
        classes: Class of each person.
        num_classes: K.
    """
    if num_classes == 1:
        return np.ones((1, len(classes)))
    hard = classes == np.arange(num_classes)[:, None]
    return np.where(hard, CERTAINTY, (1 - CERTAINTY) / (num_classes - 1))


def from_classes(probabilities: Any, shape: Any, observations: Observations, layout: Layout) -> Parameters:
    """Parameters of given class probabilities and shapes.

    Args:
        probabilities: [S, K, N].
        shape: Knot or rate of each outcome [S, K, D], or [S, K, 0].
        observations: The data, standardised.
        layout: The sizes.
    """
    vague = _vague(shape, observations, layout)
    component = components(vague, observations, layout)
    weights = probabilities if observations.weights is None else probabilities * observations.weights[:, None]
    return maximise(vague, component, observations, layout, weights)


def person_features(one_class: Parameters, observations: Observations, layout: Layout) -> Any:
    """Standardised growth factors of each person [N, Q].

    Args:
        one_class: The estimated model of one class.
        observations: The data, standardised.
        layout: The sizes.
    """
    single = replace(layout, num_classes=1, is_joint=False)
    vague = replace(
        _vague(one_class.shape, observations, single), theta_factor=one_class.theta_factor, alpha=one_class.alpha
    )
    features = np.stack([mean[0, 0] for mean in components(vague, observations, single).mean], axis=1)
    return (features - features.mean(axis=0)) / np.maximum(features.std(axis=0), 1e-12)


def _vague(shape: Any, observations: Observations, layout: Layout) -> Parameters:
    """Parameters that say next to nothing of the growth factors, with residuals a third of the outcome's spread."""
    count, classes = shape.shape[:2]
    joint = layout.describes_growth_covariates
    return Parameters(
        alpha=np.zeros((count, classes, layout.num_factors)),
        coef=np.zeros((count, classes, layout.num_factors, layout.num_growth)),
        psi_factor=np.broadcast_to(
            VAGUE * np.eye(layout.num_factors), (count, classes, layout.num_factors, layout.num_factors)
        ),
        theta_factor=np.broadcast_to(
            np.eye(layout.num_outcomes) / 3, (count, classes, layout.num_outcomes, layout.num_outcomes)
        ),
        shape=shape,
        mu_x=np.zeros((count, classes, layout.num_growth)) if joint else None,
        phi_factor=np.broadcast_to(np.eye(layout.num_growth), (count, classes, layout.num_growth, layout.num_growth))
        if joint
        else None,
        gate=np.zeros((count, classes - 1, observations.cluster.shape[1])),
    )


def _k_means(features: Any, num_classes: int, generator: np.random.Generator) -> Any:
    """A few iterations of K-means from people drawn with probability proportional to squared distance."""
    centres = features[generator.integers(len(features), size=1)]
    while len(centres) < num_classes:
        nearest = _distances(features, centres).min(axis=1)
        chance = nearest / nearest.sum() if nearest.sum() > 0 else None
        centres = np.concatenate([centres, features[generator.choice(len(features), size=1, p=chance)]])
    classes = np.zeros(len(features), dtype=np.int64)
    for _ in range(5):
        classes = _distances(features, centres).argmin(axis=1)
        for k in range(num_classes):
            if (classes == k).any():
                centres[k] = features[classes == k].mean(axis=0)
    return classes


def _random_split(features: Any, num_classes: int, generator: np.random.Generator) -> Any:
    """The nearest of K random people, with features scaled at random."""
    scaled = features * generator.exponential(size=features.shape[1])
    return _distances(scaled, scaled[generator.choice(len(scaled), size=num_classes, replace=False)]).argmin(axis=1)


def _distances(features: Any, centres: Any) -> Any:
    return ((features[:, None] - centres) ** 2).sum(axis=2)
