"""MovieLens-100K as pairs of a user and a film; nothing of it is in the repository."""

from __future__ import annotations

from importlib.util import find_spec

import numpy as np
import pytest

from hf_mixture.training.movielens import INSTALL, WHEEL
from hf_mixture.training.retrieval.movielens import load_movielens


def test_ratings_that_count() -> None:
    if find_spec(WHEEL) is None:
        pytest.skip(f"MovieLens-100K is not installed: {INSTALL}")
    liked = load_movielens()
    assert liked.shape == (943, 1682)
    assert liked.nnz == 55_375
    assert np.unique(liked.data).tolist() == [1.0]
    assert load_movielens(min_rating=1.0).nnz == 100_000
    with pytest.raises(ValueError, match="min_rating=6"):
        load_movielens(min_rating=6.0)
