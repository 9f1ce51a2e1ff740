"""Writes the tables of the README: the methods, and what the benchmarks measured; `--check` only compares.

No figure of the README is typed: each comes from a file in `results/`, and this is the only place that formats them.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from scoreboard_rows import SETTINGS, TABLES

from hf_mixture.hub.cards import markdown_table
from hf_mixture.methods import list_methods


ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
README = ROOT / "README.md"


def methods_table() -> str:
    rows = [
        {
            "method": method.name,
            "mixes": method.kind,
            "what you write": f"`{method.plug_point}`",
            "paper": method.paper,
            "document": f"[{Path(method.document).name}]({method.document})",
            "measured": ", ".join(f"[{name}](benchmarks/results/{name}.json)" for name in method.evidence),
        }
        for method in list_methods()
    ]
    return markdown_table(rows)


def results_tables() -> str:
    parts = []
    for name, (heading, rows_of) in TABLES.items():
        path = RESULTS / f"{name}.json"
        if not path.exists():
            continue
        result = json.loads(path.read_text(encoding="utf-8"))
        machine = result["machine"]
        device = machine["gpu"] or f"{machine['cpu']}, {machine['threads']} thread{'s' * (machine['threads'] > 1)}"
        named = result.get("setting") or {key: result[key] for key in SETTINGS if key in result}
        setting = ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in named.items())
        about = f"{setting}; {device}" if setting else device
        parts += [
            f"**{heading}** ({about}; `benchmarks/results/{name}.json`)",
            "",
            markdown_table(rows_of(result)),
            "",
        ]
    return "\n".join(parts).rstrip()


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


def render(text: str) -> str:
    """Return the README with the text between each pair of markers replaced."""
    bodies = {"methods": methods_table(), "results": results_tables(), "composition": composition_table()}
    for name, body in bodies.items():
        start, end = f"<!-- {name} -->\n", f"<!-- /{name} -->"
        head, _, rest = text.partition(start)
        _, _, tail = rest.partition(end)
        if not tail:
            raise ValueError(
                f"README.md has no pair of markers {start.strip()} and {end}; add them where the table belongs"
            )
        text = f"{head}{start}{body}\n{end}{tail}"
    return text


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="exit with 1 if the README is not up to date")
    check = parser.parse_args().check
    text = README.read_text(encoding="utf-8")
    wanted = render(text)
    if wanted == text:
        return 0
    if check:
        print("README.md is not what benchmarks/results and the list of methods say; run make readme", file=sys.stderr)
        return 1
    README.write_text(wanted, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
