"""LLaMA-Factory: `dataset_info.json` and the YAML fields of its data arguments.

Field names as in hiyouga/LLaMA-Factory ff6d4d1, `src/llamafactory/data/parser.py`, `data/loader.py`,
`hparams/data_args.py`. The strategies are names for those of `datasets.interleave_datasets`; its loader reads no
revision.
"""

from __future__ import annotations

import json
from typing import Any

from hf_mixture.data.export.draft import Draft, local_files
from hf_mixture.data.mixture_report import is_on_hub
from hf_mixture.data.source import Source


STRATEGIES = ("interleave_under", "interleave_over", "interleave_once")
# Names that datasets.load_dataset takes for files; without them a path is a file or folder.
_BUILDERS = ("arrow", "csv", "json", "parquet", "text")


def export(draft: Draft, *, mix_strategy: str = "interleave_under") -> tuple[dict[str, str], str]:
    """Write the mixture as probabilities of examples.

    Args:
        draft: The mixture.
        mix_strategy: `"interleave_under"` stops at the first source that is used up, `"interleave_over"` goes on, with
            repetition, until each was used up, `"interleave_once"` draws without replacement. Default:
            `"interleave_under"`.

    Returns:
        Files and the note on the numbers.

    Raises:
        ValueError: The strategy is unknown or is "concat", which LLaMA-Factory refuses with probabilities; a source
            has no path; a name holds a comma.
    """
    import yaml

    if mix_strategy == "concat":
        raise ValueError(
            f'mix_strategy="concat" takes no weights; choose one of {list(STRATEGIES)}, which draw with probabilities'
        )
    if mix_strategy not in STRATEGIES:
        raise ValueError(f"mix_strategy={mix_strategy!r} is not one of {list(STRATEGIES)}; choose one")
    draft.lose_schedule()
    draft.lose_policies()
    if mix_strategy == "interleave_once":
        draft.lose("weights: without replacement, the shares drift to those of the sizes")
    shares = draft.without_zeros(draft.shares("examples"))
    sources = draft.sources(("path", "config", "data_dir", "data_files", "split", "text_column"), names=list(shares))
    for name in shares:
        if "," in name or name != name.strip():
            raise ValueError(
                f"source name {name!r} has a comma or outer spaces, where LLaMA-Factory splits: rename it"
            )
    info = {name: _entry(draft, name, source) for name, source in sources.items()}
    config = {
        "dataset": ",".join(shares),
        "mix_strategy": mix_strategy,
        "interleave_probs": ",".join(repr(share) for share in shares.values()),
    }
    draft.note("put dataset_info.json in dataset_dir; the columns are those of plain text (stage: pt)")
    return (
        {
            "dataset_info.json": json.dumps(info, indent=2, ensure_ascii=False) + "\n",
            "llamafactory.yaml": yaml.safe_dump(config, sort_keys=False, allow_unicode=True),
        },
        "probability: of drawing the next example from each source",
    )


def _entry(draft: Draft, name: str, source: Source) -> dict[str, Any]:
    fields: dict[str, Any] = {"subset": source.config, "split": source.split, "folder": source.data_dir}
    if is_on_hub(source):
        if source.data_files is not None:
            draft.lose(f"source {name!r}: no field for data_files of a Hub id")
        place = {"hf_hub_url": source.path}
    elif source.path not in _BUILDERS:
        place = {"file_name": source.path}
    else:
        files = local_files(source)
        if files is None or len(files) != 1:
            raise ValueError(
                f"source {name!r} reads {source.load_kwargs().get('data_files')!r}, and LLaMA-Factory reads one file "
                "or one folder: put the files in a folder of their own and make it the path"
            )
        place = {"file_name": files[0]}
    if "file_name" in place:
        # A file has no configurations or folders, and is read as the split "train".
        for field in ("subset", "folder"):
            if fields[field] is not None:
                draft.lose(f"source {name!r}: no field for {field} {fields[field]!r} of a file")
                fields[field] = None
    fields["columns"] = {"prompt": source.text_column}
    return {**place, **{key: value for key, value in fields.items() if value is not None}}
