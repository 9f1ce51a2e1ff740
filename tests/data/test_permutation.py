from __future__ import annotations

import numpy as np
import pytest

from hf_mixture.data.permutation import permute, permute_range


@pytest.mark.parametrize("num_rows", [1, 2, 3, 5, 8, 100, 255, 256, 257, 5000])
def test_every_epoch_visits_every_row_once_in_its_own_order(num_rows: int) -> None:
    epochs = permute(np.arange(3 * num_rows), num_rows, seed=1, source=2).reshape(3, num_rows)
    assert (np.sort(epochs, axis=1) == np.arange(num_rows)).all()
    if num_rows >= 100:
        others = [
            permute(np.arange(num_rows), num_rows, seed=2, source=2),
            permute(np.arange(num_rows), num_rows, seed=1, source=3),
        ]
        for i, first in enumerate([*epochs, *others]):
            for second in [*epochs, *others][i + 1 :]:
                assert np.mean(first == second) < 0.05


@pytest.mark.parametrize("num_rows", [2**20 + 1, 3 * 10**9, 2**32])
def test_large_orders_are_bijections_too(num_rows: int) -> None:
    rows = permute(np.arange(100_000), num_rows, seed=0, source=0)
    assert len(np.unique(rows)) == len(rows)
    assert rows.min() >= 0
    assert rows.max() < num_rows
    assert abs(rows.mean() / num_rows - 0.5) < 0.01


@pytest.mark.parametrize("num_rows", [5, 37, 100, 300])
def test_orders_are_uniform(num_rows: int) -> None:
    """Every row is equally likely at every place, and so is every step from a row to the next."""
    num_epochs = 2000
    rows = permute(np.arange(num_rows * num_epochs), num_rows, seed=3, source=0).reshape(num_epochs, num_rows)
    places = np.array([np.bincount(column, minlength=num_rows) for column in rows.T])
    expected = num_epochs / num_rows
    # Each chi-square below has its degrees of freedom as mean; the bounds are some 6 standard deviations above.
    free = (num_rows - 1) ** 2
    assert ((places - expected) ** 2 / expected).sum() < free + 6 * np.sqrt(2 * free)
    steps = np.bincount((np.diff(rows, axis=1) % num_rows).ravel(), minlength=num_rows)[1:]
    assert ((steps - steps.mean()) ** 2 / steps.mean()).sum() < num_rows + 6 * np.sqrt(2 * num_rows)


@pytest.mark.parametrize("num_rows", [1, 3, 100, 511, 512, 5000, 100_000, 2**32])
def test_ranges_of_draws_equal_the_draws_themselves(num_rows: int) -> None:
    for start, num in ((0, 1), (num_rows - 1, 2), (5 * num_rows + 7, 3000), (40_000, 70_000)):
        fast = permute_range(start, start + num, num_rows, seed=3, source=1)
        assert (fast == permute(np.arange(start, start + num), num_rows, seed=3, source=1)).all()
    shuffled = np.random.default_rng(0).permutation(40_000)
    expected = permute_range(0, 40_000, num_rows, seed=3, source=1)[shuffled]
    assert (permute(shuffled, num_rows, seed=3, source=1) == expected).all()


@pytest.mark.parametrize("num_rows", [10**6, 2**22, 10**7])
def test_draws_at_a_distance_have_nothing_to_do_with_each_other(num_rows: int) -> None:
    """The difference of the rows of two draws is as likely to be any number, in its high and in its low bits."""
    for seed in range(8):
        rows = permute(np.arange(200_000), num_rows, seed=seed, source=0)
        for distance in (1, 2, 3, 16, 255, 256, 1024, 4096, 65_536):
            steps = (rows[distance:] - rows[:-distance]) % num_rows
            for labels in (steps * 64 // num_rows, steps % 64):
                counts = np.bincount(labels, minlength=64)
                chi = ((counts - counts.mean()) ** 2 / counts.mean()).sum()
                # 63 degrees of freedom; some 6 standard deviations.
                assert chi < 63 + 6 * np.sqrt(2 * 63)
