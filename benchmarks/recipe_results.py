"""Keep the results of a recipe's run: `recipe_results.py runs/mot_domains` writes `results/mot_domains.json`.

Run it on the machine that ran the recipe, which the file names.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from common import write


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folders", nargs="+", metavar="RUN", type=Path, help="folder of a finished run")
    for folder in parser.parse_args().folders:
        results = json.loads((folder / "results.json").read_text(encoding="utf-8"))
        # The runner's own note of the machine is shorter.
        results.pop("machine", None)
        write(results.pop("name"), results)


if __name__ == "__main__":
    main()
