"""MovieLens-100K from the wheel of RecBole, which has it as an example.

The terms of GroupLens allow research and no redistribution: rows are read where they are installed, never copied.
"""

from __future__ import annotations

import csv
import hashlib
import importlib.metadata
from pathlib import Path
from typing import Any

import numpy as np


INSTALL = "pip install --no-deps recbole==1.2.1"
_PATH = "recbole/dataset_example/ml-100k/ml-100k.inter"
_SHA256 = "4edb74e2a81178c2ba9ff381495f754f996c4aea351b1272ca36b43da0935eff"


def find_movielens() -> Path:
    """Return the file of ratings.

    Returns:
        The file inside the installed distribution; its content has not been checked.

    Raises:
        ValueError: If it is not installed.
    """
    try:
        path = Path(str(importlib.metadata.distribution("recbole").locate_file(_PATH)))
    except importlib.metadata.PackageNotFoundError as error:
        raise ValueError(
            f"MovieLens-100K is read from the package recbole, which is not installed; {INSTALL}"
        ) from error
    if not path.is_file():
        raise ValueError(f"the installed recbole has no {_PATH}; reinstall it: {INSTALL}")
    return path


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

    path = find_movielens()
    content = path.read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    if digest != _SHA256:
        raise ValueError(f"{path} has the sha256 {digest}, not {_SHA256}; reinstall it: {INSTALL}")
    rows = list(csv.reader(content.decode().splitlines()[1:], delimiter="\t"))
    numbers = np.array([[int(user), int(film), float(rating)] for user, film, rating, _ in rows])
    users, films = (np.unique(numbers[:, column].astype(np.int64), return_inverse=True) for column in (0, 1))
    liked = numbers[:, 2] >= min_rating
    if not liked.any():
        raise ValueError(f"min_rating={min_rating}: no rating is as high; ratings are from 1 to 5")
    shape = (len(users[0]), len(films[0]))
    return sparse.csr_array((np.ones(int(liked.sum())), (users[1][liked], films[1][liked])), shape=shape)
