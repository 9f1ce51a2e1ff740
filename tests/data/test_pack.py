from __future__ import annotations

import json
import pickle
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from packed_text import write_packs
from torch.utils.data import DataLoader

from hf_mixture.data.pack import TokenPack
from hf_mixture.data.packed_rows import PackedRows, collate_packed


@pytest.fixture(scope="module")
def packs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, TokenPack]:
    return write_packs(tmp_path_factory.mktemp("packs"))


@pytest.fixture
def copy(packs: dict[str, TokenPack], tmp_path: Path) -> Path:
    return Path(shutil.copytree(packs["json"].folder, tmp_path / "copy"))


def test_documents_are_what_was_written(tmp_path: Path) -> None:
    documents = [[0, 5, 6], [], [0, 70000], [1]]
    pack = TokenPack.write(tmp_path / "pack", documents, vocab_size=70001)
    assert [pack[number]["input_ids"].tolist() for number in range(4)] == documents
    assert [row["input_ids"].tolist() for row in pack.__getitems__([3, 0, 0, -2])] == [
        [1],
        [0, 5, 6],
        [0, 5, 6],
        [0, 70000],
    ]
    assert pack.lengths.tolist() == [3, 0, 2, 1]
    assert pack[0]["input_ids"].dtype == torch.int64


@pytest.mark.parametrize(("vocab_size", "dtype"), [(2**16, "uint16"), (2**16 + 1, "uint32")])
def test_the_type_follows_the_vocabulary(tmp_path: Path, vocab_size: int, dtype: str) -> None:
    pack = TokenPack.write(tmp_path / "pack", [[vocab_size - 1]], vocab_size=vocab_size)
    assert pack.tokens.dtype == np.dtype(dtype)
    assert pack[0]["input_ids"].tolist() == [vocab_size - 1]


@pytest.mark.parametrize("ids", [[-1], [10]])
def test_ids_outside_the_vocabulary_are_refused(tmp_path: Path, ids: list[int]) -> None:
    with pytest.raises(ValueError, match=r"must lie in \[0, 10\)"):
        TokenPack.write(tmp_path / "pack", [ids], vocab_size=10)


def test_blocks_are_the_stream_cut_evenly(packs: dict[str, TokenPack]) -> None:
    pack = packs["json"]
    blocks = pack.blocks(96)
    assert len(blocks) == len(pack.tokens) // 96 > 50
    stream = torch.cat([row["input_ids"] for row in pack])[: len(blocks) * 96].reshape(-1, 96)
    wanted = np.random.default_rng(0).integers(0, len(blocks), 40)
    assert torch.equal(blocks.gather(wanted), stream[wanted])
    assert torch.equal(blocks.__getitems__(wanted.tolist())["input_ids"], stream[wanted])
    assert torch.equal(blocks[7]["input_ids"], stream[7])
    assert torch.equal(blocks[-1]["input_ids"], stream[-1])


@pytest.mark.parametrize("index", [200000, -200000])
def test_an_index_outside_is_an_index_error(packs: dict[str, TokenPack], index: int) -> None:
    for dataset in (packs["json"], packs["json"].blocks(32)):
        with pytest.raises(IndexError, match="lies outside"):
            dataset[index]


@pytest.mark.parametrize("block_size", [0, 1.5, True])
def test_a_block_size_that_is_none_is_refused(packs: dict[str, TokenPack], block_size: Any) -> None:
    with pytest.raises(ValueError, match="is not an integer >= 1"):
        packs["json"].blocks(block_size)


def test_packed_rows_are_rows_and_columns() -> None:
    ids = torch.arange(12).reshape(3, 4)
    rows = PackedRows(ids, {"source": ["a", "b", "c"]})
    as_list = [{"input_ids": ids[number], "source": name} for number, name in enumerate("abc")]
    assert len(rows) == 3
    for found in (list(rows), rows[:], [rows[0], rows[1], rows[-1]]):
        assert [row["source"] for row in found] == ["a", "b", "c"]
        assert all(
            torch.equal(row["input_ids"], other["input_ids"]) for row, other in zip(found, as_list, strict=True)
        )
    assert rows["input_ids"] is ids
    assert rows["source"] == ["a", "b", "c"]


def test_collating_rows_of_one_tensor_copies_nothing() -> None:
    ids = torch.arange(12).reshape(3, 4)
    for rows in (PackedRows(ids), list(PackedRows(ids)), [dict(row) for row in PackedRows(ids)]):
        batch = collate_packed(rows)
        assert batch["input_ids"].data_ptr() == ids.data_ptr()
        assert torch.equal(batch["input_ids"], ids)
        assert torch.equal(batch["labels"], ids)


@pytest.mark.parametrize("order", [[2, 0, 1], [0, 2], [1, 1], [0, 1, 3]])
def test_collating_other_rows_stacks_them(order: list[int]) -> None:
    ids = torch.arange(24).reshape(6, 4)[1:5]
    rows = [{"input_ids": ids[number]} for number in order]
    assert torch.equal(collate_packed(rows)["input_ids"], ids[order])
    assert torch.equal(
        collate_packed([{"input_ids": row["input_ids"].tolist()} for row in rows])["labels"], ids[order]
    )
    narrow = [{"input_ids": torch.arange(8)[number : number + 4]} for number in order]
    assert torch.equal(collate_packed(narrow)["input_ids"], torch.stack([row["input_ids"] for row in narrow]))


def test_collating_keeps_other_columns() -> None:
    rows = [{"input_ids": torch.tensor([1]), "labels": torch.tensor([5]), "weight": 0.5, "source": "a"}] * 2
    batch = collate_packed(rows)
    assert batch["labels"].tolist() == [[5], [5]]
    assert batch["weight"].tolist() == [0.5, 0.5]
    assert batch["source"] == ["a", "a"]


def test_rows_of_unequal_length_are_refused(packs: dict[str, TokenPack]) -> None:
    with pytest.raises(ValueError, match=r"cut blocks of one size with pack\.blocks\(block_size\)"):
        collate_packed(packs["json"].__getitems__([0, 1, len(packs["json"]) - 1]))


def test_a_copy_maps_the_files_anew(packs: dict[str, TokenPack]) -> None:
    blocks = packs["json"].blocks(64)
    pickled = pickle.dumps(blocks)
    # The size of what a worker gets does not depend on the size of the pack.
    assert len(pickled) < 1000
    whole = blocks.gather(range(len(blocks)))
    assert torch.equal(pickle.loads(pickled).gather(range(len(blocks))), whole)  # noqa: S301
    loader = DataLoader(blocks, batch_size=8, num_workers=1, collate_fn=collate_packed)
    assert torch.equal(torch.cat([batch["input_ids"] for batch in loader]), whole)


def test_a_folder_without_a_finished_pack_is_refused(copy: Path) -> None:
    (copy / "pack.json").unlink()
    with pytest.raises(FileNotFoundError, match="holds no finished pack"):
        TokenPack(copy)


@pytest.mark.parametrize("name", ["tokens.bin", "offsets.bin"])
@pytest.mark.parametrize("change", [-1, 1])
def test_files_of_another_size_are_refused(copy: Path, name: str, change: int) -> None:
    data = (copy / name).read_bytes()
    (copy / name).write_bytes(data[:-1] if change < 0 else data + b"\0")
    with pytest.raises(ValueError, match=rf"{name} has {len(data) + change} bytes.*truncated or was replaced"):
        TokenPack(copy)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"version": 2}, "is of version 2; this release reads version 1"),
        ({"format": "other"}, "is not of format"),
        ({"dtype": "int8"}, "dtype='int8' is not valid"),
        ({"num_tokens": -1}, "num_tokens=-1 is not valid"),
        ({"num_tokens": 3}, "truncated or was replaced"),
        ({"num_documents": "many"}, "num_documents='many' is not valid"),
        ({"fingerprint": None}, "fingerprint=None is not valid"),
    ],
)
def test_a_header_that_does_not_fit_is_refused(copy: Path, change: dict[str, Any], message: str) -> None:
    header = json.loads((copy / "pack.json").read_text())
    (copy / "pack.json").write_text(json.dumps(header | change))
    with pytest.raises(ValueError, match=message):
        TokenPack(copy)


def test_a_header_that_is_not_json_is_refused(copy: Path) -> None:
    (copy / "pack.json").write_text("{")
    with pytest.raises(ValueError, match="is not valid JSON"):
        TokenPack(copy)


def test_offsets_that_do_not_span_the_tokens_are_refused(copy: Path) -> None:
    offsets = np.fromfile(copy / "offsets.bin", "<i8")
    (offsets + 1).tofile(copy / "offsets.bin")
    with pytest.raises(ValueError, match="it must run from 0 to"):
        TokenPack(copy)


def test_verify_finds_a_changed_token(copy: Path) -> None:
    TokenPack(copy).verify()
    tokens = np.fromfile(copy / "tokens.bin", "<u2")
    tokens[11] ^= 1
    tokens.tofile(copy / "tokens.bin")
    with pytest.raises(ValueError, match="the data has changed"):
        TokenPack(copy).verify()


def test_fingerprints_follow_the_content(tmp_path: Path, packs: dict[str, TokenPack]) -> None:
    one = TokenPack.write(tmp_path / "1", [[1, 2], [3]], vocab_size=9)
    same = TokenPack.write(tmp_path / "2", [[1, 2], [3]], vocab_size=8)
    moved = TokenPack.write(tmp_path / "3", [[1], [2, 3]], vocab_size=9)
    assert one.fingerprint == same.fingerprint != moved.fingerprint
    assert one.blocks(1).fingerprint != one.blocks(2).fingerprint
    assert len({pack.fingerprint for pack in packs.values()}) == 3
