"""`interleave_datasets`: the function of datasets, with mixtures that are met exactly."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hf_mixture.data import plan as plans
from hf_mixture.data import stream_checks as checks
from hf_mixture.data.mixture import Mixture
from hf_mixture.data.mixture_plan import drawn
from hf_mixture.data.mixture_sources import source_lengths
from hf_mixture.data.plan import MixturePlan
from hf_mixture.data.quotas import MAX_EXAMPLES


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
    sizes: Mapping[str, int] | None = None,
) -> Any:
    """Interleave several datasets into one; with `mixture`, in exact shares.

    Without `mixture` this is `datasets.interleave_datasets`, same arguments, same result. With it and map-style
    datasets, the result is an ordinary `datasets.Dataset` (nothing is copied: it selects from the concatenated
    sources) with these properties:

    - The shares are met, not drawn: in the unit "examples" every source is within one row of its share at the end and
      at every 4096 rows; in "tokens" and "bytes" within half a row's length.
    - It is a pure function of mixture, datasets and arguments, seed included.
    - Rows of a source come in an order of their own in every epoch over it, and each epoch visits every row once.
    - A source of weight 0 is never drawn and may be empty.
    - Schedules, caps and the other policies of the mixture hold.

    With `mixture` and an `IterableDataset` among the datasets, the result is a `MixtureIterableDataset`.

    Length of the result, with `mixture`: `num_examples` if given. Otherwise `stopping_strategy` decides:
    "first_exhausted" ends before any drawn source would repeat a row (about min over sources of n_i / w_i rows),
    "all_exhausted" ends when every drawn source has given all its rows at least once (about max of n_i / w_i).

    Args:
        datasets: A list in the order of the mixture's names, or a mapping from name to dataset.
        probabilities: As in datasets; a `Mixture` in this place is taken as `mixture`.
        seed: As in datasets; with `mixture`, None or the mixture's own seed.
        info: Information of the result; not for streams with `mixture`.
        split: Name of the split of the result; not for streams with `mixture`.
        stopping_strategy: See above. "all_exhausted_without_replacement" is refused with `mixture`, because it drifts
            from the weights to the natural shares.
        mixture: Names, shares, unit, seed, schedule and policies.
        num_examples: Rows of the result, in [1, 2**31].
        lengths: Tokens or bytes of each row, for a mixture in that unit: by name, or a list in the mixture's order. A
            stream has them in a column.
        length_column: Column to take the lengths from: integers, token lists or (for bytes) text. Default: "input_ids"
            for tokens, "text" for bytes.
        provenance_column: Add a column of this name with the name of each row's domain.
        sizes: Rows of the streams whose number is known, by name: needed for `max_epochs`, and for a length that is
            known beforehand without `num_examples`.

    Returns:
        `datasets.Dataset` or `MixtureIterableDataset`: the interleaved rows.

    Raises:
        ValueError: The domains do not match the mixture or, in the types of a column, one another; a drawn source is
            empty, arguments contradict one another, lengths are missing or wrong, or a source would pass a cap whose
            overflow is "error".
        TypeError: A dataset is of another type.

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
    ours = {
        "num_examples": num_examples,
        "lengths": lengths,
        "length_column": length_column,
        "provenance_column": provenance_column,
        "sizes": sizes,
    }
    given = [key for key, value in ours.items() if value is not None]
    if mixture is None:
        if given:
            raise ValueError(f"{given} need a mixture; pass mixture=Mixture(...), or leave them out")
        import datasets as stock

        sources = list(datasets.values()) if isinstance(datasets, Mapping) else datasets
        return stock.interleave_datasets(
            sources, probabilities, seed, info=info, split=split, stopping_strategy=stopping_strategy
        )
    checks.check_mixture(mixture, stopping_strategy)
    _check_once(mixture, probabilities, seed)
    checks.check_count("num_examples", num_examples, 1, MAX_EXAMPLES)
    by_name = checks.match_sources(datasets, mixture)
    if any(map(checks.is_stream, by_name.values())):
        from hf_mixture.data.streaming import MixtureIterableDataset

        refused = {"lengths": lengths, "info": info, "split": split}
        if wrong := [key for key, value in refused.items() if value is not None]:
            raise ValueError(
                f"{wrong} belong to a datasets.Dataset, and a stream is among the datasets; leave them out"
                + (", and name a column by length_column=" if "lengths" in wrong else "")
            )
        return MixtureIterableDataset(
            by_name,
            mixture,
            num_examples=num_examples,
            stopping_strategy=stopping_strategy,  # type: ignore[arg-type]
            sizes=sizes,
            length_column=length_column,
            provenance_column=provenance_column,
        )
    checks.known_sizes(by_name, sizes)
    checks.all_columns(by_name, mixture, provenance_column)
    arrays = _row_lengths(by_name, mixture, lengths, length_column)
    means: dict[str, Any] = {} if arrays is None else {mixture.unit: _means(mixture, arrays)}
    plan = MixturePlan.build(
        **mixture.plan_arguments(num_examples=num_examples, mean_lengths=means),
        sizes=[len(dataset) for dataset in by_name.values()],
        num_examples=num_examples,
        stopping_strategy=stopping_strategy,
        lengths=arrays,
        seed=mixture.seed,
        names=mixture.names,
    )
    return _select(by_name, mixture, plan, arrays, info=info, split=split, provenance_column=provenance_column)


def _check_once(mixture: Mixture, probabilities: Any, seed: int | None) -> None:
    """Raise when the shares or the seed are given by the mixture and by another argument too."""
    if probabilities is not None:
        raise ValueError(
            f"probabilities={probabilities!r} and mixture={mixture!r} both give the shares; pass one of them"
        )
    if seed is not None and seed != mixture.seed:
        raise ValueError(
            f"seed={seed!r} contradicts mixture.seed={mixture.seed}; leave seed out, or change the mixture's"
        )


def _row_lengths(
    by_name: dict[str, Dataset], mixture: Mixture, lengths: Any, length_column: str | None
) -> list[NDArray[np.int64] | None] | None:
    """Lengths of the rows of each drawn source; None when the mixture counts examples."""
    if lengths is not None and length_column is not None:
        raise ValueError("lengths and length_column both give the lengths; pass one of them")
    if lengths is not None and not isinstance(lengths, Mapping):
        if len(lengths) != len(by_name):
            raise ValueError(
                f"{len(lengths)} arrays of lengths for {len(by_name)} domains; pass one for each, or a mapping"
            )
        lengths = dict(zip(by_name, lengths, strict=True))
    used = set(drawn(mixture))
    if lengths is not None and (missing := [name for name in by_name if name in used and name not in lengths]):
        raise ValueError(f"lengths has no entry for domain {missing[0]!r}; it has {list(lengths)}: add it")
    return source_lengths(by_name, mixture, lengths, length_column, names=used)


def _means(mixture: Mixture, arrays: list[NDArray[np.int64] | None]) -> dict[str, float]:
    return {name: float(array.mean()) for name, array in zip(mixture.names, arrays, strict=True) if array is not None}


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
    import pyarrow as pa
    from datasets import concatenate_datasets

    from hf_mixture._compat.datasets import fingerprint_of, select_rows

    used = {name: by_name[name] for name in drawn(mixture)}
    # Hashing the description instead of the indices: datasets would spend most of its time on the latter.
    digest = hashlib.sha256()
    policies = {name: asdict(policy) for name, policy in mixture.policies.items()}
    description = [
        plans.VERSION,
        plan.state_dict(),
        len(plan),
        mixture.names,
        mixture.unit,
        policies,
        provenance_column,
    ]
    digest.update(json.dumps([description, [fingerprint_of(dataset) for dataset in used.values()]]).encode())
    for array in arrays or []:
        digest.update(b"" if array is None else array.tobytes())
    fingerprint = digest.hexdigest()[:16]
    if provenance_column is not None:
        for name, dataset in used.items():
            used[name] = dataset.add_column(
                provenance_column,
                pa.repeat(name, len(dataset)),
                new_fingerprint=hashlib.sha256(f"{fingerprint} {name}".encode()).hexdigest()[:16],
            )
    sizes = np.array([len(dataset) if name in used else 0 for name, dataset in by_name.items()])
    offsets = np.cumsum(sizes) - sizes
    sources, rows = plan.materialise()
    rows += offsets[sources]
    return select_rows(concatenate_datasets(list(used.values()), info=info, split=split), rows, fingerprint)
