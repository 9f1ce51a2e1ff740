"""Training with replaced routers by the stock Trainer; under torchrun, what each of two processes does."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from transformers import AutoModelForCausalLM, Qwen3MoeConfig, Qwen3MoeForCausalLM, Trainer, TrainingArguments

import hf_mixture  # noqa: F401 - what a user who loads a model imports, and nothing else


NUM_STEPS, BATCH, LENGTH = 4, 4, 12
ROUTERS = {"cosine": {}, "hash": {}, "top_p": {"threshold": 0.6}}


def build_model(name: str, **options: object) -> Qwen3MoeForCausalLM:
    from hf_mixture.moe.routers import replace_routers

    torch.manual_seed(0)
    config = Qwen3MoeConfig(
        vocab_size=32,
        hidden_size=16,
        intermediate_size=16,
        moe_intermediate_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
        num_experts=4,
        num_experts_per_tok=2,
        initializer_range=0.2,
    )
    model = Qwen3MoeForCausalLM(config)
    replace_routers(model, name, **options)
    return model


def rows() -> list[dict[str, list[int]]]:
    """Sequences that count upwards, so that there is something to learn."""
    starts = torch.randint(32, (NUM_STEPS * BATCH,), generator=torch.Generator().manual_seed(1)).tolist()
    sequences = [[(start + i) % 32 for i in range(LENGTH)] for start in starts]
    return [{"input_ids": sequence, "labels": sequence} for sequence in sequences]


def train(model: Qwen3MoeForCausalLM, folder: Path, *, batch: int = BATCH, resume: str | None = None, **more: object):
    """The stock Trainer with `batch` sequences per process and step; gives the losses of all steps."""
    arguments = TrainingArguments(
        output_dir=str(folder),
        per_device_train_batch_size=batch,
        max_steps=NUM_STEPS,
        learning_rate=1e-2,
        logging_steps=1,
        train_sampling_strategy="sequential",
        report_to="none",
        use_cpu=True,
        disable_tqdm=True,
        **{"save_strategy": "no", **more},
    )
    trainer = Trainer(model=model, args=arguments, train_dataset=rows())
    trainer.train(resume_from_checkpoint=resume)
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


def load(folder: Path) -> torch.Tensor:
    """Logits of a saved model in a process that knows of routers by `import hf_mixture` alone."""
    assert not [name for name in sys.modules if name.startswith(("hf_mixture.moe.routers", "hf_mixture.moe.anatomy"))]
    model = AutoModelForCausalLM.from_pretrained(folder)
    with torch.no_grad():
        return model(torch.arange(24).reshape(2, 12)).logits


def main(folder: Path) -> None:
    logits = load(folder / "saved")
    results = {}
    for name, options in ROUTERS.items():
        model = build_model(name, **options)
        losses = train(model, folder / name, batch=BATCH // 2)
        assert dist.get_world_size() == 2
        flat = torch.cat([tensor.double().flatten() for tensor in model.state_dict().values()])
        both = [torch.empty_like(flat) for _ in range(2)]
        dist.all_gather(both, flat)
        results[name] = {"losses": losses, "rank_difference": float((both[0] - both[1]).abs().max())}
        if dist.get_rank() == 0:
            model.save_pretrained(folder / name / "model")
    if dist.get_rank() == 0:
        torch.save(logits, folder / "logits.pt")
        (folder / "results.json").write_text(json.dumps(results))
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
