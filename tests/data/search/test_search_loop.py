"""The loop of a search: batches, and a state on disk that outlives kills."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from two_processes import run_alone

from hf_mixture.data.search import (
    AdmireSearch,
    ClimbSearch,
    GridSearch,
    Objective,
    RegMixSearch,
    Run,
    RunTable,
    run_search,
    search_result,
)


SCRIPT = Path(__file__).parent / "killed_search.py"
DOMAINS = ("a", "b", "c")
GOAL = Objective("loss", "minimize")
sys.path.insert(0, str(SCRIPT.parent))
from killed_search import SECONDS_PER_RUN, build, describe, loss  # noqa: E402


def kill_and_continue(method: str, folder: Path, kills: int) -> None:
    """Kill the search at random moments, continue it each time, and compare with the uninterrupted one."""
    whole = build(method)
    run_search(whole, loss)
    # The moments add up to less than the search takes, so that each kill finds it running.
    moments = np.random.default_rng(kills).dirichlet(np.ones(kills + 1))[1:] * len(whole.runs) * SECONDS_PER_RUN
    answer = json.loads(run_alone(SCRIPT, method, folder, *moments))
    assert answer["killed"] == kills
    assert answer["found"] == describe(whole)
    # A kill loses at most the run in flight.
    evaluated = (folder / "evaluated.txt").read_text().split()
    assert set(evaluated) == {run.trial_id for run in whole.runs}
    assert len(evaluated) <= len(whole.runs) + kills


def test_a_killed_search_continues_as_if_it_had_not_stopped(tmp_path) -> None:
    kill_and_continue("admire", tmp_path, kills=2)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["climb", "admire"])
def test_searches_killed_at_many_moments_continue(method, tmp_path) -> None:
    kill_and_continue(method, tmp_path, kills=20)


class Swarm:
    """Runs whole batches and remembers their sizes."""

    def __init__(self) -> None:
        self.sizes: list[int] = []

    def run(self, trials) -> list[Run]:
        self.sizes.append(len(trials))
        return [Run(trial.trial_id, loss(trial)) for trial in reversed(trials)]


@pytest.mark.parametrize(
    ("search", "sizes"),
    [
        (lambda: RegMixSearch(DOMAINS, GOAL, num_runs=20, max_usage=None, predictor="ridge"), [20]),
        (lambda: ClimbSearch(DOMAINS, GOAL, rounds=(12, 6, 3), predictor="ridge"), [12, 6, 3]),
        (lambda: AdmireSearch(DOMAINS, GOAL, budget=10.0, num_candidates=32), [4, 4, 2]),
        (lambda: GridSearch(DOMAINS, GOAL, steps=2), [6]),
    ],
)
def test_batch_runners_get_what_the_method_can_name(search, sizes) -> None:
    swarm = Swarm()
    run_search(search(), swarm)
    assert swarm.sizes == sizes
    swarm = Swarm()
    run_search(search(), swarm, batch_size=2)
    assert max(swarm.sizes) == 2


def test_a_search_in_a_folder_is_the_search_without(tmp_path) -> None:
    settings = {"objective": "loss", "direction": "minimize", "evaluate": loss, "predictor": "ridge", "rounds": (9, 4)}
    first = search_result("climb", DOMAINS, **settings, folder=tmp_path / "new")
    assert first == search_result("climb", DOMAINS, **settings)

    def never(trial):
        raise AssertionError(trial)

    assert search_result("climb", DOMAINS, **{**settings, "evaluate": never}, folder=tmp_path / "new") == first


def stopped(folder: Path, **settings) -> None:
    """A search that stops after four runs."""
    search = ClimbSearch(DOMAINS, GOAL, rounds=(6, 3), predictor="ridge", **settings)

    def evaluate(trial):
        if len(search.runs) == 4:
            raise KeyboardInterrupt
        return loss(trial)

    with pytest.raises(KeyboardInterrupt):
        run_search(search, evaluate, folder=folder)


def test_a_folder_of_another_search_is_refused_and_left_as_it_is(tmp_path) -> None:
    """A domain is missing, the table of earlier runs has changed, or a setting has: nothing is run or written."""
    rows = np.random.default_rng(0).dirichlet(np.ones(3), 6)
    earlier = RunTable(range(6), DOMAINS, rows, {"loss": rows[:, 0]})
    changed = RunTable(range(6), DOMAINS, rows, {"loss": rows[:, 0] + np.eye(6)[0] * 1e-9})
    stopped(tmp_path, table=earlier)
    before = (tmp_path / "search.json").read_bytes()
    others = {
        r"domains=\['a', 'b', 'c'\], this search has \['a', 'b'\]": (DOMAINS[:2], {}),
        "table='[0-9a-f]{64}', this search has '[0-9a-f]{64}'": (DOMAINS, {"table": changed}),
        "table='[0-9a-f]{64}', this search has None": (DOMAINS, {}),
        "predictor='ridge', this search has 'gp'": (DOMAINS, {"table": earlier, "predictor": "gp"}),
        "pool=None, this search has": (DOMAINS, {"table": earlier, "pool": np.eye(3).repeat(3, axis=0)}),
    }
    for message, (domains, settings) in others.items():
        search = ClimbSearch(domains, GOAL, rounds=(6, 3), **{"predictor": "ridge", **settings})
        with pytest.raises(ValueError, match=message):
            run_search(search, lambda trial: pytest.fail(trial.trial_id), folder=tmp_path)
    assert (tmp_path / "search.json").read_bytes() == before
    same = ClimbSearch(DOMAINS, GOAL, rounds=(6, 3), predictor="ridge", table=earlier)
    run_search(same, loss, folder=tmp_path)
    assert len(same.runs) == 9


def test_a_search_with_trials_of_its_own_does_not_take_over_a_folder(tmp_path) -> None:
    stopped(tmp_path)
    search = ClimbSearch(DOMAINS, GOAL, rounds=(6, 3), predictor="ridge", seed=1)
    search.ask()
    with pytest.raises(ValueError, match="with 5 trials, this search has 1 of its own"):
        run_search(search, loss, folder=tmp_path)
    (tmp_path / "search.json").write_text("{")
    with pytest.raises(ValueError, match=r"search\.json is not valid JSON .*remove it to start anew"):
        run_search(ClimbSearch(DOMAINS, GOAL), loss, folder=tmp_path)


def test_a_runner_that_drops_a_trial_is_refused() -> None:
    class Lossy(Swarm):
        def run(self, trials) -> list[Run]:
            return super().run(trials)[1:]

    search = GridSearch(DOMAINS, GOAL, steps=2)
    with pytest.raises(ValueError, match=r"returned 5 runs for 6 trials and left out \['grid-00005'\]"):
        run_search(search, Lossy())
    assert search.runs == []
