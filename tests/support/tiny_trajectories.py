"""Two groups of people that a test finds in a moment."""

from __future__ import annotations

import numpy as np

from hf_mixture.models.trajectory_moe.data import make_data


def two_groups(*, num_people=90, seed=0, noise=0.3, num_occasions=6):
    """Two thirds of the people rise by 1, the others fall by 1; with the class of each."""
    rng = np.random.default_rng(seed)
    classes = (np.arange(num_people) % 3 == 0).astype(int)
    times = np.arange(num_occasions) + rng.uniform(-0.2, 0.2, (num_people, num_occasions))
    slopes = np.where(classes == 0, 1.0, -1.0) + 0.2 * rng.standard_normal(num_people)
    values = rng.standard_normal((num_people, 1)) + slopes[:, None] * times
    return make_data(values + noise * rng.standard_normal(times.shape), times), classes
