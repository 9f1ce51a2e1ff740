"""The file of a run, and its plots."""

from __future__ import annotations

import json

import pytest

from hf_mixture.data.online import plot_losses, plot_weights, read_history
from hf_mixture.data.online.history import write_history


HISTORY = {
    "format": "hf_mixture.mixing_law",
    "version": 1,
    "method": "learn_params",
    "domains": ["a", "b"],
    "max_steps": 30,
    "initial_weights": {"a": 0.5, "b": 0.5},
    "rounds": [
        {"step": 4, "lag": 1.5, "weights": {"a": 0.6, "b": 0.4}, "losses": {"a": 3.0, "held out": 4.0}},
        {"step": 14, "lag": 1.5, "weights": {"a": 0.9, "b": 0.1}, "losses": {"a": 2.0, "held out": 3.5}},
    ],
}


def test_a_history_is_read_as_written(tmp_path):
    write_history(tmp_path / "run" / "law.json", HISTORY)
    assert read_history(tmp_path / "run" / "law.json") == HISTORY


@pytest.mark.parametrize("change", [{"version": 2}, {"format": "hf_mixture.plan"}])
def test_other_files_are_refused(tmp_path, change):
    path = tmp_path / "law.json"
    path.write_text(json.dumps(HISTORY | change))
    with pytest.raises(ValueError, match="is read here"):
        read_history(path)


def test_plots_draw_the_numbers(tmp_path):
    axes = plot_weights(HISTORY)
    lines = {line.get_label(): (list(line.get_xdata()), list(line.get_ydata())) for line in axes.lines}
    assert lines["a"] == ([0, 5.5, 15.5, 30], [0.5, 0.6, 0.9, 0.9])
    assert lines["b"] == ([0, 5.5, 15.5, 30], [0.5, 0.4, 0.1, 0.1])
    assert all(line.get_drawstyle() == "steps-post" for line in axes.lines)
    assert plot_losses(HISTORY, axes=axes) is axes
    assert list(axes.lines[-1].get_ydata()) == [4.0, 3.5]
    axes.figure.savefig(tmp_path / "plot.png")
    assert (tmp_path / "plot.png").stat().st_size > 1000
