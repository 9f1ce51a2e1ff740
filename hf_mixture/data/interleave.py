"""`interleave_datasets`: the function of datasets, with mixtures that are met exactly."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hf_mixture.data import lengths as row_lengths
from hf_mixture.data import plan as plans
from hf_mixture.data.mixture import Mixture
from hf_mixture.data.plan import MixturePlan
from hf_mixture.data.quotas import MAX_EXAMPLES, STRATEGIES


if TYPE_CHECKING:
    from datasets import Dataset, DatasetInfo, NamedSplit


def interleave_datasets(  # noqa: PLR0917 - the positional arguments of datasets.interleave_datasets
    datasets: Sequence[Any] | Mapping[str, Any],
    probabilities: list[float] | Mixture | None = None,
    seed: int | None = None,
    info: DatasetInfo | None = None,
    split: NamedSplit | None = None,
    stopping_strategy: str = "first_exhausted",
    *,
    mixture: Mixture | None = None,
    num_examples: int | None = None,
    lengths: Mapping[str, ArrayLike] | Sequence[ArrayLike] | None = None,
    length_column: str | None = None,
    provenance_column: str | None = None,
) -> Any:
    """Interleave several datasets into one; with `mixture`, in exact shares.

    Without `mixture` this is `datasets.interleave_datasets`, same arguments, same result. With it, the result is an
    ordinary `datasets.Dataset` (nothing is copied: it selects from the concatenated sources) with these properties:

    - The shares are met, not drawn: in the unit "examples" every source is within one row of its share at the end and
      at every 4096 rows; in "tokens" and "bytes" within half a row's length.
    - It is a pure function of mixture, datasets and arguments, seed included.
    - Rows of a source come in an order of their own in every epoch over it, and each epoch visits every row once.
    - A source of weight 0 is never drawn and may be empty.

    Length of the result, with `mixture`: `num_examples` if given. Otherwise `stopping_strategy` decides:
    "first_exhausted" ends before any drawn source would repeat a row (about min over sources of n_i / w_i rows),
    "all_exhausted" ends when every drawn source has given all its rows at least once (about max of n_i / w_i).

    Args:
        datasets: Map-style datasets: a list in the order of the mixture's names, or a mapping from name to dataset.
        probabilities: As in datasets; a `Mixture` in this place is taken as `mixture`.
        seed: As in datasets; with `mixture`, None or the mixture's own seed.
        info: Information of the result.
        split: Name of the split of the result.
        stopping_strategy: See above. "all_exhausted_without_replacement" is refused with `mixture`, because it drifts
            from the weights to the natural shares.
        mixture: Names, shares, unit and seed.
        num_examples: Rows of the result, in [1, 2**31].
        lengths: Tokens or bytes of each row, for a mixture in that unit: by name, or a list in the mixture's order.
        length_column: Column to take the lengths from: integers, token lists or (for bytes) text. Default: "input_ids"
            for tokens, "text" for bytes.
        provenance_column: Add a column of this name with the name of each row's domain.

    Returns:
        `datasets.Dataset`: the interleaved rows.

    Raises:
        ValueError: The domains do not match the mixture, a drawn source is empty, arguments contradict one another, or
            lengths are missing or wrong.
        TypeError: A dataset is not map-style.

    Example:
        ```python
        >>> from datasets import Dataset
        >>> from hf_mixture import Mixture, interleave_datasets
        >>> wiki = Dataset.from_dict({"text": [f"w{i}" for i in range(70)]})
        >>> code = Dataset.from_dict({"text": [f"c{i}" for i in range(300)]})
        >>> mixture = Mixture({"wiki": 0.7, "code": 0.3}, unit="examples")
        >>> mixed = interleave_datasets({"wiki": wiki, "code": code}, mixture=mixture)
        >>> len(mixed), sum(text[0] == "w" for text in mixed["text"])
        (100, 70)

        ```
    """
    if mixture is None and isinstance(probabilities, Mixture):
        mixture, probabilities = probabilities, None
    if mixture is None:
        extra = {
            "num_examples": num_examples,
            "lengths": lengths,
            "length_column": length_column,
            "provenance_column": provenance_column,
        }
        if given := [key for key, value in extra.items() if value is not None]:
            raise ValueError(f"{given} need a mixture; pass mixture=Mixture(...), or leave them out")
        import datasets as stock

        sources = list(datasets.values()) if isinstance(datasets, Mapping) else datasets
        return stock.interleave_datasets(
            sources, probabilities, seed, info=info, split=split, stopping_strategy=stopping_strategy
        )
    _check_arguments(mixture, probabilities, seed, stopping_strategy, num_examples=num_examples)
    if provenance_column is not None and not (isinstance(provenance_column, str) and provenance_column):
        raise ValueError(f"provenance_column={provenance_column!r} is not a non-empty string; name the column")
    by_name = _match(datasets, mixture)
    arrays = _row_lengths(by_name, mixture, lengths, length_column)
    plan = MixturePlan.build(
        mixture.shares,
        [len(dataset) for dataset in by_name.values()],
        num_examples=num_examples,
        stopping_strategy=stopping_strategy,
        lengths=arrays,
        seed=mixture.seed,
    )
    return _select(by_name, mixture, plan, arrays, info=info, split=split, provenance_column=provenance_column)


def _check_arguments(
    mixture: Any,
    probabilities: Any,
    seed: int | None,
    stopping_strategy: str,
    *,
    num_examples: int | None,
) -> None:
    if not isinstance(mixture, Mixture):
        raise TypeError(
            f"mixture is a {type(mixture).__name__}; it must be a Mixture: build one, or read one with from_pretrained"
        )
    if probabilities is not None:
        raise ValueError(
            f"probabilities={probabilities!r} and mixture={mixture!r} both give the shares; pass one of them"
        )
    if seed is not None and seed != mixture.seed:
        raise ValueError(
            f"seed={seed!r} contradicts mixture.seed={mixture.seed}; leave seed out, or change the mixture's"
        )
    if stopping_strategy == "all_exhausted_without_replacement":
        raise ValueError(
            "stopping_strategy='all_exhausted_without_replacement' ends at the natural shares whatever the weights "
            "are; "
            "use 'first_exhausted', 'all_exhausted' or num_examples, or Mixture.natural for natural shares"
        )
    if stopping_strategy not in STRATEGIES:
        raise ValueError(f"stopping_strategy={stopping_strategy!r} is not one of {list(STRATEGIES)}; choose one")
    if num_examples is not None and (
        isinstance(num_examples, bool)
        or not isinstance(num_examples, int | np.integer)
        or not 1 <= num_examples <= MAX_EXAMPLES
    ):
        raise ValueError(
            f"num_examples={num_examples!r} is not an integer in [1, 2**31]; give the number of rows or leave it out"
        )


def _match(datasets: Any, mixture: Mixture) -> dict[str, Dataset]:
    """The datasets by name, in the mixture's order."""
    from datasets import Dataset, DatasetDict, IterableDataset, IterableDatasetDict

    if isinstance(datasets, Mapping):
        if unknown := [name for name in mixture.names if name not in datasets]:
            raise ValueError(
                f"the mixture names unknown domains {unknown}; the datasets are {list(datasets)}: rename them or "
                "add the datasets"
            )
        if unweighted := [name for name in datasets if name not in mixture.names]:
            raise ValueError(
                f"the mixture gives no weight to {unweighted}; it names {list(mixture.names)}: "
                "add them with weight 0 to leave them out, or do not pass them"
            )
        by_name = {name: datasets[name] for name in mixture.names}
    else:
        if len(datasets) != len(mixture.names):
            raise ValueError(
                f"{len(datasets)} datasets for the {len(mixture.names)} domains {list(mixture.names)}; pass one for "
                "each, in this "
                "order, or a mapping from name to dataset"
            )
        by_name = dict(zip(mixture.names, datasets, strict=True))
    for name, dataset in by_name.items():
        if isinstance(dataset, IterableDataset | IterableDatasetDict):
            raise TypeError(
                f"domain {name!r} is an {type(dataset).__name__}; a mixture is exact because it knows every row, so "
                "streaming is "
                "not supported yet: load it with streaming=False, or pass probabilities= instead of mixture="
            )
        if isinstance(dataset, DatasetDict):
            raise TypeError(
                f"domain {name!r} is a DatasetDict with splits {list(dataset)}; a mixture draws from one: pass the "
                "split, "
                "for example dataset['train']"
            )
        if not isinstance(dataset, Dataset):
            raise TypeError(
                f"domain {name!r} is a {type(dataset).__name__}; it must be a datasets.Dataset: convert it"
            )
        if mixture.weights[name] > 0 and len(dataset) == 0:
            raise ValueError(
                f"domain {name!r} has weight {mixture.weights[name]} and no rows; a drawn source must have rows: "
                "add rows or set its weight to 0"
            )
    return by_name


def _row_lengths(
    by_name: dict[str, Dataset], mixture: Mixture, lengths: Any, length_column: str | None
) -> list[NDArray[np.int64] | None] | None:
    """Lengths of the rows of each drawn source; None when the mixture counts examples."""
    if mixture.unit == "examples":
        if lengths is not None or length_column is not None:
            raise ValueError(
                "lengths and length_column belong to unit 'tokens' or 'bytes', and the mixture counts 'examples': "
                "leave them out or change the unit"
            )
        return None
    if lengths is not None and length_column is not None:
        raise ValueError("lengths and length_column both give the lengths; pass one of them")
    if lengths is not None and not isinstance(lengths, Mapping):
        if len(lengths) != len(by_name):
            raise ValueError(
                f"{len(lengths)} arrays of lengths for {len(by_name)} domains; pass one for each, or a mapping"
            )
        lengths = dict(zip(by_name, lengths, strict=True))
    column = length_column or row_lengths.DEFAULT_COLUMNS[mixture.unit]
    arrays: list[NDArray[np.int64] | None] = []
    for name, dataset in by_name.items():
        if mixture.weights[name] == 0:
            arrays.append(None)
        elif lengths is None:
            arrays.append(row_lengths.column_lengths(dataset, column, unit=mixture.unit, name=name))
        elif name in lengths:
            arrays.append(row_lengths.check_lengths(lengths[name], len(dataset), name))
        else:
            raise ValueError(f"lengths has no entry for domain {name!r}; it has {list(lengths)}: add it")
    return arrays


def _select(
    by_name: dict[str, Dataset],
    mixture: Mixture,
    plan: MixturePlan,
    arrays: list[NDArray[np.int64] | None] | None,
    *,
    info: Any,
    split: Any,
    provenance_column: str | None,
) -> Dataset:
    from datasets import concatenate_datasets

    from hf_mixture._compat.datasets import fingerprint_of

    drawn = {name: dataset for name, dataset in by_name.items() if mixture.weights[name] > 0}
    # Hashing the description instead of the indices: datasets would spend most of its time on the latter.
    digest = hashlib.sha256()
    description = [plans.VERSION, mixture.weights, mixture.unit, mixture.seed, len(plan), provenance_column]
    digest.update(json.dumps([description, [fingerprint_of(dataset) for dataset in drawn.values()]]).encode())
    for array in arrays or []:
        digest.update(b"" if array is None else array.tobytes())
    fingerprint = digest.hexdigest()[:16]
    if provenance_column is not None:
        for name, dataset in drawn.items():
            if provenance_column in dataset.column_names:
                raise ValueError(
                    f"domain {name!r} already has a column {provenance_column!r}; choose another name for "
                    "provenance_column"
                )
            drawn[name] = dataset.add_column(
                provenance_column,
                [name] * len(dataset),
                new_fingerprint=hashlib.sha256(f"{fingerprint} {name}".encode()).hexdigest()[:16],
            )
    offsets = np.zeros(len(by_name), dtype=np.int64)
    offsets[[mixture.names.index(name) for name in drawn]] = np.cumsum([0, *map(len, drawn.values())])[:-1]
    sources, rows = plan.materialise()
    rows += offsets[sources]
    concatenated = concatenate_datasets(list(drawn.values()), info=info, split=split)
    return concatenated.select(rows, new_fingerprint=fingerprint)
