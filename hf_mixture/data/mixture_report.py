"""What a person wants to know about a mixture at a glance."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING


if TYPE_CHECKING:
    from hf_mixture.data.mixture import Mixture

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
_COMMIT = re.compile(r"[0-9a-f]{40}")


def advice(mixture: Mixture) -> list[str]:
    """Return what is valid and still worth knowing: unpinned Hub data sets, domains that are never drawn."""
    notes = [f"{name!r} has weight 0 and is never drawn" for name, weight in mixture.weights.items() if weight == 0]
    for name, source in mixture.sources.items():
        on_hub = _HUB_ID.fullmatch(source.path) and not os.path.exists(source.path)
        if on_hub and not _COMMIT.fullmatch(source.revision or ""):
            revision = source.revision or "main"
            notes.append(f"{name!r} is {source.path} at revision {revision}, which may change; pin a commit hash")
    return notes


def table(mixture: Mixture) -> str:
    """Return the mixture as lines of text: a heading, then one aligned line for each domain."""
    sources = mixture.sources
    heading = f"{mixture.name}: " if mixture.name else ""
    lines = [f"{heading}{len(mixture.names)} domains, weights in {mixture.unit}, seed {mixture.seed}"]
    width = max(map(len, mixture.names))
    for name, weight in mixture.weights.items():
        source = sources.get(name)
        facts = [] if source is None else [source.path, source.config, source.revision, source.license]
        lines.append(f"  {name:<{width}}  {weight:<10.6g}  {'  '.join(fact for fact in facts if fact)}".rstrip())
    return "\n".join(lines) + "\n"
