"""Fast-LLM: the YAML of a blended data set.

Fields as in ServiceNow/Fast-LLM 7d61a1b, `fast_llm/data/dataset/config.py` (`BlendedDatasetConfig`: at least two data
sets, weights normalised) and `docs/recipes/data-configuration.md`. A sample is a sequence of fixed length.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hf_mixture.data.export.draft import Draft


def export(draft: Draft, *, paths: Mapping[str, str] | str | None = None) -> tuple[dict[str, str], str]:
    """Write the mixture as weights of fixed-length samples.

    Args:
        draft: The mixture.
        paths: Configuration file of the prepared data of each source: a map, or one text with `{name}` in it.

    Returns:
        Files and the note on the numbers.

    Raises:
        ValueError: A path is missing.
    """
    import yaml

    draft.lose_schedule()
    draft.lose_policies()
    shares = draft.without_zeros(draft.shares("tokens"))
    files = draft.paths(paths, list(shares), "the configuration of its prepared data")
    datasets = [{"type": "file", "path": files[name]} for name in shares]
    training: dict[str, Any] = datasets[0]
    if len(datasets) > 1:
        training = {"type": "blended", "name": draft.mixture.name or "mixture"}
        training |= {"datasets": datasets, "weights": list(shares.values())}
    text = yaml.safe_dump({"data": {"datasets": {"training": training}}}, sort_keys=False, allow_unicode=True)
    return (
        {"fast_llm_data.yaml": text},
        "weight: the share of each data set in the samples of fixed length, that is in the tokens",
    )
