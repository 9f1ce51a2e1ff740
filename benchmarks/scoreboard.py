"""Writes what the documents say of the files in `results/`; `--check` only compares.

The tables of the README and of docs/upgrading.md, a page with a table of each result (docs/results.md), one table of
all that was measured side by side (docs/scoreboard.md), and the figures in sentences that `claims.py` names.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from itertools import zip_longest
from pathlib import Path
from typing import Any

from claim import correct
from claims import CLAIMS
from headlines import HEADLINES, headline
from scoreboard_rows import SETTINGS, TABLES, compat_row, side_by_side

from hf_mixture.hub.cards import markdown_table
from hf_mixture.methods import list_methods


ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
README, UPGRADING = "README.md", "docs/upgrading.md"
PAGE, SCOREBOARD = "docs/results.md", "docs/scoreboard.md"
PAGE_HEAD = """# Results

What was measured, a table for each file of [benchmarks/results](../benchmarks/results), the negative results too;
[the scoreboard](scoreboard.md) has all ratios in one table. All of it is from CPUs: `make bench-gpu` measures on one
CUDA device within 8 minutes, and no figure is from a GPU yet.

A ratio is the median of the ratios inside each round, with its quartiles. `make bench` and `make recipes` measure
again and write the files with the machine, and `make scoreboard` writes this page.

"""
SCOREBOARD_HEAD = """# Scoreboard

All that was measured side by side in one run, from [benchmarks/results](../benchmarks/results): medians of the ratios
inside each round, with quartiles where they were kept. Times are processor time of the process where both clocks were
read. `make scoreboard` writes this page, [the tables](results.md), those of the README and the figures in sentences
that `benchmarks/claims.py` names; a test fails when one of them differs from its result. No result of a GPU is among
them yet: `make bench-gpu` is the command.

"""


def methods_table() -> str:
    results = stored_results()
    rows = [
        {
            "method": f"[{method.name}]({method.document})",
            "mixes": method.kind,
            "what you write": f"`{method.plug_point}`",
            "measured": f"[{headline(method.name, results.__getitem__)}]"
            f"(benchmarks/results/{HEADLINES[method.name].result}.json)",
            "paper": method.paper.removeprefix(f"{method.name}, "),
        }
        for method in list_methods()
    ]
    return markdown_table(rows)


def machine_of(result: dict[str, Any]) -> str:
    machine = result["machine"]
    return machine["gpu"] or f"{machine['cpu']}, {machine['threads']} thread{'s' * (machine['threads'] > 1)}"


def scoreboard() -> str:
    """The page of all results: one table, the machine of each row named."""
    rows = [
        {"result": f"[{name}](../benchmarks/results/{name}.json)", **row, "machine": machine_of(result)}
        for name, result in stored_results().items()
        for row in side_by_side(result)
    ]
    return SCOREBOARD_HEAD + markdown_table(rows) + "\n"


def stored_results() -> dict[str, dict[str, Any]]:
    return {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted(RESULTS.glob("*.json"))}


def results_page() -> str:
    """The page of a table for each result."""
    parts = [PAGE_HEAD.rstrip()]
    for name, (heading, rows_of) in TABLES.items():
        path = RESULTS / f"{name}.json"
        if not path.exists():
            continue
        result = json.loads(path.read_text(encoding="utf-8"))
        named = result.get("setting") or {key: result[key] for key in SETTINGS if key in result}
        setting = ", ".join(f"{key.replace('_', ' ')} {setting_text(value)}" for key, value in named.items())
        facts = [setting, machine_of(result), f"[{name}](../benchmarks/results/{name}.json)"]
        parts += [f"## {heading}", "; ".join(filter(None, facts)), markdown_table(rows_of(result))]
    return "\n\n".join(parts) + "\n"


def setting_text(value: Any) -> str:
    """A value of a setting as text for people; of what has a name, the name."""
    if isinstance(value, dict):
        if "name" in value:
            return str(value["name"])
        return ", ".join(f"{key} {setting_text(part)}" for key, part in value.items())
    if isinstance(value, list):
        return ", ".join(map(setting_text, value))
    return str(value)


def composition_table() -> str:
    """Which two changes work together: rows come first, columns after them."""
    rows = json.loads((RESULTS / "composition.json").read_text(encoding="utf-8"))["rows"]
    cells = {(row["first"], row["second"]): row for row in rows}
    firsts = list(dict.fromkeys(row["first"] for row in rows))
    seconds = [name for name in firsts if any(second == name for _, second in cells)]
    said = list(dict.fromkeys(row["says"] for row in rows if "says" in row))

    def mark(first: str, second: str) -> str:
        row = cells.get((first, second))
        if row is None:
            return ""
        return f"no ({said.index(row['says']) + 1})" if "says" in row else "yes"

    table = [{"first, then": first} | {second: mark(first, second) for second in seconds} for first in firsts]
    return "\n".join([markdown_table(table), "", *(f'{number}. "{text}"' for number, text in enumerate(said, 1))])


def compat_table() -> str:
    """Which versions the wheel was tested with, in clean environments."""
    rows = json.loads((RESULTS / "compat.json").read_text(encoding="utf-8"))["rows"]
    return markdown_table([compat_row(row) for row in rows])


def render(name: str, text: str) -> str:
    """Return a document with the text between each pair of its markers replaced."""
    for marker, body_of in MARKERS[name].items():
        start, end = f"<!-- {marker} -->\n", f"<!-- /{marker} -->"
        head, _, rest = text.partition(start)
        _, _, tail = rest.partition(end)
        if not tail:
            raise ValueError(
                f"{name} has no pair of markers {start.strip()} and {end}; add them where the table belongs"
            )
        text = f"{head}{start}{body_of()}\n{end}{tail}"
    return text


# Document -> marker -> who makes the text between it and its end.
MARKERS: dict[str, dict[str, Callable[[], str]]] = {
    README: {"methods": methods_table, "composition": composition_table},
    UPGRADING: {"compat": compat_table},
}


def wanted_documents() -> dict[str, str]:
    """The text of each document that says something of the results, as the results have it."""
    texts = {SCOREBOARD: scoreboard(), PAGE: results_page()}
    for name in dict.fromkeys(MARKERS) | {claim.document: None for claim in CLAIMS}:
        text = correct(CLAIMS, name, (ROOT / name).read_text(encoding="utf-8"), RESULTS)
        texts[name] = render(name, text) if name in MARKERS else text
    return texts


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="exit with 1 if a document is not up to date")
    check = parser.parse_args().check
    stale = []
    for name, wanted in wanted_documents().items():
        path = ROOT / name
        text = path.read_text(encoding="utf-8") if path.exists() else ""
        if wanted == text:
            continue
        if not check:
            path.write_text(wanted, encoding="utf-8")
            print(f"{name} written")
            continue
        pairs = zip_longest(text.splitlines(), wanted.splitlines(), fillvalue="")
        number, old, new = next((i, a, b) for i, (a, b) in enumerate(pairs, 1) if a != b)
        stale.append(f"{name}:{number} has\n  {old}\nand benchmarks/results or the list of methods say\n  {new}")
    if stale:
        print("\n".join(stale), "run make scoreboard", sep="\n", file=sys.stderr)
    return int(bool(stale))


if __name__ == "__main__":
    sys.exit(main())
