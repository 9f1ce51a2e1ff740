"""MovieLens-100K comes from the installed wheel, or the error names the command that installs it."""

from __future__ import annotations

import re
from importlib.util import find_spec

import pytest

from hf_mixture.training import movielens


def test_what_is_missing_or_another_file_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    if find_spec(movielens.WHEEL) is None:
        with pytest.raises(ValueError, match=re.escape(f"not installed; {movielens.INSTALL}")):
            movielens.movielens_folder()
        pytest.skip(f"MovieLens-100K is not installed: {movielens.INSTALL}")
    films = movielens.read_table(movielens.movielens_folder() / "ml-100k.item")
    assert len(films["item_id"]) == len(films["class"]) == 1682
    monkeypatch.setattr(movielens, "CHECKSUMS", {"ml-100k.inter": "0" * 64})
    with pytest.raises(ValueError, match=r"is missing or not the file of recbole 1\.2\.1; reinstall it"):
        movielens.movielens_folder()
    monkeypatch.setattr(movielens, "WHEEL", "no-such-wheel")
    with pytest.raises(ValueError, match="read from the wheel no-such-wheel"):
        movielens.movielens_folder()
