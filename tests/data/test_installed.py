from __future__ import annotations

import importlib.metadata
import sys
from collections.abc import Iterator
from pathlib import Path

import datasets
import pytest
from datasets import DatasetDict

from hf_mixture.data import installed_packages
from hf_mixture.data.installed import COLUMNS, DOMAINS
from hf_mixture.data.spdx import UNKNOWN, is_expression
from hf_mixture.data.splits import split_of


DISTRIBUTIONS = ["numpy", "peft", "tqdm", "scikit-learn", "Jinja2", "pyyaml"]
LIMIT = 300_000


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DatasetDict]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))
        yield installed_packages(distributions=DISTRIBUTIONS, max_bytes=LIMIT)


def all_rows(data: DatasetDict) -> list[dict[str, str]]:
    return [row for part in data.values() for row in part]


def test_every_domain_has_labelled_rows(data: DatasetDict) -> None:
    assert list(data) == ["train", "validation", "test"]
    rows = all_rows(data)
    for domain in DOMAINS:
        texts = [row["text"] for row in rows if row["domain"] == domain]
        assert 10_000 < sum(len(text.encode()) for text in texts) <= LIMIT
    for row in rows:
        assert set(row) == set(COLUMNS)
        assert len(row["text"]) >= 200
        assert is_expression(row["license"])
        assert row["version"] == importlib.metadata.version(row["distribution"])
        assert not Path(row["path"]).is_absolute()
        assert ".." not in Path(row["path"]).parts
    assert {row["license"] for row in rows if row["distribution"] == "peft"} == {"Apache-2.0"}
    assert UNKNOWN not in {row["license"] for row in rows}


def test_texts_are_those_of_the_files(data: DatasetDict) -> None:
    rows = all_rows(data)
    for domain in ("python", "headers", "licences"):
        row = next(row for row in rows if row["domain"] == domain)
        location = importlib.metadata.distribution(row["distribution"]).locate_file(row["path"])
        assert row["text"] == Path(str(location)).read_text(encoding="utf-8")
    assert {Path(row["path"]).suffix for row in rows if row["domain"] == "python"} == {".py"}
    described = [row["text"] for row in rows if row["path"].endswith("METADATA")]
    assert described
    assert not any("Metadata-Version" in text for text in described)


def test_no_text_is_twice_and_no_file_serves_two_domains(data: DatasetDict) -> None:
    rows = all_rows(data)
    texts = [" ".join(row["text"].split()) for row in rows]
    assert len(set(texts)) == len(texts)
    files = [(row["distribution"], row["path"]) for row in rows]
    assert len(set(files)) == len(files)


def test_a_file_decides_its_split_alone(data: DatasetDict) -> None:
    for split, part in data.items():
        assert all(split_of(f"{row['distribution']}/{row['path']}", 0.1) == split for row in part)


def test_the_cache_is_used_and_a_second_build_gives_the_same_rows(cache: Path) -> None:
    arguments = {"distributions": ["tqdm", "Jinja2"], "max_bytes": 100_000}
    first = installed_packages(["python", "docs"], **arguments)  # type: ignore[arg-type]
    folders = sorted(path.name for path in (cache / "hf_mixture" / "installed").iterdir())
    assert [name.split("-")[0] for name in folders] == ["docs", "python"]
    stamps = {path: path.stat().st_mtime_ns for path in cache.rglob("*.arrow")}
    again = installed_packages(["docs", "python"], **arguments)  # type: ignore[arg-type]
    assert {path: path.stat().st_mtime_ns for path in cache.rglob("*.arrow")} == stamps
    assert sorted(map(str, all_rows(again))) == sorted(map(str, all_rows(first)))
    other = installed_packages(["docs"], **{**arguments, "max_bytes": 50_000})  # type: ignore[arg-type]
    assert 0 < sum(len(row["text"]) for row in all_rows(other)) <= 50_000


def write_distribution(site: Path, name: str, files: dict[str, str], metadata: str = "") -> None:
    info = f"{name}-1.0.dist-info"
    files = {**files, f"{info}/METADATA": f"Metadata-Version: 2.4\nName: {name}\nVersion: 1.0\n{metadata}"}
    record = "".join(f"{path},,\n" for path in files)
    for path, text in {**files, f"{info}/RECORD": record}.items():
        target = site / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text, encoding="utf-8")


def test_nothing_of_a_package_is_run_and_labels_are_those_of_the_files(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = tmp_path / "site"
    code = "raise SystemExit('the package was run')\n" + "".join(
        f"value_{{}}_{i} = {i}  # a line\n" for i in range(20)
    )
    tag = "# SPDX-License-Identifier: MPL-2.0\n"
    files = {f"pkg/module_{i}.py": (tag if i == 0 else "") + code.replace("{}", str(i)) for i in range(40)}
    files["../outside.py"] = code.replace("{}", "outside")
    files["pkg/gone.py"] = code.replace("{}", "gone")
    write_distribution(site, "one-thing", files, metadata="License-Expression: ISC\n")
    (site / "pkg" / "gone.py").unlink()
    (site / "pkg" / "module_1.py").write_bytes(b"\xff" * 500)
    monkeypatch.syspath_prepend(str(site))
    data = installed_packages(["python"], distributions=["One_Thing"])
    rows = {row["path"]: row for row in all_rows(data)}
    assert "pkg" not in sys.modules
    assert rows
    assert set(rows) < set(files)
    assert not {"../outside.py", "pkg/gone.py", "pkg/module_1.py"} & set(rows)
    assert {row["license"] for path, row in rows.items() if path != "pkg/module_0.py"} == {"ISC"}
    assert rows.get("pkg/module_0.py", {"license": "MPL-2.0"})["license"] == "MPL-2.0"


def test_wrong_arguments_are_one_clear_error(cache: Path) -> None:
    with pytest.raises(ValueError, match=r"'code'.*\('python'|'python'"):
        installed_packages(["code"])
    with pytest.raises(ValueError, match="must be a list"):
        installed_packages("python")
    with pytest.raises(ValueError, match="max_bytes=0"):
        installed_packages(max_bytes=0)
    with pytest.raises(ValueError, match=r"held_out=0\.5"):
        installed_packages(held_out=0.5)
    with pytest.raises(ValueError, match=r"\['no-such-thing'\] are not installed"):
        installed_packages(distributions=["no_such_thing"])
    with pytest.raises(ValueError, match=r"'headers' is empty.*more distributions"):
        installed_packages(["headers"], distributions=["tqdm"])
    assert not cache.exists()
