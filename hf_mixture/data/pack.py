"""`TokenPack`: tokenised text as memory-mapped integers, and batches gathered from it at once.

A pack is a folder of three files. `tokens.bin` holds the stream of all documents, little-endian, as uint16 where the
vocabulary has at most 65536 entries, else as uint32. `offsets.bin` holds int64 [D + 1]: document d is
`tokens[offsets[d]:offsets[d + 1]]`. `pack.json` says what the two are, and is written last.

Letters: D documents, N blocks, T tokens of a block, M rows of a batch.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset

from hf_mixture.data import pack_files
from hf_mixture.data.pack_files import DTYPES, HEADER, OFFSETS, TOKENS
from hf_mixture.data.packed_rows import PackedRows
from hf_mixture.hub.atomic import write_atomic


if TYPE_CHECKING:
    from numpy.typing import ArrayLike

Int64 = NDArray[np.int64]


class TokenPack(Dataset[dict[str, Any]]):
    """Tokenised documents in a folder, memory-mapped; `hf_mixture.data.tokenise.pack_tokens` writes one.

    A pack is a map-style dataset of its documents: `pack[d]` is `{"input_ids": int64 [length of d]}`. `pack.blocks(T)`
    is one of fixed-length samples. Nothing is read before it is asked for, and a copy in another process maps the same
    files.

    Args:
        folder: The folder.

    Attributes:
        header (`dict[str, Any]`): The content of `pack.json`.
        tokens (`np.ndarray`): uint16 or uint32 [number of tokens], read-only.
        offsets (`np.ndarray`): int64 [D + 1], read-only.

    Raises:
        FileNotFoundError: The folder holds no pack, or one that is not finished.
        ValueError: A file is truncated, has another size than `pack.json` says, or is of another format or version.

    Example:
        ```python
        >>> import tempfile
        >>> from hf_mixture.data.pack import TokenPack
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     pack = TokenPack.write(folder, [[0, 5, 6], [0, 7, 8, 9]], vocab_size=10)
        ...     pack[1]["input_ids"].tolist(), pack.blocks(3)[1]["input_ids"].tolist()
        ([0, 7, 8, 9], [0, 7, 8])

        ```
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(folder)
        self.header = pack_files.read_header(self.folder)
        dtype = np.dtype(DTYPES[self.header["dtype"]])
        self.tokens = pack_files.map_file(self.folder / TOKENS, dtype, self.header["num_tokens"])
        self.offsets = pack_files.map_file(self.folder / OFFSETS, np.dtype("<i8"), self.header["num_documents"] + 1)
        if self.offsets[0] != 0 or self.offsets[-1] != len(self.tokens):
            raise ValueError(
                f"{self.folder / OFFSETS} runs from {self.offsets[0]} to {self.offsets[-1]}; it must run from 0 to "
                f"{len(self.tokens)}, the number of tokens: write the pack again"
            )

    @classmethod
    def write(
        cls, folder: str | os.PathLike[str], documents: Sequence[Sequence[int]], *, vocab_size: int
    ) -> TokenPack:
        """Write documents that are tokenised already.

        Args:
            folder: The folder, created when absent; it must not hold a pack.
            documents: Token ids of each document, with its separator if it is to have one.
            vocab_size: Number of ids of the tokenizer.

        Returns:
            The pack.

        Raises:
            ValueError: The folder holds a pack, or an id lies outside the vocabulary.
        """
        place = Path(folder)
        if (place / HEADER).exists():
            raise ValueError(f"folder={os.fspath(folder)!r} holds a pack; choose another folder")
        place.mkdir(parents=True, exist_ok=True)
        lengths = np.fromiter(map(len, documents), np.int64, len(documents))
        tokens = np.fromiter((token for document in documents for token in document), np.int64, int(lengths.sum()))
        dtype = pack_files.dtype_for(vocab_size)
        write_atomic(place / TOKENS, pack_files.check_ids(tokens, vocab_size).astype(DTYPES[dtype]).tobytes())
        write_atomic(place / OFFSETS, np.concatenate([[0], np.cumsum(lengths)]).astype("<i8").tobytes())
        pack_files.write_header(place, dtype=dtype, vocab_size=vocab_size)
        return cls(place)

    @property
    def fingerprint(self) -> str:
        """Equal fingerprints mean equal tokens and offsets."""
        return str(self.header["fingerprint"])

    @property
    def lengths(self) -> Int64:
        """int64 [D]: tokens of each document."""
        return np.diff(self.offsets)

    @property
    def column_names(self) -> list[str]:
        """The columns of a row."""
        return ["input_ids"]

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: ArrayLike) -> list[dict[str, Any]]:
        """Return documents, read in the order in which they lie on the disk."""
        wanted, order = _in_disk_order(indices, len(self))
        rows: list[dict[str, Any]] = [{}] * len(wanted)
        for number in order.tolist():
            document = wanted[number] % len(self)
            start, end = self.offsets[document], self.offsets[document + 1]
            rows[number] = {"input_ids": torch.from_numpy(self.tokens[start:end].astype(np.int64))}
        return rows

    def blocks(self, block_size: int) -> TokenBlocks:
        """Return the stream of all documents cut into blocks; an incomplete last block is left out.

        Args:
            block_size: T, at least 1.

        Returns:
            The map-style dataset of the blocks.

        Raises:
            ValueError: `block_size` is not an integer >= 1.
        """
        return TokenBlocks(self, block_size)

    def verify(self) -> None:
        """Read the whole pack and compare it with the hash in `pack.json`.

        Raises:
            ValueError: The content has changed since it was written.
        """
        found = pack_files.content_hash(self.folder)
        if found != self.header["sha256"]:
            raise ValueError(
                f"pack {str(self.folder)!r} has sha256 {found[:16]}... and {HEADER} says "
                f"{self.header['sha256'][:16]}...; the data has changed: write the pack again"
            )

    def __reduce__(self) -> tuple[Any, ...]:
        # A memory map would be pickled by value.
        return type(self), (self.folder,)


class TokenBlocks(Dataset[dict[str, Any]]):
    """Fixed-length samples of a `TokenPack`, a map-style dataset; make one with `TokenPack.blocks`.

    Args:
        pack: The pack.
        block_size: T, at least 1.

    Raises:
        ValueError: `block_size` is not an integer >= 1.
    """

    def __init__(self, pack: TokenPack, block_size: int) -> None:
        if isinstance(block_size, bool) or not isinstance(block_size, int | np.integer) or block_size < 1:
            raise ValueError(f"block_size={block_size!r} is not an integer >= 1; give the tokens of one block")
        self.pack = pack
        self.block_size = int(block_size)
        num_blocks = len(pack.tokens) // self.block_size
        # A plain view: an array that is a memory map by name costs time at every access.
        self._rows = np.asarray(pack.tokens)[: num_blocks * self.block_size].reshape(num_blocks, self.block_size)

    @property
    def fingerprint(self) -> str:
        """Equal fingerprints mean equal blocks."""
        return f"{self.pack.fingerprint}/{self.block_size}"

    @property
    def lengths(self) -> Int64:
        """int64 [N]: tokens of each block, all equal."""
        return np.broadcast_to(np.int64(self.block_size), len(self))

    @property
    def column_names(self) -> list[str]:
        """The columns of a row."""
        return ["input_ids"]

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"input_ids": self.gather([index])[0]}

    def __getitems__(self, indices: ArrayLike) -> PackedRows:
        """Return a batch; `rows["input_ids"]` is int64 [M, T]."""
        return PackedRows(self.gather(indices))

    def gather(self, indices: ArrayLike) -> torch.Tensor:
        """Return blocks as one tensor.

        Args:
            indices: [M] numbers in [0, N), in any order.

        Returns:
            int64 [M, T].

        Raises:
            IndexError: A number lies outside.
        """
        wanted, order = _in_disk_order(indices, len(self))
        out = np.empty((len(wanted), self.block_size), dtype=np.int64)
        # One pass puts the rows in place and widens the tokens.
        out[order] = self._rows.take(wanted[order], axis=0)
        return torch.from_numpy(out)

    def gather_into(self, out: Int64, places: Int64, rows: Int64) -> None:
        """Write the blocks `rows` to `out[places]`, read in the order in which they lie on the disk."""
        order = rows.argsort(kind="stable")
        out[places[order]] = self._rows.take(rows[order], axis=0)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.pack, self.block_size)


def _in_disk_order(indices: ArrayLike, length: int) -> tuple[Int64, Int64]:
    """The numbers of rows, negative ones counted from the end, and what sorts them."""
    wanted = np.asarray(indices, dtype=np.int64)
    order = wanted.argsort(kind="stable")
    if len(wanted) and not -length <= wanted[order[0]] <= wanted[order[-1]] < length:
        raise IndexError(f"index {wanted[order[0]]} or {wanted[order[-1]]} lies outside [0, {length})")
    return wanted, order
