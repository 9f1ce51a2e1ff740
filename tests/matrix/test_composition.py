"""Every two changes of one sparse model, in either order, do what `benchmarks/results/composition.json` says of them.

They work together, or the second is refused in plain words. A pair that does another thing than the file says fails
here; `benchmarks/composition.py` writes the file again, and `benchmarks/scoreboard.py` the table of the README.
"""

from __future__ import annotations

import json
from pathlib import Path

import composition_on_two
import pytest
from composition import REFUSED, STOCK, WORKS, all_pairs, make_base, observe, recorded
from composition_on_two import NAME
from two_processes import run_on_two


def is_slow(pair: tuple[str, str]) -> bool:
    """Tracing takes seconds, that of planes half a minute; stock features are many pairs that differ little."""
    if pair[1] == "compile":
        return pair[0] not in ("router", "MoTE")
    return recorded()[pair]["outcome"] == WORKS and bool(set(pair) & set(STOCK))


PAIRS = [pytest.param(pair, marks=pytest.mark.slow) if is_slow(pair) else pair for pair in all_pairs()]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_base(tmp_path_factory.mktemp("base"))


@pytest.mark.parametrize("pair", PAIRS, ids=" then ".join)
def test_two_changes(pair: tuple[str, str], base: Path, tmp_path: Path) -> None:
    expected = recorded()[pair]
    assert {"first": pair[0], "second": pair[1], **observe(pair, base, tmp_path)} == expected


@pytest.mark.slow
def test_changes_of_a_model_that_is_spread_over_processes(tmp_path: Path) -> None:
    run_on_two(Path(composition_on_two.__file__), tmp_path)
    rows = json.loads((tmp_path / "rows.json").read_text(encoding="utf-8"))
    assert {(row["first"], row["second"]): row for row in rows} == {
        pair: row for pair, row in recorded().items() if NAME in pair
    }


def test_the_file_has_every_pair_once() -> None:
    rows = recorded()
    assert {pair for pair in rows if NAME not in pair} == set(all_pairs())
    for row in rows.values():
        assert row["outcome"] in (WORKS, REFUSED)
        # A refusal says what to do.
        assert (row["outcome"] == REFUSED) == bool(row.get("says"))
