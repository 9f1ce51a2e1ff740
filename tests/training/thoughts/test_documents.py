from __future__ import annotations

import pytest
from datasets import Dataset, DatasetDict

from hf_mixture.training.thoughts.documents import mixed_documents, segments
from hf_mixture.training.thoughts.recipe import DocumentsSpec


def texts(name: str, num_files: int = 5, num_lines: int = 12) -> DatasetDict:
    """Files whose every line says where it comes from."""
    splits = {}
    for split in ("train", "validation", "test"):
        files = [
            "".join(f"{name} {split} {file} {line:02}\n" for line in range(num_lines)) for file in range(num_files)
        ]
        splits[split] = Dataset.from_dict({"text": files})
    return DatasetDict(splits)


SPEC = DocumentsSpec(
    kinds={"ab": ["a", "b"], "a": ["a"]}, num_segments=5, prompt_segments=2, segment_characters=18, num_train=9
)


@pytest.fixture
def domains() -> dict[str, DatasetDict]:
    return {"a": texts("a"), "b": texts("b")}


def lines(document: dict[str, str]) -> list[list[str]]:
    return [line.split() for line in (document["prompt"] + document["answer"]).splitlines()]


def test_segments_are_whole_lines_and_lose_nothing() -> None:
    text = "short\n\nand a line that is too long for one\nend"
    found = segments(text, 10)
    assert "".join(found) == text
    assert max(map(len, found)) <= 10
    assert found[0] == "short\n\n"


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_domains_take_turns_and_each_goes_on_in_its_file(domains: dict[str, DatasetDict], split: str) -> None:
    for document in mixed_documents(SPEC, domains, split, seed=0):
        rows = lines(document)
        host_and_guest = ["a", "b"] if document["kind"] == "ab" else ["a", "a"]
        assert [row[0] for row in rows] == [host_and_guest[place % 2] for place in range(5)]
        assert {row[1] for row in rows} == {split}
        for name in set(host_and_guest):
            own = [row for row in rows if row[0] == name]
            assert len({row[2] for row in own}) == 1
            numbers = [int(row[3]) for row in own]
            assert numbers == list(range(numbers[0], numbers[0] + len(own)))
        assert len(document["prompt"].splitlines()) == 2


def test_held_out_documents_of_a_kind_have_different_hosts(domains: dict[str, DatasetDict]) -> None:
    for split, number in (("train", 9), ("validation", 5), ("test", 5)):
        documents = [row for row in mixed_documents(SPEC, domains, split, seed=0) if row["kind"] == "ab"]
        assert len(documents) == number
        if split != "train":
            assert len({lines(row)[0][2] for row in documents}) == number


def test_the_seed_decides(domains: dict[str, DatasetDict]) -> None:
    first = mixed_documents(SPEC, domains, "train", seed=0)
    assert first == mixed_documents(SPEC, domains, "train", seed=0)
    assert first != mixed_documents(SPEC, domains, "train", seed=1)


def test_files_that_are_too_short_are_an_error(domains: dict[str, DatasetDict]) -> None:
    with pytest.raises(ValueError, match=r"no file of domain 'b' has 2 segments for documents\.kinds\.ab"):
        mixed_documents(SPEC, {**domains, "b": texts("b", num_lines=1)}, "test", seed=0)
