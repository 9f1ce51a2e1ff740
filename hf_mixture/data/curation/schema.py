"""Dataclasses as the schema of a file: what a recipe may say follows from the types of its options.

The JSON schema is made from the dataclasses, so that there is one list of keys, and values are checked by jsonschema
before any object is built.
"""

from __future__ import annotations

import dataclasses
import difflib
import types
import typing
from collections.abc import Mapping
from typing import Annotated, Any, TypeVar

from hf_mixture.hub.damage import shorten_middle


Count = Annotated[int, (("minimum", 1),)]
"""An integer from 1."""

Number = Annotated[int, (("minimum", 0),)]
"""An integer from 0."""

Share = Annotated[float, (("minimum", 0), ("maximum", 1))]
"""A number from 0 to 1."""

Positive = Annotated[float, (("minimum", 0),)]
"""A number from 0."""

Name = Annotated[str, (("pattern", r"^\w[\w.-]*$"),)]
"""What can be the name of a folder."""

T = TypeVar("T")
_PLAIN = {str: "string", int: "integer", float: "number", bool: "boolean"}


def schema_of(hint: Any) -> dict[str, Any]:  # noqa: PLR0911 - one return for each kind of type
    """Return the JSON schema of a type.

    Args:
        hint: A dataclass, a scalar, a list, a dictionary with text keys, `Literal`, an optional of these, or `Any`.

    Returns:
        The schema; a dataclass allows no other keys than its fields.

    Example:
        ```python
        >>> schema_of(list[int])
        {'type': 'array', 'items': {'type': 'integer'}}

        ```
    """
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        return schema_of(arguments[0]) | dict(arguments[1])
    if origin in (typing.Union, types.UnionType):
        return {"anyOf": [schema_of(option) for option in arguments]}
    if hint is types.NoneType:
        return {"type": "null"}
    if origin is typing.Literal:
        return {"enum": list(arguments)}
    if origin is list:
        return {"type": "array", "items": schema_of(arguments[0])}
    if origin is dict:
        return {"type": "object", "additionalProperties": schema_of(arguments[1])} | (
            {"propertyNames": schema_of(arguments[0])} if arguments[0] is not str else {}
        )
    if dataclasses.is_dataclass(hint):
        hints = typing.get_type_hints(hint, include_extras=True)
        fields = dataclasses.fields(hint)
        return {
            "type": "object",
            "additionalProperties": False,
            "properties": {item.name: schema_of(hints[item.name]) for item in fields},
            "required": [
                item.name
                for item in fields
                if item.default is dataclasses.MISSING and item.default_factory is dataclasses.MISSING
            ],
        }
    return {"type": _PLAIN[hint]} if hint in _PLAIN else {}


def check(values: Mapping[str, Any], schema: Mapping[str, Any], what: str) -> None:
    """Refuse plain data that breaks a schema.

    Args:
        values: The data.
        schema: The JSON schema.
        what: What the data is, for the message.

    Raises:
        ValueError: The data breaks the schema; the message names the place and, for an unknown key, the nearest one.
    """
    from jsonschema import Draft202012Validator
    from jsonschema.exceptions import best_match

    error = best_match(Draft202012Validator(schema).iter_errors(dict(values)))
    if error is not None:
        if error.validator == "anyOf":
            # What may be null is described by its other kind, which comes first.
            error = error.context[0]
        place = ".".join(map(str, error.absolute_path)) or what
        raise ValueError(f"{place}: {shorten_middle(error.message, 300)}{_nearest(error)}")


def build(cls: type[T], values: Mapping[str, Any]) -> T:
    """Make a dataclass of nested plain data that its schema has accepted.

    Args:
        cls: The dataclass.
        values: Field to value.

    Returns:
        The object.
    """
    hints = typing.get_type_hints(cls)
    return cls(**{name: _convert(hints[name], value) for name, value in values.items()})


def _convert(hint: Any, value: Any) -> Any:
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        options = [option for option in typing.get_args(hint) if option is not types.NoneType]
        return None if value is None else _convert(options[0], value)
    if dataclasses.is_dataclass(hint) and isinstance(value, Mapping):
        return build(hint, value)  # type: ignore[arg-type]
    if typing.get_origin(hint) is dict and isinstance(value, Mapping):
        return {str(key): _convert(typing.get_args(hint)[1], entry) for key, entry in value.items()}
    return value


def _nearest(error: Any) -> str:
    """The allowed key that is like an unknown one."""
    if error.validator != "additionalProperties":
        return ""
    allowed = sorted(error.schema.get("properties", {}))
    unknown = next(str(name) for name in error.instance if name not in allowed)
    nearest = difflib.get_close_matches(unknown, allowed, n=1, cutoff=0.5)
    return f"; did you mean {nearest[0]!r}?" if nearest else f"; the keys are {', '.join(allowed)}"
