"""Which command runs which recipe."""

from __future__ import annotations

import importlib.resources
from collections.abc import Container


# The key that only the recipes of a command have, and that they all have.
KEYS = {
    "train": "adapters",
    "mix search": "method",
    "upcycle": "routers",
    "thoughts": "thoughts",
    "mote run": "finetune",
    "mwq run": "bit_routers",
    "spread run": "systems",
    "matsim": "materials",
    "mixer": "collections",
    "supernets": "searches",
    "plan --recipe": "layouts",
    "curate": "sources",
    "retrieve": "interactions",
    "taskexpert": "scenes",
    "trajectories": "trajectories",
    "unlearn": "backbones",
    "everything": "curate",
}


def packaged_recipes() -> dict[str, str]:
    """List the recipes of the package.

    Returns:
        For each name the command that runs it, by name.

    Example:
        >>> from hf_mixture.training.commands import packaged_recipes
        >>> packaged_recipes()["quickstart"]
        'train'
    """
    entries = importlib.resources.files("hf_mixture.recipes").iterdir()
    # The parser of recipes is slow to import.
    texts = {entry.name.removesuffix(".yaml"): entry.read_text("utf-8") for entry in entries if ".yaml" in entry.name}
    return {
        name: next(command for command, key in KEYS.items() if f"\n{key}:" in texts[name]) for name in sorted(texts)
    }


def check_command(keys: Container[str], command: str) -> None:
    """Refuse a recipe that is for another command.

    Args:
        keys: The top-level keys of the recipe.
        command: The command that was given.

    Raises:
        ValueError: If the recipe has the key of another command, which is named.
    """
    for other, key in KEYS.items():
        if other != command and key in keys:
            raise ValueError(
                f"the recipe has {key!r}, which is not for hf-mixture {command}; run it with hf-mixture {other}"
            )
