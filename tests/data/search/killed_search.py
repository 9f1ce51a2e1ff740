"""One search on a made-up loss, killed at random moments and continued: a script of the test of `run_search`.

Usage: killed_search.py METHOD FOLDER SECONDS... It starts the search in a process of its own, kills it after so many
seconds, for each of them; then lets it end, and prints one line of JSON: how many were killed, and what was found.
Each evaluation leaves a line in FOLDER/evaluated.txt.
"""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import sys
import time
from pathlib import Path

import torch

from hf_mixture.data.search import AdmireSearch, ClimbSearch, Objective, run_search
from hf_mixture.data.search.session import SearchSession


SECONDS_PER_RUN = 0.02
SEARCHES = {
    "climb": lambda goal: ClimbSearch(("a", "b", "c"), goal, rounds=(24, 12, 6), predictor="gp", num_candidates=500),
    "admire": lambda goal: AdmireSearch(
        ("a", "b", "c"), goal, fidelities={0.1: 0.1, 1.0: 1.0}, budget=5.0, num_candidates=64, num_maxima=4
    ),
}


def loss(trial) -> dict[str, float]:
    a, b, _ = trial.weights
    return {"loss": (a - 0.3) ** 2 + (b - 0.5) ** 2 + 0.3 * (1 - trial.fidelity)}


def describe(search: SearchSession) -> str:
    result = dataclasses.asdict(search.propose())
    return json.dumps({"state": search.state_dict(), "result": result}, sort_keys=True)


def build(method: str) -> SearchSession:
    torch.set_num_threads(1)
    return SEARCHES[method](Objective("loss", "minimize"))


def run(method: str, folder: Path) -> SearchSession:
    search = build(method)

    def evaluate(trial) -> dict[str, float]:
        with (folder / "evaluated.txt").open("a") as log:
            log.write(trial.trial_id + "\n")
        time.sleep(SECONDS_PER_RUN)
        return loss(trial)

    run_search(search, evaluate, folder=folder)
    return search


def run_and_kill(method: str, folder: Path, seconds: float) -> bool:
    """Run in a process of its own; return whether the kill found it running."""
    pid = os.fork()
    if pid == 0:
        run(method, folder)
        os._exit(0)
    time.sleep(seconds)
    os.kill(pid, signal.SIGKILL)
    return os.WIFSIGNALED(os.waitpid(pid, 0)[1])


def main(method: str, folder: Path, moments: list[float]) -> None:
    killed = sum(run_and_kill(method, folder, seconds) for seconds in moments)
    print(json.dumps({"killed": killed, "found": describe(run(method, folder))}))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), [float(seconds) for seconds in sys.argv[3:]])
