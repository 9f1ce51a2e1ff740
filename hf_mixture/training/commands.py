"""Which command runs which recipe."""

from __future__ import annotations

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
