"""Every benchmark of this folder on one CUDA device, within 8 minutes and without a network.

Each part is a process of its own with a budget of time. What fails or takes longer is recorded with its error in
`gpu.json`, and the next part runs. No result of a GPU is in `benchmarks/results` until this has run on one; every
part runs on a CPU too, with sizes that only show that it works:

    python benchmarks/gpu/run_all.py
    python benchmarks/gpu/run_all.py --device cpu --tiny --folder runs/gpu-tiny
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any


sys.path.insert(0, str(Path(__file__).parents[1]))

from common import print_table, write
from part import Part, add_arguments, check


HERE = Path(__file__).parent
# Seconds of each part, its start included; together less than 8 minutes.
BUDGETS = {
    "bench_mos_gpu.py": 85,
    "bench_mote_gpu.py": 70,
    "bench_mot_gpu.py": 100,
    "bench_mwq_gpu.py": 65,
    "bench_mwq_offload_gpu.py": 65,
    "bench_swarm_gpu.py": 85,
}


def run_parts(budgets: Mapping[str, float], part: Part, scripts: Path = HERE) -> dict[str, Any]:
    """Run parts one after the other, and record how each ended, after each of them.

    Args:
        budgets: Seconds by script.
        part: Given to every script.
        scripts: Their folder.

    Returns:
        Status, seconds and error by script, as it is written.
    """
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error"}
    if part.device == "cpu":
        environment["CUDA_VISIBLE_DEVICES"] = ""
    flags = ["--device", part.device, "--folder", str(part.folder), *(["--tiny"] if part.tiny else [])]
    outcomes: dict[str, Any] = {}
    # A CPU is tried for what fails, not for how long it takes.
    factor = 10 if part.device == "cpu" else 1
    for script, seconds in budgets.items():
        budget = factor * seconds
        print(f"{script}, at most {budget} s", flush=True)
        began = time.monotonic()
        outcome: dict[str, Any] = {"status": "measured"}
        try:
            done = subprocess.run(
                [sys.executable, scripts / script, *flags],
                env=environment,
                stderr=subprocess.PIPE,
                text=True,
                timeout=budget,
                check=False,
            )
        except subprocess.TimeoutExpired:
            outcome = {"status": "failed", "error": f"stopped after its budget of {budget} s"}
        else:
            if done.returncode:
                lines = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
                outcome = {"status": "failed", "error": lines[-1], "end_of_stderr": lines[-30:]}
        outcomes[script] = outcome | {"seconds": time.monotonic() - began, "budget_seconds": budget}
        write("gpu", {"device": part.device, "tiny": part.tiny, "parts": outcomes}, part.folder)
    return outcomes


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser)
    outcomes = run_parts(BUDGETS, check(parser, parser.parse_args()))
    rows = [(name, o["status"], f"{o['seconds']:.0f}", o.get("error", "")) for name, o in outcomes.items()]
    print_table(("part", "status", "seconds", "error"), rows)
    return int(any(outcome["status"] == "failed" for outcome in outcomes.values()))


if __name__ == "__main__":
    sys.exit(main())
