"""One process of a system of a spread run: `python -m hf_mixture.training.spread.worker FOLDER SYSTEM`.

More than one run under torchrun. The stock Trainer trains the model of the run; a run that was killed goes on at its
last whole checkpoint.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from hf_mixture.training.spread.recipe import SpreadRecipe, SystemSpec


START = "start"
# The process of the run, which started this one, maybe through torchrun.
RUN_PROCESS = "HF_MIXTURE_RUN_PROCESS"


class StopWithRun(TrainerCallback):
    """Ends this process at its next step when the run that started it was killed, as that may be gone on with."""

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Look for the process of the run."""
        try:
            os.kill(int(os.environ[RUN_PROCESS]), 0)
        except ProcessLookupError:
            # Other threads wait for processes that have ended already.
            os._exit(1)


def work(folder: Path, name: str) -> None:
    """Train one system, and leave its model, its log and what it measured.

    Args:
        folder: The run folder.
        name: Name of the system.
    """
    import torch
    from transformers import Trainer, TrainingArguments, set_seed
    from transformers.trainer_utils import get_last_checkpoint

    from hf_mixture.training import report
    from hf_mixture.training.journal import write_json
    from hf_mixture.training.recipe import StageSpec
    from hf_mixture.training.resolve import training_argument_values
    from hf_mixture.training.spread.resolve import resolve_spread
    from hf_mixture.training.stage import StepTimer, collate

    recipe = resolve_spread((folder / "recipe.yaml").read_text(encoding="utf-8"))
    system = recipe.systems[name]
    checkpoints = folder / "checkpoints" / name
    stage = StageSpec(mixture=recipe.mixture, training_arguments=recipe.pretrain)
    given = training_argument_values(recipe.data_recipe(), stage)
    batch = given.get("per_device_train_batch_size", 8)
    settings = TrainingArguments(
        output_dir=str(checkpoints),
        restore_callback_states_from_checkpoint=True,
        **given
        | {
            "per_device_train_batch_size": batch // system.num_processes,
            "logging_steps": 1,
            "eval_strategy": "no",
            "eval_steps": None,
            "save_strategy": "steps",
            "save_only_model": system.num_processes > 1,
            "train_sampling_strategy": "sequential",
            # Without it, the Trainer sees one process where there is no accelerator.
            "use_cpu": not torch.cuda.is_available(),
        },
    )
    if settings.world_size != system.num_processes:
        raise RuntimeError(f"{settings.world_size} processes run, and system {name} has {system.num_processes}")
    checkpoint = get_last_checkpoint(str(checkpoints)) if checkpoints.is_dir() else None
    set_seed(recipe.seed)
    model = _load(checkpoint or str(folder / "models" / START), system)
    rows, mixing = _rows(recipe, folder, settings.max_steps * batch * settings.gradient_accumulation_steps)
    timer = StepTimer()
    trainer = Trainer(
        model,
        settings,
        train_dataset=rows,
        data_collator=collate,
        # A method measures held-out text at the end of a step, when the others have counted the step's own tokens.
        callbacks=[StopWithRun(), timer, *_callbacks(recipe, name, model, folder), *mixing],
    )
    trainer.train(resume_from_checkpoint=checkpoint)
    measured = {"dropped": _dropped(model, system), **_online_facts(trainer, recipe)}
    # Weights are gathered, so all processes save; the first one writes.
    model.save_pretrained(folder / "models" / f".{name}")
    if settings.process_index == 0:
        (timer,) = [item for item in trainer.callback_handler.callbacks if isinstance(item, StepTimer)]
        report.write_log(trainer.state.log_history, folder / "logs" / f"{name}.jsonl")
        write_json(folder / "logs" / f"{name}.json", measured | {"seconds": timer.seconds})


def _rows(recipe: SpreadRecipe, folder: Path, num_examples: int) -> tuple[Any, list[Any]]:
    """The training blocks, and the callback that changes their mixture where there is one."""
    from hf_mixture.training.prepare import Prepared, training_rows

    prepared, data = Prepared(folder / "prepared"), recipe.data_recipe()
    if recipe.online is None:
        return training_rows(data, prepared, "adapt", num_examples), []
    from hf_mixture.data.mixture_dataset import MixtureDataset
    from hf_mixture.training.search.methods import online_callback
    from hf_mixture.training.stage import windows_dataset

    mixture = data.mixture("adapt")
    rows = MixtureDataset(
        {domain: prepared.blocks(domain) for domain in mixture.names},
        mixture,
        num_examples=num_examples,
        length_column={"tokens": "input_ids", "bytes": "num_bytes"}.get(mixture.unit),
    )
    windows = prepared.windows("validation", recipe.block_size)
    held_out = {domain: windows_dataset(windows[domain]) for domain in mixture.names}
    return rows, [online_callback(recipe.online.name)(held_out, **recipe.online.settings)]


def _online_facts(trainer: Any, recipe: SpreadRecipe) -> dict[str, Any]:
    """What a method that changes the mixture reports."""
    from hf_mixture.training.search.methods import online_callback
    from hf_mixture.training.search.online import online_facts

    if recipe.online is None:
        return {}
    kind = online_callback(recipe.online.name)
    # The Trainer makes a callback anew when it restores one.
    (callback,) = [item for item in trainer.callback_handler.callbacks if isinstance(item, kind)]
    return online_facts(callback)


def _load(place: str, system: SystemSpec) -> Any:
    """The model, spread over the processes as the system says."""
    from transformers import AutoModelForCausalLM

    from hf_mixture.training.spread.plan import folding_of

    if system.num_processes == 1:
        return AutoModelForCausalLM.from_pretrained(place)
    config = folding_of(system).to_distributed_config(ep_implementation=system.ep_implementation)
    return AutoModelForCausalLM.from_pretrained(place, distributed_config=config)


def _callbacks(recipe: SpreadRecipe, name: str, model: Any, folder: Path) -> list[Any]:
    """What the Trainer needs beside."""
    from hf_mixture import FssdpCallback, ShardedCheckpointCallback, set_capacity_options
    from hf_mixture.moe.trace.callback import RouterTraceCallback
    from hf_mixture.training.spread.resolve import options_of

    system = recipe.systems[name]
    traces: list[Any] = []
    if recipe.trace_every is not None:
        # A run that was killed before its first checkpoint begins again.
        place = str(folder / "traces" / name)
        traces = [RouterTraceCallback(place, sample_every=recipe.trace_every, overwrite=True)]
    if system.num_processes == 1:
        return traces
    options = options_of(system, f"systems.{name}")
    if system.ep_implementation == "capacity":
        set_capacity_options(model, options)
    return [
        *traces,
        ShardedCheckpointCallback(),
        *([FssdpCallback(options)] if system.ep_implementation == "fssdp" else []),
    ]


def _dropped(model: Any, system: SystemSpec) -> float | None:
    """Share of the choices of experts that capacity dropped, over all processes."""
    import torch.distributed as dist

    from hf_mixture.moe.parallel.capacity import dropped_share

    if system.ep_implementation != "capacity" or system.num_processes == 1:
        return None
    shares: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(shares, dropped_share(model))
    return float(sum(shares) / len(shares))


if __name__ == "__main__":
    work(Path(sys.argv[1]), sys.argv[2])
