"""The files of a pack: their names and types, the header, and what is checked when they are opened."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hf_mixture.data.source import shorten
from hf_mixture.hub.atomic import write_atomic
from hf_mixture.hub.reading import read_json


FORMAT = "hf_mixture.token_pack"
VERSION = 1
DTYPES = {"uint16": "<u2", "uint32": "<u4"}
TOKENS, OFFSETS, HEADER = "tokens.bin", "offsets.bin", "pack.json"
_HASH_CHUNK = 2**24


def dtype_for(vocab_size: int) -> str:
    """Return the name of the smallest type that holds the ids of a vocabulary."""
    return "uint16" if vocab_size <= 2**16 else "uint32"


def check_ids(ids: NDArray[np.int64], vocab_size: int) -> NDArray[np.int64]:
    """Return the ids; raise ValueError when one lies outside the vocabulary."""
    if len(ids) and not (ids.min() >= 0 and ids.max() < vocab_size):
        raise ValueError(
            f"token ids run from {ids.min()} to {ids.max()}; with vocab_size={vocab_size} they must lie in "
            f"[0, {vocab_size}): check the tokenizer"
        )
    return ids


def write_header(folder: Path, *, dtype: str, vocab_size: int, **facts: Any) -> None:
    """Finish a pack: measure its files and write `pack.json`."""
    num_tokens = (folder / TOKENS).stat().st_size // np.dtype(DTYPES[dtype]).itemsize
    num_documents = (folder / OFFSETS).stat().st_size // 8 - 1
    digest = content_hash(folder)
    header = {
        "format": FORMAT,
        "version": VERSION,
        "dtype": dtype,
        "vocab_size": vocab_size,
        "num_tokens": num_tokens,
        "num_documents": num_documents,
        "sha256": digest,
        "fingerprint": hashlib.sha256(f"{VERSION} {dtype} {digest}".encode()).hexdigest()[:16],
        **facts,
    }
    write_atomic(folder / HEADER, json.dumps(header, indent=2, allow_nan=False) + "\n")


def content_hash(folder: Path) -> str:
    """Return the sha256 of the offsets and the tokens."""
    from tqdm.auto import tqdm

    paths = [folder / OFFSETS, folder / TOKENS]
    size = sum(path.stat().st_size for path in paths)
    digest = hashlib.sha256()
    with tqdm(total=size, unit="B", unit_scale=True, desc="hashing the pack", disable=size < 2**30) as bar:
        for path in paths:
            with path.open("rb") as file:
                while chunk := file.read(_HASH_CHUNK):
                    digest.update(chunk)
                    bar.update(len(chunk))
    return digest.hexdigest()


def read_header(folder: Path) -> dict[str, Any]:
    """Read and validate `pack.json`.

    Raises:
        FileNotFoundError: There is none.
        ValueError: It is of another format or version, or a field breaks its rule.
    """
    path = folder / HEADER
    if not path.is_file():
        raise FileNotFoundError(
            f"{str(folder)!r} holds no finished pack ({HEADER} is missing); write it with pack_tokens, which "
            "continues where it was interrupted"
        )
    header = read_json(path, remedy="write the pack again")
    if not isinstance(header, dict) or header.get("format") != FORMAT:
        raise ValueError(f"{path} is not of format {FORMAT!r}; check the folder")
    if header.get("version") != VERSION:
        raise ValueError(
            f"{path} is of version {shorten(header.get('version'))}; this release reads version {VERSION}: install "
            "the release that wrote it, or write the pack again"
        )
    rules = {
        "dtype": lambda value: isinstance(value, str) and value in DTYPES,
        "num_tokens": lambda value: type(value) is int and value >= 0,
        "num_documents": lambda value: type(value) is int and value >= 0,
        "sha256": lambda value: isinstance(value, str),
        "fingerprint": lambda value: isinstance(value, str),
    }
    for field, is_valid in rules.items():
        if not is_valid(header.get(field)):
            raise ValueError(f"{path}: {field}={shorten(header.get(field))} is not valid; write the pack again")
    return header


def map_file(path: Path, dtype: np.dtype[Any], length: int) -> NDArray[Any]:
    """Map a file of `length` values; raise ValueError when it has another size."""
    size = path.stat().st_size if path.is_file() else 0
    if size != length * dtype.itemsize:
        raise ValueError(
            f"{path} has {size} bytes; {HEADER} says {length} values of {dtype.itemsize} bytes each, "
            f"{length * dtype.itemsize} in all: the file is truncated or was replaced, write the pack again"
        )
    # An empty file cannot be mapped.
    return np.memmap(path, dtype=dtype, mode="r") if length else np.zeros(0, dtype)
