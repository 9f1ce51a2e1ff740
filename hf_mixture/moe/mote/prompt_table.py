"""Prompts from a file or from the Hub, with what is known of each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hf_mixture.moe.mote.respond import Prompt, check_prompts


_LOADERS = {".json": "json", ".jsonl": "json", ".csv": "csv", ".parquet": "parquet"}
_KNOWN = ("label", "topic", "group", "expected")


@dataclass(frozen=True)
class PromptTable:
    """Prompts, and columns beside them.

    Args:
        prompts: Texts, or chats as lists of messages.
        columns: For each of `label`, `topic`, `group` and `expected` that the table has, its values.
    """

    prompts: Sequence[Prompt]
    columns: dict[str, list[str]]

    def column(self, name: str) -> list[str]:
        """Return a column.

        Raises:
            ValueError: If the table has none of that name.
        """
        if name not in self.columns:
            raise ValueError(f"the prompts have no column {name!r}; they have {', '.join(self.columns) or 'none'}")
        return self.columns[name]


def read_prompts(location: str, *, split: str = "train", revision: str | None = None) -> PromptTable:
    """Read prompts.

    Args:
        location: A `.jsonl`, `.json`, `.csv` or `.parquet` file, or a dataset repository on the Hub, with a column
            `prompt` of texts or `messages` of chats, and any of `label`, `topic`, `group` and `expected`.
        split: Split of a repository. Default: `"train"`.
        revision: Branch, tag or commit of a repository. Default: the main branch.

    Returns:
        The prompts.

    Raises:
        FileNotFoundError: If there is neither such a file nor such a repository.
        ValueError: If the file has another form, or no column of prompts.
    """
    from datasets import load_dataset
    from datasets.exceptions import DatasetNotFoundError

    suffix = Path(location).suffix
    rows: Any
    if Path(location).is_file():
        if suffix not in _LOADERS:
            raise ValueError(f"{location!r} must be one of {', '.join(_LOADERS)}")
        rows = load_dataset(_LOADERS[suffix], data_files=location, split="train")
    elif suffix in _LOADERS:
        raise FileNotFoundError(f"{location!r} is no file here; check the path")
    else:
        try:
            rows = load_dataset(location, split=split, revision=revision)
        except (DatasetNotFoundError, ConnectionError, FileNotFoundError) as error:
            raise FileNotFoundError(
                f"{location!r} is no file here, and no dataset of that name was found ({type(error).__name__}); check "
                "the name and the access"
            ) from error
    source = next((name for name in ("prompt", "messages") if name in rows.column_names), None)
    if source is None:
        raise ValueError(f"{location} has the columns {', '.join(rows.column_names)}; it needs 'prompt' or 'messages'")
    prompts = list(rows[source])
    check_prompts(prompts)
    return PromptTable(prompts, {name: list(map(str, rows[name])) for name in _KNOWN if name in rows.column_names})
