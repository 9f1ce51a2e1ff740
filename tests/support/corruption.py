"""Ways to damage a file: its bytes, and what its JSON, YAML or safetensors header says. Drawn by hypothesis."""

from __future__ import annotations

import copy
import json
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from hypothesis import strategies as st


CANARY = "executed"
HOSTILE_NAMES = ("../../escaped", "/etc/passwd", "a\0b", "..", "", "x" * 5000, "\u202e", "con:stream")
HOSTILE_VALUES: tuple[Any, ...] = (
    None,
    True,
    -1,
    0,
    2,
    10**30,
    -(10**400),
    0.5,
    1e308,
    float("nan"),
    float("inf"),
    [],
    {},
    [[]],
    [None],
    {"": None},
    *HOSTILE_NAMES,
)


class _Touch:
    """A pickle of it makes a file when it is read."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return (open, (str(self.path), "w"))


def fixed_damages(content: bytes, root: Path) -> Iterator[tuple[str, bytes]]:
    """Damages that every format must survive, by name; `root / CANARY` appears if code is run.

    Args:
        content: The content of a sound file.
        root: A folder.
    """
    yield "empty", b""
    yield "one byte", content[:1]
    yield "half", content[: len(content) // 2]
    yield "without the last byte", content[:-1]
    yield "zeros", b"\0" * len(content)
    yield "not UTF-8", b"\xff\xfe" + content
    yield "deep", b"[" * 100_000
    yield "deep object", b'{"a":' * 100_000
    yield "another object", b"{}"
    yield "a list", b"[]"
    yield "a number", b"7"
    yield "NaN", b"NaN"
    yield "a huge integer", b'{"version": ' + b"9" * 5000 + b"}"
    yield "a key twice", b'{"format": 1, "format": 2}'
    yield "a header as long as memory", (2**63 - 1).to_bytes(8, "little") + content[8:]
    yield "a header of 2^40 bytes", (2**40).to_bytes(8, "little") + content[8:]
    yield "a pickle", pickle.dumps(_Touch(root / CANARY))
    yield "a tag of Python", f"!!python/object/apply:os.mknod [{str(root / CANARY)!r}]".encode()
    yield "aliases", _aliases()
    yield "a cycle", b"a: &a\n  b: *a\n"
    yield "no date", b"version: 2001-99-99\n"


def _aliases() -> bytes:
    """A few lines of YAML that stand for a billion values."""
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 9)]
    return "\n".join(lines).encode()


def damages(content: bytes, name: str) -> st.SearchStrategy[bytes]:
    """Draw damaged forms of a file.

    Args:
        content: The content of a sound file.
        name: Its name, for its kind.
    """
    ways = [_flipped(content), _cut(content), _added(content)]
    if name.endswith(".safetensors"):
        ways += [_header(content)] * 3
    elif name.endswith((".yaml", ".yml")):
        ways += [_tree(yaml.safe_load(content)).map(_yaml)] * 3
    elif name.endswith(".jsonl"):
        ways += [_lines(content)] * 3
    elif name.endswith(".json"):
        ways += [_tree(json.loads(content)).map(_json)] * 4
    return st.one_of(ways)


def _json(value: Any) -> bytes:
    return json.dumps(value).encode("utf-8", "surrogatepass")


def _yaml(value: Any) -> bytes:
    return yaml.safe_dump(value, sort_keys=False, allow_unicode=True).encode()


@st.composite
def _flipped(draw: st.DrawFn, content: bytes) -> bytes:
    changed = bytearray(content)
    for _ in range(draw(st.integers(1, 4))):
        if changed:
            changed[draw(st.integers(0, len(changed) - 1))] ^= draw(st.integers(1, 255))
    return bytes(changed)


@st.composite
def _cut(draw: st.DrawFn, content: bytes) -> bytes:
    first, last = sorted((draw(st.integers(0, len(content))), draw(st.integers(0, len(content)))))
    return content[:first] if draw(st.booleans()) else content[:first] + content[last:]


@st.composite
def _added(draw: st.DrawFn, content: bytes) -> bytes:
    place = draw(st.integers(0, len(content)))
    return content[:place] + draw(st.binary(min_size=1, max_size=16)) + content[place:]


@st.composite
def _header(draw: st.DrawFn, content: bytes) -> bytes:
    length = int.from_bytes(content[:8], "little")
    header = draw(_tree(json.loads(content[8 : 8 + length])))
    text = _json(header)
    return len(text).to_bytes(8, "little") + text + content[8 + length :]


@st.composite
def _lines(draw: st.DrawFn, content: bytes) -> bytes:
    lines = content.splitlines()
    place = draw(st.integers(0, len(lines) - 1))
    lines[place] = _json(draw(_tree(json.loads(lines[place]))))
    return b"\n".join(lines) + b"\n"


@st.composite
def _tree(draw: st.DrawFn, value: Any) -> Any:
    """Change one place of nested data; a text that holds JSON is a place to change too."""
    changed = copy.deepcopy(value)
    places = list(_places(changed))
    if not places:
        return draw(st.sampled_from(HOSTILE_VALUES))
    holder, key = draw(st.sampled_from(places))
    inner = holder[key]
    if isinstance(inner, str) and inner[:1] in "{[" and inner:
        holder[key] = _json(draw(_tree(json.loads(inner)))).decode()
        return changed
    how = draw(st.sampled_from(("replace", "replace", "delete", "rename", "wrap", "repeat", "deep")))
    if how == "delete":
        del holder[key]
    elif how == "rename" and isinstance(holder, dict):
        holder[draw(st.sampled_from(HOSTILE_NAMES))] = holder.pop(key)
    elif how == "wrap":
        holder[key] = [inner] if draw(st.booleans()) else {"value": inner}
    elif how == "repeat" and isinstance(inner, list):
        holder[key] = inner + inner
    elif how == "deep":
        for _ in range(200):
            inner = [inner]
        holder[key] = inner
    else:
        holder[key] = draw(st.sampled_from(HOSTILE_VALUES))
    return changed


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, child in items:
        yield value, key
        yield from _places(child)
