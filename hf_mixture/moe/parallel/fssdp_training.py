"""`ep_implementation="fssdp"` under the stock Trainer, and in loops of one's own."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from torch import nn
from transformers import TrainerCallback
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.trainer_callback import ExportableState

from hf_mixture._compat.transformers import extend_logs
from hf_mixture.moe.anatomy import check_not_compiled
from hf_mixture.moe.parallel.fssdp import FssdpEP, FssdpOptions, fssdp_layers
from hf_mixture.moe.parallel.reshard import place_experts, reshard_experts, restore_experts


class FssdpCallback(TrainerCallback, ExportableState):
    """Plans the copies of each optimizer step from the token counts of the last ones.

    Without it, and without calls of `fssdp_step`, nothing is ever copied: the group runs as stock expert parallelism.
    Log entries get `fssdp/imbalance`, tokens of the busiest rank over those of the mean, minus 1, and `fssdp/copies`
    of a rank, both means over layers; the imbalance is that of the steps since the last entry. Checkpoints are stock
    ones, whatever was copied and whoever owned what; with `ShardedCheckpointCallback`, a resumed run goes on with the
    counts and owners that the interrupted one had.

    Args:
        options: What may be copied. Default: `FssdpOptions()`.

    Example:
        ```python
        # Under torchrun with 4 processes:
        spread = DistributedConfig(ep_size=4, fsdp_size=4, ep_implementation="fssdp")
        model = AutoModelForCausalLM.from_pretrained(folder, distributed_config=spread)
        Trainer(model, arguments, train_dataset=rows, callbacks=[FssdpCallback(FssdpOptions(num_slots=4))]).train()
        ```

        >>> from hf_mixture import FssdpCallback, FssdpOptions
        >>> FssdpCallback(FssdpOptions(num_slots=4)).options.window
        5
    """

    def __init__(self, options: FssdpOptions | None = None) -> None:
        # What the Trainer makes anew from a checkpoint gets plain data.
        self.options = FssdpOptions(**options) if isinstance(options, dict) else options or FssdpOptions()
        self.layers: list[FssdpEP] = []
        self.slots: list[list[int]] = []
        self._imbalance: list[float] = []

    def state(self) -> dict[str, Any]:
        """Counts and owners, for a checkpoint."""
        windows = [[counts.tolist() for counts in layer.window] for layer in self.layers]
        saved = {"windows": windows, "slots": self.slots}
        return {"args": {"options": dataclasses.asdict(self.options)}, "attributes": {"saved": saved}}

    def on_train_begin(
        self, args: Any, state: Any, control: Any, model: Any = None, optimizer: Any = None, **kwargs: Any
    ) -> None:
        """Set the options; take up what a checkpoint has of counts and owners."""
        if args.torch_compile:
            raise ValueError("torch_compile=True does not see copies that change; train without it")
        extend_logs()
        set_fssdp_options(model, self.options)
        self.layers = fssdp_layers(model)
        self._keep_slots()
        entry = state.stateful_callbacks.get(type(self).__name__, {})
        saved = entry.get("attributes", {}).get("saved")
        if state.global_step and saved and saved["windows"]:
            for layer, window in zip(self.layers, saved["windows"], strict=True):
                layer.window.extend(np.array(counts) for counts in window)
                layer.plan()
            self.slots = saved["slots"]
        # The Trainer expects an entry for every callback, and a checkpoint made without this one has none.
        state.stateful_callbacks.setdefault(type(self).__name__, self.state())

    def on_step_begin(self, args: Any, state: Any, control: Any, optimizer: Any = None, **kwargs: Any) -> None:
        """Give the experts the owners that they had before a checkpoint or an evaluation."""
        place_experts(self.layers, [np.array(slots) for slots in self.slots], _bare(optimizer))

    def on_step_end(
        self, args: Any, state: Any, control: Any, model: Any = None, optimizer: Any = None, **kwargs: Any
    ) -> None:
        """Plan the next step."""
        fssdp_step(model)
        loads = np.stack([layer.rank_loads for layer in self.layers])
        self._imbalance.append(float((loads.max(axis=1) / loads.mean(axis=1)).mean() - 1))
        interval = self.options.reshard_interval
        if interval is not None and state.global_step % interval == 0:
            reshard_experts(model, _bare(optimizer))
            self._keep_slots()
        if control.should_save or control.should_evaluate or control.should_training_stop:
            restore_experts(model, _bare(optimizer))

    def on_epoch_end(
        self, args: Any, state: Any, control: Any, model: Any = None, optimizer: Any = None, **kwargs: Any
    ) -> None:
        """Put the experts back, as the model may be evaluated or saved."""
        restore_experts(model, _bare(optimizer))

    def extend_logs(self, args: Any, state: Any, logs: dict[str, Any]) -> dict[str, float]:
        """What an entry of the log gets.

        Args:
            args: Arguments of the Trainer.
            state: Its state.
            logs: The entry.

        Returns:
            Imbalance and copies; nothing for entries without a loss.
        """
        if "loss" not in logs or not self._imbalance:
            return {}
        imbalance, self._imbalance = float(np.mean(self._imbalance)), []
        copies = np.mean([(layer.holders.sum() - layer.num_experts) / layer.num_ranks for layer in self.layers])
        return {"fssdp/imbalance": imbalance, "fssdp/copies": float(copies)}

    def _keep_slots(self) -> None:
        self.slots = [layer.slots.tolist() for layer in self.layers]


def set_fssdp_options(model: nn.Module, options: FssdpOptions) -> None:
    """Change what the layers of a model may copy.

    Args:
        model: A model that was loaded with `ep_implementation="fssdp"`.
        options: What may be copied.

    Raises:
        ValueError: If the model was loaded in another way, its ranks do not fill nodes, layers of different shapes
            are to share a pool, adapters are to be trained, or the model is compiled.

    Example:
        >>> from torch import nn
        >>> from hf_mixture import FssdpOptions, set_fssdp_options
        >>> set_fssdp_options(nn.Linear(1, 1), FssdpOptions(num_slots=4))
        Traceback (most recent call last):
        ValueError: this model has no layer with ep_implementation="fssdp"; load it with ...
    """
    layers = fssdp_layers(model)
    shapes = {tuple((name, p.shape) for name, p in layer.experts.named_parameters()) for layer in layers}
    if options.pool and len(shapes) > 1:
        raise ValueError("pool=True needs experts of the same shapes in all layers; use pool=False")
    check_not_compiled(model, "and compiled code does not see copies that change: train without torch.compile")
    _refuse_adapters(model)
    config: Any = model.config
    num_batches = config.distributed_config.dp_size
    for index, layer in enumerate(layers):
        layer.use_options(options)
        layer.join(layers, index)
        layer.average_gradients(num_batches)
        layer.remove_prefetch()
    if not options.prefetch:
        return
    for module in model.modules():
        if isinstance(module, GradientCheckpointingLayer):
            for layer in layers:
                if any(inner is layer.experts for inner in module.modules()):
                    layer.prefetch_before(module)


def _refuse_adapters(model: nn.Module) -> None:
    """Refuse to train adapters: nothing adds up gradients of weights that came after the model was spread."""
    for path, wrapper in model.named_modules():
        if not hasattr(wrapper, "get_base_layer"):
            continue
        for name, weight in wrapper.named_parameters():
            if weight.requires_grad and not name.startswith("base_layer."):
                raise ValueError(
                    f"{path}.{name} is trained, and every process holds it beside weights that are spread: its "
                    "gradient would stay with each of them; train adapters on a model that every process holds whole"
                )


def fssdp_step(model: nn.Module) -> None:
    """End an optimizer step of a model that is trained without the Trainer. All ranks must call it.

    Args:
        model: A model that was loaded with `ep_implementation="fssdp"`.

    Raises:
        ValueError: If the model was loaded in another way.

    Example:
        >>> from torch import nn
        >>> from hf_mixture import fssdp_step
        >>> fssdp_step(nn.Linear(1, 1))
        Traceback (most recent call last):
        ValueError: this model has no layer with ep_implementation="fssdp"; load it with ...
    """
    for layer in fssdp_layers(model):
        layer.step()


def _bare(optimizer: Any) -> Any:
    """The optimizer of PyTorch, without the wrapper of Accelerate."""
    return getattr(optimizer, "optimizer", optimizer)
