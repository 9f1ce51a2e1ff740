"""DoReMi: domains are weighed by how far they lag behind a reference."""

from __future__ import annotations

import numpy as np
import pytest
from online_run import NAMES, WEIGHTS, held_out, make

from hf_mixture.data.online import DoReMiCallback


def test_doremi_weighs_what_lags_behind_the_reference(tmp_path):
    reference = {"email": 0.5, "json": 4.5, "logging": 99.0}
    callback = DoReMiCallback(held_out(), reference, update_steps=8, eta=0.5)
    make(tmp_path, callback).train()
    weights = np.array([WEIGHTS[name] for name in NAMES])
    for decision in callback.history:
        gaps = [max(decision["losses"][name] - reference[name], 0.0) for name in NAMES]
        weights = weights * np.exp(0.5 * np.array(gaps))
        weights = 0.999 * weights / weights.sum() + 0.001 / 3
        assert list(decision["weights"].values()) == pytest.approx(weights)
    mean = np.mean([list(decision["weights"].values()) for decision in callback.history], axis=0)
    assert list(callback.average_weights.values()) == pytest.approx(mean)
    assert weights[0] > 0.9
