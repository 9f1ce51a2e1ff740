"""torchtitan: a list of names and weights, and the lines that build its `DatasetMixConfig` from it.

Classes as in pytorch/torchtitan b5bcd76, `torchtitan/components/data/dataset.py` and its README: weights count what a
child emits, which is documents before packing and blocks of tokens after it; a weight of 0 is refused; a new child
changes the seed of all later ones; with repeat=False the mix ends at the first child that is used up.
"""

from __future__ import annotations

import json

from hf_mixture.data.export.draft import Draft


_SNIPPET = '''"""Builds the mixture of mixture_weights.json for torchtitan.

The weights count {unit}, so {order}.
"""

import json

from torchtitan.components.data import ConcatThenSplitPackingConfig, DatasetMixConfig, WeightedDataset


def build_mixture(datasets, path="mixture_weights.json"):
    """Return the configuration of the packed mixture; `datasets` maps each name to its SingleDatasetConfig."""
    with open(path, encoding="utf-8") as file:
        weights = json.load(file)
{body}
'''
_PACK_FIRST = """    children = tuple(
        WeightedDataset(dataset=ConcatThenSplitPackingConfig(dataset=datasets[item["name"]]), weight=item["weight"])
        for item in weights
    )
    return DatasetMixConfig(datasets=children)"""
_MIX_FIRST = """    children = tuple(
        WeightedDataset(dataset=datasets[item["name"]], weight=item["weight"])
        for item in weights
    )
    return ConcatThenSplitPackingConfig(dataset=DatasetMixConfig(datasets=children))"""


def export(draft: Draft, *, samples: str | None = None) -> tuple[dict[str, str], str]:
    """Write the mixture as weights of what torchtitan's children emit.

    Args:
        draft: The mixture.
        samples: `"blocks"`: pack each source, then mix; `"examples"`: mix, then pack. Default: by the unit of the
            mixture, tokens or examples.

    Returns:
        Files and the note on the numbers.

    Raises:
        ValueError: `samples` is unknown, or needed.
    """
    unit = draft.samples(samples)
    draft.lose_schedule()
    draft.lose_policies()
    shares = draft.without_zeros(draft.shares(unit))
    if draft.mixture.sources:
        draft.lose("sources: paths, splits and revisions are not written; torchtitan's are Python configurations")
    order = "each source is packed before the mix" if unit == "tokens" else "the mix is packed, not its sources"
    weights = [{"name": name, "weight": share} for name, share in shares.items()]
    body = _PACK_FIRST if unit == "tokens" else _MIX_FIRST
    return (
        {
            "mixture_weights.json": json.dumps(weights, indent=2, ensure_ascii=False) + "\n",
            "torchtitan_mixture.py": _SNIPPET.format(unit=unit, order=order, body=body),
        },
        f"weight: the share of each source in {unit}; {order}",
    )
