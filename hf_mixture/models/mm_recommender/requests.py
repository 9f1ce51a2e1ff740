"""What is to be unlearned: users, items, single interactions, and modalities of items."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from hf_mixture.models.mm_recommender.interactions import Ids, Interactions, check_ids, integer_ids


@dataclass(frozen=True, kw_only=True)
class UnlearningRequest:
    """A request; its kinds may be combined.

    Args:
        users: Users all of whose interactions go. Default: none.
        items: Items all of whose interactions go, with their modality vectors. Default: none.
        interactions: Pairs (user, item) that go. Default: none.
        modalities: Modalities that go, by item. Default: none.

    Raises:
        ValueError: If an id is no integer, an interaction no pair, or the modalities of an item no list of names.

    Example:
        >>> from hf_mixture import UnlearningRequest
        >>> UnlearningRequest(users=[3], modalities={7: ["image"]}).kinds
        ['users', 'modalities']
    """

    users: Sequence[int] = ()
    items: Sequence[int] = ()
    interactions: Sequence[tuple[int, int]] = ()
    modalities: Mapping[int, Sequence[str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("users", "items", "interactions"):
            integer_ids(f"{name} of the request", getattr(self, name))
        integer_ids("modalities of the request", list(self.modalities))
        if any(np.shape(pair) != (2,) for pair in self.interactions):
            raise ValueError("interactions of the request must be pairs of a user and an item; give such pairs")
        for item, names in self.modalities.items():
            if isinstance(names, str):
                raise ValueError(f"modalities of item {item} are {names!r}; give a list of names")

    @property
    def kinds(self) -> list[str]:
        """The kinds of things that are asked for."""
        things = {"users": self.users, "items": self.items, "interactions": self.interactions}
        named = [name for names in self.modalities.values() for name in names]
        return [kind for kind, asked in {**things, "modalities": named}.items() if len(asked)]

    def __add__(self, other: UnlearningRequest) -> UnlearningRequest:
        """Ask for both."""
        items = dict.fromkeys([*self.modalities, *other.modalities])
        return UnlearningRequest(
            users=_union(self.users, other.users),
            items=_union(self.items, other.items),
            interactions=sorted({(int(u), int(i)) for u, i in [*self.interactions, *other.interactions]}),
            modalities={
                int(i): sorted({*self.modalities.get(i, ()), *other.modalities.get(i, ())}) for i in sorted(items)
            },
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the request as plain data."""
        return {
            "users": [int(user) for user in self.users],
            "items": [int(item) for item in self.items],
            "interactions": [[int(user), int(item)] for user, item in self.interactions],
            "modalities": {str(item): list(names) for item, names in self.modalities.items()},
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> UnlearningRequest:
        """Read what `to_dict` gave.

        Args:
            values: Plain data.

        Returns:
            The request.

        Raises:
            ValueError: If a key is unknown.
        """
        unknown = set(values) - {"users", "items", "interactions", "modalities"}
        if unknown:
            raise ValueError(f"the request has the unknown keys {sorted(unknown)}")
        return cls(
            users=list(values.get("users", ())),
            items=list(values.get("items", ())),
            interactions=[tuple(pair) for pair in values.get("interactions", ())],
            modalities={int(item): list(names) for item, names in values.get("modalities", {}).items()},
        )

    def salted_hash(self, salt: bytes) -> str:
        """Identify the request without naming anyone.

        Args:
            salt: Secret bytes, at least 16, without which ids cannot be tried against the hash.

        Returns:
            SHA-256 of salt and request, in hexadecimal.

        Raises:
            ValueError: If the salt is shorter than 16 bytes.
        """
        check_salt(salt)
        same = self + UnlearningRequest()
        return hashlib.sha256(salt + repr(same.to_dict()).encode()).hexdigest()


@dataclass(frozen=True, kw_only=True, eq=False)
class Split:
    """The interactions of a request: those that stay and those that go.

    Args:
        retain: D_r.
        forget: D_f; empty if the request asks for modalities only.
        forgotten_users: Users of whom nothing stays: those asked for, and those whose last interactions go.
        forgotten_items: Items asked for.
    """

    retain: Interactions
    forget: Interactions
    forgotten_users: Ids
    forgotten_items: Ids


def check_salt(salt: bytes) -> None:
    """Refuse a salt that could be guessed.

    Args:
        salt: The secret.

    Raises:
        ValueError: If it is shorter than 16 bytes.
    """
    if len(salt) < 16:
        raise ValueError(f"salt has {len(salt)} bytes; give at least 16, such as secrets.token_bytes(16)")


def split_interactions(
    interactions: Interactions, request: UnlearningRequest, *, modality_names: Sequence[str] = ()
) -> Split:
    """Part the interactions as a request asks.

    Args:
        interactions: D, what the model was trained on.
        request: The request.
        modality_names: Modalities of the model.

    Returns:
        The parts.

    Raises:
        ValueError: If the request is empty; names an unknown user, item, interaction or modality; asks for
            interactions none of which exist; or would leave nothing.

    Example:
        >>> from hf_mixture import UnlearningRequest
        >>> from hf_mixture.models.mm_recommender.interactions import Interactions
        >>> from hf_mixture.models.mm_recommender.requests import split_interactions
        >>> pairs = Interactions.of([0, 0, 1], [0, 1, 1], num_users=2, num_items=3)
        >>> parts = split_interactions(pairs, UnlearningRequest(items=[1]))
        >>> len(parts.retain), len(parts.forget), parts.forgotten_users.tolist()
        (1, 2, [1])
    """
    if not request.kinds:
        raise ValueError("the request is empty; name users, items, interactions or modalities to forget")
    users, items = (np.unique(np.asarray(ids, dtype=np.int64)) for ids in (request.users, request.items))
    pairs = np.asarray(request.interactions, dtype=np.int64).reshape(-1, 2)
    check_ids("users of the request", np.concatenate([users, pairs[:, 0]]), interactions.num_users)
    check_ids("items of the request", np.concatenate([items, pairs[:, 1]]), interactions.num_items)
    check_ids("modalities of the request", np.asarray(list(request.modalities), np.int64), interactions.num_items)
    unknown = sorted({name for names in request.modalities.values() for name in names} - set(modality_names))
    if unknown:
        raise ValueError(f"the request names the modalities {unknown}; the model has {list(modality_names)}")
    absent = pairs[~interactions.contains(pairs[:, 0], pairs[:, 1])]
    if len(absent):
        raise ValueError(
            f"the interactions {absent[:5].tolist()} are not among those that the model was trained on; remove them "
            "from the request"
        )
    goes = np.isin(interactions.users, users) | np.isin(interactions.items, items)
    goes |= np.isin(interactions.keys, pairs[:, 0] * interactions.num_items + pairs[:, 1])
    retain, forget = interactions.select(~goes), interactions.select(goes)
    if not len(forget) and "modalities" not in request.kinds:
        raise ValueError(
            "none of the users and items has an interaction, so there is nothing to forget; for the modality vectors "
            "of such items, name them under modalities"
        )
    if not len(retain):
        raise ValueError("the request leaves no interaction; train a new model instead")
    gone = np.setdiff1d(forget.users, retain.users)
    return Split(retain=retain, forget=forget, forgotten_users=gone, forgotten_items=items)


def _union(first: Sequence[int], second: Sequence[int]) -> list[int]:
    return sorted({int(value) for value in (*first, *second)})
