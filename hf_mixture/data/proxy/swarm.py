"""`ProxySwarm`: many proxies trained at once as one stacked model.

Letters: P proxies of a chunk, B samples of a step, T tokens of a sample.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from hf_mixture.data.proxy.experiments import ProxyExperiments
from hf_mixture.data.proxy.models import build_model, check_tokens
from hf_mixture.data.proxy.stacked import StackedCausalLM, check_stacking
from hf_mixture.data.proxy.stacked_training import StackedTraining
from hf_mixture.data.search.protocol import Trial
from hf_mixture.hub.atomic import write_atomic
from hf_mixture.hub.damage import reading
from hf_mixture.hub.reading import check_format, read_tensors


Int64 = NDArray[np.int64]

FORMAT = "hf_mixture_swarm"
VERSION = 1
# Steps whose samples are looked up in the plans at once.
_WINDOW = 256


class ProxySwarm(ProxyExperiments):
    """Turns mixtures into losses by training many proxies as one stacked model; equal to `ProxyRunner`.

    All proxies of a chunk take their steps together, each on a batch of its own mixture, with its own gradient norm
    and moments. What a Trainer costs a run and a small kernel costs a step is paid once a chunk. Losses agree with
    those of `ProxyRunner` up to the rounding of float32, some 1e-6. The same list of trials gives the same losses bit
    by bit; the same trial in a stack of another size may differ in the last bits.

    Finished runs are kept in a journal, one line each. A chunk that takes longer than `checkpoint_seconds` saves its
    state, so that a process that is killed loses no more than that. Under `torchrun` or `accelerate launch` the chunks
    are shared out among the processes.

    Args:
        spec: As for `ProxyRunner`. The model must have no dropout.
        train: As for `ProxyRunner`.
        validation: As for `ProxyRunner`.
        folder: Where journal and checkpoints are kept; shared by all processes. Default: nowhere.
        device: Device of the training. Default: the GPU of this process, else the CPU.
        max_stack: Largest P, >= 1; memory grows with it. Default: 16.
        checkpoint_seconds: Time between two checkpoints of a chunk, > 0. Default: 60.

    Raises:
        ValueError: As for `ProxyRunner`, or the model cannot be stacked.

    Example:
        ```python
        >>> import torch
        >>> from hf_mixture.data.proxy import ProxySpec, ProxySwarm
        >>> from hf_mixture.data.search import Trial
        >>> train = {"odd": torch.full((9, 8), 1), "even": torch.full((9, 8), 2)}
        >>> swarm = ProxySwarm(ProxySpec(num_steps=5, learning_rate=0.01), train, validation=train)
        >>> shares = [(1.0, 0.0), (0.5, 0.5), (0.0, 1.0)]
        >>> runs = swarm.run(Trial(f"run-{i}", ("odd", "even"), share) for i, share in enumerate(shares))
        >>> runs[0].metrics["loss/odd"] < runs[1].metrics["loss/odd"] < runs[2].metrics["loss/odd"]
        True

        ```
    """

    kind = "swarm"

    def __init__(
        self,
        spec: Any,
        train: Mapping[str, Any],
        validation: Mapping[str, Any],
        *,
        folder: str | os.PathLike[str] | None = None,
        device: str | None = None,
        max_stack: int = 16,
        checkpoint_seconds: float = 60.0,
    ) -> None:
        if isinstance(max_stack, bool) or not isinstance(max_stack, int) or max_stack < 1:
            raise ValueError(f"max_stack={max_stack!r} is not an integer >= 1; give the most proxies of one stack")
        if not checkpoint_seconds > 0:
            raise ValueError(f"checkpoint_seconds={checkpoint_seconds!r} is not above 0; give the time in seconds")
        check_stacking(lambda: build_model(spec))
        super().__init__(spec, train, validation, folder=folder, device=device)
        self.max_stack = max_stack
        self.checkpoint_seconds = checkpoint_seconds

    def _groups(self, trials: Sequence[Trial]) -> list[list[Trial]]:
        # The chunks follow from the list of trials alone, not from what is finished, so that a run that is continued
        # stacks the same proxies as an uninterrupted one.
        by_steps: dict[int, list[Trial]] = {}
        for trial in trials:
            by_steps.setdefault(self.spec.steps(trial.fidelity), []).append(trial)
        groups = []
        for same in by_steps.values():
            num = -(-len(same) // self.max_stack)
            num = min(len(same), -(-num // self.peers.num) * self.peers.num)
            groups += [[same[number] for number in part] for part in np.array_split(np.arange(len(same)), num)]
        return groups

    def _measure(self, group: Sequence[Trial], progress: Callable[[int], Any]) -> list[dict[str, float]]:
        num_steps = self.spec.steps(group[0].fidelity)
        model = StackedCausalLM(build_model(self.spec), len(group)).to(self.device)
        training = StackedTraining(model, self.spec, num_steps)
        checkpoint = self._checkpoint(group)
        if checkpoint is not None:
            _restore(training, checkpoint)
        self._train(training, group, checkpoint)
        losses = self._evaluate(model)
        progress(len(group))
        return losses

    def _train(self, training: StackedTraining, group: Sequence[Trial], checkpoint: Path | None) -> None:
        from tqdm.auto import tqdm

        batch_size = self.spec.batch_size
        plans = [
            self.data.plan(self.shares(trial), training.num_steps * batch_size, self.spec.seed) for trial in group
        ]
        saved = time.monotonic()
        desc = f"stack of {len(group)}"
        steps = range(training.step, training.num_steps)
        with tqdm(steps, desc=desc, unit="step", leave=False, disable=self.peers.index > 0, delay=2) as bar:
            for step in bar:
                inside = step % _WINDOW
                if step == steps.start or inside == 0:
                    stop = min(step - inside + _WINDOW, training.num_steps)
                    sources, rows = self._locate(plans, (step - inside) * batch_size, stop * batch_size)
                here = slice(inside * batch_size, (inside + 1) * batch_size)
                ids = self.data.gather(sources[:, here].ravel(), rows[:, here].ravel())
                check_tokens(ids, training.model.vocab_size, "train")
                training.advance(ids.view(len(group), batch_size, -1).to(self.device))
                is_last = training.step == training.num_steps
                if checkpoint is not None and not is_last and time.monotonic() - saved > self.checkpoint_seconds:
                    _save(training, checkpoint)
                    saved = time.monotonic()

    @staticmethod
    def _locate(plans: Sequence[Any], start: int, stop: int) -> tuple[Int64, Int64]:
        """Domain and sample of each proxy at the positions of some steps, each int64 [P, stop - start]."""
        located = [plan.locate(np.arange(start, stop)) for plan in plans]
        return np.stack([sources for sources, _ in located]), np.stack([rows for _, rows in located])

    def _evaluate(self, model: StackedCausalLM) -> list[dict[str, float]]:
        model.eval()
        num_copies = model.rows.num_copies
        losses: list[dict[str, float]] = [{} for _ in range(num_copies)]
        # A stack holds as many rows at once as in training, about.
        size = max(1, min(self.spec.eval_batch_size, 2 * self.spec.batch_size))
        for name, ids in self.data.validation_samples():
            check_tokens(ids, model.vocab_size, f"validation[{name!r}]")
            total = torch.zeros(num_copies, dtype=torch.float64)
            for part in ids.to(self.device).split(size):
                with torch.no_grad():
                    means = model.losses(part.expand(num_copies, *part.shape))
                total += means.double().cpu() * len(part)
            for number, value in enumerate((total / len(ids)).tolist()):
                losses[number][name] = value
        return losses

    def _checkpoint(self, group: Sequence[Trial]) -> Path | None:
        if self.journal is None:
            return None
        return self.journal.folder / f"stack-{_chunk_key(self, group)[:16]}.safetensors"

    def _finished(self, group: Sequence[Trial]) -> None:
        checkpoint = self._checkpoint(group)
        if checkpoint is not None:
            checkpoint.unlink(missing_ok=True)


def _chunk_key(swarm: ProxySwarm, group: Sequence[Trial]) -> str:
    from hashlib import sha256

    return sha256(json.dumps([swarm.key(trial) for trial in group]).encode()).hexdigest()


def _save(training: StackedTraining, path: Path) -> None:
    from safetensors.torch import save

    header = {"format": FORMAT, "version": str(VERSION), "step": str(training.step)}
    write_atomic(path, save(training.tensors(), metadata=header))


def _restore(training: StackedTraining, path: Path) -> None:
    if not path.exists():
        return
    header, tensors = read_tensors(path, remedy="remove it")
    check_format(header, FORMAT, str(VERSION), where=str(path), remedy="remove it")
    with reading(path, "remove it"):
        training.load(tensors, int(header["step"]))
