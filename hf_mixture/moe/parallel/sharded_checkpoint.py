"""Runs that go on where they stopped, for models that `from_pretrained(distributed_config=...)` spread over ranks.

The Trainer of transformers 5.23 saves no optimizer of such a model (`save_only_model=True` is all that it accepts),
and fails when it loads the weights of a checkpoint into one.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from transformers import TrainerCallback
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from hf_mixture._compat.sharding import local_shard
from hf_mixture.hub.reading import read_document, read_tensors


FOLDER = "training_state"
FORMAT, VERSION = "hf_mixture_training_state", 1


class ShardedCheckpointCallback(TrainerCallback):
    """Lets the stock Trainer resume a model that is spread over ranks by a `DistributedConfig`.

    Beside the weights that the Trainer saves, every rank writes its part of the optimizer, the schedule and its random
    state to `checkpoint-N/training_state`. To go on, load the model from the checkpoint, on as many ranks and with the
    same `DistributedConfig`, and pass the folder to `train`.

    Example:
        ```python
        # Under torchrun; arguments have save_only_model=True.
        checkpoint = "run/checkpoint-500"
        model = AutoModelForCausalLM.from_pretrained(checkpoint, distributed_config=spread)
        trainer = Trainer(model, arguments, train_dataset=rows, callbacks=[ShardedCheckpointCallback()])
        trainer.train(resume_from_checkpoint=checkpoint)
        ```

        >>> from torch import nn
        >>> from hf_mixture import ShardedCheckpointCallback
        >>> ShardedCheckpointCallback().on_init_end(None, None, None, model=nn.Linear(1, 1))
        Traceback (most recent call last):
        ValueError: ShardedCheckpointCallback is for models that from_pretrained(distributed_config=...) spreads ...
    """

    def __init__(self) -> None:
        self._random: Tensor | None = None

    def on_init_end(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        """Let the model take whole tensors, which the Trainer reads, where it has shards."""
        if not getattr(model, "is_distributed_loading_by_transformers", False):
            raise ValueError(
                "ShardedCheckpointCallback is for models that from_pretrained(distributed_config=...) spreads over "
                "ranks; the Trainer resumes others by itself"
            )
        model.register_load_state_dict_pre_hook(_take_shards)

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Write what the Trainer does not."""
        model, optimizer, lr_scheduler = (kwargs[name] for name in ("model", "optimizer", "lr_scheduler"))
        folder = Path(args.output_dir, f"{PREFIX_CHECKPOINT_DIR}-{state.global_step}", FOLDER)
        unfinished = folder.with_name(f".{FOLDER}")
        unfinished.mkdir(parents=True, exist_ok=True)
        bare = getattr(optimizer, "optimizer", optimizer)
        tensors = _optimizer_tensors(model, bare)
        tensors["random"] = torch.get_rng_state()
        save_file(tensors, unfinished / _file_of(dist.get_rank()))
        if dist.get_rank() == 0:
            content = {
                "format": FORMAT,
                "version": VERSION,
                "num_ranks": dist.get_world_size(),
                "learning_rates": [group["lr"] for group in bare.param_groups],
                "schedule": lr_scheduler.state_dict(),
            }
            (unfinished / "state.json").write_text(json.dumps(content, indent=2) + "\n")
        dist.barrier()
        if dist.get_rank() == 0:
            # A run that is killed before leaves no folder that could be taken for a whole one.
            shutil.rmtree(folder, ignore_errors=True)
            os.replace(unfinished, folder)
        dist.barrier()

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Take up a checkpoint."""
        if not state.global_step:
            return
        model, optimizer, lr_scheduler = (kwargs[name] for name in ("model", "optimizer", "lr_scheduler"))
        checkpoint = Path(model.config._name_or_path)
        if checkpoint.name != f"{PREFIX_CHECKPOINT_DIR}-{state.global_step}":
            raise ValueError(
                f"the model was loaded from {str(checkpoint)!r}, and the run goes on at step {state.global_step}; "
                f"load the model by from_pretrained of {PREFIX_CHECKPOINT_DIR}-{state.global_step}, as the Trainer "
                "does not load all of a sharded model"
            )
        content = _read_state(checkpoint / FOLDER)
        _, tensors = read_tensors(checkpoint / FOLDER / _file_of(dist.get_rank()))
        self._random = tensors.pop("random")
        bare = getattr(optimizer, "optimizer", optimizer)
        _load_optimizer_tensors(model, bare, tensors)
        for group, rate in zip(bare.param_groups, content["learning_rates"], strict=True):
            group["lr"] = rate
        lr_scheduler.load_state_dict(content["schedule"])

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Restore the random state when the Trainer has skipped the batches that are done."""
        if self._random is not None:
            torch.set_rng_state(self._random)
            self._random = None


def _read_state(folder: Path) -> dict[str, Any]:
    """The description of what was written, checked."""
    if not (folder / "state.json").is_file():
        raise FileNotFoundError(
            f"{folder.parent} has no {FOLDER}: it was written without ShardedCheckpointCallback, or the run was "
            "killed meanwhile; resume from an earlier checkpoint"
        )
    content = read_document(folder / "state.json", FORMAT, VERSION, remedy="resume from an earlier checkpoint")
    if content.get("num_ranks") != dist.get_world_size():
        raise ValueError(
            f"{folder} was written by {content.get('num_ranks')} ranks, and this run has {dist.get_world_size()}; "
            "start as many, or begin a new run from the weights"
        )
    return content


def _file_of(rank: int) -> str:
    return f"rank-{rank:05d}.safetensors"


def _optimizer_tensors(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """This rank's part of the optimizer's state, by names of parameters."""
    tensors = {}
    for name, parameter in model.named_parameters():
        for key, value in optimizer.state.get(parameter, {}).items():
            if isinstance(value, Tensor):
                local = value.to_local() if isinstance(value, DTensor) else value
                tensors[f"{name}:{key}"] = local.contiguous()
    return tensors


def _load_optimizer_tensors(model: nn.Module, optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    parameters: dict[str, Any] = dict(model.named_parameters())
    for full_name, value in tensors.items():
        name, key = full_name.rsplit(":", 1)
        if name not in parameters:
            raise ValueError(f"the checkpoint has optimizer state of {name!r}, which the model does not have")
        parameter = parameters[name]
        local: Any = value.to(parameter.device) if value.dim() else value
        if isinstance(parameter, DTensor) and value.shape == parameter.to_local().shape:
            local = _like(local, parameter)
        optimizer.state[parameter][key] = local


def _take_shards(module: nn.Module, state: dict[str, Any], *ignored: Any) -> None:
    """Replace whole tensors of a state dict by this rank's shards of them."""
    for name, parameter in module.named_parameters():
        value = state.get(name)
        if isinstance(parameter, DTensor) and isinstance(value, Tensor) and not isinstance(value, DTensor):
            state[name] = _like(local_shard(parameter, value).to(parameter.device, parameter.dtype), parameter)


def _like(local: Tensor, parameter: DTensor) -> DTensor:
    return DTensor.from_local(
        local,
        parameter.device_mesh,
        parameter.placements,
        run_check=False,
        shape=parameter.shape,
        stride=parameter.stride(),
    )
