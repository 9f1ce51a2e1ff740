"""The stock Trainer with the busy experts copied, on two processes under torchrun; alone, what one process does."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from transformers import AutoModelForCausalLM, MixtralConfig, MixtralForCausalLM, Trainer, TrainingArguments
from transformers.distributed import DistributedConfig

from hf_mixture import FssdpCallback, FssdpOptions, ShardedCheckpointCallback
from hf_mixture.moe.parallel.fssdp import fssdp_layers


STEPS, BATCH, LENGTH = 8, 8, 12


def rows() -> list[dict[str, Any]]:
    ids = torch.randint(0, 64, (STEPS * BATCH, LENGTH), generator=torch.Generator().manual_seed(0)).tolist()
    return [{"input_ids": row, "labels": row} for row in ids]


class Placements(FssdpCallback):
    """Notes the owners and copies of every step."""

    def __init__(self, options: FssdpOptions) -> None:
        super().__init__(options)
        self.copies: list[int] = []
        self.steps: list[Any] = []

    def on_step_begin(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        super().on_step_begin(args, state, control, model=model, **kwargs)
        layers = fssdp_layers(model)
        self.copies.append(sum(int(layer.holders.sum()) for layer in layers))
        self.steps.append([(layer.slots.tolist(), layer.holders.tolist()) for layer in layers])


def train(
    model: Any,
    folder: Path,
    *,
    world: int,
    accumulate: int,
    callbacks: list[Any],
    resume: str | None = None,
    **more: Any,
) -> Trainer:
    arguments = TrainingArguments(
        str(folder),
        max_steps=STEPS,
        per_device_train_batch_size=BATCH // world // accumulate,
        gradient_accumulation_steps=accumulate,
        learning_rate=1e-3,
        max_grad_norm=0.5,
        logging_steps=1,
        train_sampling_strategy="sequential",
        report_to=[],
        use_cpu=True,
        disable_tqdm=True,
        **{"save_strategy": "no", **more},
    )
    if "save_only_model" in more:
        callbacks = [ShardedCheckpointCallback(), *callbacks]
    trainer = Trainer(model, arguments, train_dataset=rows(), callbacks=callbacks)
    trainer.train(resume_from_checkpoint=resume)
    return trainer


def losses(trainer: Trainer) -> list[float]:
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


def main(folder: Path) -> None:
    if "WORLD_SIZE" not in os.environ:
        torch.manual_seed(0)
        config = MixtralConfig(
            vocab_size=64,
            hidden_size=32,
            intermediate_size=32,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            num_local_experts=8,
            initializer_range=0.3,
        )
        model = MixtralForCausalLM(config)
        model.save_pretrained(folder / "start")
        trainer = train(model, folder / "alone", world=1, accumulate=1, callbacks=[])
        (folder / "losses.json").write_text(json.dumps(losses(trainer)))
        model.save_pretrained(folder / "trained")
        return
    spread = DistributedConfig(ep_size=2, fsdp_size=2, ep_implementation="fssdp")
    expected = json.loads((folder / "losses.json").read_text())
    reference = MixtralForCausalLM.from_pretrained(folder / "trained").state_dict()
    for accumulate, rematerialise in ((1, False), (2, True)):
        model = AutoModelForCausalLM.from_pretrained(folder / "start", distributed_config=spread)
        callback = Placements(FssdpOptions(num_slots=2, window=2, rematerialise=rematerialise))
        trainer = train(model, folder / "spread", world=2, accumulate=accumulate, callbacks=[callback])
        assert dist.get_world_size() == 2
        torch.testing.assert_close(losses(trainer), expected, rtol=1e-4, atol=1e-4)
        logged = [entry for entry in trainer.state.log_history if "loss" in entry]
        assert all(0 <= entry["fssdp/imbalance"] < 1 for entry in logged)
        # Means over two layers and two ranks, each with up to two.
        assert {entry["fssdp/copies"] for entry in logged} <= {quarters / 4 for quarters in range(9)}
        assert max(callback.copies) > min(callback.copies) >= 16, "other experts must be copied at other steps"
        check_saved(model, folder, reference)

    # Owners change at every second step; a checkpoint of the fourth is a stock one.
    options = FssdpOptions(num_slots=1, window=2, reshard_interval=2)
    model = AutoModelForCausalLM.from_pretrained(folder / "start", distributed_config=spread)
    whole = Placements(options)
    # The Trainer cannot save the optimizer of a model that is sharded when it is loaded.
    saving = {"save_strategy": "steps", "save_steps": 4, "save_only_model": True}
    trainer = train(model, folder / "kept", world=2, accumulate=1, callbacks=[whole], **saving)
    torch.testing.assert_close(losses(trainer), expected, rtol=1e-4, atol=1e-4)
    assert len({str([slots for slots, _ in step]) for step in whole.steps}) > 1, "owners must change"
    check_saved(model, folder, reference)

    checkpoint = str(folder / "kept" / "checkpoint-4")
    model = AutoModelForCausalLM.from_pretrained(checkpoint, distributed_config=spread)
    resumed = Placements(options)
    again = train(model, folder / "kept", world=2, accumulate=1, callbacks=[resumed], resume=checkpoint, **saving)
    assert losses(again) == losses(trainer)
    assert resumed.steps == whole.steps[4:]
    check_saved(model, folder, reference)
    try:
        model = AutoModelForCausalLM.from_pretrained(folder / "start", distributed_config=spread)
        train(model, folder / "kept", world=2, accumulate=1, callbacks=[], resume=checkpoint, **saving)
    except ValueError as error:
        assert "load the model by from_pretrained of checkpoint-4" in str(error)  # noqa: PT017 - no test of pytest
    else:
        raise AssertionError("nothing was refused")


def check_saved(model: Any, folder: Path, reference: dict[str, torch.Tensor]) -> None:
    """The checkpoint is a stock one, whatever was copied and whoever owned what."""
    model.save_pretrained(folder / "saved")
    dist.barrier()
    for name, value in MixtralForCausalLM.from_pretrained(folder / "saved").state_dict().items():
        torch.testing.assert_close(value, reference[name], rtol=1e-3, atol=1e-3, msg=name)
    dist.barrier()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
