"""Experts that are split over ranks, and experts of limited capacity, on processes under torchrun.

Run alone, it saves the model and what one process computes.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from counting import CountingBytes
from torch.distributed.tensor import Replicate
from transformers import AutoModelForCausalLM, MixtralConfig, OlmoeConfig
from transformers.distributed import DistributedConfig, expert_parallel

from hf_mixture import CapacityOptions, FoldingPlan, dropped_share, set_capacity_options


BATCH, LENGTH, EXPERTS, HIDDEN, TOP_K = 8, 10, 8, 32, 2
SHAPE = {
    "vocab_size": 64,
    "hidden_size": HIDDEN,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 48,
    "num_experts_per_tok": TOP_K,
    "initializer_range": 0.3,
}
CONFIGS = {
    "mixtral": MixtralConfig(**SHAPE, num_local_experts=EXPERTS),
    # Its checkpoint has a matrix for each expert, gate and up apart.
    "olmoe": OlmoeConfig(**SHAPE, num_experts=EXPERTS),
}


def batch() -> torch.Tensor:
    return torch.randint(0, 64, (BATCH, LENGTH), generator=torch.Generator().manual_seed(0))


def loss_of(model: Any, ids: torch.Tensor) -> torch.Tensor:
    logits = model(input_ids=ids).logits[:, :-1]
    return torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten())


def alone(folder: Path) -> None:
    for family, config in CONFIGS.items():
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config, experts_implementation="eager").double().train()
        model.save_pretrained(folder / family)
        loss = loss_of(model, batch())
        loss.backward()
        gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
        torch.save({"loss": loss.detach(), "gradients": gradients}, folder / f"{family}.pt")


def spread(folder: Path, family: str, config: DistributedConfig) -> Any:
    return AutoModelForCausalLM.from_pretrained(
        folder / family, dtype=torch.float64, experts_implementation="eager", distributed_config=config
    ).train()


def mine(plan: FoldingPlan) -> torch.Tensor:
    """The sequences of this rank: tensor-parallel ranks share theirs."""
    per_rank = BATCH // plan.dp
    place = dist.get_rank() // plan.tp
    return batch()[place * per_rank : (place + 1) * per_rank]


def whole(tensor: Any) -> torch.Tensor:
    """A tensor of all ranks. PyTorch cannot gather over two strided shards at once."""
    if not hasattr(tensor, "full_tensor"):
        return tensor
    if len(tensor.placements) == 3:
        tensor = tensor.redistribute(placements=[*tensor.placements[:-1], Replicate()])
    return tensor.full_tensor()


def check_numerics(folder: Path, family: str, plan: FoldingPlan) -> None:
    """Acceptance check 2: loss and all gradients of one process."""
    reference = torch.load(folder / f"{family}.pt", weights_only=True)
    model = spread(folder, family, plan.to_distributed_config())
    divide_twice = plan.ep * plan.etp > 1 and plan.edp == 1
    for layer in model.model.layers if divide_twice else []:
        # In float64 with one rank for each expert, PyTorch divides these gradients twice: the test divides itself.
        layer.mlp.experts.set_gradient_divide_factor(1.0)
    loss = loss_of(model, mine(plan))
    loss.backward()
    mean = loss.detach().clone()
    dist.all_reduce(mean)
    torch.testing.assert_close(mean / dist.get_world_size(), reference["loss"], rtol=1e-10, atol=1e-12)
    for name, parameter in model.named_parameters():
        gradient = whole(parameter.grad)
        if divide_twice and ".experts." in name:
            gradient = gradient / plan.dp
        torch.testing.assert_close(
            gradient,
            reference["gradients"][name],
            rtol=1e-10,
            atol=1e-12,
            msg=lambda said, name=name: f"{name} {said}",
        )
    state = {name: value.clone() for name, value in model.state_dict().items()}
    model.load_state_dict(state)
    model.save_pretrained(folder / "again")
    again = AutoModelForCausalLM.from_pretrained(folder / "again", dtype=torch.float64)
    before = AutoModelForCausalLM.from_pretrained(folder / family, dtype=torch.float64)
    for name, parameter in before.named_parameters():
        assert torch.equal(parameter, again.get_parameter(name)), name
    dist.barrier()


def check_bytes(folder: Path, plan: FoldingPlan) -> None:
    """Acceptance check 5: with an even load, what is sent is what the cost model says."""
    model = spread(folder, "mixtral", plan.to_distributed_config(ep_implementation="folded"))
    tokens = EXPERTS * plan.tp
    hidden = torch.randn(tokens, HIDDEN, dtype=torch.float64, requires_grad=True)
    index = torch.stack([torch.arange(tokens) % EXPERTS, (torch.arange(tokens) + 1) % EXPERTS], dim=1)
    weights = torch.full((tokens, TOP_K), 0.5, dtype=torch.float64)
    with CountingBytes() as sent:
        model.model.layers[0].mlp.experts(hidden, index, weights).sum().backward()
    routed = tokens / plan.tp * TOP_K * HIDDEN * 8
    expected = 4 * routed * (plan.ep - 1) / plan.ep + 4 * routed * (plan.etp - 1)
    assert sent.tokens == expected, (plan, sent.tokens, expected)


def check_capacity(folder: Path, plan: FoldingPlan) -> None:
    """What is dropped, and that nothing is where there is room for all."""
    ids = mine(plan)
    exact = spread(folder, "mixtral", plan.to_distributed_config(ep_implementation="folded"))
    whole = exact(input_ids=ids).logits
    model = spread(folder, "mixtral", plan.to_distributed_config(ep_implementation="capacity"))
    set_capacity_options(model, CapacityOptions(factor=EXPERTS / TOP_K))
    assert torch.equal(model(input_ids=ids).logits, whole)
    assert dropped_share(model) == 0
    for scope in ("sub_sequence", "sequence"):
        options = {"factor": 0.75, "scope": scope}
        set_capacity_options(model, CapacityOptions(**options))
        some = model(input_ids=ids).logits
        assert 0.2 < dropped_share(model) < 0.8
        assert not torch.allclose(some, whole)
        model.zero_grad()
        some.sum().backward()
        slope = model.model.embed_tokens.weight.grad.full_tensor()
        set_capacity_options(model, CapacityOptions(**options, pad=True))
        padded = model(input_ids=ids).logits
        torch.testing.assert_close(padded, some, rtol=1e-10, atol=1e-12)
        model.zero_grad()
        padded.sum().backward()
        torch.testing.assert_close(model.model.embed_tokens.weight.grad.full_tensor(), slope, rtol=1e-9, atol=1e-11)


def check_oracle(folder: Path, plan: FoldingPlan) -> None:
    """A layer with dropping against a loop over tokens."""
    model = spread(folder, "mixtral", plan.to_distributed_config(ep_implementation="capacity"))
    one = AutoModelForCausalLM.from_pretrained(folder / "mixtral", dtype=torch.float64, experts_implementation="eager")
    generator = torch.Generator().manual_seed(dist.get_rank() // plan.tp)
    hidden = torch.randn(12, HIDDEN, dtype=torch.float64, generator=generator)
    index = torch.randint(0, EXPERTS, (12, TOP_K), generator=generator)
    # Few different weights, so that there are ties.
    weights = torch.randint(1, 4, (12, TOP_K), generator=generator).double()
    for policy in ("probs", "position"):
        options = CapacityOptions(factor=1.0, policy=policy, scope="sequence")
        set_capacity_options(model, options)
        dropped = weights.clone()
        for expert in range(EXPERTS):
            pairs = [(t, k) for t in range(12) for k in range(TOP_K) if index[t, k] == expert]
            if policy == "probs":
                pairs.sort(key=lambda pair: -float(weights[pair]))
            for pair in pairs[options.capacity(12 * TOP_K, EXPERTS) :]:
                dropped[pair] = 0.0
        with torch.no_grad():
            wanted = one.model.layers[0].mlp.experts(hidden, index, dropped)
            found = model.model.layers[0].mlp.experts(hidden, index, weights)
        torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-12)


def check_refusals(folder: Path) -> None:
    world = dist.get_world_size()
    for name, said in (("folded_etp4", "does not divide the 2 ranks"), ("folded_etp8", "does not divide the 2 ranks")):
        try:
            spread(folder, "mixtral", DistributedConfig(fsdp_size=world, ep_size=2, ep_implementation=name))
        except ValueError as error:
            assert said in str(error), error  # noqa: PT017 - the worker is no test of pytest
        else:
            raise AssertionError(name)


def main(folder: Path, what: str) -> None:
    if "WORLD_SIZE" not in os.environ:
        alone(folder)
        return
    dist.init_process_group("gloo")
    world = dist.get_world_size()
    assert world == int(os.environ["EXPECTED_WORLD"])
    assert "folded" in expert_parallel.EPImplementationInterface()
    if what == "two":
        check_numerics(folder, "mixtral", FoldingPlan(world=2, etp=2))
        check_capacity(folder, FoldingPlan(world=2, ep=2))
        check_refusals(folder)
    else:
        sizes = [(ep, etp) for etp in (1, 2) for ep in (1, 2, 4, 8) if ep * etp <= 8 and (ep, etp) != (1, 1)]
        for ep, etp in sizes:
            plan = FoldingPlan(world=8, tp=2, ep=ep, etp=etp)
            check_numerics(folder, "mixtral", plan)
            check_bytes(folder, plan)
        check_numerics(folder, "olmoe", FoldingPlan(world=8, tp=2, ep=2, etp=2))
        check_numerics(folder, "olmoe", FoldingPlan(world=8, ep=2, etp=4))
        for plan in (FoldingPlan(world=8, tp=2, ep=4), FoldingPlan(world=8, tp=2, ep=2, etp=2)):
            check_capacity(folder, plan)
            check_oracle(folder, plan)
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2] if len(sys.argv) > 2 else "")
