"""From mixtures to losses: what is common to proxies that train one by one and to those that train stacked."""

from __future__ import annotations

import hashlib
import json
import math
import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch

from hf_mixture.data.proxy.journal import RunJournal
from hf_mixture.data.proxy.models import build_config, mean_loss
from hf_mixture.data.proxy.peers import Peers
from hf_mixture.data.proxy.samples import ProxyData
from hf_mixture.data.proxy.spec import ProxySpec
from hf_mixture.data.search.protocol import Run, Trial


if TYPE_CHECKING:
    from hf_mixture.data.mixture import Mixture

SUM_TOLERANCE = 1e-6

Record = dict[str, Any]


class ProxyFailed(RuntimeError):
    """Some runs ended with a loss that is not finite; the others are finished.

    Args:
        failed: Ids of the trials and what was wrong.
        runs: The runs that were finished.
    """

    def __init__(self, failed: Mapping[str, str], runs: Sequence[Run]) -> None:
        shown = "; ".join(f"{name}: {reason}" for name, reason in list(failed.items())[:5])
        super().__init__(
            f"{len(failed)} of {len(failed) + len(runs)} proxy runs failed ({shown}); they are recorded as failed and "
            "would fail again: lower learning_rate or max_grad_norm (a new folder), or leave these mixtures out"
        )
        self.failed = dict(failed)
        self.runs = list(runs)


class ProxyExperiments:
    """Base class of `ProxyRunner` and `ProxySwarm`: checks, journal, processes.

    Subclasses say how trials are grouped (`_groups`) and how one group is trained and scored (`_measure`).
    """

    kind = ""

    def __init__(
        self,
        spec: ProxySpec,
        train: Mapping[str, Any],
        validation: Mapping[str, Any],
        *,
        folder: str | os.PathLike[str] | None = None,
        device: str | None = None,
    ) -> None:
        self.spec = spec
        self.data = ProxyData(train, validation, spec.eval_samples)
        context = getattr(build_config(spec), "max_position_embeddings", None)
        if context is not None and self.data.length > context:
            raise ValueError(
                f"the samples have {self.data.length} tokens and the model has max_position_embeddings={context}; "
                "raise that or cut shorter samples"
            )
        self.peers = Peers()
        if device is None:
            device = f"cuda:{self.peers.local_index}" if torch.cuda.is_available() else "cpu"
        self.device = torch.device(device)
        self.identity = {
            "kind": self.kind,
            "spec": spec.to_dict(),
            "domains": list(self.data.domains),
            "data": self.data.fingerprints(),
        }
        self._hash = _sha256(self.identity)
        # Process 0 writes the header before the others look for it.
        self.journal: RunJournal | None = None
        for turn in range(2):
            if folder is not None and (self.peers.index > 0) == bool(turn):
                self.journal = RunJournal(folder, self.identity, process=self.peers.index)
            self.peers.gather(None)
        self._memory: dict[str, Record] = {}

    def __call__(self, trial: Trial | Mixture) -> dict[str, float]:
        """Run one trial; on several processes, all must call it with the same trial.

        Returns:
            `loss/<domain>` in nats per token for each validation domain, and `loss/mean`.
        """
        return dict(self.run([trial])[0].metrics)

    def run(self, trials: Iterable[Trial | Mixture]) -> list[Run]:
        """Train and score a proxy for each trial; finished ones are read from the journal.

        On several processes all must call it with the same trials; each trains its share, and all return the same.

        Args:
            trials: Trials, or mixtures with a name, which is their id. Their domains are those of `train`.

        Returns:
            A run for each trial, in their order.

        Raises:
            ValueError: Domains differ, a weight or fidelity is not valid, an id repeats, or the journal has a run
                with the same id and another mixture. Nothing is trained then.
            ProxyFailed: A loss is not finite; all other trials are finished.
        """
        wanted = [self._check(trial) for trial in trials]
        _check_unique([trial.trial_id for trial in wanted])
        keys = {trial.trial_id: self.key(trial) for trial in wanted}
        done = self.peers.from_first(self._memory if self.journal is None else self.journal.read())
        for trial in wanted:
            record = done.get(trial.trial_id)
            if record is not None and record["key"] != keys[trial.trial_id]:
                raise ValueError(
                    f"trial {trial.trial_id!r} was run with weights {record['weights']} at fidelity "
                    f"{record['fidelity']}, and now has {self._weights(trial)} at {trial.fidelity}; give the new one "
                    "another id, or choose another folder"
                )
        groups = [group for group in self._groups(wanted) if any(trial.trial_id not in done for trial in group)]
        mine = groups[self.peers.index :: self.peers.num]
        records: dict[str, Record] = {}
        with self._bar(sum(map(len, mine))) as bar:
            for group in mine:
                found = self._records(group, keys, bar.update)
                new = [record for record in found if record["trial_id"] not in done]
                if self.journal is not None:
                    self.journal.append(new)
                self._finished(group)
                records.update({record["trial_id"]: record for record in new})
        for part in self.peers.gather(records):
            done.update(part)
        if self.journal is None:
            self._memory = done
        return _runs_of([done[trial.trial_id] for trial in wanted])

    def key(self, trial: Trial) -> str:
        """Hash of all that the losses of a trial depend on: spec, data, weights, fidelity."""
        weights = {name: weight for name, weight in self._weights(trial).items() if weight > 0}
        return _sha256([self._hash, sorted(weights.items()), trial.fidelity])

    def shares(self, trial: Trial) -> list[float]:
        """Weights of a trial in the order of `train`."""
        weights = self._weights(trial)
        return [weights[name] for name in self.data.domains]

    def _weights(self, trial: Trial) -> dict[str, float]:
        return dict(zip(trial.domains, trial.weights, strict=True))

    def _records(
        self, group: Sequence[Trial], keys: Mapping[str, str], progress: Callable[[int], Any]
    ) -> list[Record]:
        began = time.perf_counter()
        losses = self._measure(group, progress)
        seconds = (time.perf_counter() - began) / len(group)
        records = []
        for trial, found in zip(group, losses, strict=True):
            wrong = {name: loss for name, loss in found.items() if not math.isfinite(loss)}
            records.append(
                {
                    "trial_id": trial.trial_id,
                    "key": keys[trial.trial_id],
                    "weights": self._weights(trial),
                    "fidelity": trial.fidelity,
                    "steps": self.spec.steps(trial.fidelity),
                    "seconds": seconds,
                    "metrics": None if wrong else mean_loss(found),
                    "failure": f"loss is {next(iter(wrong.values()))} on {list(wrong)}" if wrong else None,
                }
            )
        return records

    def _check(self, given: Trial | Mixture) -> Trial:
        trial = given if isinstance(given, Trial) else _trial_of(given)
        if sorted(trial.domains) != sorted(self.data.domains):
            missing = sorted(set(self.data.domains) - set(trial.domains))
            unknown = sorted(set(trial.domains) - set(self.data.domains))
            raise ValueError(
                f"trial {trial.trial_id!r} has domains {list(trial.domains)} and train has {list(self.data.domains)}: "
                f"missing {missing}, unknown {unknown}; give each domain one weight, 0 to leave it out"
            )
        total = math.fsum(trial.weights)
        if not (all(0 <= weight < math.inf for weight in trial.weights) and abs(total - 1) <= SUM_TOLERANCE):
            raise ValueError(
                f"weights of trial {trial.trial_id!r} are {list(trial.weights)} with sum {total}; they must be >= 0 "
                "with sum 1: divide by their sum"
            )
        if not 0 < trial.fidelity <= 1:
            raise ValueError(
                f"fidelity of trial {trial.trial_id!r} is {trial.fidelity!r}; it must be in (0, 1]: divide by the "
                "target"
            )
        return trial

    def _groups(self, trials: Sequence[Trial]) -> list[list[Trial]]:
        """Trials that are trained together."""
        raise NotImplementedError

    def _measure(self, group: Sequence[Trial], progress: Callable[[int], Any]) -> list[dict[str, float]]:
        """Train and score one group.

        Args:
            group: The trials.
            progress: To be called with the number of runs that were finished.

        Returns:
            Loss of each validation domain in nats per token, for each trial.
        """
        raise NotImplementedError

    def _finished(self, group: Sequence[Trial]) -> None:
        """Clean up after a group that is in the journal."""

    def _bar(self, num_runs: int) -> Any:
        from tqdm.auto import tqdm

        return tqdm(total=num_runs, desc="proxy runs", unit="run", disable=self.peers.index > 0 or num_runs == 0)


def _trial_of(mixture: Mixture) -> Trial:
    if mixture.name is None:
        raise ValueError("the mixture has no name; name it, the name is the id of its run")
    if mixture.schedule is not None or mixture.policies:
        raise ValueError(
            f"mixture {mixture.name!r} has a schedule or policies; a proxy measures constant weights: pass those as "
            "trials, or train with MixtureDataset"
        )
    if mixture.unit == "bytes":
        raise ValueError(
            f"mixture {mixture.name!r} counts bytes; samples of a proxy are equally long in tokens: set unit='tokens'"
        )
    return Trial(mixture.name, mixture.names, tuple(mixture.shares))


def _runs_of(records: Sequence[Record]) -> list[Run]:
    runs = [Run(record["trial_id"], record["metrics"]) for record in records if record["failure"] is None]
    failed = {record["trial_id"]: record["failure"] for record in records if record["failure"] is not None}
    if failed:
        raise ProxyFailed(failed, runs)
    return runs


def _check_unique(ids: Sequence[str]) -> None:
    if repeated := sorted({name for name in ids if ids.count(name) > 1}):
        raise ValueError(f"trial ids {repeated[:5]} repeat; each run needs an id of its own: rename them")


def _sha256(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
