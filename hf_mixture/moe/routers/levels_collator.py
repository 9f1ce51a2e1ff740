"""`LevelDataCollator`: brings the tensors that level routers read into the batch.

Letters: B sequences, S positions, F entries of an attribute.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor


LEVEL_KEYS = ("task_ids", "modality_ids", "attributes")


class LevelDataCollator:
    """Wraps a data collator, and carries `task_ids`, `modality_ids` or `attributes` past it into the batch.

    Most collators pad what they know and drop, or fail on, other columns. This one takes the columns of the routers
    out of the features, lets the other collator make the batch, and adds them as tensors: one entry for each sequence
    (`task_ids` a number, `attributes` a list of 8), or one for each token, which it pads as long and on the same side
    as `attention_mask`, or `input_ids`, of the batch.

    The Trainer removes columns that the forward of the model does not name before any collator sees them: train with
    `TrainingArguments(remove_unused_columns=False)`. Without it, this collator says so in the first batch.

    Args:
        collator: The data collator to wrap, such as `DataCollatorForLanguageModeling(tokenizer, mlm=False)`.
        keys: Columns to carry; each feature must have all of them. Default: those that the features have of
            `task_ids`, `modality_ids` and `attributes`, which must be at least one.
        padding: What stands at padding, for entries of tokens. It must be valid for the router; padding is left out
            of losses whatever stands there. Default: 0.

    Raises:
        ValueError: When called: features lack a column, or its entries have different kinds of shapes.

    Example:
        >>> from transformers import default_data_collator
        >>> from hf_mixture.moe.routers.levels_collator import LevelDataCollator
        >>> collate = LevelDataCollator(default_data_collator)
        >>> batch = collate([{"input_ids": [5, 6], "task_ids": 1}, {"input_ids": [7, 8], "task_ids": 0}])
        >>> batch["task_ids"].tolist(), batch["input_ids"].tolist()
        ([1, 0], [[5, 6], [7, 8]])
    """

    def __init__(
        self, collator: Callable[[list[Any]], Any], *, keys: Sequence[str] | None = None, padding: int = 0
    ) -> None:
        self.collator = collator
        self.keys = None if keys is None else tuple(keys)
        self.padding = padding

    def __call__(self, features: list[dict[str, Any]]) -> Any:
        """Make a batch.

        Args:
            features: The samples.

        Returns:
            What the wrapped collator returns, and a tensor for each column.
        """
        keys = self._keys(features)
        columns = {key: [torch.as_tensor(feature[key]) for feature in features] for key in keys}
        batch = self.collator(
            [{key: value for key, value in feature.items() if key not in columns} for feature in features]
        )
        for key, entries in columns.items():
            batch[key] = self._stack(key, entries, features, batch)
        return batch

    def _keys(self, features: list[dict[str, Any]]) -> tuple[str, ...]:
        keys = tuple(key for key in LEVEL_KEYS if key in features[0]) if self.keys is None else self.keys
        missing = next((key for key in keys for feature in features if key not in feature), None)
        if not keys or missing is not None:
            wanted = repr(missing) if missing is not None else "any of " + ", ".join(map(repr, LEVEL_KEYS))
            raise ValueError(
                f"a sample has no {wanted} for the routers, only {', '.join(map(repr, features[0]))}; if the data set "
                "has the column, the Trainer has removed it: set TrainingArguments(remove_unused_columns=False)"
            )
        return keys

    def _stack(self, key: str, entries: list[Tensor], features: list[dict[str, Any]], batch: Any) -> Tensor:
        dims = {entry.dim() for entry in entries}
        num_features = 1 if key == "attributes" else 0
        if dims == {num_features}:
            if len({entry.shape for entry in entries}) > 1:
                raise ValueError(
                    f"{key!r} has entries of different lengths {sorted({len(entry) for entry in entries})}; give "
                    "every sample as many"
                )
            return torch.stack(entries)
        if dims != {num_features + 1}:
            raise ValueError(
                f"{key!r} has entries of {sorted(dims)} dimensions; give every sample one entry, or one for each token"
            )
        for entry, feature in zip(entries, features, strict=True):
            if "input_ids" in feature and len(entry) != len(feature["input_ids"]):
                raise ValueError(
                    f"{key!r} has {len(entry)} entries in a sample of {len(feature['input_ids'])} tokens; give one "
                    "for the sample, or one for each token"
                )
        return self._pad(key, entries, batch)

    def _pad(self, key: str, entries: list[Tensor], batch: Any) -> Tensor:
        length = batch["input_ids"].shape[1]
        longest = max(map(len, entries))
        if longest > length:
            raise ValueError(
                f"{key!r} has {longest} entries for a row of {length} tokens, as {type(self.collator).__name__} has "
                "shortened it; shorten the samples, with their entries, before"
            )
        mask = batch.get("attention_mask")
        rows = []
        for place, entry in enumerate(entries):
            filling = entry.new_full((length - len(entry), *entry.shape[1:]), self.padding)
            on_left = mask is not None and len(filling) > 0 and int(mask[place, 0]) == 0
            rows.append(torch.cat([filling, entry] if on_left else [entry, filling]))
        return torch.stack(rows)
