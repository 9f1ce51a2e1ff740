from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import datasets
import huggingface_hub
import pytest
from datasets import Dataset, DatasetDict

from hf_mixture.data import Source, load_domain, load_domains, split_by_domain
from hf_mixture.data.splits import split_of


TEXTS = [f"text number {i}" for i in range(200)]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)


def everything(data: DatasetDict) -> set[str]:
    return {text for part in data.values() for text in part["text"]}


def check(data: DatasetDict, *, license: str = "NOASSERTION") -> None:
    assert list(data) == ["train", "validation", "test"]
    assert everything(data) == set(TEXTS)
    for part in data.values():
        assert part["text"][:]
        assert set(part["license"]) == {license}


def write_lines(path: Path, column: str = "text") -> Path:
    path.write_text("".join(json.dumps({column: text, "n": 1}) + "\n" for text in TEXTS), encoding="utf-8")
    return path


def test_one_text_file(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("\n\n".join(TEXTS), encoding="utf-8")
    data = load_domain(tmp_path / "notes.txt")
    joined = "\n\n".join(text for part in data.values() for text in part["text"])
    assert sorted(joined.split("\n\n")) == sorted(TEXTS)
    assert all(path.startswith("notes.txt#") for path in data["test"]["path"])


def test_a_folder_of_text_files(tmp_path: Path) -> None:
    folder = tmp_path / "texts"
    folder.mkdir()
    for i, text in enumerate(TEXTS):
        (folder / f"{i}.md").write_text(text, encoding="utf-8")
    data = load_domain(str(folder))
    check(data)
    for split, part in data.items():
        assert all(split_of(path, 0.1) == split for path in part["path"])


def test_a_folder_of_few_files_is_cut_at_blank_lines(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for number in range(2):
        (tmp_path / f"{number}.md").write_text("\n\n".join(TEXTS[number::2]), encoding="utf-8")
    data = load_domain(tmp_path)
    assert all(map(len, data.values()))
    joined = "\n\n".join(text for part in data.values() for text in part["text"])
    assert sorted(joined.split("\n\n")) == sorted(TEXTS)
    assert {path.split("#")[0] for part in data.values() for path in part["path"]} == {"0.md", "1.md"}
    assert "2 files are too few to hold some out" in caplog.text


def test_files_that_are_not_utf_8_text_are_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for i, text in enumerate(TEXTS):
        (tmp_path / f"{i}.txt").write_text(text, encoding="utf-8")
    (tmp_path / "scan.pdf").write_bytes(b"%PDF-1.4\n\xe2\xe3\xcf\xd3\0")
    (tmp_path / "windows.txt").write_text("f\u00fcr", encoding="utf-16")
    check(load_domain(tmp_path))
    assert "2 of 202 files are not UTF-8 text and are left out, scan.pdf the first" in caplog.text


def test_a_folder_of_texts_may_hold_a_json_file(tmp_path: Path) -> None:
    for i, text in enumerate(TEXTS[:-1]):
        (tmp_path / f"{i}.py").write_text(text, encoding="utf-8")
    (tmp_path / "package.json").write_text(TEXTS[-1], encoding="utf-8")
    check(load_domain(tmp_path))


@pytest.mark.parametrize("suffix", ["jsonl", "csv", "parquet"])
def test_table_files_and_folders_of_them(suffix: str, tmp_path: Path) -> None:
    folder = tmp_path / "tables"
    folder.mkdir()
    rows = Dataset.from_dict({"text": TEXTS, "license": ["MIT"] * len(TEXTS), "n": [1] * len(TEXTS)})
    path = folder / f"data.{suffix}"
    {"jsonl": rows.to_json, "csv": rows.to_csv, "parquet": rows.to_parquet}[suffix](path)
    (folder / "README.md").write_text("A table.", encoding="utf-8")
    for data in (load_domain(path), load_domain(folder)):
        check(data, license="MIT")
        assert sorted(data["train"].column_names) == ["license", "text"]


def test_fields_of_a_source(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "data.jsonl", column="body")
    fields = {"path": "json", "data_files": str(path), "text_column": "body", "license": "CC0-1.0"}
    check(load_domain(fields), license="CC0-1.0")
    check(load_domain(Source.from_dict(fields)), license="CC0-1.0")
    sliced = load_domain({**fields, "split": "train[:50%]"})
    assert everything(sliced) == set(TEXTS[:100])
    with pytest.raises(ValueError, match=r"no column 'text', only \['body', 'n'\].*text_column"):
        load_domain(path)
    with pytest.raises(ValueError, match=r"'n' of .*int64"):
        load_domain({**fields, "text_column": "n"})
    with pytest.raises(ValueError, match=r"no split 'validation', only \['train'\]"):
        load_domain({**fields, "split": "validation"})


def test_splits_of_the_source_are_kept(tmp_path: Path) -> None:
    parts = {"train": TEXTS[:150], "dev": TEXTS[150:170], "test": TEXTS[170:]}
    data = DatasetDict({name: Dataset.from_dict({"text": texts}) for name, texts in parts.items()})
    data.save_to_disk(tmp_path / "saved")
    for source in (data, tmp_path / "saved"):
        loaded = load_domain(source)
        assert {name: part["text"][:] for name, part in loaded.items()} == {
            "train": parts["train"],
            "validation": parts["dev"],
            "test": parts["test"],
        }
    without = load_domain(DatasetDict({"train": data["train"], "test": data["test"]}))
    assert without["test"]["text"][:] == parts["test"]
    assert without["train"].num_rows + without["validation"].num_rows == 150
    assert without["validation"].num_rows > 0


def test_equal_texts_are_never_on_both_sides_and_blank_ones_nowhere() -> None:
    rows = Dataset.from_dict({"text": [*TEXTS, *TEXTS, "", "  \n", None]})
    data = load_domain(rows)
    check(data)
    assert sum(part.num_rows for part in data.values()) == 400
    held = [set(data[split]["text"]) for split in ("validation", "test")]
    assert not set(data["train"]["text"]) & (held[0] | held[1])
    assert load_domain(rows)["test"]["text"][:] == data["test"]["text"][:]


def test_installed_packages_are_a_source() -> None:
    data = load_domain("installed:licences")
    assert set(data["train"]["domain"]) == {"licences"}
    domains = load_domains({"law": Source("installed:licences"), "own": Dataset.from_dict({"text": TEXTS})})
    assert list(domains) == ["law", "own"]
    assert domains["law"]["train"]["text"][:] == data["train"]["text"][:]
    with pytest.raises(ValueError, match="'music' is not one of"):
        load_domain("installed:music")


def test_split_by_domain() -> None:
    rows = {"text": list("abcdef"), "domain": ["x", "y", "x", "y", "y", "x"]}
    data = DatasetDict({"train": Dataset.from_dict(rows), "test": Dataset.from_dict({"text": ["g"], "domain": ["y"]})})
    parts = split_by_domain(data)
    assert {name: {split: part["text"][:] for split, part in part.items()} for name, part in parts.items()} == {
        "x": {"train": ["a", "c", "f"], "test": []},
        "y": {"train": ["b", "d", "e"], "test": ["g"]},
    }
    with pytest.raises(ValueError, match="no column 'domain'"):
        split_by_domain(DatasetDict({"train": Dataset.from_dict({"text": ["a"]})}))


@pytest.mark.parametrize(
    ("source", "error", "words"),
    [
        ("nobody/nothing-here", FileNotFoundError, ["'nobody/nothing-here'", "check the name"]),
        ({"path": "json", "url": "x"}, ValueError, ["['url']", "remove or rename"]),
        (3, TypeError, ["int", "Dataset"]),
        (Dataset.from_dict({"text": ["one", "two"]}), ValueError, ["no rows for", "2 rows", "held_out"]),
        (Dataset.from_dict({"words": ["one"]}), ValueError, ["no column 'text'", "['words']"]),
    ],
)
def test_wrong_sources_are_one_clear_error(source: Any, error: Any, words: list[str]) -> None:
    with pytest.raises(error) as caught:
        load_domain(source)
    assert all(word in str(caught.value) for word in words), caught.value
    with pytest.raises(error):
        load_domains({"name": source})


def test_errors_of_many_name_the_domain() -> None:
    with pytest.raises(ValueError, match=r"domain 'small': .*no rows for"):
        load_domains({"small": Dataset.from_dict({"text": ["one"]})})
    with pytest.raises(ValueError, match="at least one name"):
        load_domains({})
    with pytest.raises(ValueError, match=r"held_out=0\.9"):
        load_domain("x", held_out=0.9)


def test_a_curated_data_set_keeps_the_licences_that_were_found() -> None:
    licences = ["MIT", "Apache-2.0"] * 100
    curated = Dataset.from_dict({"text": TEXTS, "license_spdx": licences, "license_source": ["header"] * 200})
    data = load_domain(curated)
    found = {row["text"]: row["license"] for part in data.values() for row in part}
    assert found == dict(zip(TEXTS, licences, strict=True))


@pytest.mark.parametrize("name", ["nots.txt", "mail/2024.jsonl", "/no/such/folder", "notes/", "meine Notizen"])
def test_a_misspelt_path_is_not_asked_for_on_the_hub(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    with pytest.raises(FileNotFoundError, match=f"domain 'notes': path='{name}'.*; check the path"):
        load_domains({"notes": name})
