"""Small runs of recipes: the recipe on disk, and what the run has measured."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from killed_runs import without_times


def write_recipe(folder: Path, recipe: Mapping[str, Any], **changes: Any) -> str:
    """Write a recipe whose run folder is `run` in the same folder, and return where it is."""
    path = folder / "tiny.yaml"
    values = {**recipe, "output_dir": str(folder / "run"), **changes}
    path.write_text(yaml.safe_dump(values, sort_keys=False), encoding="utf-8")
    return str(path)


def results_of(folder: Path) -> Any:
    """What that run has measured, without clocks."""
    return without_times(json.loads((folder / "run" / "results.json").read_text(encoding="utf-8")))
