"""MosaicML streaming: the arguments of `Stream` and `StreamingDataset`.

Names as in mosaicml/streaming 89e7bb9, `streaming/base/stream.py`. Proportions are relative and all streams have one;
the samples that rounding leaves over go to streams drawn at random, so a stream of proportion 0 may be drawn.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from hf_mixture.data.export.draft import Draft


BATCHING = ("random", "stratified", "per_stream", "device_per_stream")


def export(
    draft: Draft,
    *,
    paths: Mapping[str, str] | str | None = None,
    local: str | None = None,
    split: str | None = None,
    samples: str | None = None,
    batching_method: str = "random",
) -> tuple[dict[str, str], str]:
    """Write the mixture as proportions of samples.

    Args:
        draft: The mixture.
        paths: Folder of the MDS shards of each source (`remote`): a map, or one text with `{name}` in it.
        local: Folder to cache them in, one folder for each source inside. Default: streaming's own choice.
        split: Subfolder of each source. Default: none.
        samples: `"blocks"`: a sample is a block of a fixed number of tokens; `"examples"`: it is one example. Default:
            by the unit of the mixture, tokens or examples.
        batching_method: As in streaming. Default: `"random"`.

    Returns:
        Files and the note on the numbers.

    Raises:
        ValueError: A path is missing, or `samples` or `batching_method` is unknown.
    """
    if batching_method not in BATCHING:
        raise ValueError(f"batching_method={batching_method!r} is not one of {list(BATCHING)}; choose one")
    unit = draft.samples(samples)
    draft.lose_schedule()
    draft.lose_policies()
    shares = draft.without_zeros(draft.shares(unit))
    folders = draft.paths(paths, list(shares), "the folder of its MDS shards")
    streams = []
    for name, share in shares.items():
        stream: dict[str, Any] = {"remote": folders[name], "local": f"{local}/{name}" if local else None}
        stream |= {"split": split, "proportion": share}
        streams.append({key: value for key, value in stream.items() if value is not None})
    config: dict[str, Any] = {"streams": streams, "batching_method": batching_method}
    config["shuffle_seed"] = draft.mixture.seed
    budget = draft.mixture.budget
    if budget and budget[1] == unit == "examples":
        config["epoch_size"] = budget[0]
    elif budget:
        draft.note(f"the budget of {budget[0]} {budget[1]} is not written: set epoch_size, in samples")
    draft.note('StreamingDataset(streams=[Stream(**s) for s in config.pop("streams")], **config) reads the file')
    text = json.dumps(config, indent=2, ensure_ascii=False) + "\n"
    return {"streaming.json": text}, f"proportion: the share of each stream in the samples, which count {unit}"
