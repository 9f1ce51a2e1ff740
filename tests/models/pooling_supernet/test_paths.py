"""Paths against the published lookup table, and their two notations."""

from __future__ import annotations

import csv
import itertools
from pathlib import Path

import pytest

from hf_mixture import PoolingResNetConfig
from hf_mixture.models.pooling_supernet.paths import check_path, enumerate_paths, layers_of, num_paths, path_of


LOOKUP = Path(__file__).parents[4] / "shared" / "data" / "pooling_supernets" / "resnet20_lookup_space.csv"


@pytest.mark.skipif(not LOOKUP.exists(), reason=f"the published lookup table is not at {LOOKUP}")
def test_paths_of_resnet20_are_those_of_the_published_table_row_by_row() -> None:
    with LOOKUP.open(encoding="utf-8") as file:
        table = list(csv.DictReader(file))
    paths = enumerate_paths(10, 3)
    assert len(table) == len(paths) == 36
    for place, (row, path) in enumerate(zip(table, paths, strict=True)):
        assert int(row["path_index"]) == place + 1
        assert row["code"] == "".join(map(str, path))
        assert tuple(int(row[f"n_layers_res{scale}"]) for scale in (1, 2, 3)) == layers_of(path)


@pytest.mark.parametrize(
    ("name", "scales", "number"), [("resnet20", 3, 36), ("resnet18", 4, 56), ("resnet50", 4, 560)]
)
def test_search_spaces_have_the_published_sizes(name: str, scales: int, number: int) -> None:
    config = PoolingResNetConfig.network(name)
    paths = enumerate_paths(config.num_layers, scales)
    assert len(paths) == len(set(paths)) == number == num_paths(config.num_layers, scales)
    assert tuple(config.pooling_path) in paths
    places = [tuple(place - 1 for place, pools in enumerate(path) if pools) for path in paths]
    assert places == list(itertools.combinations(range(config.num_layers - 1), scales - 1))


def test_the_24th_path_is_the_default_one() -> None:
    path = enumerate_paths(10, 3)[23]
    assert layers_of(path) == (4, 3, 3)
    assert list(path) == PoolingResNetConfig().pooling_path
    assert PoolingResNetConfig.network("resnet18").layers_of_scales == (3, 2, 2, 2)
    assert PoolingResNetConfig.network("resnet50").layers_of_scales == (4, 4, 6, 3)


def test_both_notations_say_the_same() -> None:
    for path in enumerate_paths(7, 3):
        assert path_of(layers_of(path)) == path
    assert path_of([5]) == (0,) * 5


def test_what_is_no_path_is_refused() -> None:
    with pytest.raises(ValueError, match="num_scales=6 must be from 1 to the number of layers, 5"):
        enumerate_paths(5, 6)
    with pytest.raises(ValueError, match=r"layers=\[4, 0, 3\]"):
        path_of([4, 0, 3])
    for path in ([0, 1], [1, 0, 0], [0, 2, 0]):
        with pytest.raises(ValueError, match="must be 3 zeros and ones"):
            check_path(path, 3)
