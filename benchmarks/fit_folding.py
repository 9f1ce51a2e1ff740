"""Fit the four constants of the cost model to every other published cell, and compare with the rest.

The cells are the tables of the paper, in `published/`. A cell names the sizes of its mapping where the paper does;
what it does not name is what the cost model finds best, as the paper reports the best setting of each method.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
from pathlib import Path
from typing import Any

from common import print_table, write

from hf_mixture.moe.parallel.cost import CostConstants
from hf_mixture.moe.parallel.planner import Candidate, best_of_plan, plans_of
from hf_mixture.moe.parallel.shape import ModelShape, cluster_of


PUBLISHED = Path(__file__).parent / "published" / "moe_parallel_folding.json"


def load_cells(key: str = "cells") -> list[dict[str, Any]]:
    """The cells, each with the shape of its model and the length of its sequences."""
    content = json.loads(PUBLISHED.read_text(encoding="utf-8"))
    shapes = {name: ModelShape(**sizes) for name, sizes in content["models"].items()}
    return [{"sequence": content["sequence"], **cell, "shape": shapes[cell["model"]]} for cell in content[key]]


def long_context(cell: dict[str, Any], constants: CostConstants) -> dict[str, Any]:
    """A cell with a long sequence, of which nothing was fitted; the global batch, which is not said, is 256."""
    found = predict({**cell, "method": "folding", "global_batch": 256}, constants)
    predicted = None if found is None else 100 * found.estimate.mfu
    mapping = None if found is None else found.mapping.plan.sizes()
    names = ("model", "sequence", "gpus")
    return {
        **{name: cell[name] for name in names},
        "published": cell["mfu"],
        "predicted": predicted,
        "mapping": mapping,
    }


def predict(cell: dict[str, Any], constants: CostConstants | None = None) -> Candidate | None:
    """The best mapping of a cell that fits; None if none does."""
    found = []
    for plan in plans_of(cell["shape"], cell["gpus"], cell["method"], cell["sequence"]):
        if any(getattr(plan, name) != size for name, size in cell["sizes"].items()):
            continue
        best = best_of_plan(
            cell["shape"],
            plan,
            cluster_of("h100", cell["gpus"]),
            sequence=cell["sequence"],
            global_batch=cell["global_batch"],
            micro_batches=(1,),
            method=cell["method"],
            constants=constants,
        )
        if best is not None and best.fits:
            found.append(best)
    return max(found, key=lambda candidate: candidate.estimate.mfu, default=None)


def fit(cells: list[dict[str, Any]]) -> CostConstants:
    """The constants with the smallest sum of absolute differences of logarithms."""
    import numpy as np
    from scipy.optimize import minimize

    names = ("node", "network", "gemm", "small")

    def constants_of(logarithms: Any) -> CostConstants:
        return CostConstants(**dict(zip(names, map(float, np.exp(logarithms)), strict=True)))

    def loss(logarithms: Any) -> float:
        constants, total = constants_of(logarithms), 0.0
        for cell in cells:
            found = predict(cell, constants)
            total += 1.0 if found is None else abs(math.log(100 * found.estimate.mfu / cell["mfu"]))
        return total

    start = np.log([0.5, 1.0, 0.7, 200.0])
    return constants_of(minimize(loss, start, method="Nelder-Mead", options={"maxiter": 120}).x)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dry-run", action="store_true", help="print the tables without writing results")
    dry_run = parser.parse_args().dry_run
    from scipy.stats import spearmanr

    cells = load_cells()
    measured = [cell for cell in cells if cell["mfu"] is not None]
    fitted = measured[::2]
    constants = fit(fitted)
    rows, errors = [], {"fitted": [], "held out": []}
    for cell in cells:
        found = predict(cell, constants)
        mfu = None if found is None else 100 * found.estimate.mfu
        half = "out of memory" if cell["mfu"] is None else "fitted" if cell in fitted else "held out"
        if cell["mfu"] is not None:
            errors[half].append(math.inf if mfu is None else abs(mfu / cell["mfu"] - 1))
        rows.append(
            {
                **{name: cell[name] for name in ("model", "gpus", "global_batch", "method")},
                "half": half,
                "published": cell["mfu"],
                "predicted": mfu,
                "mapping": None if found is None else found.mapping.plan.sizes(),
            }
        )
    long = [long_context(cell, constants) for cell in load_cells("long_context")]
    first = [row for row in rows if row["global_batch"] == 256]
    both = [(row["published"], row["predicted"]) for row in first if row["published"] and row["predicted"]]
    summary = {
        "median_error_fitted": statistics.median(errors["fitted"]),
        "median_error_held_out": statistics.median(errors["held out"]),
        "largest_error_held_out": max(errors["held out"]),
        "spearman_of_first_table": float(spearmanr(*zip(*both, strict=True))[0]),
        "out_of_memory_predicted": sum(r["predicted"] is None for r in rows if r["published"] is None),
        "largest_error_long_context": max(abs(row["predicted"] / row["published"] - 1) for row in long),
        "out_of_memory_wrongly": sum(r["predicted"] is None for r in rows if r["published"] is not None),
    }
    print_table(
        ("model", "GPUs", "batch", "method", "published", "predicted", "mapping"),
        [
            (
                row["model"],
                row["gpus"],
                row["global_batch"],
                row["method"],
                row["published"] or "OOM",
                "OOM" if row["predicted"] is None else f"{row['predicted']:.1f}",
                row["mapping"],
            )
            for row in rows
        ],
    )
    print(constants, summary)
    if not dry_run:
        write("folding_cost", {"constants": vars(constants), "summary": summary, "cells": rows, "long_context": long})


if __name__ == "__main__":
    main()
