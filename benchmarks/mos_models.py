"""Models and adapters that the MoS benchmarks compare: one base, equal targets."""

from __future__ import annotations

import copy
import itertools
from typing import Any

import torch
from common import MIB, compare, peak_bytes, print_table, summarise, time_interleaved
from peft import LoraConfig, PeftConfig, PeftModel, VBLoRAConfig, VeraConfig, get_peft_model
from torch import nn
from tqdm import tqdm
from transformers import LlamaConfig, LlamaForCausalLM

from hf_mixture import MosConfig


TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
RANK, EQUIVALENT_RANK = 16, 2
MOS = f"MoS r={RANK} e={EQUIVALENT_RANK}"
VOCABULARY = 2048


def base_model(*, layers: int = 12, hidden: int = 512, **overrides: Any) -> LlamaForCausalLM:
    """A Llama with random weights."""
    torch.manual_seed(0)
    config = LlamaConfig(
        **{
            "vocab_size": VOCABULARY,
            "hidden_size": hidden,
            "intermediate_size": hidden * 11 // 4,
            "num_hidden_layers": layers,
            "num_attention_heads": hidden // 64,
            "max_position_embeddings": 2048,
            **overrides,
        }
    )
    return LlamaForCausalLM(config)


def adapter_configs(*, layers: int = 12) -> dict[str, PeftConfig]:
    """The methods of the comparison; VB-LoRA in its default rank 4 and in the rank of the others.

    MoS has its default private rank 1 where r - p <= (e - p) * L allows it, which takes 15 layers, and else 0.
    """
    private_rank = 1 if layers >= RANK - 1 else 0
    shared: dict[str, Any] = {"target_modules": TARGETS}
    vblora: dict[str, Any] = {"num_vectors": 256, "vector_length": 128, "vblora_dropout": 0.0, **shared}
    return {
        MOS: MosConfig(r=RANK, equivalent_rank=EQUIVALENT_RANK, private_rank=private_rank, num_shards=4, **shared),
        f"LoRA r={RANK}": LoraConfig(r=RANK, **shared),
        f"LoRA r={EQUIVALENT_RANK}": LoraConfig(r=EQUIVALENT_RANK, **shared),
        "VB-LoRA r=4": VBLoRAConfig(r=4, **vblora),
        f"VB-LoRA r={RANK}": VBLoRAConfig(r=RANK, **vblora),
        "VeRA r=256": VeraConfig(r=256, vera_dropout=0.0, **shared),
    }


def adapt(base: nn.Module, config: PeftConfig) -> PeftModel:
    """An adapted copy of the base that shares its frozen weights."""
    twin = copy.deepcopy(base, memo={id(parameter): parameter for parameter in base.parameters()})
    return get_peft_model(twin, copy.deepcopy(config))


def trainable(model: nn.Module) -> list[nn.Parameter]:
    """Parameters that an optimizer gets."""
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def adapter_bytes(model: nn.Module, base: nn.Module) -> int:
    """Bytes of all parameters and buffers of a model beyond those of the base, each storage once."""
    storages = {
        tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes()
        for tensor in itertools.chain(model.parameters(), model.buffers())
    }
    # Buffers of the base, such as those of the rotary embedding, are copied with it.
    return sum(storages.values()) - sum(tensor.nbytes for tensor in itertools.chain(base.parameters(), base.buffers()))


def make_step(model: nn.Module, tokens: torch.Tensor):
    """A function that runs one training step: forward, backward and AdamW."""
    optimizer = torch.optim.AdamW(trainable(model), lr=1e-4)

    def step() -> None:
        model(input_ids=tokens, labels=tokens).loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def compare_steps(base: nn.Module, configs: dict[str, PeftConfig], tokens: torch.Tensor, *, rounds: int) -> dict:
    """Time and memory of a training step of every method, and the ratios of MoS to the others."""
    models = {name: adapt(base, config).train() for name, config in configs.items()}
    steps = {name: make_step(model, tokens) for name, model in models.items()}
    times = time_interleaved(steps, rounds=rounds, title="training steps")
    peaks = {name: peak_bytes(step) for name, step in tqdm(steps.items(), desc="peak memory")}
    methods = {}
    for name, model in models.items():
        count = sum(parameter.numel() for parameter in trainable(model))
        resident = adapter_bytes(model, base) + 8 * count
        methods[name] = {
            "trainable_parameters": count,
            "adapter_and_adam_bytes": resident,
            "step_bytes": peaks[name],
            "peak_bytes": resident + peaks[name],
            "step_seconds": summarise(times.wall[name]),
            "step_cpu_seconds": summarise(times.cpu[name]),
        }
    result = {
        "methods": methods,
        "time_ratios": compare(times.wall, MOS),
        "cpu_time_ratios": compare(times.cpu, MOS),
        "peak_ratios": {
            f"{MOS} / {name}": methods[MOS]["peak_bytes"] / method["peak_bytes"]
            for name, method in methods.items()
            if name != MOS
        },
    }
    _print_steps(result)
    return result


def _print_steps(result: dict) -> None:
    rows = []
    for name, method in result["methods"].items():
        ratio = f"{MOS} / {name}"
        rows.append(
            [
                name,
                f"{method['trainable_parameters']:,}",
                f"{1e3 * method['step_seconds']['median']:.0f}",
                f"{1e3 * method['step_cpu_seconds']['median']:.0f}",
                f"{method['peak_bytes'] / MIB:.1f}",
                *(
                    f"{result[kind][ratio]['median']:.3f}" if ratio in result[kind] else ""
                    for kind in ("time_ratios", "cpu_time_ratios")
                ),
            ]
        )
    header = [
        "method",
        "trainable",
        "ms/step",
        "cpu ms/step",
        "peak MiB over base",
        "MoS/method",
        "the same in cpu time",
    ]
    print_table(header, rows)
