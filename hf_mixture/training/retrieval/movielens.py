"""MovieLens-100K as pairs of a user and a film."""

from __future__ import annotations

from typing import Any

import numpy as np

from hf_mixture.training.movielens import movielens_folder, read_table


def load_movielens(*, min_rating: float = 4.0) -> Any:
    """Read the pairs of a user and a film with a rating that counts as liking it.

    Args:
        min_rating: Smallest rating that counts, from 1 to 5. Default: 4.

    Returns:
        A `scipy.sparse.csr_array` of ones [users, films]; both are numbered in the order of their ids.

    Raises:
        ValueError: If it is not installed, is another file, or no rating counts.
    """
    from scipy import sparse

    ratings = read_table(movielens_folder() / "ml-100k.inter")
    columns = [np.array(ratings[name]).astype(np.int64) for name in ("user_id", "item_id")]
    users, films = (np.unique(column, return_inverse=True) for column in columns)
    liked = np.array(ratings["rating"]).astype(float) >= min_rating
    if not liked.any():
        raise ValueError(f"min_rating={min_rating}: no rating is as high; ratings are from 1 to 5")
    shape = (len(users[0]), len(films[0]))
    return sparse.csr_array((np.ones(int(liked.sum())), (users[1][liked], films[1][liked])), shape=shape)
