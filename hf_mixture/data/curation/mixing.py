"""Mixing by tokens, then packing: what a model is trained on, for each set of tiers.

The weights are applied last, to what all other stages have left, because those change the proportions.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from hf_mixture.data.curation.assemble import tier_folder
from hf_mixture.data.curation.packing import pack
from hf_mixture.data.curation.recipe import CurationRecipe, MixingOptions
from hf_mixture.data.curation.tables import write_parquet
from hf_mixture.data.curation.tiers import TIERS


LENGTHS = {"tokens": "num_tokens", "bytes": "text"}


def configurations(folder: Path) -> dict[str, list[str]]:
    """Return the sets of tiers that the data set has: each tier that has documents, with all stricter ones.

    Args:
        folder: The output folder.

    Returns:
        Tiers by name of the configuration, for example `tier1_2a` for tiers 1 and 2a.
    """
    there: list[str] = [
        tier for tier in TIERS if any((folder / "dataset" / "data" / tier_folder(tier)).glob("*.parquet"))
    ]
    return {f"tier{'_'.join(there[: end + 1])}": there[: end + 1] for end in range(len(there))}


def mix(dataset: Any, options: MixingOptions, *, seed: int = 0) -> tuple[Any, dict[str, Any]]:
    """Interleave the documents of a data set so that the shares of its sources hold.

    Args:
        dataset: A `Dataset` with the columns `source`, `num_tokens` and `text`.
        options: The shares and what they count.
        seed: Seed of the order.

    Returns:
        The mixed `Dataset`, and for each source the share that was asked for, the realised one, and how many
        documents were there and drawn.

    Raises:
        ValueError: No source with a weight has documents.
    """
    from hf_mixture.data.interleave import interleave_datasets
    from hf_mixture.data.mixture import Mixture

    source = np.array(dataset.select_columns(["source"]).with_format("arrow")[:].column(0).to_pylist())
    parts = {name: np.flatnonzero(source == name) for name in options.weights}
    weights = {name: weight for name, weight in options.weights.items() if len(parts[name])}
    if not sum(weights.values()):
        raise ValueError("no source with a weight has documents in this configuration")
    mixture = Mixture(weights, unit=options.unit, seed=seed, normalise=True)
    mixed = interleave_datasets(
        {name: dataset.select(parts[name]) for name in weights},
        mixture=mixture,
        stopping_strategy=options.stopping_strategy,
        length_column=LENGTHS.get(options.unit),
    )
    return mixed, {
        name: facts | {"asked": mixture.weights[name]}
        for name, facts in _realised(mixed, parts, options.unit, weights)
    }


def _realised(
    mixed: Any, parts: Mapping[str, Any], unit: str, names: Iterable[str]
) -> Iterator[tuple[str, dict[str, Any]]]:
    import pyarrow.compute as pc

    table = mixed.select_columns(["source", "num_tokens", "text"]).with_format("arrow")
    drawn = dict.fromkeys(names, 0)
    amount = dict.fromkeys(names, 0)
    for batch in table.iter(batch_size=5000):
        counts = {
            "tokens": lambda batch: batch.column("num_tokens"),
            "bytes": lambda batch: pc.binary_length(batch.column("text")),
            "examples": lambda batch: [1] * len(batch),
        }[unit](batch)
        values = np.asarray(counts)
        source = np.array(batch.column("source").to_pylist())
        for name in drawn:
            here = source == name
            drawn[name] += int(here.sum())
            amount[name] += int(values[here].sum())
    total = sum(amount.values())
    for name in drawn:
        yield name, {"documents": len(parts[name]), "drawn": drawn[name], "realised": amount[name] / max(1, total)}


def write_mixed(recipe: CurationRecipe, folder: Path) -> dict[str, Any]:
    """Write the mixed and packed form of every configuration, if the recipe asks for one.

    Args:
        recipe: The recipe.
        folder: The output folder.

    Returns:
        For each configuration `sources` with asked and realised shares, and the number of `rows`.
    """
    from datasets import Dataset
    from tqdm.auto import tqdm

    facts: dict[str, Any] = {}
    if recipe.mixture is None and recipe.packing is None:
        return facts
    for name, tiers in tqdm(configurations(folder).items(), desc="mix", unit="config", delay=2):
        data = folder / "dataset" / "data"
        files = [str(path) for tier in tiers for path in sorted((data / tier_folder(tier)).glob("*.parquet"))]
        rows = Dataset.from_parquet(files, cache_dir=str(folder / "work" / "cache"))
        shares: dict[str, Any] = {}
        if recipe.mixture is not None:
            if not any(recipe.mixture.weights[source] for source in set(rows["source"])):
                continue
            rows, shares = mix(rows, recipe.mixture, seed=recipe.seed)
        documents: Iterator[Any] = _documents(rows)
        if recipe.packing is not None:
            documents = pack(documents, recipe.packing)
        number = _write(data / f"{name}_training", documents, recipe.rows_per_file)
        facts[name] = {"sources": shares, "rows": number}
    return facts


def _documents(rows: Any) -> Iterator[Mapping[str, Any]]:
    for batch in rows.with_format("arrow").iter(batch_size=500):
        yield from batch.to_pylist()


def _write(folder: Path, documents: Iterator[Mapping[str, Any]], rows_per_file: int) -> int:
    import pyarrow as pa

    from hf_mixture.data.curation.record import COLUMNS, SAMPLE

    folder.mkdir(parents=True, exist_ok=True)
    total = 0
    for number in range(2**31):
        part: Sequence[Mapping[str, Any]] = list(islice(documents, rows_per_file))
        if not part:
            break
        schema = SAMPLE if "ids" in part[0] else COLUMNS
        write_parquet(folder / f"{number:06d}.parquet", pa.Table.from_pylist(list(part), schema=schema))
        total += len(part)
    return total
