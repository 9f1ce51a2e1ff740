"""Interactions of users with items, as sorted pairs.

Letters: U users, I items, N pairs, S samples.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray


Ids = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True, eq=False)
class Interactions:
    """Pairs of user and item, each once, sorted by user and then by item.

    Args:
        users: User of each pair [N].
        items: Its item [N].
        num_users: U.
        num_items: I.

    Example:
        >>> from hf_mixture.models.mm_recommender.interactions import Interactions
        >>> pairs = Interactions.of([1, 0, 1], [2, 0, 2], num_users=2, num_items=3)
        >>> len(pairs), pairs.contains([1, 1], [2, 0]).tolist()
        (2, [True, False])
    """

    users: Ids
    items: Ids
    num_users: int
    num_items: int

    @classmethod
    def of(cls, users: ArrayLike, items: ArrayLike, *, num_users: int, num_items: int) -> Interactions:
        """Sort pairs and drop what occurs twice.

        Args:
            users: User of each pair.
            items: Its item.
            num_users: Number of users.
            num_items: Number of items.

        Returns:
            The interactions.

        Raises:
            ValueError: If the arrays differ in length, or an id is no integer or outside its range.
        """
        user, item = (integer_ids(name, ids).reshape(-1) for name, ids in (("users", users), ("items", items)))
        if len(user) != len(item):
            raise ValueError(f"users has {len(user)} ids and items {len(item)}; give as many of both")
        for name, ids, size in (("users", user, num_users), ("items", item, num_items)):
            check_ids(name, ids, size)
        keys = np.unique(user * num_items + item)
        return cls(users=keys // num_items, items=keys % num_items, num_users=num_users, num_items=num_items)

    @classmethod
    def from_dataset(cls, dataset: Any, *, num_users: int, num_items: int) -> Interactions:
        """Read the columns `user_id` and `item_id` of a data set.

        Args:
            dataset: A `datasets.Dataset`, or a mapping of columns.
            num_users: Number of users.
            num_items: Number of items.

        Returns:
            The interactions.

        Raises:
            ValueError: If a column is missing, or an id is outside its range.
        """
        names = dataset if isinstance(dataset, Mapping) else dataset.column_names
        for name in ("user_id", "item_id"):
            if name not in names:
                raise ValueError(f"the data set has no column {name!r}; it needs user_id and item_id")
        return cls.of(dataset["user_id"], dataset["item_id"], num_users=num_users, num_items=num_items)

    def __len__(self) -> int:
        return len(self.users)

    @property
    def keys(self) -> Ids:
        """One increasing number for each pair [N]: user * I + item."""
        return self.users * self.num_items + self.items

    def contains(self, users: ArrayLike, items: ArrayLike) -> NDArray[np.bool_]:
        """Tell which pairs are among the interactions.

        Args:
            users: User of each pair [S].
            items: Its item [S].

        Returns:
            One flag for each pair [S].
        """
        return is_among(np.asarray(users, np.int64) * self.num_items + np.asarray(items, np.int64), self.keys)

    def select(self, flags: NDArray[np.bool_]) -> Interactions:
        """Keep the pairs with a flag.

        Args:
            flags: One for each pair [N].

        Returns:
            Those interactions.
        """
        return Interactions(
            users=self.users[flags], items=self.items[flags], num_users=self.num_users, num_items=self.num_items
        )

    def starts(self) -> Ids:
        """Return where the pairs of each user begin [U + 1], as in a sparse matrix of compressed rows."""
        return np.searchsorted(self.users, np.arange(self.num_users + 1))


def is_among(keys: Ids, among: Ids) -> NDArray[np.bool_]:
    """Tell which numbers occur in an increasing array.

    Args:
        keys: Numbers [S].
        among: Increasing numbers [N].

    Returns:
        One flag for each number [S].

    Example:
        >>> import numpy as np
        >>> from hf_mixture.models.mm_recommender.interactions import is_among
        >>> is_among(np.array([3, 4]), np.array([1, 3])).tolist()
        [True, False]
    """
    if not len(among):
        return np.zeros(len(keys), dtype=np.bool_)
    places = np.minimum(np.searchsorted(among, keys), len(among) - 1)
    return among[places] == keys


def integer_ids(name: str, ids: ArrayLike) -> Ids:
    """Return ids as integers of 64 bits.

    Args:
        name: What they are, for the message.
        ids: The ids, in any shape.

    Returns:
        The same.

    Raises:
        ValueError: If they are no integers; a number with a fraction would stand for someone else.

    Example:
        >>> from hf_mixture.models.mm_recommender.interactions import integer_ids
        >>> integer_ids("users", [3, 5]).tolist()
        [3, 5]
    """
    found = np.asarray(ids)
    if found.size and found.dtype.kind not in "iu":
        raise ValueError(f"{name} has the type {found.dtype}; give integers")
    return found.astype(np.int64)


def check_ids(name: str, ids: Ids, size: int) -> None:
    """Refuse ids outside a catalogue.

    Args:
        name: What they are, for the message.
        ids: The ids.
        size: Number of ids that exist.

    Raises:
        ValueError: If there are such; the first few are named.
    """
    wrong = ids[(ids < 0) | (ids >= size)]
    if len(wrong):
        raise ValueError(f"{name} has the unknown ids {np.unique(wrong)[:5].tolist()}; they must be 0 to {size - 1}")


def sample_negatives(
    users: Ids, avoided: Interactions, generator: np.random.Generator, *, never: Ids | None = None
) -> Ids:
    """Draw an item for each user that the user has not interacted with, uniformly.

    Args:
        users: One user for each draw [S].
        avoided: Interactions that are no negatives: both those to retain and those to forget.
        generator: Random numbers.
        never: Items that are no negatives of anyone, such as forgotten ones.

    Returns:
        Items [S].

    Raises:
        ValueError: If a user has no item left to draw.

    Example:
        >>> import numpy as np
        >>> from hf_mixture.models.mm_recommender.interactions import Interactions, sample_negatives
        >>> pairs = Interactions.of([0, 0], [0, 2], num_users=1, num_items=4)
        >>> sample_negatives(np.zeros(3, int), pairs, np.random.default_rng(0), never=np.array([3])).tolist()
        [1, 1, 1]
    """
    allowed = np.ones(avoided.num_items, dtype=np.bool_)
    if never is not None:
        allowed[never] = False
    pool = np.flatnonzero(allowed)
    taken = np.bincount(avoided.users[allowed[avoided.items]], minlength=avoided.num_users)
    full = np.unique(users[taken[users] >= len(pool)])
    if len(full):
        raise ValueError(f"users {full[:5].tolist()} have interacted with every item, so no negative is left for them")
    keys = avoided.keys
    found = pool[generator.integers(len(pool), size=len(users))]
    again = np.flatnonzero(is_among(users * avoided.num_items + found, keys))
    while len(again):
        found[again] = pool[generator.integers(len(pool), size=len(again))]
        again = again[is_among(users[again] * avoided.num_items + found[again], keys)]
    return found
