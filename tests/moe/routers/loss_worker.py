"""Trains a tiny float64 Mixtral with router losses; two processes of it write what they measured.

`python loss_worker.py FOLDER` writes FOLDER/results.pt (tensors) from rank 0; see test_loss_callback.py.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from accelerate import PartialState
from torch import nn
from transformers import MixtralConfig, MixtralForCausalLM, Trainer, TrainerCallback, TrainingArguments

from hf_mixture.moe.anatomy import find_routers
from hf_mixture.moe.routers import replace_routers
from hf_mixture.moe.routers.balance import LossFreeBalanceCallback
from hf_mixture.moe.routers.loss_callback import RouterLoss


VOCABULARY, NUM_STEPS, ROWS, LONGEST = 32, 2, 16, 12
COEFFICIENTS = {
    "load_balance": 0.5,
    "importance": 0.3,
    "z": 0.2,
    "orthogonality": 0.1,
    "expert_orthogonality": 0.1,
}


def build_model(**overrides) -> nn.Module:
    torch.manual_seed(0)
    settings = {
        "vocab_size": VOCABULARY,
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "num_local_experts": 4,
        "num_experts_per_tok": 2,
        "attn_implementation": "eager",
        "experts_implementation": "eager",
    }
    model = MixtralForCausalLM(MixtralConfig(**settings | overrides)).double()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.normal_(std=1.0 if ".gate." in name else 0.2)
    return model


def rows() -> list[dict[str, list[int]]]:
    generator = torch.Generator().manual_seed(1)
    lengths = torch.randint(3, LONGEST + 1, (ROWS,), generator=generator).tolist()
    return [{"input_ids": torch.randint(VOCABULARY, (n,), generator=generator).tolist()} for n in lengths]


def collate(features: list[dict[str, list[int]]]) -> dict[str, torch.Tensor]:
    """Pad to one length: attention sums float32 numbers, in an order that depends on the length."""
    ids = [feature["input_ids"] for feature in features]
    padding = [LONGEST - len(row) for row in ids]
    return {
        "input_ids": torch.tensor([row + [0] * pad for row, pad in zip(ids, padding, strict=True)]),
        "attention_mask": torch.tensor([[1] * len(row) + [0] * pad for row, pad in zip(ids, padding, strict=True)]),
        "labels": torch.tensor([row + [-100] * pad for row, pad in zip(ids, padding, strict=True)]),
    }


def float64_loss(outputs, labels, num_items_in_batch=None) -> torch.Tensor:
    """The loss of transformers rounds its logits to float32."""
    logits = outputs.logits[:, :-1].flatten(0, 1)
    nats = nn.functional.cross_entropy(logits, labels[:, 1:].flatten(), ignore_index=-100, reduction="sum")
    return nats / num_items_in_batch


class Gradients(TrainerCallback):
    def __init__(self) -> None:
        self.steps: list[dict[str, torch.Tensor]] = []

    def on_pre_optimizer_step(self, args, state, control, model, **kwargs) -> None:
        self.steps.append({name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None})


def train_balanced(folder: Path, batch: int, accumulation: int = 1, **options) -> torch.Tensor:
    """The selection biases [L, E] after training with `LossFreeBalanceCallback`."""
    model = build_model()
    replace_routers(model, "sigmoid_bias")
    callback = LossFreeBalanceCallback(rate=0.01)
    train(folder, batch, accumulation, model=model, callbacks=[callback], **options)
    assert callback.num_updates == NUM_STEPS
    return torch.stack([router.bias.tensor for router in find_routers(model)])


def train(
    folder: Path,
    batch: int,
    accumulation: int = 1,
    *,
    model=None,
    arguments=None,
    compute=float64_loss,
    callbacks=(),
    resume=None,
    **loss,
):
    """The stock Trainer; returns what was logged, and the gradients before each optimizer step."""
    args = TrainingArguments(
        output_dir=str(folder),
        per_device_train_batch_size=batch,
        gradient_accumulation_steps=accumulation,
        optim="sgd",
        logging_steps=1,
        train_sampling_strategy="sequential",
        report_to="none",
        use_cpu=True,
        disable_tqdm=True,
        **{"max_steps": NUM_STEPS, "learning_rate": 1e-2, "save_strategy": "no", "max_grad_norm": 0.0}
        | (arguments or {}),
    )
    gradients = Gradients()
    trainer = Trainer(
        model=build_model() if model is None else model,
        args=args,
        train_dataset=rows(),
        data_collator=collate,
        compute_loss_func=compute,
        callbacks=[gradients, *callbacks],
    )
    if loss:
        RouterLoss(**loss).attach(trainer)
    trainer.train(resume_from_checkpoint=resume)
    entries = [entry for entry in trainer.state.log_history if "loss" in entry]
    names = [name for name in entries[0] if name == "loss" or name.startswith("router/")]
    logs = torch.tensor([[entry[name] for name in names] for entry in entries], dtype=torch.float64)
    return names, logs, gradients.steps


CASES = {
    "exact": COEFFICIENTS,
    "micro": {"load_balance": 0.5, "scope": "micro"},
    "running": {"load_balance": 0.5, "counting": "running"},
}


def main(folder: Path) -> None:
    state = PartialState(cpu=True)
    assert state.num_processes == 2
    runs = {
        "exact": train(folder / f"of_{state.process_index}", 4, **CASES["exact"]),
        "exact_accumulated": train(folder / f"of_{state.process_index}", 2, 2, **CASES["exact"]),
        "running": train(folder / f"of_{state.process_index}", 4, **CASES["running"]),
        "stock": train(folder / f"of_{state.process_index}", 4, compute=None, **COEFFICIENTS),
    }
    biases = train_balanced(folder / f"of_{state.process_index}", 4)
    if state.is_main_process:
        results = {f"{name}/logs": logs for name, (_, logs, _) in runs.items()}
        for name, (_, _, steps) in runs.items():
            results |= {
                f"{name}/{i}/{tensor}": value for i, step in enumerate(steps) for tensor, value in step.items()
            }
        results["biases"] = biases
        torch.save(results, folder / "results.pt")
    state.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
