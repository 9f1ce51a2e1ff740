"""What an online method did, round by round: a file of JSON values, and two plots.

matplotlib is imported on first use.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hf_mixture.hub.atomic import write_atomic
from hf_mixture.hub.reading import read_document


FORMAT = "hf_mixture.mixing_law"
VERSION = 1


def write_history(path: Path | str, history: Mapping[str, Any]) -> None:
    """Write the history of a run.

    Args:
        path: A file; it appears whole or not at all.
        history: What `MixingLawCallback.report` returns.
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(target, json.dumps(history, indent=1, allow_nan=False) + "\n")


def read_history(path: Path | str) -> dict[str, Any]:
    """Read the history of a run.

    Args:
        path: A file that `write_history` wrote.

    Returns:
        The history.

    Raises:
        ValueError: The file is of another kind or version.
    """
    return read_document(path, FORMAT, VERSION, remedy="give a file that MixingLawCallback wrote")


def plot_weights(history: Mapping[str, Any], *, axes: Any = None) -> Any:
    """Draw the weights of each domain over the steps.

    Args:
        history: What `MixingLawCallback.report` or `read_history` returns.
        axes: Matplotlib axes. Default: a new figure's.

    Returns:
        The axes; `axes.figure.savefig(path)` writes them.

    Example:
        ```python
        >>> from hf_mixture.data.online import plot_weights
        >>> history = {"method": "odm", "domains": ["a", "b"], "max_steps": 9, "rounds": [],
        ...            "initial_weights": {"a": 0.9, "b": 0.1}}
        >>> [line.get_label() for line in plot_weights(history).lines]
        ['a', 'b']

        ```
    """
    axes = _axes(axes)
    rounds = history["rounds"]
    steps = [0, *(turn["step"] + turn["lag"] for turn in rounds), history["max_steps"]]
    for name in history["domains"]:
        values = [history["initial_weights"][name], *(turn["weights"][name] for turn in rounds)]
        axes.step(steps, [*values, values[-1]], where="post", label=name)
    axes.set(xlabel="step", ylabel="weight", title=history["method"], ylim=(0, None))
    axes.legend(fontsize="small")
    return axes


def plot_losses(history: Mapping[str, Any], *, axes: Any = None) -> Any:
    """Draw the losses that were measured at each decision.

    Args:
        history: What `MixingLawCallback.report` or `read_history` returns.
        axes: Matplotlib axes. Default: a new figure's.

    Returns:
        The axes.
    """
    axes = _axes(axes)
    rounds = [turn for turn in history["rounds"] if turn["losses"]]
    for name in rounds[0]["losses"] if rounds else ():
        axes.plot([turn["step"] for turn in rounds], [turn["losses"][name] for turn in rounds], label=name)
    axes.set(xlabel="step", ylabel="validation loss (nats per token)", title=history["method"])
    axes.legend(fontsize="small")
    return axes


def _axes(axes: Any) -> Any:
    if axes is not None:
        return axes
    from matplotlib.figure import Figure

    return Figure(figsize=(5, 4), layout="constrained").subplots()
