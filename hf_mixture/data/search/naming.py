"""What a caller passes as the domains of a search: names, sizes, sources, data sets, or a table of runs."""

from __future__ import annotations

import numbers
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from hf_mixture.data.search.table import RunTable
from hf_mixture.data.source import Source


if TYPE_CHECKING:
    from hf_mixture.data.mixture import Unit


@dataclass(frozen=True)
class Domains:
    """The domains of a search.

    Args:
        names: Names of the K domains.
        sizes: Size of each, by name, in the unit of the mixture; None when only names are known.
        sources: Where rows come from, by name, for the domains that say so.
    """

    names: tuple[str, ...]
    sizes: Mapping[str, float] | None = None
    sources: Mapping[str, Source] = field(default_factory=dict)


def read_domains(
    domains: Sequence[str] | Mapping[str, Any] | RunTable, *, unit: Unit | None, need_sizes: bool = True
) -> Domains:
    """Read names, and sizes where there are some.

    Args:
        domains: Names; or by name a size, a `Source` that records one, a `TokenPack`, or a data set with a length; or
            a table, whose domains are taken.
        unit: What sizes count: "examples", "tokens" or "bytes". A number is taken as it is.
        need_sizes: Whether a value that tells no size is an error. Default: True.

    Raises:
        ValueError: A name repeats, or a size is needed and not known.
        TypeError: `domains` is a string.

    Example:
        ```python
        >>> from hf_mixture import Source
        >>> from hf_mixture.data.search.naming import read_domains
        >>> read_domains({"wiki": 900, "code": Source("json", size={"tokens": 300})}, unit="tokens").sizes
        {'wiki': 900.0, 'code': 300.0}

        ```
    """
    if isinstance(domains, str):
        raise TypeError(f"domains={domains!r} is a string; pass a list of names, or sizes or sources by name")
    if isinstance(domains, RunTable):
        return Domains(domains.domains)
    names = tuple(domains)
    if len(set(names)) < len(names):
        repeated = sorted({name for name in names if names.count(name) > 1})
        raise ValueError(f"domains names {repeated} more than once; each must be unique: remove the duplicates")
    if not isinstance(domains, Mapping):
        return Domains(names)
    sources = {name: value for name, value in domains.items() if isinstance(value, Source)}
    sizes = {name: _size(name, domains[name], unit) for name in names} if need_sizes else None
    return Domains(names, sizes, sources)


def _size(name: str, value: Any, unit: Unit | None) -> float:
    if isinstance(value, numbers.Real) and not isinstance(value, bool):
        return float(value)
    if isinstance(value, Source):
        known = dict(value.size or ())
        if unit in known:
            return float(known[unit])
    elif unit == "tokens" and hasattr(value, "num_tokens"):
        return float(value.num_tokens)
    elif unit == "examples" and hasattr(value, "__len__"):
        return float(len(value))
    raise ValueError(
        f"domains[{name!r}] is a {type(value).__name__} that tells no size in {unit or 'any unit: unit= is missing'}; "
        "pass a number, a source that records its size, or the natural shares as prior="
    )
