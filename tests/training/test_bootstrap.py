from __future__ import annotations

import numpy as np
import pytest

from hf_mixture.training.bootstrap import paired_bootstrap


def slow_bootstrap(first, second, sizes, num_draws):
    """The obvious loop: draw documents with replacement, and divide sums."""
    draw, found = np.random.default_rng(1), []
    for _ in range(num_draws):
        places = draw.integers(len(first), size=len(first))
        found.append((first[places] - second[places]).sum() / sizes[places].sum())
    return np.quantile(found, [0.025, 0.975])


def test_the_interval_is_that_of_the_obvious_loop():
    draw = np.random.default_rng(0)
    sizes = draw.integers(50, 500, 60)
    second = sizes * draw.uniform(1, 3, 60)
    first = second + draw.normal(2, 10, 60)
    found = paired_bootstrap(first, second, sizes, num_draws=20_000)
    low, high = slow_bootstrap(first, second, sizes, 20_000)
    width = high - low
    assert found["low"] == pytest.approx(low, abs=0.05 * width)
    assert found["high"] == pytest.approx(high, abs=0.05 * width)
    assert found["mean"] == pytest.approx((first - second).sum() / sizes.sum())
    assert found == paired_bootstrap(first, second, sizes, num_draws=20_000)


def test_pairs_count():
    """What all documents share between the systems does not widen the interval."""
    draw = np.random.default_rng(0)
    second = draw.uniform(0, 1000, 50)
    found = paired_bootstrap(second - 1, second, np.ones(50))
    assert found["high"] == pytest.approx(-1)
    assert found["low"] == pytest.approx(-1)


@pytest.mark.parametrize("sizes", [[1.0], [], [[1.0, 1.0]]])
def test_unequal_lengths_are_an_error(sizes):
    with pytest.raises(ValueError, match="must be equally long"):
        paired_bootstrap([1.0, 2.0], [1.0, 2.0], sizes)
