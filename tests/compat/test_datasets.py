from __future__ import annotations

from datasets import Dataset

from hf_mixture._compat.datasets import fingerprint_of


def test_fingerprint_of() -> None:
    rows = Dataset.from_dict({"a": [1, 2, 3]})
    chosen = rows.select([0, 2], new_fingerprint="0123456789abcdef")
    assert fingerprint_of(chosen) == "0123456789abcdef"
    assert fingerprint_of(rows) != fingerprint_of(chosen)
