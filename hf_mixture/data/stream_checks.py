"""The rules for the arguments of a mixture over streams: each broken one is one error, before anything is read."""

from __future__ import annotations

from collections.abc import Container, Mapping
from typing import Any

import numpy as np

from hf_mixture._compat.accelerate import is_called_by_splitting_loader
from hf_mixture._compat.datasets import features_agree, is_split_by_node
from hf_mixture.data.lengths import DEFAULT_COLUMNS
from hf_mixture.data.mixture import Mixture
from hf_mixture.data.mixture_plan import drawn
from hf_mixture.data.permutation import MAX_ROWS
from hf_mixture.data.quotas import STRATEGIES


def is_stream(dataset: Any) -> bool:
    """Whether a dataset is a `datasets.IterableDataset`."""
    from datasets import IterableDataset

    return isinstance(dataset, IterableDataset)


def check_mixture(mixture: Any, stopping_strategy: Any) -> None:
    """Raise unless these are a mixture and a stopping strategy that keeps its shares."""
    if not isinstance(mixture, Mixture):
        raise TypeError(
            f"mixture is a {type(mixture).__name__}; it must be a Mixture: build one, or read one with from_pretrained"
        )
    if stopping_strategy == "all_exhausted_without_replacement":
        raise ValueError(
            "stopping_strategy='all_exhausted_without_replacement' ends at the natural shares whatever the weights "
            "are; use 'first_exhausted', 'all_exhausted' or num_examples, or Mixture.natural for natural shares"
        )
    if stopping_strategy not in STRATEGIES:
        raise ValueError(f"stopping_strategy={stopping_strategy!r} is not one of {list(STRATEGIES)}; choose one")


def check_count(name: str, value: Any, least: int, most: int = 2**62, *, optional: bool = True) -> None:
    """Raise unless a number is an integer in [least, most], or None where that means something."""
    if value is None and optional:
        return
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or not least <= value <= most:
        shown = f"2**{most.bit_length() - 1}"
        raise ValueError(f"{name}={value!r} is not an integer in [{least}, {shown}]; correct it or leave it out")


def match_sources(sources: Any, mixture: Mixture) -> dict[str, Any]:
    """The sources by name, in the order of the mixture: each a stream of all processes, or map-style with rows."""
    from datasets import Dataset, DatasetDict, IterableDatasetDict

    by_name, used = match_names(sources, mixture), set(drawn(mixture))
    for name, dataset in by_name.items():
        if isinstance(dataset, DatasetDict | IterableDatasetDict):
            raise TypeError(
                f"domain {name!r} is a {type(dataset).__name__} with splits {list(dataset)}; a mixture draws from "
                "one: pass the split, for example dataset['train']"
            )
        if is_stream(dataset):
            if is_split_by_node(dataset):
                raise ValueError(
                    f"domain {name!r} was split by split_dataset_by_node; the mixture splits its stream among the "
                    "processes itself: pass the dataset before that call"
                )
        elif not isinstance(dataset, Dataset):
            raise TypeError(
                f"domain {name!r} is a {type(dataset).__name__}; it must be a datasets.Dataset or "
                "datasets.IterableDataset: convert it"
            )
        elif name in used and len(dataset) == 0:
            raise ValueError(
                f"domain {name!r} has weight {mixture.weights[name]} and no rows; a drawn source must have rows: "
                "add rows or set its weight to 0"
            )
    check_types({name: by_name[name] for name in by_name if name in used})
    return by_name


def row_columns(dataset: Any) -> list[str] | None:
    """The columns that the rows of a dataset have; None where only the rows tell."""
    if is_stream(dataset):
        names: list[str] | None = dataset.column_names
        return names
    form = dataset.format
    if form["type"] == "custom":
        # A transform may give any columns.
        return None
    shown: list[str] = dataset.column_names if form["output_all_columns"] else form["columns"]
    return shown


def check_types(sources: Mapping[str, Any]) -> None:
    """Raise where a column is of one type in one source and of another type in another, as `datasets` does."""
    from datasets import ClassLabel, Features

    seen: dict[str, list[tuple[str, Any]]] = {}
    for name, dataset in sources.items():
        columns = row_columns(dataset) or ()
        for column, kind in (dataset.features or {}).items():
            others = seen.setdefault(column, [])
            if column not in columns or any(kind == other for _, other in others):
                continue
            for first, other in others:
                if not features_agree(Features({column: other}), Features({column: kind})):
                    # A cast changes the names of labels and leaves their numbers.
                    remedy = "align_labels_with_mapping" if isinstance(kind, ClassLabel) else "cast_column"
                    raise ValueError(
                        f"column {column!r} is {other} in domain {first!r} and {kind} in domain {name!r}; make them "
                        f"one with dataset.{remedy}, or remove the column"
                    )
            others.append((name, kind))


def match_names(sources: Any, mixture: Mixture) -> dict[str, Any]:
    """The sources by name, in the order of the mixture; a list is in that order already."""
    if not isinstance(sources, Mapping):
        if len(sources) != len(mixture.names):
            raise ValueError(
                f"{len(sources)} datasets for the {len(mixture.names)} domains {list(mixture.names)}; pass one for "
                "each, in this order, or a mapping from name to dataset"
            )
        return dict(zip(mixture.names, sources, strict=True))
    known = set(mixture.names)
    if unknown := [name for name in mixture.names if name not in sources]:
        raise ValueError(
            f"the mixture names unknown domains {unknown}; the datasets are {list(sources)}: rename them or add the "
            "datasets"
        )
    if unweighted := [name for name in sources if name not in known]:
        raise ValueError(
            f"the mixture gives no weight to {unweighted}; it names {list(mixture.names)}: add them with weight 0 to "
            "leave them out, or do not pass them"
        )
    return {name: sources[name] for name in mixture.names}


def known_sizes(sources: Mapping[str, Any], sizes: Any) -> dict[str, int | None]:
    """Rows of each source, None where they are not known."""
    given = {} if sizes is None else dict(sizes)
    if unknown := [name for name in given if name not in sources]:
        raise ValueError(f"sizes names {unknown}, which are not domains; they are {list(sources)}: correct the names")
    known: dict[str, int | None] = {}
    for name, dataset in sources.items():
        check_count(f"sizes[{name!r}]", given.get(name), 1, MAX_ROWS)
        known[name] = given.get(name) if is_stream(dataset) else len(dataset)
        if name in given and given[name] != known[name]:
            raise ValueError(
                f"sizes[{name!r}]={given[name]} and the dataset has {known[name]} rows; leave map-style sources out "
                "of sizes"
            )
    return known


def check_caps(mixture: Mixture, sizes: Mapping[str, int | None], *, searches: bool) -> None:
    """Raise when a source has a cap and its draws cannot be counted in epochs beforehand."""
    for name, policy in mixture.policies.items():
        if policy.max_epochs is None or name not in drawn(mixture):
            continue
        if mixture.unit != "examples":
            raise ValueError(
                f"source {name!r} has max_epochs={policy.max_epochs:g} and the mixture counts {mixture.unit!r}, which "
                "a stream tells only as it is read; use the unit 'examples', or map-style datasets"
            )
        if sizes[name] is None:
            raise ValueError(
                f"source {name!r} has max_epochs={policy.max_epochs:g} and an unknown number of rows; pass "
                f"sizes={{{name!r}: ...}}, or drop the cap"
            )
        if searches:
            others = [other for other in drawn(mixture) if sizes[other] is None]
            raise ValueError(
                f"source {name!r} has max_epochs={policy.max_epochs:g}, and the stream ends where its sources are "
                f"exhausted, which is not known beforehand; pass num_examples, or sizes for {others}"
            )


def all_columns(sources: Mapping[str, Any], mixture: Mixture, provenance_column: Any) -> list[str] | None:
    """The columns of all drawn sources; None where those of one are not known."""
    check_provenance_column(provenance_column)
    columns: dict[str, None] = {}
    all_known = True
    for name in drawn(mixture):
        check_column_is_free(provenance_column, sources[name].column_names or (), name)
        names = row_columns(sources[name])
        all_known = all_known and names is not None
        columns.update(dict.fromkeys(names or ()))
    return list(columns) if all_known else None


def check_provenance_column(name: Any) -> None:
    """Raise unless this is None or the name of a column."""
    if name is not None and not (isinstance(name, str) and name):
        raise ValueError(f"provenance_column={name!r} is not a non-empty string; name the column")


def check_column_is_free(provenance_column: str | None, columns: Container[str], name: str) -> None:
    """Raise where a domain has a column of the name of the provenance column."""
    if provenance_column is not None and provenance_column in columns:
        raise ValueError(
            f"domain {name!r} already has a column {provenance_column!r}; choose another name for provenance_column"
        )


def length_column(mixture: Mixture, column: Any, sources: Mapping[str, Any]) -> str:
    """The column that tells the length of a row; empty when the mixture counts examples."""
    if mixture.unit == "examples":
        if column is not None:
            raise ValueError(
                "lengths and length_column belong to unit 'tokens' or 'bytes', and the mixture counts 'examples': "
                "leave them out or change the unit"
            )
        return ""
    chosen = str(column or DEFAULT_COLUMNS[mixture.unit])
    for name in drawn(mixture):
        names = row_columns(sources[name])
        if names is not None and chosen not in names:
            raise ValueError(
                f"domain {name!r} has no column {chosen!r} (it has {names}); unit={mixture.unit!r} needs the length "
                "of each row: pass length_column= with a column of integers, token lists or text"
            )
    return chosen


def check_weight_names(weights: Any, names: tuple[str, ...]) -> None:
    """Raise unless new weights name the domains of the mixture."""
    if not isinstance(weights, Mapping) or set(weights) != set(names):
        given = list(weights) if isinstance(weights, Mapping) else type(weights).__name__
        raise ValueError(f"weights names {given}; it must map each of {list(names)} to a number")


def check_splits_once(world_size: int) -> None:
    """Raise when the caller's caller is a loader that would split a stream which is split already."""
    if is_called_by_splitting_loader(2):
        raise ValueError(
            f"the stream is split among {world_size} processes by set_layout, and accelerate splits it once more, so "
            "rows would be lost: leave set_layout out, or train with callbacks=[MixtureStreamCallback()] instead"
        )


def check_state(state: Any, *, version: int, names: tuple[str, ...], start_at: int) -> None:
    """Raise unless a state belongs to a stream with these names and this start."""
    expected = {"version": version, "names": list(names), "start_at": start_at}
    for key in (*expected, "reader", "epoch", "plan", "place"):
        if key not in state:
            raise ValueError(f"the state has no {key!r}; its keys are {sorted(state)}: pass one made by state_dict()")
        if key in expected and state[key] != expected[key]:
            raise ValueError(
                f"the state has {key}={state[key]!r} and this stream has {expected[key]!r}; resume with the mixture "
                "and the arguments of the first run"
            )
