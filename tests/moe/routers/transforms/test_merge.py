from __future__ import annotations

from typing import Any

import pytest
import torch
from moe_families import build_tiny_moe
from transformers import LlamaConfig, LlamaForCausalLM

from hf_mixture.moe.anatomy import find_routers
from hf_mixture.moe.routers.transforms.merge import group_experts, merge_experts
from hf_mixture.moe.routers.upcycle import upcycle


GROUPS = [[0, 3], [5, 1, 2], [4], [7, 6]]


def logits(model: Any, inputs: Any) -> torch.Tensor:
    with torch.no_grad():
        result: torch.Tensor = model(**inputs).logits
    return result


def every(model: Any, groups: list[list[int]]) -> dict[str, list[list[int]]]:
    return {router.path: groups for router in find_routers(model)}


@pytest.mark.parametrize("family", ["mixtral", "gpt_oss", "minimax_m2", "longcat_flash"])
@pytest.mark.parametrize("weighted", [False, True])
def test_merged_tensors_are_means(family: str, weighted: bool, tmp_path: Any) -> None:
    moe = build_tiny_moe(family)
    before = {name: tensor.clone() for name, tensor in moe.model.state_dict().items()}
    used = torch.tensor([4, 0, 3, 1, 7, 0, 0, 0])
    counts = {router.path: used for router in find_routers(moe.model)} if weighted else None
    merge_experts(moe.model, every(moe.model, GROUPS), counts=counts)
    shares = (
        [[0.8, 0.2], [0.0, 0.0, 1.0], [1.0], [0.5, 0.5]] if weighted else [[0.5] * 2, [1 / 3] * 3, [1.0], [0.5] * 2]
    )
    changed = 0
    for name, tensor in moe.model.state_dict().items():
        old = before[name]
        if tensor.shape == old.shape:
            assert torch.equal(tensor, old)
            continue
        expected = [sum(w * old[e] for e, w in zip(*group, strict=True)) for group in zip(GROUPS, shares, strict=True)]
        torch.testing.assert_close(tensor, torch.stack([*expected, *old[8:]]), rtol=1e-5, atol=1e-6)
        changed += 1
    assert changed >= 3 * len(find_routers(moe.model))
    moe.model.save_pretrained(tmp_path)
    again = type(moe.model).from_pretrained(tmp_path)
    torch.testing.assert_close(logits(again, moe.inputs), logits(moe.model, moe.inputs))


def test_equal_experts_merge_without_any_change() -> None:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=32, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2,
        initializer_range=0.3,
    )  # fmt: skip
    dense = LlamaForCausalLM(config).eval()
    model = upcycle(dense, num_experts=8, top_k=2)
    merge_experts(model, every(model, GROUPS))
    inputs = {"input_ids": torch.arange(20)[None]}
    assert model.config.num_local_experts == 4
    torch.testing.assert_close(logits(model, inputs), logits(dense, inputs), rtol=0, atol=1e-5)


def test_alignment_undoes_an_order_of_hidden_units_and_helps_beyond() -> None:
    """Experts that are noisy copies of one, each with its hidden units in another order."""

    def shuffled(noise: float) -> tuple[Any, torch.Tensor]:
        moe = build_tiny_moe("mixtral")
        generator = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for layer in moe.model.model.layers:
                gate_up, down = layer.mlp.experts.gate_up_proj, layer.mlp.experts.down_proj
                for expert in range(1, 8):
                    gate_up[expert] = gate_up[0] + noise * torch.randn(gate_up[0].shape, generator=generator)
                    down[expert] = down[0] + noise * torch.randn(down[0].shape, generator=generator)
        expected = logits(moe.model, moe.inputs)
        with torch.no_grad():
            for layer in moe.model.model.layers:
                gate_up, down = layer.mlp.experts.gate_up_proj, layer.mlp.experts.down_proj
                for expert in range(1, 8):
                    order = torch.randperm(down.shape[-1], generator=generator)
                    gate_up[expert] = torch.cat([half[order] for half in gate_up[expert].chunk(2)])
                    down[expert] = down[expert][:, order]
        torch.testing.assert_close(logits(moe.model, moe.inputs), expected, rtol=1e-4, atol=1e-4)
        return moe, expected

    def error(noise: float, align: bool) -> float:
        moe, expected = shuffled(noise)
        merge_experts(moe.model, every(moe.model, GROUPS), align=align)
        return float((logits(moe.model, moe.inputs) - expected).abs().mean())

    assert error(0.0, align=True) < 1e-5
    assert error(0.0, align=False) > 0.1
    assert error(0.02, align=True) < 0.3 * error(0.02, align=False)


def test_groups_by_use_and_likeness() -> None:
    moe = build_tiny_moe("mixtral")
    counts = {}
    for router in find_routers(moe.model):
        assert router.weight is not None
        router.weight.data[:4] = torch.eye(4, 32)
        router.weight.data[4:] = 3 * torch.eye(4, 32)[[2, 2, 0, 1]]
        counts[router.path] = torch.tensor([5, 9, 1, 1, 8, 0, 0, 0])
    groups = group_experts(moe.model, 3, counts)
    assert set(map(str, groups.values())) == {"[[0, 3, 6], [1, 7], [4, 2, 5]]"}
    merge_experts(moe.model, groups, counts=counts)
    assert moe.model.config.num_local_experts == 3


def test_what_cannot_be_merged() -> None:
    model = build_tiny_moe("mixtral").model
    with pytest.raises(ValueError, match="groups names 'gate', which is no router"):
        merge_experts(model, {"gate": GROUPS})
    for wrong in ([[0, 1], [2, 3]], [[0, 1, 2, 3], [3, 4, 5, 6, 7]], [[0, 1, 2, 3, 4, 5, 6, 7], []]):
        with pytest.raises(ValueError, match="is no partition of the experts 0 to 7"):
            merge_experts(model, every(model, wrong))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(ValueError, match="leaves 1 experts and a token takes 2"):
        merge_experts(model, every(model, [list(range(8))]))
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    other = build_tiny_moe("gpt_oss").model
    with pytest.raises(ValueError, match="align=True knows experts with gate_up_proj"):
        merge_experts(other, every(other, GROUPS), align=True)
    with pytest.raises(ValueError, match=r"num_groups=9; model\.layers\.0\.mlp\.gate has 8 experts"):
        group_experts(model, 9, {})


def test_experts_that_two_routers_share_are_merged_in_one_way() -> None:
    model = build_tiny_moe("diffusion_gemma").model
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    routers = [router.path for router in find_routers(model)]
    pairs, others = [[0, 1], [2, 3], [4, 5], [6, 7]], [[0, 3], [2, 1], [4, 5], [6, 7]]
    with pytest.raises(ValueError, match=r"has the same experts as model\.encoder\..* would merge them differently"):
        merge_experts(model, {path: others if "decoder" in path else pairs for path in routers})
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    merge_experts(model, dict.fromkeys(routers, pairs))
    name = "model.decoder.layers.1.experts.down_proj"
    torch.testing.assert_close(model.state_dict()[name], before[name].unflatten(0, (4, 2)).mean(1))
