"""The loop of a search: ask, run, tell; written to a folder after every step, so that a kill loses no finished run."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

from hf_mixture.data.search.protocol import Run, Trial
from hf_mixture.data.search.session import FORMAT, VERSION, SearchSession
from hf_mixture.hub.atomic import write_atomic
from hf_mixture.hub.damage import naming
from hf_mixture.hub.reading import read_document


STATE_FILE = "search.json"


@runtime_checkable
class BatchRunner(Protocol):
    """Runs many trials at once, for example as one stacked swarm."""

    def run(self, trials: Sequence[Trial]) -> Sequence[Run]:
        """Run the trials; one `Run` for each, in any order."""


Evaluate = Callable[[Trial], Mapping[str, float]] | BatchRunner


def run_search(
    search: SearchSession,
    evaluate: Evaluate,
    *,
    folder: str | os.PathLike[str] | None = None,
    batch_size: int | None = None,
) -> None:
    """Ask, run and tell until the search is done.

    With a folder, the state is written to `search.json` after every ask and every tell. A search that is built again
    with the same settings continues there: it runs what was asked and not told, then asks what the uninterrupted
    search would have asked. A kill loses at most the runs in flight.

    Args:
        search: The search.
        evaluate: Runs a trial and returns its metrics; or an object whose `run` takes several trials at once, such as
            `ProxyRunner` or `ProxySwarm`.
        folder: Where the state is kept. Default: nowhere.
        batch_size: Most trials that are asked at once, >= 1. Default: 1 for a function; for a batch runner, what
            the method can name without waiting for results (ADMIRE, which learns from each: 4).

    Raises:
        ValueError: The folder holds the state of another search, or the runner leaves out a trial.

    Example:
        ```python
        >>> from hf_mixture.data.search import GridSearch, Objective, run_search
        >>> search = GridSearch(["a", "b"], Objective("loss", "minimize"), steps=2)
        >>> run_search(search, lambda trial: {"loss": trial.weights[0]})
        >>> search.propose().weights
        (0.0, 1.0)

        ```
    """
    from tqdm import tqdm

    batched = isinstance(evaluate, BatchRunner)
    size = batch_size or (search.batch_size if batched else 1)
    path = None if folder is None else Path(folder) / STATE_FILE
    if path is not None:
        _restore(search, path)
    with tqdm(desc=f"{search.method} runs", unit="run", initial=len(search.runs)) as bar:
        while trials := search.pending or search.ask(size):
            _save(search, path)
            if isinstance(evaluate, BatchRunner):
                runs = list(evaluate.run(trials))
                _check_answers(trials, runs)
                search.tell(runs)
                _save(search, path)
                bar.update(len(runs))
                continue
            for trial in trials:
                search.tell(Run(trial.trial_id, evaluate(trial)))
                _save(search, path)
                bar.update()


def _save(search: SearchSession, path: Path | None) -> None:
    if path is not None:
        write_atomic(path, json.dumps(search.state_dict()) + "\n")


def _restore(search: SearchSession, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        return
    remedy = "remove it to start anew"
    state = read_document(path, FORMAT, VERSION, allow_nan=True, remedy=remedy)
    with naming(path, remedy):
        if search.trials and search.state_dict() != state:
            raise ValueError(
                f"{str(path)!r} holds the state of a search with {len(state['trials'])} trials, this search has "
                f"{len(search.trials)} of its own; pass a fresh search to continue there, or another folder"
            )
        search.load_state_dict(state)


def _check_answers(trials: Sequence[Trial], runs: Sequence[Run]) -> None:
    missing = {trial.trial_id for trial in trials} - {run.trial_id for run in runs}
    if missing:
        raise ValueError(
            f"evaluate.run returned {len(runs)} runs for {len(trials)} trials and left out {sorted(missing)[:5]}; "
            "it must return one for each: repair the runner"
        )
