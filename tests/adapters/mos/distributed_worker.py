"""Runs under `torchrun --nproc_per_node 2` and writes what each case measured; see test_distributed.py.

`python distributed_worker.py FOLDER` writes FOLDER/results.json from rank 0.
"""

from __future__ import annotations

import copy
import json
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from accelerate import PartialState
from peft import get_peft_model
from torch import nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel
from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainingArguments

from hf_mixture import MosConfig
from hf_mixture.adapters.mos import gather
from hf_mixture.adapters.mos.bank import find_bank


NUM_STEPS, BATCH, LENGTH = 4, 4, 16


def build_model() -> nn.Module:
    torch.manual_seed(0)
    base = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=64,
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=3,
            num_attention_heads=4,
            num_key_value_heads=2,
        )
    )
    config = MosConfig(r=4, equivalent_rank=2, private_rank=1, target_modules="all-linear", init_weights=False)
    return get_peft_model(base, config)


def tokens() -> torch.Tensor:
    return torch.randint(64, (NUM_STEPS * BATCH, LENGTH), generator=torch.Generator().manual_seed(1))


def pools(model: nn.Module) -> dict[str, torch.Tensor]:
    _, bank = find_bank(model)
    return {name: pool.detach() for name, pool in bank.named_parameters()}


def loss_of(model: nn.Module, batch: torch.Tensor) -> torch.Tensor:
    return model(input_ids=batch, labels=batch).loss


def train_with_trainer(folder: Path, batch_size: int) -> tuple[nn.Module, list[float]]:
    """The stock Trainer; `batch_size` samples per process and step."""
    model = build_model()
    arguments = TrainingArguments(
        output_dir=str(folder / "trainer"),
        per_device_train_batch_size=batch_size,
        max_steps=NUM_STEPS,
        learning_rate=1e-2,
        logging_steps=1,
        train_sampling_strategy="sequential",
        save_strategy="no",
        report_to="none",
        use_cpu=True,
        disable_tqdm=True,
    )
    rows = [{"input_ids": row, "labels": row} for row in tokens()]
    trainer = Trainer(model=model, args=arguments, train_dataset=rows)
    trainer.train()
    return model, [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


def gathered_difference(tensors: dict[str, torch.Tensor]) -> float:
    """Largest difference between the tensors of the two ranks."""
    flat = torch.cat([tensor.flatten() for tensor in tensors.values()])
    ranks = [torch.empty_like(flat) for _ in range(2)]
    dist.all_gather(ranks, flat)
    return (ranks[0] - ranks[1]).abs().max().item()


def largest_difference(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> float:
    assert ours.keys() == theirs.keys()
    return max((ours[name] - theirs[name]).abs().max().item() for name in ours)


def trainer_case(folder: Path) -> dict:
    model, losses = train_with_trainer(folder, BATCH // 2)
    if dist.get_rank() == 0:
        torch.save(pools(model), folder / "pools.pt")
    return {"losses": losses, "rank_difference": gathered_difference(pools(model))}


def enable_checkpointing(model: nn.Module, use_reentrant: bool | None) -> list[int]:
    """Switch checkpointing on, and return a list that gets an entry for every forward of the first decoder layer."""
    if use_reentrant is not None:
        model.activation_checkpointing_enable({"use_reentrant": use_reentrant})
        model.enable_input_require_grads()
    calls: list[int] = []
    projection = model.base_model.model.model.layers[0].self_attn.q_proj
    projection.register_forward_hook(lambda *_: calls.append(1))
    return calls


def ddp_case(use_reentrant: bool | None) -> dict:
    """Gradients of DDP steps against those of one process that sees both halves of the batch."""
    model = build_model().train()
    reference = copy.deepcopy(model)
    calls = enable_checkpointing(model, use_reentrant)
    parallel = DistributedDataParallel(model, static_graph=use_reentrant is True)
    rank, differences = dist.get_rank(), []
    for step in range(3):
        batch = tokens()[step * BATCH : (step + 1) * BATCH]
        for current in (parallel, reference):
            current.zero_grad()
        loss_of(parallel, batch.chunk(2)[rank]).backward()
        loss_of(reference, batch).backward()
        grads = [{name: pool.grad for name, pool in find_bank(m)[1].named_parameters()} for m in (model, reference)]
        scale = max(grad.abs().max().item() for grad in grads[1].values())
        differences.append(largest_difference(*grads) / scale)
    return {
        "gradient_differences": differences,
        "rank_difference": gathered_difference(grads[0]),
        "forwards_per_step": len(calls) / 3,
    }


def refused_case() -> dict:
    """Reentrant checkpointing without a static graph, of which DDP itself would make wrong gradients."""
    model = build_model().train()
    enable_checkpointing(model, use_reentrant=True)
    parallel = DistributedDataParallel(model)
    try:
        loss_of(parallel, tokens()[:2]).backward()
    except ValueError as error:
        return {"error": str(error)}
    return {"error": ""}


def fsdp_case(use_reentrant: bool | None) -> dict:
    """FSDP2 on each decoder layer, then on the root, against one process."""
    model = build_model().train()
    reference = copy.deepcopy(model)
    calls = enable_checkpointing(model, use_reentrant)
    for layer in model.base_model.model.model.layers:
        fully_shard(layer)
    fully_shard(model)
    rank, losses, collectors = dist.get_rank(), {"sharded": [], "single": []}, []
    optimizers = [
        torch.optim.AdamW([p for p in m.parameters() if p.requires_grad], lr=1e-2) for m in (model, reference)
    ]
    for step in range(3):
        batch = tokens()[step * BATCH : (step + 1) * BATCH]
        loss = loss_of(model, batch.chunk(2)[rank])
        collectors.append(len(gather._collectors))
        loss.backward()
        total = loss.detach().clone()
        dist.all_reduce(total)
        losses["sharded"].append(total.item() / 2)
        expected = loss_of(reference, batch)
        expected.backward()
        losses["single"].append(expected.item())
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        del loss, expected
    state = get_model_state_dict(model, options=StateDictOptions(full_state_dict=True, cpu_offload=True))
    result = {"losses": losses, "forwards_per_step": len(calls) / 3, "collectors": collectors}
    if rank == 0:
        prefix = find_bank(reference)[0] + "."
        saved = {key: value for key, value in state.items() if "mos_bank" in key}
        result["pool_keys"] = sorted(saved)
        result["expected_keys"] = sorted(prefix + name for name in pools(reference))
        result["pool_difference"] = largest_difference(
            {key.removeprefix(prefix): value for key, value in saved.items()}, pools(reference)
        )
    return result


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    results = {"trainer": trainer_case(folder)}
    results["num_processes"] = [PartialState().num_processes, dist.get_world_size()]
    for name, use_reentrant in (("none", None), ("non_reentrant", False), ("reentrant", True)):
        results[f"ddp_{name}"] = ddp_case(use_reentrant)
    for name, use_reentrant in (("none", None), ("non_reentrant", False)):
        results[f"fsdp_{name}"] = fsdp_case(use_reentrant)
    results["refused"] = refused_case()
    if dist.get_rank() == 0:
        (folder / "results.json").write_text(json.dumps(results))
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
