"""Draws the picture of the README from `results/*.json`; `--check` only compares.

One measurement for each kind of mixture, as bars from zero, in plain SVG: equal results give equal bytes.
"""

from __future__ import annotations

import argparse
import json
import sys
from html import escape
from pathlib import Path
from typing import Any, NamedTuple


RESULTS = Path(__file__).parent / "results"
PICTURE = Path(__file__).parents[1] / "docs" / "results.svg"

WIDTH, HEIGHT, MARGIN, LABELS, ROW = 420, 190, 16, 150, 24
OURS, OTHERS = "#3949ab", "#b0b6c8"


class Bar(NamedTuple):
    """One bar: its label, its value, the value as text, and whether it is this package's."""

    label: str
    value: float
    shown: str
    ours: bool


def read(name: str) -> dict[str, Any]:
    result: dict[str, Any] = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
    return result


def adapters() -> list[Bar]:
    methods = read("mos_adapter_bytes")["methods"]
    names = ("MoS r=16 e=2", "LoRA r=2", "LoRA r=16")
    sizes = [(name, methods[name]["file_bytes"] / 1e6) for name in names]
    return [Bar(name, size, f"{size:.2f} MB", name.startswith("MoS")) for name, size in sizes]


def experts() -> list[Bar]:
    rows = {row["name"]: row for row in read("d2moe")["rows"]}
    names = ("nested at 2 bits", "nested at 4 bits", "bfloat16")
    shown = [(name, rows[name]["disk_bytes"] / 1e6, rows[name]["bits_per_byte"]) for name in names]
    return [Bar(name, size, f"{size:.1f} MB, {bits:.3f} bits", name != "bfloat16") for name, size, bits in shown]


def models() -> list[Bar]:
    systems = {system["name"]: system["bits_per_byte"] for system in read("mot_domains")["systems"]}
    names = {
        "mot": "mixture",
        "lora": "LoRA on the best",
        "docs": "best expert",
        "headers": "second",
        "python": "third",
    }
    return [Bar(label, systems[name], f"{systems[name]:.3f}", name == "mot") for name, label in names.items()]


def data() -> list[Bar]:
    times = read("interleave_map")["nanoseconds_per_row"]["cpu"]
    names = {"mixture=Mixture(...)": "Mixture", "datasets, all_exhausted": "datasets"}
    medians = [(label, times[name]["median"]) for name, label in names.items()]
    return [Bar(label, value, f"{value:.0f} ns", label == "Mixture") for label, value in medians]


def panel(title: str, bars: list[Bar], x: int, y: int) -> list[str]:
    """The lines of one panel, with its upper left corner at (x, y)."""
    lines = [f'<text x="{x}" y="{y + 14}" class="title">{escape(title)}</text>']
    longest = max(bar.value for bar in bars)
    room = WIDTH - LABELS - 130
    for index, bar in enumerate(bars):
        top = y + 28 + index * ROW
        length = round(bar.value / longest * room, 1)
        fill = OURS if bar.ours else OTHERS
        lines += [
            f'<text x="{x + LABELS - 8}" y="{top + 13}" class="label">{escape(bar.label)}</text>',
            f'<rect x="{x + LABELS}" y="{top}" width="{length}" height="{ROW - 7}" fill="{fill}"/>',
            f'<text x="{x + LABELS + length + 6}" y="{top + 13}">{escape(bar.shown)}</text>',
        ]
    return lines


def draw() -> str:
    """The picture as SVG."""
    panels = (
        ("Parameters: an adapter of rank 16 on disk", adapters()),
        ("Experts: on disk, and bits per byte of held-out text", experts()),
        ("Models: bits per byte of mixed documents", models()),
        ("Data: interleaving a row of map-style data sets", data()),
    )
    width, height = 2 * WIDTH + 3 * MARGIN, 2 * HEIGHT + MARGIN
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}">',
        "<style>text{font:13px sans-serif;fill:#222}.title{font-weight:bold}.label{text-anchor:end}</style>",
        f'<rect width="{width}" height="{height}" fill="#fff"/>',
    ]
    for index, (title, bars) in enumerate(panels):
        lines += panel(title, bars, MARGIN + index % 2 * (WIDTH + MARGIN), MARGIN + index // 2 * HEIGHT)
    return "\n".join([*lines, "</svg>", ""])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="exit with 1 if the picture is not up to date")
    check = parser.parse_args().check
    if PICTURE.is_file() and PICTURE.read_text(encoding="utf-8") == draw():
        return 0
    if check:
        print(f"{PICTURE} is not what benchmarks/results say; run make scoreboard", file=sys.stderr)
        return 1
    PICTURE.write_text(draw(), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
