"""TRL: the YAML of a `DatasetMixtureConfig`.

Field names and semantics as in trl 1.16.0, `trl/scripts/utils.py`. TRL normalises the fractions, takes the largest N
rows for which no source is read twice, keeps the first round(fraction * N) rows of each source and concatenates them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from hf_mixture.data.export.draft import Draft


FIELDS = ("path", "name", "data_dir", "data_files", "split", "columns", "fraction")
# Where the importer keeps what a mixture has no field for.
EXTRA = "x_trl"


def export(
    draft: Draft,
    *,
    columns: Mapping[str, Sequence[str]] | None = None,
    streaming: bool | None = None,
    test_split_size: float | None = None,
) -> tuple[dict[str, str], str]:
    """Write the mixture as fractions of rows.

    Args:
        draft: The mixture.
        columns: Columns to keep, by source. Default: those that an import from TRL recorded, else all.
        streaming: Must be False or absent: TRL refuses fractions of streams.
        test_split_size: As in TRL.

    Returns:
        Files and the note on the numbers.

    Raises:
        ValueError: A source has no path, or `streaming` is True.
    """
    import yaml

    recorded: dict[str, Any] = draft.mixture.metadata.get(EXTRA) or {}
    columns = recorded.get("columns", {}) if columns is None else columns
    if streaming or (streaming is None and recorded.get("streaming")):
        raise ValueError("streaming=True, and TRL refuses fractions of streams; leave it out")
    draft.lose_schedule()
    draft.lose_policies()
    if draft.mixture.budget:
        amount, unit = draft.mixture.budget
        draft.lose(f"budget of {amount} {unit}: TRL reads each source at most once and decides the length itself")
    shares = draft.shares("examples")
    sources = draft.sources(("path", "config", "data_dir", "data_files", "split"), names=draft.mixture.names)
    entries = []
    for name, source in sources.items():
        fields = {**source.load_kwargs(), "split": source.split, "fraction": shares[name]}
        if columns.get(name):
            fields["columns"] = list(columns[name])
        entries.append({key: fields[key] for key in FIELDS if key in fields})
    config: dict[str, Any] = {"datasets": entries, "streaming": False}
    size = test_split_size if test_split_size is not None else recorded.get("test_split_size")
    if size is not None:
        config["test_split_size"] = size
    draft.note("TRL keeps the first rows of each source, and concatenates: shuffle the result or the sources")
    text = yaml.safe_dump(config, sort_keys=False, allow_unicode=True)
    return {"trl_mixture.yaml": text}, "fraction: the share of each source in the rows (examples) of the result"
