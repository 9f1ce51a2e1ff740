"""Skill-It: the orientation of a skills graph."""

from __future__ import annotations

import numpy as np
import pytest
from online_run import held_out, make

from hf_mixture.data.online import SkillItCallback


def test_skill_it_reads_a_published_graph_by_training_domain(tmp_path):
    """Row j is training on j. Only email helps, and it helps all: transposed, all would help email and tie."""
    graph = [[0.9, 0.8, 0.7], [0.0, 0.0, 0.0], [0.0, 0.0, 0.0]]
    callback = SkillItCallback(held_out(), graph, update_steps=8, eta=0.2, window=2)
    make(tmp_path, callback).train()
    first = np.exp(0.2 * np.array([2.4, 0.0, 0.0]))
    assert list(callback.report()["initial_weights"].values()) == pytest.approx(first / first.sum())
    window = []
    for decision in callback.history:
        window = [*window, np.array(list(decision["losses"].values()))][-2:]
        expected = np.exp(0.2 * np.array(graph) @ np.sum(window, axis=0))
        assert list(decision["weights"].values()) == pytest.approx(expected / expected.sum())
    assert len(callback.history) == 2
