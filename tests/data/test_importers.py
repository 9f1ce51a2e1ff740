from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest

from hf_mixture.data import Mixture
from hf_mixture.data.export import export_mixture
from hf_mixture.data.importers import import_mixture


REGMIX = Path(__file__).parent / "search" / "fixtures" / "regmix" / "config_1b"
WEIGHTS = {"wiki, en": 0.1 + 0.2, "code": 1 / 3, "books": 1 - 0.3 - 1 / 3, "none": 0.0}


@pytest.mark.parametrize("format", ["csv", "json"])
def test_lists_round_trip_exactly(format: str, tmp_path: Path) -> None:
    mixture = Mixture(WEIGHTS, unit="bytes")
    [path] = export_mixture(mixture, format).save(tmp_path)
    loaded = import_mixture(path, format, unit="bytes")
    assert loaded.weights == WEIGHTS
    assert loaded.unit == "bytes"
    digest = hashlib.sha256(Path(path).read_bytes()).hexdigest()
    assert loaded.metadata["provenance"]["table"] == {"file": Path(path).name, "sha256": digest}
    assert Mixture.from_json(loaded.to_json()) == loaded
    with pytest.raises(ValueError, match="unit is missing"):
        import_mixture(path, format)


@pytest.mark.parametrize(("name", "total"), [("human", 0.7868), ("doremi", 0.8148)])
def test_regmix_files_that_do_not_sum_to_1_need_a_word(name: str, total: float) -> None:
    with pytest.raises(ValueError, match=f"{name}.yaml: weights .* sum to {total}.*normalise=True"):
        import_mixture(REGMIX / f"{name}.yaml", "regmix")
    mixture = import_mixture(REGMIX / f"{name}.yaml", "regmix", normalise=True)
    assert len(mixture.names) == 17
    assert mixture.names[0] == "the_pile_arxiv"
    assert mixture.unit == "tokens"
    assert sum(mixture.shares) == pytest.approx(1, abs=1e-12)
    if name == "human":
        assert mixture.weights["the_pile_pile_cc"] == pytest.approx(0.1121 / 0.7868)
    one = import_mixture(REGMIX / "pile_cc_only.yaml", "regmix", names=["cc"], unit="examples", seed=3)
    assert one.weights == {"cc": 1.0}
    assert (one.unit, one.seed) == ("examples", 3)


def test_a_row_of_an_olmix_table(tmp_path: Path) -> None:
    path = tmp_path / "ratios.csv"
    path.write_text(
        ",run,name,index,dclm,wikipedia,arxiv\n"
        "0,hz0dfydj,my-swarm-0000,0,0.45,0.30,0.25\n"
        "1,pj0hxxl7,my-swarm-0001,1,0.60,0.20,0.20\n"
    )
    mixture = import_mixture(path, "olmix", run="pj0hxxl7")
    assert mixture.weights == {"dclm": 0.6, "wikipedia": 0.2, "arxiv": 0.2}
    assert mixture.metadata["provenance"]["parameters"]["run"] == "pj0hxxl7"
    with pytest.raises(ValueError, match="has 2 runs"):
        import_mixture(path, "olmix")
    with pytest.raises(ValueError, match="run='x' stands 0 times"):
        import_mixture(path, "olmix", run="x")
    path.write_text("run_id,a,b\nr,0.5,0.5\n")
    assert import_mixture(path, "olmix").weights == {"a": 0.5, "b": 0.5}


@pytest.mark.parametrize(
    ("format", "text", "options", "words"),
    [
        ("xml", "", {}, ["format='xml'", "regmix"]),
        ("csv", "", {"unit": "tokens"}, ["columns name and weight"]),
        ("csv", "a,0.5\nb,0.5\n", {"unit": "tokens"}, ["columns name and weight"]),
        ("csv", "name,weight\na,half\n", {"unit": "tokens"}, ["'a'", "'half'", "no number"]),
        ("csv", "name,weight\na\n", {"unit": "tokens"}, ["'a'", "None"]),
        ("csv", "name,weight\na,0.5\na,0.5\n", {"unit": "tokens"}, ["'a' stands twice"]),
        ("csv", "name,weight\na,nan\n", {"unit": "tokens"}, ["'a'", "nan", "finite"]),
        ("csv", "name,weight\na,1\n", {"unit": "tokens", "names": ["a", "b"]}, ["names=", "1 names"]),
        ("csv", "name,weight\na,1\n", {"unit": "tokens", "run": "x"}, ["run='x'", "olmix"]),
        ("json", "[1]", {"unit": "tokens"}, ["name, weight"]),
        ("json", '{"a": "x"}', {"unit": "tokens"}, ["'a'", "'x'", "number"]),
        ("json", "{", {"unit": "tokens"}, ["not valid JSON"]),
        ("regmix", "train: [", {}, ["not valid YAML"]),
        ("regmix", "[1]", {}, ["top level", "list"]),
        ("regmix", "valid: {}", {}, ["train=None"]),
        ("regmix", "train: {wiki: 1.0}", {}, ["'wiki'", "train_<domain>"]),
        ("regmix", "train: {train_a: x}", {}, ["'a'", "number"]),
        ("regmix", "train: !!python/name:os.system x", {}, ["not valid YAML"]),
        ("olmix", "a,b\n1,2\n", {}, ["run or run_id"]),
        ("trl", "datasets: []", {}, ["datasets=[]", "non-empty"]),
        ("trl", "datasets: [{path: a, weight: 1}]", {}, ["datasets[0]", "['weight']"]),
        ("trl", "datasets: [{fraction: 1}]", {}, ["datasets[0]", "'path'"]),
        ("trl", "datasets: [{path: a}]", {}, ["datasets[0]", "no fraction"]),
        ("trl", "datasets: [{path: a, fraction: .5}, {path: a, fraction: .5}]", {}, ["'a' stands twice", "names"]),
        ("trl", "datasets: [{path: ../a, fraction: 1}]", {}, ["leaves its folder"]),
    ],
)
def test_wrong_files_are_one_clear_error(
    format: str, text: str, options: dict[str, Any], words: list[str], tmp_path: Path
) -> None:
    path = tmp_path / "file"
    path.write_text(text)
    with pytest.raises(ValueError) as caught:
        import_mixture(path, format, **options)
    assert all(word in str(caught.value) for word in words), caught.value
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("format", ["csv", "json"])
def test_a_mark_of_the_byte_order_is_no_text(format: str, tmp_path: Path) -> None:
    text = {"csv": "name,weight\na,0.5\nb,0.5\n", "json": '{"a": 0.5, "b": 0.5}'}[format]
    path = tmp_path / "from_a_spreadsheet"
    path.write_text(text, encoding="utf-8-sig")
    assert import_mixture(path, format, unit="tokens").weights == {"a": 0.5, "b": 0.5}


def test_bytes_that_are_no_text_are_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"\xff\xfe")
    with pytest.raises(ValueError, match="not UTF-8"):
        import_mixture(tmp_path / "file", "csv", unit="tokens")
