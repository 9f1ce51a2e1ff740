"""A trace in memory: reading, writing, and sharing it as a dataset.

Letters: S traced steps, L routers, E experts, W processes.
"""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from hf_mixture.hub.atomic import write_atomic
from hf_mixture.hub.damage import reading
from hf_mixture.moe.trace.files import PATTERN, cut_after, parts_of, read_part, write_part


Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class TracedRouter:
    """One router of a trace.

    Args:
        path: Its path in the model.
        layer: Index of the model layer.
        ordinal: Position among the routers.
        num_experts: E.
        top_k: Experts of a token.
    """

    path: str
    layer: int | None
    ordinal: int
    num_experts: int
    top_k: int


@dataclass(frozen=True, eq=False)
class RouterTrace:
    """How often each expert was chosen, by optimizer step and router.

    Args:
        routers: The L routers.
        steps: Optimizer steps that were traced [S], rising.
        counts: For each router, choices of each expert [S, E], all processes together.
        tokens: Tokens that each router saw [S, L].
        unrouted: Choices that are no routed expert, such as identity experts [S, L].
        rank_counts: For each router, choices by process [S, W, E], where the processes were kept apart.
        header: Facts of the run, as in the files.
    """

    routers: tuple[TracedRouter, ...]
    steps: Ints
    counts: tuple[Ints, ...]
    tokens: Ints
    unrouted: Ints
    rank_counts: tuple[Ints, ...] | None = None
    header: dict[str, Any] = field(default_factory=dict, repr=False)
    _rows: list[dict[str, Any]] = field(default_factory=list, repr=False)

    def save(self, folder: str | os.PathLike[str]) -> Path:
        """Write the trace as one parquet file with a dataset card.

        Args:
            folder: Where to; a trace that it holds is replaced.

        Returns:
            The folder.
        """
        path = Path(folder)
        path.mkdir(parents=True, exist_ok=True)
        cut_after(path, -1)
        write_part(path, self.header, self._rows)
        write_atomic(path / "README.md", _card(self))
        return path

    def push_to_hub(
        self,
        repo_id: str,
        *,
        private: bool | None = None,
        token: str | bool | None = None,
        commit_message: str = "Upload router trace",
    ) -> str:
        """Push the trace as a dataset with a card; a trace that the repository holds is replaced.

        Args:
            repo_id: Name of the dataset repository; made where it does not exist.
            private: Whether a new repository is private. Default: as the account has it.
            token: Access token. Default: the stored one.
            commit_message: Message of the commit.

        Returns:
            Address of the commit.
        """
        from huggingface_hub import HfApi

        api = HfApi(token=token)
        repo_id = api.create_repo(repo_id, repo_type="dataset", private=private, exist_ok=True).repo_id
        with tempfile.TemporaryDirectory() as folder:
            commit = api.upload_folder(
                repo_id=repo_id,
                folder_path=self.save(folder),
                repo_type="dataset",
                commit_message=commit_message,
                delete_patterns=PATTERN,
            )
        return str(commit.commit_url)


def load_trace(
    location: str | os.PathLike[str], *, revision: str | None = None, token: str | bool | None = None
) -> RouterTrace:
    """Load a trace from a folder or from a dataset repository on the Hub.

    Args:
        location: A folder that a `RouterTraceCallback` wrote, or a name such as `"user/trace"`.
        revision: Branch, tag or commit of the repository.
        token: Access token. Default: the stored one.

    Returns:
        The trace.

    Raises:
        FileNotFoundError: If there is neither such a folder nor such a repository.
        ValueError: If there is no trace, or a damaged or inconsistent one.

    Example:
        >>> import tempfile
        >>> from hf_mixture.moe.trace import load_trace
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     load_trace(folder)  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        ValueError: ... holds no part-*.parquet; ...
    """
    folder = Path(location)
    if not folder.is_dir():
        folder = _download(str(location), revision, token)
    parts = parts_of(folder)
    if not parts:
        raise ValueError(f"{location} holds no {PATTERN}; name the folder that RouterTraceCallback wrote to")
    header: dict[str, Any] = {}
    rows: list[dict[str, Any]] = []
    for part in parts:
        own, table = read_part(part)
        if header and own != header:
            raise ValueError(f"{part} belongs to another run than the parts before it; keep one trace in a folder")
        header = own
        with reading(part):
            rows += table.to_pylist()
    with reading(str(location)):
        return _trace(header, rows, str(location))


def _trace(header: dict[str, Any], rows: list[dict[str, Any]], location: str) -> RouterTrace:
    routers = tuple(TracedRouter(**router) for router in header["routers"])
    ranks: list[int | None] = list(range(header["num_ranks"])) if header["per_rank"] else [None]
    steps = sorted({row["step"] for row in rows})
    expected = [(step, rank, router.ordinal) for step in steps for rank in ranks for router in routers]
    found = [(row["step"], row["rank"], row["ordinal"]) for row in rows]
    if found != expected:
        raise ValueError(
            f"{location} does not have each step once for each router: {len(found)} rows, and {len(expected)} for "
            f"{len(steps)} steps; it was changed or copied in part"
        )
    for row in rows:
        if len(row["counts"]) != routers[row["ordinal"]].num_experts:
            raise ValueError(
                f"{location} has {len(row['counts'])} counts for {row['path']} at step {row['step']}, and "
                f"{routers[row['ordinal']].num_experts} experts; copy or download it again"
            )
    shape = (len(steps), len(ranks), len(routers))

    def column(name: str) -> Ints:
        return np.array([row[name] for row in rows], dtype=np.int64).reshape(shape).sum(axis=1)

    by_rank = tuple(
        np.array([row["counts"] for row in rows[place :: len(routers)]], dtype=np.int64).reshape(*shape[:2], -1)
        for place in range(len(routers))
    )
    return RouterTrace(
        routers=routers,
        steps=np.array(steps, dtype=np.int64),
        counts=tuple(counts.sum(axis=1) for counts in by_rank),
        tokens=column("tokens"),
        unrouted=column("unrouted"),
        rank_counts=by_rank if header["per_rank"] else None,
        header={name: value for name, value in header.items() if name not in ("format", "version")},
        _rows=rows,
    )


def _download(repo_id: str, revision: str | None, token: str | bool | None) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(
            snapshot_download(repo_id, repo_type="dataset", revision=revision, token=token, allow_patterns=PATTERN)
        )
    except (HFValidationError, HfHubHTTPError, LocalEntryNotFoundError) as error:
        raise FileNotFoundError(
            f"{repo_id!r} is no folder here, and no dataset repository of that name was found "
            f"({type(error).__name__}); check the name, the revision and the access"
        ) from error


def _card(trace: RouterTrace) -> str:
    import yaml

    metadata = {
        "tags": ["hf_mixture", "mixture-of-experts", "router-trace"],
        "configs": [{"config_name": "default", "data_files": PATTERN}],
    }
    header = trace.header
    table = "\n".join(
        f"| {router.ordinal} | `{router.path}` | {router.num_experts} | {router.top_k} |" for router in trace.routers
    )
    return f"""---
{yaml.safe_dump(metadata, sort_keys=False)}---

# Router trace of a {header["model_type"]} model

How often each expert was chosen in training: {len(trace.steps)} optimizer steps from {trace.steps[0]} to
{trace.steps[-1]}, one in {header["sample_every"]}, summed over accumulated batches, padding left out; the counts of
processes are {"apart" if header["per_rank"] else "added up"}.

```python
from hf_mixture.moe.trace import load_trace

trace = load_trace(".")
print(trace.steps, trace.counts[0].sum(axis=0))
```

Columns: `step`, `rank` (empty where the processes are added up), `ordinal` (of the router), `layer`, `path`, `tokens`,
`unrouted` (choices that are no routed expert), `counts` (of each expert, integers).

| router | path | experts | top k |
|---|---|---|---|
{table}
"""
