"""Reading files that anybody may have written, changed or cut off: whatever is in them, one ValueError names the file.

Every reader of the package stands on these functions. JSON is read strictly: UTF-8, bounded in size and depth, no key
twice in one object, no NaN. Nothing here runs code.
"""

from __future__ import annotations

import json
import os
from functools import cache
from pathlib import Path
from typing import Any

from hf_mixture.hub.damage import COPY_AGAIN, error_text, reading, shorten


MAX_BYTES = 256 * 2**20
MAX_DEPTH = 64
# An alias of YAML counts as what it stands for.
MAX_NODES = 10**6


def parse_json(
    text: str | bytes,
    where: str,
    *,
    max_bytes: int = MAX_BYTES,
    max_depth: int = MAX_DEPTH,
    allow_nan: bool = False,
    remedy: str = COPY_AGAIN,
) -> Any:
    """Parse JSON strictly.

    Args:
        text: The text.
        where: What holds it, for the message.
        max_bytes: Largest size.
        max_depth: Most levels of objects and lists.
        allow_nan: Whether NaN and infinity are numbers, as in the log of a training that has diverged.
        remedy: What the user can do, for the message.

    Returns:
        Plain data.

    Raises:
        ValueError: It is larger or deeper, not UTF-8, not JSON, has a key twice in one object, or NaN or infinity.

    Example:
        >>> from hf_mixture.hub.reading import parse_json
        >>> parse_json('{"step": 3}', "state.json")
        {'step': 3}
    """
    if len(text) > max_bytes:
        raise ValueError(f"{where}: {len(text)} bytes; at most {max_bytes} are read: check that it is the right file")
    numbers: dict[str, Any] = {} if allow_nan else {"parse_constant": _no_constant, "parse_float": _finite}
    try:
        if isinstance(text, bytes):
            text = text.decode("utf-8")
        content = json.loads(text, object_pairs_hook=_unique, **numbers)
    except RecursionError:
        raise ValueError(_too_deep(where, max_depth)) from None
    except ValueError as error:
        raise ValueError(f"{where} is not valid JSON ({error}); {remedy}") from None
    # Without aliases, there are no more values than bytes.
    check_plain(content, where, max_depth=max_depth, max_nodes=max_bytes)
    return content


def read_json(
    path: str | os.PathLike[str], *, max_bytes: int = MAX_BYTES, allow_nan: bool = False, remedy: str = COPY_AGAIN
) -> Any:
    """Read a JSON file as `parse_json` does.

    Args:
        path: The file.
        max_bytes: Largest size.
        allow_nan: As for `parse_json`.
        remedy: What the user can do, for the message.

    Returns:
        Plain data.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is not strict JSON.
    """
    size = os.path.getsize(path)
    if size > max_bytes:
        raise ValueError(f"{path}: {size} bytes; at most {max_bytes} are read: check that it is the right file")
    content = Path(path).read_bytes()
    return parse_json(content, os.fspath(path), max_bytes=max_bytes, allow_nan=allow_nan, remedy=remedy)


def read_log(path: str | os.PathLike[str], *, remedy: str = COPY_AGAIN) -> list[dict[str, Any]]:
    """Read the log of a training, one JSON object in each line; a loss may be NaN.

    Args:
        path: The file.
        remedy: What the user can do, for the message.

    Returns:
        The entries.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: A line is not a JSON object; it is named by its number.
    """
    entries = []
    for number, line in enumerate(Path(path).read_bytes().splitlines(), start=1):
        if line.strip():
            entry = parse_json(line, f"{os.fspath(path)}, line {number},", allow_nan=True, remedy=remedy)
            if not isinstance(entry, dict):
                raise ValueError(f"{os.fspath(path)}, line {number}, is no JSON object; {remedy}")
            entries.append(entry)
    return entries


def read_object(path: str | os.PathLike[str], *, allow_nan: bool = False, remedy: str = COPY_AGAIN) -> dict[str, Any]:
    """Read a JSON file that holds one object.

    Args:
        path: The file.
        allow_nan: As for `parse_json`.
        remedy: What the user can do, for the message.

    Returns:
        The object.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is not strict JSON, or something else than an object.
    """
    content = read_json(path, allow_nan=allow_nan, remedy=remedy)
    if not isinstance(content, dict):
        raise ValueError(f"{os.fspath(path)} holds a {type(content).__name__} and is not a JSON object; {remedy}")
    return content


def read_document(
    path: str | os.PathLike[str],
    form: str,
    version: int | None,
    *,
    allow_nan: bool = False,
    remedy: str = COPY_AGAIN,
) -> dict[str, Any]:
    """Read a JSON file of a format of this package.

    Args:
        path: The file.
        form: Its `format`.
        version: Its `version`; None where the format has none.
        allow_nan: As for `parse_json`.
        remedy: What the user can do, for the message.

    Returns:
        The object.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is not strict JSON, or of another format or version.
    """
    content = read_object(path, allow_nan=allow_nan, remedy=remedy)
    check_format(content, form, version, where=os.fspath(path), remedy=remedy)
    return content


def check_format(content: Any, form: str, version: int | str | None, *, where: str, remedy: str = COPY_AGAIN) -> None:
    """Check format and version of an object, or of the metadata of a safetensors file.

    Args:
        content: The object.
        form: Its `format`.
        version: Its `version`; None where the format has none.
        where: What holds it, for the message.
        remedy: What the user can do about another format, for the message.

    Raises:
        ValueError: It is of another format or version.
    """
    found = content.get("format") if isinstance(content, dict) else None
    if found != form:
        raise ValueError(f"{where} has the format {shorten(repr(found), 80)}, and {form!r} is read here; {remedy}")
    given = content.get("version")
    if version is not None and (given != version or isinstance(given, bool)):
        raise ValueError(
            f"{where} has version {shorten(repr(given), 80)} of its format, and version {version!r} is read here; use "
            "the release of hf_mixture that wrote it"
        )


def read_tensors(
    path: str | os.PathLike[str], *, framework: str = "pt", remedy: str = COPY_AGAIN
) -> tuple[dict[str, str], dict[str, Any]]:
    """Read a safetensors file.

    Args:
        path: The file.
        framework: `"pt"` or `"numpy"`. Default: `"pt"`.
        remedy: What the user can do, for the message.

    Returns:
        Metadata and tensors.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is truncated or not a safetensors file.
    """
    from safetensors import safe_open

    if not Path(path).is_file():
        raise FileNotFoundError(f"there is no file {os.fspath(path)}")
    with reading(path, remedy), safe_open(path, framework=framework) as file:
        return dict(file.metadata() or {}), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


def read_arrays(path: str | os.PathLike[str], *, remedy: str = COPY_AGAIN) -> dict[str, Any]:
    """Read the arrays of an `.npz` file; arrays of Python objects, which are pickles, are refused.

    Args:
        path: The file.
        remedy: What the user can do, for the message.

    Returns:
        Arrays by name.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is truncated, not such a file, or holds Python objects.
    """
    import numpy as np

    with reading(path, remedy), np.load(path, allow_pickle=False) as arrays:
        return dict(arrays)


def read_yaml(path: str | os.PathLike[str], *, remedy: str = "correct it") -> Any:
    """Read plain data from a YAML file, without tags of Python.

    Args:
        path: The file.
        remedy: What the user can do, for the message.

    Returns:
        Plain data.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is not YAML, repeats a key, is nested too deeply, or grows too large by aliases.
    """
    where = os.fspath(path)
    try:
        return parse_yaml(Path(path).read_text(encoding="utf-8"), where)
    except ValueError as error:
        raise ValueError(str(error) if where in str(error) else f"{where} is not UTF-8 ({error}); {remedy}") from None


@cache
def safe_loader() -> Any:
    """Return a `yaml.SafeLoader` that refuses a key that occurs twice, of which YAML would keep the last one."""
    import yaml

    class Loader(yaml.SafeLoader):
        def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
            keys = [self.construct_object(key, deep=True) for key, _ in node.value]
            for key in keys:
                if keys.count(key) > 1:
                    name = shorten(repr(key), 80)
                    raise ValueError(f"the key {name} occurs twice in one mapping{node.start_mark}; keep one of them")
            return super().construct_mapping(node, deep=deep)

    return Loader


def parse_yaml(text: str, where: str, *, loader: Any = None) -> Any:
    """Parse YAML with plain data only.

    Args:
        text: The text.
        where: What holds it, for the message.
        loader: A subclass of `safe_loader()`. Default: that.

    Returns:
        Plain data.

    Raises:
        ValueError: It is not YAML, repeats a key, is nested too deeply, or grows too large by aliases.

    Example:
        >>> from hf_mixture.hub.reading import parse_yaml
        >>> parse_yaml("r: [16, 2]", "recipe.yaml")
        {'r': [16, 2]}
    """
    import yaml

    try:
        content = yaml.load(text, Loader=loader or safe_loader())  # noqa: S506 - of the safe kind
    # A date without a 13th month is a bare ValueError of the constructor.
    except (yaml.YAMLError, ValueError, OverflowError) as error:
        raise ValueError(f"{where} is not valid YAML ({error_text(error, 300)}); correct it") from None
    except RecursionError:
        raise ValueError(_too_deep(where, MAX_DEPTH)) from None
    check_plain(content, where)
    return content


def check_plain(content: Any, where: str, *, max_depth: int = MAX_DEPTH, max_nodes: int = MAX_NODES) -> None:
    """Refuse data that is nested too deeply, or that aliases make too large to be written out.

    Args:
        content: Objects, lists and scalars.
        where: What holds it, for the message.
        max_depth: Most levels of objects and lists.
        max_nodes: Most values, each alias counted as what it stands for.

    Raises:
        ValueError: There are more.

    Example:
        >>> from hf_mixture.hub.reading import check_plain
        >>> check_plain([[[1]]], "here", max_depth=2)
        Traceback (most recent call last):
        ValueError: here: nested deeper than 2 levels; check that it is the right file
    """
    try:
        num_nodes = _count(content, max_depth, {})
    except RecursionError:
        raise ValueError(_too_deep(where, max_depth)) from None
    if num_nodes > max_nodes:
        raise ValueError(f"{where}: its aliases stand for more than {max_nodes} values; write out fewer")


def _count(value: Any, left: int, known: dict[int, tuple[int, int]]) -> int:
    """Values in a tree that may share branches; RecursionError where it has more than `left` levels."""
    if not isinstance(value, dict | list):
        return 1
    if left == 0:
        raise RecursionError
    seen_with, num_nodes = known.get(id(value), (left + 1, 0))
    if seen_with <= left:
        return num_nodes
    children = value.values() if isinstance(value, dict) else value
    num_nodes = 1 + sum(_count(child, left - 1, known) for child in children)
    known[id(value)] = (left, num_nodes)
    return num_nodes


def _too_deep(where: str, limit: int) -> str:
    return f"{where}: nested deeper than {limit} levels; check that it is the right file"


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for key, value in pairs:
        if key in values:
            raise ValueError(f"the key {shorten(repr(key), 80)} appears twice in one object")
        values[key] = value
    return values


def _no_constant(text: str) -> float:
    raise ValueError(f"{text} is not a JSON number")


def _finite(text: str) -> float:
    value = float(text)
    if value in (float("inf"), float("-inf")):
        raise ValueError(f"{text[:40]} is too large for a 64-bit float")
    return value
