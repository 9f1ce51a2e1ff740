"""What a callback holds that JSON cannot, and how it reaches the callback that the Trainer makes anew at a resume.

With `restore_callback_states_from_checkpoint=True` the Trainer replaces a callback by `type(callback)(**args)` with
the JSON values of the checkpoint. The new one is made while the old one is alive, but nothing tells it which one it
replaces until training begins; both then have seen the same `TrainingArguments`.
"""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from typing import Any, ClassVar


class Resources:
    """Objects of one callback by the name of its argument.

    Args:
        owner: The callback.
        values: Its objects; all None in a callback that replaces another.
    """

    _alive: ClassVar[weakref.WeakSet[Resources]] = weakref.WeakSet()

    def __init__(self, owner: object, values: Mapping[str, Any]) -> None:
        self.kind = type(owner)
        self.values = dict(values)
        self.is_empty = all(value is None for value in self.values.values())
        self._training_args: weakref.ref[Any] | None = None
        self._donors: list[Resources] = []
        if self.is_empty:
            self._donors = [other for other in Resources._alive if other.kind is self.kind and not other.is_empty]
        else:
            Resources._alive.add(self)

    def attach(self, training_args: Any) -> None:
        """Note the arguments of the Trainer that the callback was passed to: it is then no replacement."""
        self._training_args = weakref.ref(training_args)
        self._donors = []

    def resolve(self, training_args: Any) -> Mapping[str, Any]:
        """The objects, or those of the callback that this one replaces.

        Args:
            training_args: The arguments of the Trainer that runs.

        Returns:
            Objects by name; None for what was not given.
        """
        same = [d for d in self._donors if d._training_args is not None and d._training_args() is training_args]
        loose = [donor for donor in self._donors if donor._training_args is None]
        found = same or loose
        self._donors = []
        if self.is_empty and found:
            self.values, self.is_empty = found[-1].values, False
        return self.values
