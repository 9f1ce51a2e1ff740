"""nanotron: the list `data_stages` of its YAML configuration.

Field names and rules as in huggingface/nanotron 2411b02, `src/nanotron/config/config.py` (unique names, unique starts,
one stage starts at step 1) and `data/nanoset.py` (the greedy blend can draw a folder of weight 0 once; a later epoch
repeats the order of the first).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hf_mixture.data.export.draft import Draft, tokens_per_iteration


def export(
    draft: Draft,
    *,
    paths: Mapping[str, str] | str | None = None,
    sequence_length: int | None = None,
    global_batch_size: int | None = None,
    train_iterations: int | None = None,
    num_loading_workers: int = 1,
) -> tuple[dict[str, str], str]:
    """Write the mixture as one stage for each segment of its schedule.

    Args:
        draft: The mixture.
        paths: Folder of the tokenised files of each source: a map, or one text with `{name}` in it.
        sequence_length: Tokens of a sample; needed for a schedule in examples or tokens.
        global_batch_size: Samples of a step; likewise.
        train_iterations: Steps of the run; needed for a schedule in fractions.
        num_loading_workers: As in nanotron. Default: 1.

    Returns:
        Files and the note on the numbers.

    Raises:
        ValueError: A folder is missing, or the schedule cannot be placed on steps.
    """
    import yaml

    draft.lose_policies()
    # The generator that nanotron seeds takes 32 bits.
    seed = draft.mixture.seed % 2**32
    if seed != draft.mixture.seed:
        draft.note(f"the seed {draft.mixture.seed} is written as {seed}, its last 32 bits")
    stages: list[dict[str, Any]] = []
    phases = draft.phases(train_iterations, tokens_per_iteration(sequence_length, global_batch_size))
    for i, (start, shares) in enumerate(phases):
        kept = draft.without_zeros(shares, f" in segment {i}" if len(phases) > 1 else "")
        folders = draft.paths(paths, list(kept), "the folder of its tokenised files")
        dataset = {"dataset_folder": list(folders.values()), "dataset_weights": list(kept.values())}
        stages.append(
            {
                "name": f"{draft.mixture.name or 'mixture'}, segment {i}",
                "start_training_step": start + 1,
                "data": {"dataset": dataset, "seed": seed, "num_loading_workers": num_loading_workers},
            }
        )
    draft.note("nanotron repeats one order in every epoch over the sum of the folders")
    text = yaml.safe_dump({"data_stages": stages}, sort_keys=False, allow_unicode=True)
    return (
        {"data_stages.yaml": text},
        "weight: the share of each folder in the samples of fixed length, that is in the tokens",
    )
