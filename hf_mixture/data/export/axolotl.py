"""axolotl: the YAML list `datasets`, with shares as repeated entries and random shards.

Field names as in axolotl-ai-cloud/axolotl 067b021, `src/axolotl/utils/schemas/datasets.py`; there is no field for a
weight. The entries are loaded one by one, concatenated and shuffled (`utils/data/sft.py`), so an entry that stands
twice is read twice; `shards: n` with `shards_idx: i` reads the i-th of n random parts. The form for streaming,
`pretraining_dataset`, reads its first entry only and cannot hold a mixture.
"""

from __future__ import annotations

import os
from fractions import Fraction
from typing import Any

import numpy as np

from hf_mixture.data.export.draft import Draft, local_files
from hf_mixture.data.mixture_report import is_on_hub
from hf_mixture.data.source import Source


MAX_ENTRIES = 10_000


def export(
    draft: Draft, *, num_examples: int | None = None, max_shards: int = 20, type: str = "completion"
) -> tuple[dict[str, str], str]:
    """Write the mixture as whole and partial passes over each source.

    Args:
        draft: The mixture; its sources record how many examples they have.
        num_examples: Rows of an epoch. Default: the budget when it counts examples, else as many as fit without a
            second pass over any source.
        max_shards: Most parts that a source is cut into: the shares are met to about 1 / max_shards of a source.
            Default: 20.
        type: How axolotl reads a row. Default: `"completion"`, plain text.

    Returns:
        Files and the note on the numbers.

    Raises:
        ValueError: A source has no path or no number of examples, or the file would have more than 10,000 entries.
    """
    import yaml

    draft.lose_schedule()
    draft.lose_policies()
    shares = draft.without_zeros(draft.shares("examples"))
    sources = draft.sources(("path", "config", "data_files", "split", "revision", "text_column"), names=list(shares))
    sizes = {name: dict(source.size or ()).get("examples") for name, source in sources.items()}
    if missing := [name for name, size in sizes.items() if not size]:
        raise ValueError(
            f"sources {missing} do not say how many examples they have, and axolotl takes passes over a source, not "
            'shares; record size={"examples": ...}'
        )
    rows = {name: size for name, size in sizes.items() if size}
    total = _total(draft, shares, rows, num_examples)
    entries, realised = [], {}
    for name, source in sources.items():
        passes = Fraction(shares[name] * total / rows[name]).limit_denominator(max_shards)
        if passes == 0:
            passes = Fraction(1, max_shards)
        whole, part = divmod(passes, 1)
        entry = _entry(draft, name, source, type)
        entries += [entry] * whole
        entries += [{**entry, "shards": part.denominator, "shards_idx": i} for i in range(part.numerator)]
        realised[name] = float(passes) * rows[name]
        if len(entries) > MAX_ENTRIES:
            raise ValueError(f"source {name!r} would stand in more than {MAX_ENTRIES} entries; lower num_examples")
    got = np.array(list(realised.values())) / sum(realised.values())
    error = float(np.abs(got - np.array([shares[name] for name in realised])).max())
    if error > 1e-12:
        draft.lose(f"exact weights: repeats and shards meet the shares to within {error:.3g}")
    config = {"datasets": entries, "dataset_exact_deduplication": False}
    # Entries that repeat are written out, not as YAML references to one another.
    dumper = type_without_aliases()
    text = yaml.dump(config, Dumper=dumper, sort_keys=False, allow_unicode=True)
    return (
        {"axolotl_datasets.yaml": text},
        f"repeat: passes over each source, as repeated entries and shards, for about {round(total)} examples an epoch",
    )


def type_without_aliases() -> Any:
    """Return a YAML dumper that writes equal entries in full."""
    import yaml

    class Dumper(yaml.SafeDumper):
        def ignore_aliases(self, data: Any) -> bool:
            return True

    return Dumper


def _total(draft: Draft, shares: dict[str, float], rows: dict[str, int], num_examples: int | None) -> float:
    if num_examples is not None:
        if isinstance(num_examples, bool) or not isinstance(num_examples, int) or num_examples < 1:
            raise ValueError(f"num_examples={num_examples!r} is not an integer >= 1; correct it")
        return num_examples
    budget = draft.mixture.budget
    if budget and budget[1] == "examples":
        return budget[0]
    return min(rows[name] / share for name, share in shares.items())


def _entry(draft: Draft, name: str, source: Source, type: str) -> dict[str, Any]:
    fields: dict[str, Any] = {"path": source.path, "name": source.config}
    files = local_files(source)
    if files is not None:
        fields |= {"path": files[0], "ds_type": source.path}
        if len(files) > 1:
            # axolotl reads a list of files when the path is a folder.
            fields |= {"path": os.path.dirname(files[0]) or ".", "data_files": files}
    elif isinstance(source.data_files, tuple) and not all(isinstance(file, str) for file in source.data_files):
        draft.lose(f"source {name!r}: no field for data_files by split {source.load_kwargs()['data_files']!r}")
    elif source.data_files is not None:
        fields["data_files"] = source.load_kwargs()["data_files"]
    if source.revision is not None and not is_on_hub(source):
        draft.lose(f"source {name!r}: revision {source.revision!r} is read for Hub ids only")
    fields |= {"split": source.split, "revision": source.revision, "type": type}
    if type == "completion":
        fields["field"] = source.text_column
    elif source.text_column != "text":
        draft.lose(f"source {name!r}: text_column {source.text_column!r} is read with type completion only")
    return {key: value for key, value in fields.items() if value is not None}
