"""The end-to-end checks of RegMix and Aioli on real text, at their full size: minutes each."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest


BENCHMARKS = str(Path(__file__).parents[2] / "benchmarks")


@pytest.fixture
def end_to_end(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(BENCHMARKS)
    import corpora
    import end_to_end as module

    try:
        corpora.corpora()
    except FileNotFoundError as error:
        pytest.skip(str(error))
    yield module
    for name in ("common", "corpora", "end_to_end"):
        sys.modules.pop(name, None)


@pytest.mark.slow
def test_regmix_beats_natural_and_uniform_on_a_target_that_it_was_not_trained_on(
    end_to_end: Any, tmp_path: Path
) -> None:
    differences = end_to_end.run("regmix", tmp_path)["comparison"]["differences"]
    assert len(differences["natural"]["by_seed"]) == 3
    for baseline in ("natural", "stratified"):
        assert max(differences[baseline]["by_seed"]) < 0


@pytest.mark.slow
def test_aioli_is_not_worse_than_stratified_by_half_a_percent(end_to_end: Any, tmp_path: Path) -> None:
    aioli, _, stratified = end_to_end.run("aioli", tmp_path)["comparison"]["systems"]
    assert len(aioli["runs"]) == 3
    assert aioli["objective"]["mean"] <= 1.005 * stratified["objective"]["mean"]
