"""The six dense prediction tasks: what a label and a logits map of each look like, and how they are measured.

Letters: B images, C classes, H x W pixels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class Task:
    """One dense prediction task.

    Args:
        kind: What a pixel's label is: `"class"`, `"binary"`, `"vector"` (three numbers) or `"number"`.
        num_channels: Channels of the logits map; None where the configuration says the number of classes.
        weight: Weight of its loss, as published for PASCAL-Context, and for depth for NYUD-v2.
        metric: Folder in `hf_mixture.metrics` of the module that measures it.
        score: Key of the number in the result of that module.
        higher_is_better: Whether larger scores are better.
    """

    kind: Literal["class", "binary", "vector", "number"]
    num_channels: int | None
    weight: float
    metric: str
    score: str
    higher_is_better: bool

    @property
    def label_channels(self) -> int | None:
        """Channels of a label map; None for a map [H, W]."""
        return 3 if self.kind == "vector" else None


TASKS: dict[str, Task] = {
    "semseg": Task(
        kind="class", num_channels=None, weight=1.0, metric="segmentation_miou", score="miou", higher_is_better=True
    ),
    "parts": Task(
        kind="class", num_channels=None, weight=2.0, metric="segmentation_miou", score="miou", higher_is_better=True
    ),
    "saliency": Task(
        kind="binary", num_channels=2, weight=5.0, metric="saliency_maxf", score="max_f", higher_is_better=True
    ),
    "normals": Task(
        kind="vector",
        num_channels=3,
        weight=10.0,
        metric="normals_mean_angle",
        score="mean_angle",
        higher_is_better=False,
    ),
    "edges": Task(
        kind="binary", num_channels=1, weight=50.0, metric="edges_odsf", score="ods_f", higher_is_better=True
    ),
    "depth": Task(
        kind="number", num_channels=1, weight=1.0, metric="depth_rmse", score="rmse", higher_is_better=False
    ),
}
