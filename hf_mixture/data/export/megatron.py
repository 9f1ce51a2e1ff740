"""Megatron Core: the blend of `--data-path`, as arguments, as a file, and as the JSON for each split.

Rules as in NVIDIA/Megatron-LM d98e8a6, `megatron/core/datasets/utils.py` (a list of even length whose first, third ...
entries are numbers is read as weights and prefixes), `blended_dataset.py` (weights > 0; a source that is drawn past
its end raises IndexError) and `megatron/training/training.py` (`--phase-transition-iterations`: the run saves and
exits at each, and is started again with the next blend; it needs a fixed global batch and `--train-samples`).
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence

from hf_mixture.data.export.draft import Draft, tokens_per_iteration


def export(
    draft: Draft,
    *,
    paths: Mapping[str, str] | str | None = None,
    valid: Sequence[str] | None = None,
    test: Sequence[str] | None = None,
    sequence_length: int | None = None,
    global_batch_size: int | None = None,
    train_iterations: int | None = None,
) -> tuple[dict[str, str], str]:
    """Write the mixture as weights of fixed-length samples.

    Args:
        draft: The mixture.
        paths: Prefix of the indexed files of each source: a map, or one text with `{name}` in it.
        valid: Blend of the validation split, as a list of the same form. Default: none.
        test: Blend of the test split. Default: none.
        sequence_length: Tokens of a sample; needed for a schedule in examples or tokens.
        global_batch_size: Samples of an iteration; likewise.
        train_iterations: Length of the run; needed for a schedule in fractions.

    Returns:
        Files and the note on the numbers.

    Raises:
        ValueError: A prefix is missing or holds white space, or the schedule cannot be placed on iterations.
    """
    draft.lose_policies()
    phases = draft.phases(train_iterations, tokens_per_iteration(sequence_length, global_batch_size))
    files: dict[str, str] = {}
    for i, (_, shares) in enumerate(phases):
        phase = f" in segment {i}" if len(phases) > 1 else ""
        kept = draft.without_zeros(shares, phase)
        prefixes = draft.paths(paths, list(kept), "the prefix of its indexed files")
        for name, prefix in prefixes.items():
            if prefix.split() != [prefix]:
                raise ValueError(f"path of {name!r} is {prefix!r}; Megatron splits at white space: rename the files")
        blend = [word for name, share in kept.items() for word in (repr(share), prefixes[name])]
        suffix = f"_{i}" if len(phases) > 1 else ""
        files[f"data_path{suffix}.txt"] = f"--data-path {shlex.join(blend)}\n"
        files[f"data_args{suffix}.txt"] = " ".join(blend) + "\n"
        splits = {"train": blend, "valid": _blend(valid), "test": _blend(test)}
        files[f"per_split_data_args{suffix}.json"] = json.dumps(splits, indent=2) + "\n"
    if len(phases) > 1:
        iterations = ",".join(str(start) for start, _ in phases[1:])
        files["phase_transition_iterations.txt"] = f"--phase-transition-iterations {iterations}\n"
        draft.note(
            "the run exits at each transition: start it again with the next blend, the same fixed global batch, and "
            "--train-samples"
        )
    draft.note("Megatron raises IndexError when a blend draws a source past its end; see hf-mixture mix plan")
    return files, "weight: the share of each source in the samples of fixed length, that is in the tokens"


def _blend(entries: Sequence[str] | None) -> list[str] | None:
    return None if entries is None else [str(entry) for entry in entries]
