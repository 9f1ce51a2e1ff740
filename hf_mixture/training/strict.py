"""Strict YAML: files, overrides and dataclasses in which an unknown name is an error that suggests the nearest one."""

from __future__ import annotations

import dataclasses
import difflib
import re
import types
import typing
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVar

from hf_mixture.hub.reading import parse_yaml as parse_plain_yaml
from hf_mixture.hub.reading import safe_loader


T = TypeVar("T")


class _Loader(safe_loader()):  # type: ignore[misc]
    """The loader that reads `1e-3` as a number."""


# YAML 1.1 takes 1e-3 for a string because it has no point; nobody who writes a learning rate means that.
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"), list("-+.0123456789")
)


def parse_yaml(text: str, where: str = "the text") -> Any:
    """Parse YAML with plain data only; `1e-3` is a number and a repeated key is an error.

    Args:
        text: The YAML text.
        where: What holds it, for the message.

    Returns:
        Mappings, lists and scalars.

    Raises:
        ValueError: If the text is not YAML, repeats a key, or is nested too deeply.

    Example:
        >>> from hf_mixture.training.strict import parse_yaml
        >>> parse_yaml("learning_rate: 1e-3")
        {'learning_rate': 0.001}
    """
    return parse_plain_yaml(text, where, loader=_Loader)


def check_names(given: Iterable[str], allowed: Iterable[str], where: str) -> None:
    """Refuse names that are not allowed, with the nearest allowed one.

    Args:
        given: Names that a user wrote.
        allowed: Names that exist.
        where: What the names belong to, for the message.

    Raises:
        ValueError: If a given name is not among the allowed ones.

    Example:
        >>> from hf_mixture.training.strict import check_names
        >>> check_names(["learning_rat"], ["learning_rate", "max_steps"], "adapt")
        Traceback (most recent call last):
        ValueError: unknown key 'learning_rat' in adapt; did you mean 'learning_rate'?
    """
    allowed = sorted(allowed)
    for name in given:
        if name not in allowed:
            nearest = difflib.get_close_matches(str(name), allowed, n=1, cutoff=0.5)
            remedy = f"did you mean {nearest[0]!r}?" if nearest else f"the keys are {', '.join(allowed)}"
            raise ValueError(f"unknown key {name!r} in {where}; {remedy}")


def apply_override(recipe: dict[str, Any], path: str, value: Any) -> None:
    """Set one value of nested mappings in place; a mapping replaces what was there.

    Args:
        recipe: Nested mappings.
        path: Keys joined by points, for example `"adapt.training_arguments.max_steps"`.
        value: The new value.

    Raises:
        ValueError: If the path goes through a value that is not a mapping.

    Example:
        >>> from hf_mixture.training.strict import apply_override
        >>> recipe = {"adapt": {"training_arguments": {"max_steps": 10}}}
        >>> apply_override(recipe, "adapt.training_arguments.max_steps", 3)
        >>> recipe
        {'adapt': {'training_arguments': {'max_steps': 3}}}
    """
    *parents, last = path.split(".")
    here = recipe
    for depth, key in enumerate(parents):
        if here.get(key) is None:
            here[key] = {}
        if not isinstance(here[key], dict):
            raise ValueError(
                f"cannot override {path!r}: {'.'.join(parents[: depth + 1])!r} is {here[key]!r}, not a mapping; "
                "override that key itself"
            )
        here = here[key]
    here[last] = value


def parse_overrides(arguments: Sequence[str]) -> list[tuple[str, Any]]:
    """Read `--key.path value` and `--key.path=value` arguments; values are YAML.

    Args:
        arguments: Command-line words that belong to no declared flag.

    Returns:
        Pairs of key path and parsed value, in order.

    Raises:
        ValueError: If a word is not an override or its value is missing.

    Example:
        >>> from hf_mixture.training.strict import parse_overrides
        >>> parse_overrides(["--seed", "3", "--adapt.learning_rates=[1e-3, 3e-3]"])
        [('seed', 3), ('adapt.learning_rates', [0.001, 0.003])]
    """
    overrides = []
    words = list(arguments)
    while words:
        word = words.pop(0)
        if not word.startswith("--") or word == "--":
            raise ValueError(f"unexpected argument {word!r}; write an override as --key.path value")
        path, equals, text = word[2:].partition("=")
        if not equals:
            if not words:
                raise ValueError(f"the override {word!r} has no value; write {word} VALUE")
            text = words.pop(0)
        overrides.append((path, parse_yaml(text, f"the value of --{path}")))
    return overrides


def build(cls: type[T], values: Any, where: str) -> T:
    """Make a dataclass of nested plain data; names and types must match.

    Args:
        cls: A dataclass whose fields are typed with scalars, `list`, `dict`, dataclasses and optionals of these.
        values: The plain data.
        where: Path of the data in the file, for messages; `""` at the top.

    Returns:
        The dataclass.

    Raises:
        ValueError: If a key is unknown or missing, or a value has another type.
    """
    place = where or "the recipe"
    if not isinstance(values, Mapping):
        raise ValueError(f"{place} is {values!r}; it must be a mapping of keys to values")
    fields = {field.name: field for field in dataclasses.fields(cls)}  # type: ignore[arg-type]
    check_names(values, fields, place)
    hints = typing.get_type_hints(cls)
    for name, field in fields.items():
        required = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        if required and name not in values:
            raise ValueError(f"{place} has no {name!r}; add it")
    return cls(
        **{name: _convert(hints[name], value, f"{where}.{name}" if where else name) for name, value in values.items()}
    )


def _convert(hint: Any, value: Any, where: str) -> Any:
    origin = typing.get_origin(hint)
    converted = value
    if origin in (typing.Union, types.UnionType):
        (some,) = [option for option in typing.get_args(hint) if option is not type(None)]
        converted = None if value is None else _convert(some, value, where)
    elif isinstance(hint, type) and dataclasses.is_dataclass(hint):
        converted = build(hint, value, where)
    elif origin is list and isinstance(value, list):
        (item,) = typing.get_args(hint)
        converted = [_convert(item, entry, f"{where}[{index}]") for index, entry in enumerate(value)]
    elif origin is dict and isinstance(value, Mapping):
        _, item = typing.get_args(hint)
        converted = {str(key): _convert(item, entry, f"{where}.{key}") for key, entry in value.items()}
    elif hint is float and isinstance(value, int) and not isinstance(value, bool):
        converted = float(value)
    elif hint is not Any:
        plain = origin or hint
        if not isinstance(value, plain) or (isinstance(value, bool) and plain is not bool):
            raise ValueError(
                f"{where} is {value!r} of type {type(value).__name__}; it must be of type {plain.__name__}"
            )
    return converted
