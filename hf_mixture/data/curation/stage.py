"""What a stage of the pipeline is: a pure function of one document."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol


Row = Mapping[str, Any]
"""One document: `text`, `source`, `id`, the facts about its origin, and what earlier stages have added."""

Outcome = tuple[dict[str, Any], str | None]
"""The columns that a stage adds, and why it rejects the document; None keeps it."""


class Stage(Protocol):
    """A stage: it annotates a document and decides; it never drops one.

    Attributes:
        name (`str`): Name of the stage, the first part of the reasons that it gives.
    """

    name: str

    def __call__(self, row: Row) -> Outcome:
        """Return the columns that the stage adds to a document, and the reason to reject it, or None to keep it.

        Args:
            row: The document; it is not changed. The value of `text` that a stage adds replaces the text.

        Returns:
            The new columns and the reason.
        """
        ...
