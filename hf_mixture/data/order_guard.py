"""Noticing that an ordered stream is read in another order."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


Int64 = NDArray[np.int64]


class OrderGuard:
    """Watches the batches that one process fetches.

    A batch of an ordered stream is a run of consecutive numbers. accelerate completes the last batches with numbers
    from the beginning, so that a run may start again at 0 after the end. From batches of one sample nothing can be
    told by themselves; among them, two steps back in a row do not happen in order: one may, when the loader starts
    again.
    """

    def __init__(self) -> None:
        self._last = -1
        self._went_back = False

    def wraps(self, indices: Int64, length: int) -> bool:
        """Return whether a batch continues at the beginning of the stream.

        Args:
            indices: int64 [M], the batch.
            length: Number of samples of the stream.

        Raises:
            ValueError: The batch is not part of an ordered pass.
        """
        breaks = np.flatnonzero(indices[1:] - indices[:-1] != 1)
        in_order = bool((indices[breaks] == length - 1).all() and (indices[breaks + 1] == 0).all())
        if len(indices) == 1:
            goes_back = int(indices[0]) < self._last
            in_order = not (goes_back and self._went_back)
            self._went_back = goes_back
        self._last = int(indices[-1]) if len(indices) else self._last
        if not in_order:
            raise ValueError(
                f"the mixture is read in another order than its own: a batch of {indices[:8].tolist()}...; the order "
                'is what makes the mixture. Under the Trainer set train_sampling_strategy="sequential" in '
                "TrainingArguments; with a DataLoader leave shuffle=False"
            )
        return len(breaks) > 0
