"""Experts of which the busy ones are copied, on processes under torchrun; what one process does, when run alone."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from transformers import AutoModelForCausalLM, MixtralConfig, OlmoeConfig, Qwen3MoeConfig
from transformers.distributed import DistributedConfig

import hf_mixture  # noqa: F401 - registers the implementation
from hf_mixture._compat import collectives
from hf_mixture.moe.parallel import exchange
from hf_mixture.moe.parallel.exchange import exchange_plan, gather_copies
from hf_mixture.moe.parallel.fssdp import FssdpOptions, fssdp_layers, fssdp_step, set_fssdp_options
from hf_mixture.moe.parallel.placement import contiguous_owners


STEPS, BATCH, LENGTH, EXPERTS = 20, 4, 10, 16
SHAPE = {
    "vocab_size": 64,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
CONFIGS = {
    "mixtral": MixtralConfig(**SHAPE, intermediate_size=32, num_local_experts=EXPERTS, num_experts_per_tok=2),
    "olmoe": OlmoeConfig(**SHAPE, intermediate_size=32, num_experts=EXPERTS, num_experts_per_tok=3),
    "qwen3_moe": Qwen3MoeConfig(
        **SHAPE, intermediate_size=32, moe_intermediate_size=24, num_experts=EXPERTS, num_experts_per_tok=2, head_dim=8
    ),
}


def build(family: str) -> Any:
    """A model in float64 with large weights, so that routes differ."""
    torch.manual_seed(0)
    config = CONFIGS[family]
    config.initializer_range = 0.3
    return AutoModelForCausalLM.from_config(config, experts_implementation="eager").double().train()


def batches(rank: int, world: int) -> torch.Tensor:
    ids = torch.randint(0, 64, (STEPS, BATCH, LENGTH), generator=torch.Generator().manual_seed(0))
    return ids[:, rank * BATCH // world : (rank + 1) * BATCH // world]


def train(
    model: Any, ids: torch.Tensor, after_backward: Callable[[], None], after_step: Callable[[], None]
) -> torch.Tensor:
    """Steps of AdamW; gives the losses, in float64 where a model would compute its own in float32."""
    optimizer, losses = torch.optim.AdamW(model.parameters(), lr=1e-3), []
    for step in ids:
        logits = model(input_ids=step).logits[:, :-1]
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), step[:, 1:].flatten())
        loss.backward()
        after_backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.detach())
        after_step()
    return torch.stack(losses)


def alone(folder: Path) -> None:
    for family in CONFIGS:
        model = build(family)
        model.save_pretrained(folder / family)
        losses = train(model, batches(0, 1), lambda: None, lambda: None)
        torch.save({"losses": losses, "state": model.state_dict()}, folder / f"{family}.pt")


def spread(folder: Path, family: str, implementation: str = "fssdp") -> Any:
    world = dist.get_world_size()
    config = DistributedConfig(ep_size=world, fsdp_size=world, ep_implementation=implementation)
    return AutoModelForCausalLM.from_pretrained(
        folder / family, dtype=torch.float64, experts_implementation="eager", distributed_config=config
    ).train()


@contextlib.contextmanager
def counting(module: Any, name: str) -> Iterator[dict[str, int]]:
    """Count the bytes that go to other ranks through a collective that a module calls."""
    original, counted = getattr(module, name), {"bytes": 0, "calls": 0}
    autograd = "autograd" in name

    def count(*args: Any, **kwargs: Any) -> Any:
        rows, sizes = (args[0], args[2]) if autograd else (args[1], args[3] if len(args) > 3 else None)
        if sizes is not None:
            others = sum(size for rank, size in enumerate(sizes) if rank != dist.get_rank())
            counted["bytes"] += others * rows[0].numel() * rows.element_size() if len(rows) else 0
            counted["calls"] += 1
        return original(*args, **kwargs)

    setattr(module, name, count)
    try:
        yield counted
    finally:
        setattr(module, name, original)


def draw(generator: np.random.Generator, *shape: int) -> torch.Tensor:
    """Whole numbers, of which sums are exact."""
    return torch.from_numpy(generator.integers(-9, 9, shape)).double()


def check_algebra() -> None:
    """Acceptance check 1: 500 placements; the dense reference exactly, and both collectives adjoint exactly."""
    rank, world, generator = dist.get_rank(), dist.get_world_size(), np.random.default_rng(0)
    for _ in range(500):
        per_rank = int(generator.integers(1, 4))
        num_experts = per_rank * world
        owners = contiguous_owners(num_experts, world)
        holders = (generator.random((num_experts, world)) < generator.random()) | (owners[:, None] == np.arange(world))
        every = [
            torch.from_numpy(generator.integers(-9, 9, (num_experts, *shape))).double() for shape in ((2, 3), (4,))
        ]
        mine = [chunk[owners == rank].clone().requires_grad_() for chunk in every]
        plan = exchange_plan(holders, owners, rank)
        copies = gather_copies(mine, plan, dist.group.WORLD)
        wanted = [e for e in range(num_experts) if holders[e, rank] and owners[e] != rank]
        assert sorted(plan.received) == wanted
        # Gradients that every rank can make for every other.
        slopes = [
            torch.from_numpy(generator.integers(-9, 9, (world, num_experts, *c.shape[1:]))).double() for c in every
        ]
        dot = torch.zeros((), dtype=torch.float64)
        for chunk, copy, slope in zip(every, copies, slopes, strict=True):
            assert torch.equal(copy, chunk[plan.received])
            dot = dot + (copy * slope[rank][plan.received]).sum()
        dot.backward()
        for own, slope in zip(mine, slopes, strict=True):
            for place, expert in enumerate((owners == rank).nonzero()[0]):
                others = [other for other in range(world) if holders[expert, other] and other != rank]
                assert torch.equal(own.grad[place], slope[others, expert].sum(0))
        left, right = dot.detach().clone(), sum((own.detach() * own.grad).sum() for own in mine)
        dist.all_reduce(left)
        dist.all_reduce(right)
        assert torch.equal(left, right)


def check_training(folder: Path, family: str) -> None:
    """Acceptance check 2: losses and all parameters of one process, with other copies at every step."""
    rank, world = dist.get_rank(), dist.get_world_size()
    reference = torch.load(folder / f"{family}.pt", weights_only=True)
    results = []
    for rematerialise in (False, True):
        model = spread(folder, family)
        layers = fssdp_layers(model)
        set_fssdp_options(model, FssdpOptions(num_slots=3, window=2, ranks_per_node=2, rematerialise=rematerialise))
        for layer in layers:
            # In float64 with one rank for each expert, PyTorch divides these gradients twice: the test divides itself.
            layer.experts.set_gradient_divide_factor(1.0)

        def divide(layers: Any = layers) -> None:
            for layer in layers:
                for parameter in layer.experts.parameters():
                    parameter.grad /= world

        placements = []

        def step(model: Any = model, layers: Any = layers, placements: Any = placements) -> None:
            fssdp_step(model)
            placements.append(layers[0].holders.tobytes())

        losses = train(model, batches(rank, world), divide, step)
        mean = losses.clone()
        dist.all_reduce(mean)
        torch.testing.assert_close(mean / world, reference["losses"], rtol=1e-10, atol=1e-12)
        state = {
            name: value.full_tensor() if hasattr(value, "full_tensor") else value
            for name, value in model.state_dict().items()
        }
        for name, value in state.items():
            torch.testing.assert_close(value, reference["state"][name], rtol=1e-10, atol=1e-12, msg=f"{family} {name}")
        assert len(set(placements)) > STEPS // 2, "the copies must change"
        assert any(layer.exchange.num_received for layer in layers)
        results.append((losses, state))
    assert torch.equal(results[0][0], results[1][0])
    for name, value in results[0][1].items():
        assert torch.equal(value, results[1][1][name])


def check_bytes(folder: Path) -> None:
    """Acceptance check 3: what was planned is what is sent."""
    rank, world = dist.get_rank(), dist.get_world_size()
    ids = batches(rank, world)[0]
    sent: dict[str, int] = {}
    for implementation in ("all_to_all", "fssdp"):
        from transformers.distributed import expert_parallel

        module = expert_parallel if implementation == "all_to_all" else collectives
        model = spread(folder, "mixtral", implementation)
        if implementation == "fssdp":
            set_fssdp_options(model, FssdpOptions(num_slots=0))
        with (
            counting(module, "all_to_all_single_autograd") as tokens,
            counting(exchange.dist, "all_to_all_single") as copied,
        ):
            model(input_ids=ids).logits.sum().backward()
        sent[implementation] = tokens["bytes"]
        assert implementation == "all_to_all" or copied["bytes"] == 0
    assert sent["fssdp"] == sent["all_to_all"] > 0

    width = sum(
        parameter[0].numel() * parameter.element_size()
        for parameter in fssdp_layers(model)[0].experts._parameters.values()
    )
    for rematerialise, rounds in ((False, 2), (True, 3)):
        set_fssdp_options(model, FssdpOptions(num_busy=2, num_slots=2, rematerialise=rematerialise))
        for layer in fssdp_layers(model):
            layer.window.append(np.arange(EXPERTS) ** 3)
            layer.use_options(layer.options)
        planned = sum(layer.exchange.num_sent for layer in fssdp_layers(model)) * width
        planned_back = sum(layer.exchange.num_received for layer in fssdp_layers(model)) * width
        with counting(exchange.dist, "all_to_all_single") as copied:
            model(input_ids=ids).logits.sum().backward()
        assert copied["bytes"] == planned * (rounds - 1) + planned_back
        total = torch.tensor([planned])
        dist.all_reduce(total)
        fsdp = len(fssdp_layers(model)) * (world - 1) * EXPERTS * width
        share = 2 / EXPERTS
        assert 0 < total.item() <= fsdp * share * 1.01


def check_balance(folder: Path) -> None:
    """With skewed routes: imbalance at most 0.3 of that of expert parallelism, bytes at most 0.6 of FSDP's."""
    world, generator = dist.get_world_size(), torch.Generator().manual_seed(dist.get_rank())
    popularity = 1 / torch.arange(1, EXPERTS + 1, dtype=torch.float64)
    found = {}
    for slots in (0, 2):
        model = spread(folder, "mixtral")
        set_fssdp_options(model, FssdpOptions(num_slots=slots))
        layer = fssdp_layers(model)[0]
        received = []
        run = layer._run
        layer._run = lambda tokens, places, run=run, received=received: (
            received.append(len(tokens)),
            run(tokens, places),
        )[1]
        for _ in range(3):
            index = torch.stack([torch.multinomial(popularity, 2, generator=generator) for _ in range(400)])
            hidden = torch.randn(400, 32, dtype=torch.float64)
            model.model.layers[0].mlp.experts(hidden, index, torch.full((400, 2), 0.5, dtype=torch.float64))
            layer.step()
        tokens = torch.zeros(world)
        tokens[dist.get_rank()] = received[-1]
        dist.all_reduce(tokens)
        found[slots] = float(tokens.max() / tokens.mean() - 1)
        copies = int(layer.holders.sum()) - EXPERTS
    assert found[2] <= 0.3 * found[0], found
    # A sparse all-gather and a sparse reduce-scatter, against two all-gathers and a reduce-scatter of everything.
    assert 2 * copies <= 0.6 * 3 * (world - 1) * EXPERTS


def main(folder: Path, families: list[str]) -> None:
    if "WORLD_SIZE" not in os.environ:
        alone(folder)
        return
    dist.init_process_group("gloo")
    assert dist.get_world_size() == int(os.environ["EXPECTED_WORLD"])
    for family in families:
        check_training(folder, family)
    if dist.get_world_size() == 4:
        check_algebra()
        check_bytes(folder)
        check_balance(folder)
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
