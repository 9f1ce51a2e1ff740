"""What a person wants to know about a mixture at a glance."""

from __future__ import annotations

import dataclasses
import os
import re
from typing import TYPE_CHECKING

from hf_mixture.data.schedule import SourcePolicy


if TYPE_CHECKING:
    from hf_mixture.data.mixture import Mixture
    from hf_mixture.data.source import Source

_HUB_ID = re.compile(r"\w[\w.-]*/[\w.-]+")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_BAR = 30


def problems(mixture: Mixture) -> list[str]:
    """Return what keeps a stranger from using the file alone: shares of tokens that nobody can count.

    Such a mixture loads all the same, because a caller may hold the lengths and pass them.
    """
    if mixture.unit != "tokens" or mixture.metadata.get("tokenizer"):
        return []
    uncounted = [name for name, source in mixture.sources.items() if source.length_column is None]
    if not uncounted:
        return []
    return [
        f"tokenizer is missing, and the weights count tokens of sources without a length_column {uncounted}; add "
        '"tokenizer": {"path": ...} or a length_column to each'
    ]


def advice(mixture: Mixture) -> list[str]:
    """Return what is valid and still worth knowing: unpinned Hub data sets, domains that are never drawn."""
    later = [segment.weights for segment in mixture.schedule or ()]
    notes = []
    for i, (name, weight) in enumerate(mixture.weights.items()):
        if weight == 0:
            drawn = any(weights[i] > 0 for weights in later)
            notes.append(f"{name!r} has weight 0 {'at the start' if drawn else 'and is never drawn'}")
    for name, source in mixture.sources.items():
        if is_on_hub(source) and not _COMMIT.fullmatch(source.revision or ""):
            revision = source.revision or "main"
            notes.append(f"{name!r} is {source.path} at revision {revision}, which may change; pin a commit hash")
    return notes


def is_on_hub(source: Source) -> bool:
    """Return whether the path of a source reads as the id of a data set on the Hub."""
    return bool(_HUB_ID.fullmatch(source.path)) and not os.path.exists(source.path)


def table(mixture: Mixture) -> str:
    """Return the mixture as lines of text: a heading, one aligned line with a bar for each domain, then the rest."""
    sources, policies = mixture.sources, mixture.policies
    heading = f"{mixture.name}: " if mixture.name else ""
    lines = [f"{heading}{len(mixture.names)} domains, weights in {mixture.unit}, seed {mixture.seed}"]
    width = max(map(len, mixture.names))
    largest = max(mixture.shares)
    for name, weight in mixture.weights.items():
        source = sources.get(name)
        facts = [] if source is None else [source.path, source.config, source.revision, source.license]
        facts.append(limits(policies.get(name, SourcePolicy())))
        bar = "█" * round(_BAR * weight / largest)
        line = f"  {name:<{width}}  {weight:<10.6g}  {bar:<{_BAR}}  {'  '.join(fact for fact in facts if fact)}"
        lines.append(line.rstrip())
    for segment in mixture.schedule or ():
        weights = "  ".join(
            f"{name} {weight:.6g}" for name, weight in zip(mixture.names, segment.weights, strict=True)
        )
        moves = ", moving in a line to the next" if segment.interpolation == "linear" else ""
        lines.append(f"from {segment.start:g} ({mixture.schedule_unit}){moves}: {weights}")
    if mixture.budget:
        lines.append(f"budget: {mixture.budget[0]} {mixture.budget[1]}")
    lines.extend(f"{key}: {value}" for key, value in origin(mixture).items())
    return "\n".join(lines) + "\n"


def limits(policy: SourcePolicy) -> str:
    """Return the fields of a policy that are not the default, as words."""
    words = {
        "max_epochs": f"at most {policy.max_epochs or 0:g} epochs, then {policy.overflow}",
        "min_weight": f"at least {policy.min_weight:g}",
        "shuffle": "in the order of its rows",
    }
    changed = [
        field.name
        for field in dataclasses.fields(policy)
        if field.name in words and getattr(policy, field.name) != field.default
    ]
    return ", ".join(words[name] for name in changed)


def origin(mixture: Mixture) -> dict[str, str]:
    """Return how the weights were found, as lines of text by topic, for what the provenance records."""
    facts = mixture.metadata.get("provenance") or {}
    lines = {}
    if "method" in facts:
        lines["method"] = str(facts["method"])
    if "objective" in facts:
        direction = f" ({facts['direction']})" if "direction" in facts else ""
        lines["objective"] = f"{facts['objective']}{direction}"
    if facts.get("predicted") is not None:
        spread = f" ± {facts['uncertainty']}" if facts.get("uncertainty") is not None else ""
        lines["predicted value"] = f"{facts['predicted']}{spread}"
    if "command" in facts:
        lines["command"] = str(facts["command"])
    return lines
