"""The packaged recipes `regmix` and `aioli` on seven domains of real text, against natural and stratified sampling.

    python benchmarks/corpora.py
    python benchmarks/end_to_end.py [regmix] [aioli] [--folder DIR]

Decided before any run: RegMix trains on six domains and is asked for the loss on the seventh, English manual pages,
which no model is trained on; Aioli mixes all seven and is asked for their mean loss, with twice the steps of the
recipe. Models, seeds and learning rates are those of the recipes; every mixture gets the same number of tokens, and
what LearnParams trains on counts.

A run that was interrupted continues in its folder. Results go to `results/end_to_end_<name>.json`.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

from common import write
from corpora import corpora, corpora_folder

from hf_mixture.training.resolve import find_recipe
from hf_mixture.training.search.report import comparison_table
from hf_mixture.training.search.resolve import resolve_search
from hf_mixture.training.search.run import search_recipe


HELD_OUT = "manpages"
NAMES = ("regmix", "aioli")


def overrides(name: str, folder: Path) -> list[tuple[str, Any]]:
    """What differs from the packaged recipe."""
    paths = corpora()
    given: list[tuple[str, Any]] = [
        ("output_dir", str(folder / name)),
        ("description", f"The recipe {name} on text from Debian packages and the standard library."),
    ]
    if name == "regmix":
        given += [("targets", {HELD_OUT: paths.pop(HELD_OUT)}), ("objective.metric", f"loss/{HELD_OUT}")]
    else:
        # Seven domains need longer rounds for the same share of LearnParams.
        given += [
            ("comparison.training_arguments.max_steps", 600),
            ("method.settings.prior_steps", 60),
            ("method.settings.update_steps", 180),
        ]
    return [*given, ("domains", paths)]


def run(name: str, folder: Path) -> dict[str, Any]:
    """Run one recipe, or continue it.

    Returns:
        The content of its `results.json`, and the seconds that this call took.
    """
    began = time.perf_counter()
    recipe = resolve_search(find_recipe(name), overrides=overrides(name, folder))
    results = search_recipe(recipe, resume=True, command=f"python benchmarks/end_to_end.py {name}")
    return {**results, "recipe": recipe.to_dict(), "seconds_of_the_last_call": time.perf_counter() - began}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", choices=[*NAMES, []], default=list(NAMES))
    parser.add_argument("--folder", type=Path, default=corpora_folder().parent / "end_to_end")
    args = parser.parse_args()
    for name in args.names:
        results = run(name, args.folder)
        print(comparison_table(results))
        # Paths of this machine are nobody else's.
        del results["recipe"]["output_dir"], results["recipe"]["domains"], results["recipe"]["targets"]
        # A stored result has a name of its own.
        del results["name"]
        write(f"end_to_end_{name}", results)


if __name__ == "__main__":
    main()
