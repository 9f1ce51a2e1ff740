"""A pack is the same however it comes about: in one go, in parallel, from a stream, or killed on the way."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from datasets import Dataset
from fork_server import start_process
from packed_text import domain_texts, train_tokenizer
from tokenise_process import tokenise

from hf_mixture.data.encoding import encode, separator_id
from hf_mixture.data.pack import TokenPack
from hf_mixture.data.tokenise import pack_tokens
from hf_mixture.training.blocks import pack as pack_blocks


FILES = ("tokens.bin", "offsets.bin")


@pytest.fixture(scope="module")
def texts() -> list[str]:
    found = [text for rows in domain_texts().values() for text in rows]
    return [*found, "", "the name <|end|> is text", "ä€𝄞", *found, *found]


@pytest.fixture(scope="module")
def tokenizer(texts: list[str]) -> Any:
    return train_tokenizer(texts[:40])


@pytest.fixture(scope="module")
def whole(texts: list[str], tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> TokenPack:
    return pack_tokens(Dataset.from_dict({"text": texts}), tokenizer, tmp_path_factory.mktemp("whole") / "pack")


@pytest.fixture
def prepared(texts: list[str], tokenizer: Any, tmp_path: Path) -> Path:
    """A folder with what `tokenise` reads."""
    Dataset.from_dict({"text": texts}).save_to_disk(str(tmp_path / "data"))
    tokenizer.save_pretrained(str(tmp_path / "tokenizer"))
    return tmp_path


def content(folder: Path) -> list[bytes]:
    return [(folder / name).read_bytes() for name in FILES]


def test_the_pack_holds_the_tokens_of_the_texts(whole: TokenPack, texts: list[str], tokenizer: Any) -> None:
    end = separator_id(tokenizer)
    expected = [[end, *ids] for ids in encode(tokenizer, texts)]
    assert [whole[number]["input_ids"].tolist() for number in range(len(whole))] == expected
    assert sum(ids.count(end) for ids in expected) == len(texts)
    assert whole.header["num_tokens"] == sum(map(len, expected))
    assert sorted(path.name for path in whole.folder.iterdir()) == ["offsets.bin", "pack.json", "tokens.bin"]
    whole.verify()


def test_blocks_are_those_of_the_recipes(whole: TokenPack, texts: list[str], tokenizer: Any) -> None:
    documents = ((ids, 0) for ids in encode(tokenizer, texts))
    expected = [ids for ids, _ in pack_blocks(documents, 48, separator_id(tokenizer))]
    blocks = whole.blocks(48)
    assert blocks.gather(range(len(blocks))).tolist() == expected


@pytest.mark.parametrize("kind", ["two processes", "stream", "rows"])
def test_every_way_gives_the_same_bytes(
    kind: str, whole: TokenPack, texts: list[str], tokenizer: Any, tmp_path: Path
) -> None:
    dataset: Any = Dataset.from_dict({"text": texts, "other": range(len(texts))})
    if kind == "stream":
        dataset = dataset.to_iterable_dataset(num_shards=3)
    elif kind == "rows":
        dataset = [{"text": text} for text in texts]
    pack = pack_tokens(dataset, tokenizer, tmp_path, num_proc=2 if kind == "two processes" else 1)
    assert content(pack.folder) == content(whole.folder)
    assert pack.fingerprint == whole.fingerprint


def test_without_separator(texts: list[str], tokenizer: Any, tmp_path: Path) -> None:
    pack = pack_tokens(Dataset.from_dict({"code": texts[:3]}), tokenizer, tmp_path, column="code", separator=None)
    assert [pack[number]["input_ids"].tolist() for number in range(3)] == encode(tokenizer, texts[:3])


def test_a_finished_pack_is_returned_and_another_one_refused(texts: list[str], tokenizer: Any, tmp_path: Path) -> None:
    dataset = Dataset.from_dict({"text": texts[:5]})
    first = pack_tokens(dataset, tokenizer, tmp_path)
    before = first.folder.joinpath("tokens.bin").stat().st_mtime_ns
    assert pack_tokens(dataset, tokenizer, tmp_path).fingerprint == first.fingerprint
    assert first.folder.joinpath("tokens.bin").stat().st_mtime_ns == before
    for changed in (
        {"dataset": Dataset.from_dict({"text": texts[:6]})},
        {"tokenizer": train_tokenizer(texts[:9], vocab_size=300)},
        {"separator": None},
    ):
        with pytest.raises(ValueError, match="is of another pack"):
            pack_tokens(**{"dataset": dataset, "tokenizer": tokenizer, "folder": tmp_path, **changed})


@pytest.mark.parametrize(
    ("kind", "num_proc", "kills"), [("stream", 1, 2), pytest.param("map", 2, 8, marks=pytest.mark.slow)]
)
def test_killed_at_any_moment_the_result_is_the_same(
    kind: str, num_proc: int, kills: int, whole: TokenPack, prepared: Path
) -> None:
    rng = np.random.default_rng(0)
    progress = prepared / "pack" / "progress.json"
    seen = [0]
    while len(seen) <= kills and seen[-1] < len(whole) // 2:
        process = start_process(tokenise, str(prepared), num_proc, kind)
        # Let it advance, then kill it at no particular moment.
        while process.is_alive() and (
            not progress.exists() or json.loads(progress.read_text())["num_documents"] == seen[-1]
        ):
            time.sleep(0.001)
        time.sleep(rng.uniform(0, 0.03))
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL, "the run was finished before it was killed"
        seen.append(json.loads(progress.read_text())["num_documents"])
        with pytest.raises(FileNotFoundError, match="holds no finished pack"):
            TokenPack(prepared / "pack")
    assert seen[-1] > 0
    process = start_process(tokenise, str(prepared), num_proc, kind)
    process.join()
    assert process.exitcode == 0
    assert content(prepared / "pack") == content(whole.folder)
    TokenPack(prepared / "pack").verify()


def test_workers_leave_with_a_killed_parent(prepared: Path) -> None:
    # The processes of the run hold the pipe open; it ends when the last of them is gone.
    os.mkfifo(prepared / "pipe")
    process = start_process(tokenise, str(prepared), 2, "map")
    with (prepared / "pipe").open("rb") as pipe:
        while not (prepared / "pack" / "progress.json").exists():
            time.sleep(0.01)
        time.sleep(0.1)
        assert process.is_alive()
        process.kill()
        assert pipe.read() == b""


def begin(folder: Path, texts: list[str], tokenizer: Any) -> None:
    """What a run leaves behind that fails in the middle."""
    with pytest.raises(ValueError, match=r"row 300 has text=None, a NoneType; it must be text"):
        pack_tokens([*({"text": text} for text in texts[:300]), {"text": None}], tokenizer, folder)


def test_changed_data_is_noticed_when_a_stream_is_continued(texts: list[str], tokenizer: Any, tmp_path: Path) -> None:
    begin(tmp_path / "pack", texts, tokenizer)
    rows = [{"text": text} for text in texts]
    progress = tmp_path / "pack" / "progress.json"
    progress.write_text(json.dumps(json.loads(progress.read_text()) | recorded(tmp_path / "pack", 256)))
    with pytest.raises(ValueError, match="row 255 of the dataset is not what"):
        pack_tokens([{"text": "new"}, *rows], tokenizer, tmp_path / "pack")
    with pytest.raises(ValueError, match="row 255 of the dataset is not what"):
        pack_tokens(rows[:100], tokenizer, tmp_path / "pack")
    (tmp_path / "pack" / "tokens.bin").write_bytes(b"")
    with pytest.raises(ValueError, match=r"tokens\.bin is shorter than"):
        pack_tokens(rows, tokenizer, tmp_path / "pack")


def recorded(folder: Path, num_documents: int) -> dict[str, int]:
    offsets = np.fromfile(folder / "offsets.bin", "<i8")
    return {"num_documents": num_documents, "num_tokens": int(offsets[num_documents])}


def test_a_folder_of_something_else_is_refused(texts: list[str], tokenizer: Any, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("important")
    with pytest.raises(ValueError, match="is not a pack in the making"):
        pack_tokens([{"text": "a"}], tokenizer, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"column": "body"}, "the dataset has no column 'body'"),
        ({"num_proc": 0}, "num_proc=0 is not an integer >= 1"),
        ({"separator": 10**6}, "separator=1000000 is not 'auto', None or a token id"),
        ({"separator": "end"}, "separator='end' is not 'auto', None or a token id"),
    ],
)
def test_bad_arguments_are_refused_and_nothing_is_written(
    arguments: dict[str, Any], message: str, tokenizer: Any, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        pack_tokens(Dataset.from_dict({"text": ["a"]}), tokenizer, tmp_path / "pack", **arguments)
    assert not (tmp_path / "pack").exists()


def test_a_slow_tokenizer_is_refused(tmp_path: Path) -> None:
    class Slow:
        is_fast, eos_token_id, bos_token_id, name_or_path = False, 0, None, "slow"

        def get_vocab(self) -> dict[str, int]:
            return {"a": 0}

    with pytest.raises(TypeError, match="must be a fast tokenizer"):
        pack_tokens([{"text": "a"}], Slow(), tmp_path / "pack")
