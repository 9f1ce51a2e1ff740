"""Experts of which the busy ones are copied, on processes under torchrun; what one process does, when run alone."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from counting import CountingBytes
from transformers import AutoModelForCausalLM, MixtralConfig, OlmoeConfig, Qwen3MoeConfig
from transformers.distributed import DistributedConfig

import hf_mixture  # noqa: F401 - registers the implementation
from hf_mixture.moe.parallel.exchange import exchange_plan, gather_copies
from hf_mixture.moe.parallel.fssdp import FssdpOptions, fssdp_layers
from hf_mixture.moe.parallel.fssdp_training import fssdp_step, set_fssdp_options
from hf_mixture.moe.parallel.placement import contiguous_owners
from hf_mixture.moe.parallel.reshard import reshard_experts, restore_experts


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


def train(model: Any, ids: torch.Tensor, after_step: Callable[[Any], None]) -> torch.Tensor:
    """Steps of AdamW; gives the losses, in float64 where a model would compute its own in float32."""
    optimizer, losses = torch.optim.AdamW(model.parameters(), lr=1e-3), []
    for step in ids:
        logits = model(input_ids=step).logits[:, :-1]
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), step[:, 1:].flatten())
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.detach())
        after_step(optimizer)
    return torch.stack(losses)


def alone(folder: Path) -> None:
    for family in CONFIGS:
        model = build(family)
        model.save_pretrained(folder / family)
        losses = train(model, batches(0, 1), lambda optimizer: None)
        torch.save({"losses": losses, "state": model.state_dict()}, folder / f"{family}.pt")


def spread(folder: Path, family: str, implementation: str = "fssdp", *, ep: int | None = None, tp: int = 1) -> Any:
    world = dist.get_world_size()
    config = DistributedConfig(
        ep_size=ep or world, fsdp_size=world // tp, tp_size=tp, ep_implementation=implementation
    )
    return AutoModelForCausalLM.from_pretrained(
        folder / family, dtype=torch.float64, experts_implementation="eager", distributed_config=config
    ).train()


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
        plan = exchange_plan(holders, owners, rank, ranks_per_node=int(generator.choice([1, 2, 4])))
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


def run(
    folder: Path, family: str, options: FssdpOptions, *, ep: int | None = None, tp: int = 1, checkpoint: bool = False
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Train, and compare losses and all parameters with those of one process."""
    world = dist.get_world_size()
    model = spread(folder, family, ep=ep, tp=tp)
    layers = fssdp_layers(model)
    set_fssdp_options(model, options)
    if checkpoint:
        model.activation_checkpointing_enable()
    placements, moved, uneven = [], [], []

    def step(optimizer: Any) -> None:
        fssdp_step(model)
        placements.append(layers[0].holders.tobytes())
        if options.reshard_interval and len(placements) % options.reshard_interval == 0:
            moved.append(reshard_experts(model, optimizer))
            uneven.extend(len(set(np.bincount(layer.owners, minlength=layer.num_ranks))) > 1 for layer in layers)
        if len(placements) == STEPS and any(moved):
            try:
                model.state_dict()
            except ValueError as error:
                assert "call restore_experts" in str(error)  # noqa: PT017 - the worker is no test of pytest
            else:
                raise AssertionError("the experts are in another order")
            restore_experts(model, optimizer)

    losses = train(model, batches(dist.get_rank() // tp, world // tp), step)
    mean = losses.clone()
    dist.all_reduce(mean)
    reference = torch.load(folder / f"{family}.pt", weights_only=True)
    said = f"{family} {options} ep={ep} tp={tp}"
    torch.testing.assert_close(
        mean / world, reference["losses"], rtol=1e-10, atol=1e-12, msg=lambda text: f"{said}: {text}"
    )
    state = {
        name: value.full_tensor() if hasattr(value, "full_tensor") else value
        for name, value in model.state_dict().items()
    }
    for name, value in state.items():
        expected = reference["state"][name]
        torch.testing.assert_close(
            value, expected, rtol=1e-10, atol=1e-12, msg=lambda text, name=name: f"{said} {name}: {text}"
        )
    assert len(set(placements)) > STEPS // 2, "the copies must change"
    assert any(layer.exchange.num_received for layer in layers)
    assert not options.reshard_interval or any(moved)
    assert any(uneven) == options.pool
    return losses, state


def check_training(folder: Path, family: str) -> None:
    """Acceptance check 2: losses and all parameters of one process, with other copies at every step."""
    common = {"num_slots": 3, "window": 2, "ranks_per_node": 2}
    results = [
        run(folder, family, FssdpOptions(**common, rematerialise=rematerialise, prefetch=prefetch))
        for rematerialise, prefetch in ((False, True), (True, True), (False, False))
    ]
    for losses, state in results[1:]:
        assert torch.equal(results[0][0], losses)
        for name, value in results[0][1].items():
            assert torch.equal(value, state[name])


def check_variants(folder: Path) -> None:
    """All else that a run may have, against one process."""
    common = {"num_slots": 3, "window": 2, "ranks_per_node": 2}
    run(folder, "mixtral", FssdpOptions(**common, reshard_interval=3))
    run(folder, "mixtral", FssdpOptions(**common, reshard_interval=3, pool=True))
    pooled = FssdpOptions(**common, reshard_interval=2, pool=True, rematerialise=True, calibrate=True, copy_tokens=0.0)
    run(folder, "mixtral", pooled)
    run(folder, "mixtral", FssdpOptions(**common, calibrate=True, copy_tokens=0.0, num_busy=4, rematerialise=True))
    run(folder, "mixtral", FssdpOptions(**common), checkpoint=True)
    run(folder, "mixtral", FssdpOptions(**common, rematerialise=True), checkpoint=True)
    run(folder, "mixtral", FssdpOptions(**common), tp=2)
    if dist.get_world_size() == 4:
        run(folder, "mixtral", FssdpOptions(**common), ep=2)
        run(folder, "mixtral", FssdpOptions(**common, rematerialise=True), ep=2, tp=2)
        check_refusal(folder)


def check_refusal(folder: Path) -> None:
    """Experts that are sharded over ranks cannot move."""
    model = spread(folder, "mixtral", ep=2)
    set_fssdp_options(model, FssdpOptions())
    for layer in fssdp_layers(model):
        layer.window.append(np.arange(EXPERTS))
    try:
        reshard_experts(model, torch.optim.AdamW(model.parameters()))
    except ValueError as error:
        assert "reshard_interval needs experts that lie whole" in str(error)  # noqa: PT017
    else:
        raise AssertionError("nothing was refused")


def check_half_precision(folder: Path) -> None:
    """Under autocast copies travel in bfloat16, and the losses are those of stock expert parallelism."""
    ids = batches(dist.get_rank(), dist.get_world_size())[:4]
    found, sent = {}, {}
    for implementation in ("all_to_all", "fssdp"):
        model = spread(folder, "mixtral", implementation).float()
        if implementation == "fssdp":
            set_fssdp_options(model, FssdpOptions(num_slots=3, window=2))
            for layer in fssdp_layers(model):
                layer.window.append(np.arange(EXPERTS))
                layer.plan()
        optimizer, losses = torch.optim.SGD(model.parameters(), lr=1e-2), []
        with CountingBytes() as counted:
            for step in ids:
                with torch.autocast("cpu", dtype=torch.bfloat16):
                    loss = model(input_ids=step, labels=step).loss
                loss.backward()
                optimizer.step()
                optimizer.zero_grad()
                losses.append(loss.detach())
        found[implementation], sent[implementation] = torch.stack(losses), counted.parameters
    torch.testing.assert_close(found["fssdp"], found["all_to_all"], rtol=2e-2, atol=2e-2)
    layers = fssdp_layers(model)
    width = sum(parameter[0].numel() for parameter in layers[0].experts._parameters.values())
    travelled = sum(layer.exchange.num_sent + layer.exchange.num_received for layer in layers)
    assert sent["fssdp"] == 2 * width * len(ids) * travelled


def check_bytes(folder: Path) -> None:
    """Acceptance check 3: what was planned is what is sent."""
    rank, world = dist.get_rank(), dist.get_world_size()
    ids = batches(rank, world)[0]
    sent: dict[str, int] = {}
    for implementation in ("all_to_all", "fssdp"):
        model = spread(folder, "mixtral", implementation)
        if implementation == "fssdp":
            set_fssdp_options(model, FssdpOptions(num_slots=0))
        with CountingBytes() as counted:
            model(input_ids=ids).logits.sum().backward()
        sent[implementation] = counted.tokens
        assert counted.parameters == 0
    assert sent["fssdp"] == sent["all_to_all"] > 0

    width = sum(
        parameter[0].numel() * parameter.element_size()
        for parameter in fssdp_layers(model)[0].experts._parameters.values()
    )
    for rematerialise, rounds in ((False, 2), (True, 3)):
        set_fssdp_options(model, FssdpOptions(num_busy=2, num_slots=2, rematerialise=rematerialise))
        for layer in fssdp_layers(model):
            layer.window.append(np.arange(EXPERTS) ** 3)
            layer.plan()
        planned = sum(layer.exchange.num_sent for layer in fssdp_layers(model)) * width
        planned_back = sum(layer.exchange.num_received for layer in fssdp_layers(model)) * width
        with CountingBytes() as counted:
            model(input_ids=ids).logits.sum().backward()
        assert counted.parameters == planned * (rounds - 1) + planned_back
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
        forward = layer.experts_forward
        layer.experts_forward = lambda tokens, *rest, forward=forward, received=received: (
            received.append(len(tokens)),
            forward(tokens, *rest),
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


def main(folder: Path, what: list[str]) -> None:
    if "WORLD_SIZE" not in os.environ:
        alone(folder)
        return
    dist.init_process_group("gloo")
    assert dist.get_world_size() == int(os.environ["EXPECTED_WORLD"])
    for family in [name for name in what if name in CONFIGS]:
        check_training(folder, family)
    if "variants" in what:
        check_variants(folder)
        check_half_precision(folder)
    if dist.get_world_size() == 4:
        check_algebra()
        check_bytes(folder)
        check_balance(folder)
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
