"""`RouterTraceCallback`: counts of the experts chosen in training, by step and layer, to parquet files.

Letters: L routers, E experts, W processes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import ExportableState

from hf_mixture.moe.anatomy import base_path
from hf_mixture.moe.trace.counter import RouterCounter
from hf_mixture.moe.trace.files import cut_after, parts_of, read_part, write_part


class RouterTraceCallback(TrainerCallback, ExportableState):
    """Traces how often each expert is chosen while the stock Trainer trains.

    Counts are exact integers of a whole optimizer step: accumulated batches and processes are added up, padding
    (attention mask 0) is left out, layers that gradient checkpointing runs again count once, evaluation does not
    count. Between sampled steps no hook is on the model.

    A run that is killed and resumed from a checkpoint continues its trace, with every step once: the trace is written
    before each checkpoint, and what it holds beyond the checkpoint is taken back.

    Data parallelism is supported (DDP; with FSDP the hooks are the same, untested). `torch_compile` is not: compiled
    code runs no hooks that come and go.

    Args:
        output: Folder of the trace.
        sample_every: Optimizer steps 1, 1 + n, 1 + 2n, ... are traced. Default: 10.
        per_rank: Whether the counts of each process are kept apart. Default: `False`.
        flush_every: Number of traced steps after which a file is written. Default: 100.
        overwrite: Whether a run from step 0 replaces a trace that is in the folder. Default: `False`.
        push_to_hub: Name of a dataset repository that the trace is pushed to at the end. Default: none.

    Raises:
        ValueError: If a number is below 1. At the start of the training: if the model has no readable routers or is
            compiled or tensor parallel, or if the folder holds another trace.

    Example:
        >>> import tempfile, torch
        >>> from transformers import MixtralConfig, MixtralForCausalLM, Trainer, TrainingArguments
        >>> from hf_mixture.moe.trace import load_trace
        >>> from hf_mixture.moe.trace.callback import RouterTraceCallback
        >>> config = MixtralConfig(
        ...     vocab_size=32, hidden_size=16, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2,
        ...     num_key_value_heads=2, num_local_experts=4, num_experts_per_tok=2,
        ... )
        >>> ids = torch.arange(8)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     arguments = TrainingArguments(
        ...         folder, max_steps=2, per_device_train_batch_size=1, report_to=[], disable_tqdm=True, use_cpu=True,
        ...         save_strategy="no",
        ...     )
        ...     trainer = Trainer(
        ...         MixtralForCausalLM(config), arguments, train_dataset=[{"input_ids": ids, "labels": ids}] * 2,
        ...         callbacks=[RouterTraceCallback(f"{folder}/trace", sample_every=1)],
        ...     )
        ...     _ = trainer.train()
        ...     trace = load_trace(f"{folder}/trace")  # doctest: +ELLIPSIS
        {'train_runtime': ...}
        >>> trace.steps.tolist(), trace.counts[0].sum(axis=1).tolist()
        ([1, 2], [16, 16])
    """

    def __init__(
        self,
        output: str,
        *,
        sample_every: int = 10,
        per_rank: bool = False,
        flush_every: int = 100,
        overwrite: bool = False,
        push_to_hub: str | None = None,
    ) -> None:
        for name, value in (("sample_every", sample_every), ("flush_every", flush_every)):
            if value < 1:
                raise ValueError(f"{name}={value} must be at least 1")
        self.output = str(output)
        self.sample_every = sample_every
        self.per_rank = per_rank
        self.flush_every = flush_every
        self.overwrite = overwrite
        self.push_to_hub = push_to_hub
        self._counter: RouterCounter | None = None
        self._header: dict[str, Any] = {}
        self._rows: list[dict[str, Any]] = []
        self._num_pending = 0
        self._is_active = False

    def state(self) -> dict[str, Any]:
        """Return the arguments, for `restore_callback_states_from_checkpoint`; the trace itself is on disk."""
        names = ("output", "sample_every", "per_rank", "flush_every", "overwrite", "push_to_hub")
        return {"args": {name: getattr(self, name) for name in names}, "attributes": {}}

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Find the routers, and bring the trace to the step at which the run begins."""
        model = kwargs["model"]
        if args.torch_compile:
            raise ValueError(
                "torch_compile=True cannot be traced: compiled code runs no hooks that come and go; train without it, "
                "or leave the trace out"
            )
        if (getattr(model, "tp_size", None) or 1) > 1:
            raise ValueError(
                f"the model is tensor parallel over {model.tp_size} processes, which see the same tokens; the trace "
                "adds up processes and would count them more than once: trace a data parallel run"
            )
        self._counter = RouterCounter(model)
        self._header = {
            "model_type": getattr(getattr(model, "config", None), "model_type", type(model).__name__),
            "sample_every": self.sample_every,
            "per_rank": self.per_rank,
            "num_ranks": args.world_size if self.per_rank else 1,
            "routers": [
                {
                    "path": base_path(router.path),
                    "layer": router.layer,
                    "ordinal": router.ordinal,
                    "num_experts": router.num_experts,
                    "top_k": router.top_k,
                }
                for router in self._counter.routers
            ],
        }
        self._rows, self._num_pending, self._is_active = [], 0, False
        # Every process checks, so that none waits for one that has stopped; rank 0 alone then changes files.
        self._check_folder(state.global_step)
        _wait(args)
        if state.is_world_process_zero:
            folder = Path(self.output)
            folder.mkdir(parents=True, exist_ok=True)
            cut_after(folder, state.global_step)

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Put the hooks on for a sampled step."""
        if self._counter is not None and state.global_step % self.sample_every == 0:
            # An epoch can end within the batches of a step.
            self._counter.remove()
            self._counter.attach()
            self._is_active = True

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Take the hooks off, add up the processes, and write where a checkpoint follows."""
        if self._counter is not None and self._is_active:
            self._counter.remove()
            self._is_active = False
            by_rank = _gather(self._counter.take(args.device), args, apart=self.per_rank)
            if state.is_world_process_zero:
                self._note(state.global_step, by_rank)
        if control.should_save or self._num_pending >= self.flush_every:
            self._flush()

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Write where a checkpoint follows."""
        if control.should_save:
            self._flush()

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Write what a checkpoint that another callback asked for covers."""
        self._flush()

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Write the rest, and push."""
        if self._counter is not None:
            self._counter.remove()
        self._flush()
        if self.push_to_hub is not None and state.is_world_process_zero:
            from hf_mixture.moe.trace.trace import load_trace

            load_trace(self.output).push_to_hub(self.push_to_hub)

    def _check_folder(self, step: int) -> None:
        parts = parts_of(Path(self.output))
        if not parts:
            return
        header, table = read_part(parts[-1])
        if step == 0 and not self.overwrite:
            raise ValueError(
                f"output={self.output!r} holds a trace up to step {table['step'][-1].as_py()}, and this run begins at "
                "step 0; name another folder, resume from a checkpoint, or pass overwrite=True"
            )
        for name, value in self._header.items():
            if step > 0 and header[name] != value:
                raise ValueError(
                    f"output={self.output!r} holds a trace with {name}={header[name]!r}, and this run has {value!r}; "
                    "resume with the same settings, or name another folder"
                )

    def _note(self, step: int, by_rank: Tensor) -> None:
        routers = self._header["routers"]
        for rank, values in enumerate(by_rank.cpu().split(1)):
            parts = values[0].split([router["num_experts"] + 2 for router in routers])
            for router, part in zip(routers, parts, strict=True):
                *counts, unrouted, tokens = part.tolist()
                self._rows.append(
                    {
                        "step": step,
                        "rank": rank if self.per_rank else None,
                        **{name: router[name] for name in ("ordinal", "layer", "path")},
                        "tokens": tokens,
                        "unrouted": unrouted,
                        "counts": counts,
                    }
                )
        self._num_pending += 1

    def _flush(self) -> None:
        if self._rows:
            write_part(Path(self.output), self._header, self._rows)
        self._rows, self._num_pending = [], 0


def _gather(counts: Tensor, args: TrainingArguments, *, apart: bool) -> Tensor:
    """Add up the counts of the processes [1, n], or stack them [W, n]."""
    if args.world_size == 1:
        return counts.unsqueeze(0)
    if apart:
        gathered = [torch.empty_like(counts) for _ in range(args.world_size)]
        torch.distributed.all_gather(gathered, counts)
        return torch.stack(gathered)
    torch.distributed.all_reduce(counts)
    return counts.unsqueeze(0)


def _wait(args: TrainingArguments) -> None:
    if args.world_size > 1:
        torch.distributed.barrier()
