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

from hf_mixture import FssdpCallback, FssdpOptions
from hf_mixture.moe.parallel.fssdp import fssdp_layers


STEPS, BATCH, LENGTH = 8, 8, 12


def rows() -> list[dict[str, Any]]:
    ids = torch.randint(0, 64, (STEPS * BATCH, LENGTH), generator=torch.Generator().manual_seed(0)).tolist()
    return [{"input_ids": row, "labels": row} for row in ids]


class Placements(FssdpCallback):
    """Notes the copies of every step."""

    def __init__(self, options: FssdpOptions) -> None:
        super().__init__(options)
        self.copies: list[int] = []

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        super().on_step_end(args, state, control, model=model, **kwargs)
        self.copies.append(sum(int(layer.holders.sum()) for layer in fssdp_layers(model)))


def train(model: Any, folder: Path, *, world: int, accumulate: int, callbacks: list[Any], **more: Any) -> Trainer:
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
    trainer = Trainer(model, arguments, train_dataset=rows(), callbacks=callbacks)
    trainer.train(resume_from_checkpoint=more.get("resume"))
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
        assert max(callback.copies) > min(callback.copies) >= 16, "other experts must be copied at other steps"
        model.save_pretrained(folder / "saved")
        dist.barrier()
        # The checkpoint is a stock one, whatever was copied.
        for name, value in MixtralForCausalLM.from_pretrained(folder / "saved").state_dict().items():
            torch.testing.assert_close(value, reference[name], rtol=1e-3, atol=1e-3, msg=name)
        dist.barrier()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
