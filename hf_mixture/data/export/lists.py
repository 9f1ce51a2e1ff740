"""Plain lists: CSV and JSON of names and weights, and `probabilities` for `datasets.interleave_datasets`."""

from __future__ import annotations

import csv
import io
import json

from hf_mixture.data.export.draft import Draft


def export_csv(draft: Draft, *, unit: str | None = None) -> tuple[dict[str, str], str]:
    """Write a table with the columns name and weight.

    Args:
        draft: The mixture.
        unit: What the weights count. Default: the unit of the mixture.

    Returns:
        Files and the note on the numbers.
    """
    shares = _shares(draft, unit)
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(("name", "weight"))
    rows.writerows((name, repr(share)) for name, share in shares.items())
    return {"mixture.csv": text.getvalue()}, _note(draft, unit)


def export_json(draft: Draft, *, unit: str | None = None) -> tuple[dict[str, str], str]:
    """Write a list of objects with the keys name and weight.

    Args:
        draft: The mixture.
        unit: What the weights count. Default: the unit of the mixture.

    Returns:
        Files and the note on the numbers.
    """
    entries = [{"name": name, "weight": share} for name, share in _shares(draft, unit).items()]
    return {"mixture_weights.json": json.dumps(entries, indent=2, ensure_ascii=False) + "\n"}, _note(draft, unit)


def export_probabilities(draft: Draft) -> tuple[dict[str, str], str]:
    """Write the list for `datasets.interleave_datasets(probabilities=...)`, in the order of the mixture.

    Args:
        draft: The mixture.

    Returns:
        Files and the note on the numbers.
    """
    shares = _shares(draft, "examples")
    if 0 in shares.values():
        draft.note("interleave_datasets refuses a probability of 0 under all_exhausted: leave those data sets out")
    text = json.dumps(list(shares.values())) + "\n"
    order = ", ".join(shares)
    return (
        {"probabilities.json": text},
        f"probability: of drawing the next example from each data set, in the order {order}",
    )


def _shares(draft: Draft, unit: str | None) -> dict[str, float]:
    draft.lose_schedule()
    draft.lose_policies()
    if draft.mixture.sources:
        draft.lose("sources: paths, splits and revisions are not written, only names and weights")
    return draft.shares(unit or draft.mixture.unit)


def _note(draft: Draft, unit: str | None) -> str:
    return f"weight: the share of each source, counted in {unit or draft.mixture.unit}; the file does not say so"
