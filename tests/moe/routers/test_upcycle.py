from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, LlamaModel

from hf_mixture.moe.anatomy import find_routers
from hf_mixture.moe.routers.transforms.granular import upcycle_granular
from hf_mixture.moe.routers.upcycle import PAIRS, upcycle


IDS = torch.randint(0, 64, (3, 21), generator=torch.Generator().manual_seed(0))


def dense_model(family: str, dtype: torch.dtype = torch.float32, **overrides: Any) -> Any:
    torch.manual_seed(0)
    config = AutoConfig.for_model(
        family,
        vocab_size=64,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        initializer_range=0.2,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=None,
        **overrides,
    )
    return AutoModelForCausalLM.from_config(config).to(dtype).eval()


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        result: torch.Tensor = model(IDS).logits
    return result


@pytest.mark.parametrize("family", PAIRS)
def test_the_logits_are_those_of_the_dense_model(family: str) -> None:
    dense = dense_model(family)
    expected = logits(dense)
    assert expected.abs().max() > 0.1
    for top_k in (1, 2, 3):
        moe = upcycle(dense, num_experts=4, top_k=top_k)
        assert moe.config.model_type == PAIRS[family].target
        assert (logits(moe) - expected).abs().max() <= 1e-5
    for dtype, init in ((torch.float64, "random"), (torch.float64, "orthogonal")):
        exact = dense_model(family, dtype)
        assert torch.equal(logits(upcycle(exact, num_experts=4, top_k=1, router_init=init)), logits(exact))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("family", "overrides"),
    [
        ("llama", {"tie_word_embeddings": True, "rope_parameters": {"rope_type": "linear", "factor": 2.0}}),
        ("mistral", {"sliding_window": 6}),
        ("qwen2", {"use_sliding_window": True, "sliding_window": 6, "max_window_layers": 1}),
        ("granite", {"residual_multiplier": 0.5, "logits_scaling": 3.0, "attention_multiplier": 0.3}),
        ("llama", {"hidden_act": "gelu"}),
    ],
)
def test_what_else_the_dense_configuration_says_is_kept(family: str, overrides: dict[str, Any]) -> None:
    dense = dense_model(family, **overrides)
    assert not torch.allclose(logits(dense), logits(dense_model(family)), atol=1e-3)
    assert (logits(upcycle(dense, num_experts=3)) - logits(dense)).abs().max() <= 1e-5


def test_the_result_is_a_stock_model_and_the_dense_one_is_untouched(tmp_path: Path) -> None:
    dense = dense_model("qwen2")
    before = {name: tensor.clone() for name, tensor in dense.state_dict().items()}
    moe = upcycle(dense, num_experts=4, top_k=2).train()
    moe(IDS, labels=IDS, output_router_logits=True).loss.backward()
    for router in find_routers(moe):
        assert router.weight is not None
        assert router.weight.grad is not None
        assert router.weight.grad.abs().max() > 0
    with torch.no_grad():
        for parameter in moe.parameters():
            parameter.add_(1.0)
    assert all(torch.equal(tensor, before[name]) for name, tensor in dense.state_dict().items())
    upcycle(dense, num_experts=4, top_k=2).save_pretrained(tmp_path / "moe")
    torch.save(logits(dense), tmp_path / "logits.pt")
    script = (
        "import sys, torch; from transformers import AutoModelForCausalLM\n"
        f"model = AutoModelForCausalLM.from_pretrained({str(tmp_path / 'moe')!r})\n"
        f"expected = torch.load({str(tmp_path / 'logits.pt')!r}, weights_only=True)\n"
        f"ids = torch.tensor({IDS.tolist()})\n"
        "assert (model(ids).logits - expected).abs().max() <= 1e-5\n"
        "assert not any(name.startswith('hf_mixture') for name in sys.modules)\n"
        "print(type(model).__name__)"
    )
    done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True, cwd=tmp_path)
    assert done.stdout.split()[-1] == "Qwen2MoeForCausalLM"


def test_seed_noise_and_router() -> None:
    dense = dense_model("llama")
    first, second = (find_routers(upcycle(dense, seed=seed))[0].weight for seed in (0, 1))
    assert first is not None
    assert second is not None
    assert not torch.equal(first, second)
    again = find_routers(upcycle(dense, seed=0))[0].weight
    assert again is not None
    assert torch.equal(first, again)
    rows = find_routers(upcycle(dense, router_init="orthogonal"))[0].weight
    assert rows is not None
    expected = 0.2**2 * 32 * torch.eye(8)
    torch.testing.assert_close(rows @ rows.T, expected, rtol=1e-4, atol=1e-5)
    noisy = upcycle(dense, noise=0.1, seed=3)
    experts = noisy.model.layers[0].mlp.experts
    source = torch.cat([dense.model.layers[0].mlp.gate_proj.weight, dense.model.layers[0].mlp.up_proj.weight])
    added = (experts.gate_up_proj - source) / source.std()
    assert added.std().item() == pytest.approx(0.1, rel=0.05)
    assert not torch.equal(experts.gate_up_proj[0], experts.gate_up_proj[1])
    assert (logits(noisy) - logits(dense)).abs().max() > 1e-3


def test_type_device_and_mode_are_those_of_the_dense_model() -> None:
    dense = dense_model("llama").to(torch.bfloat16).train()
    dense.generation_config.max_length = 77
    moe = upcycle(dense)
    assert {parameter.dtype for parameter in moe.parameters()} == {torch.bfloat16}
    assert moe.training
    assert moe.generation_config.max_length == 77


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"num_experts": 0}, "num_experts=0; it must be at least 1"),
        ({"top_k": 0}, "top_k=0; it must be at least 1"),
        ({"num_experts": 2, "top_k": 3}, "top_k=3 is more than the 2 experts"),
        ({"noise": -1.0}, "noise=-1.0; it must be at least 0"),
        ({"router_init": "zero"}, "router_init='zero'; choose 'random' or 'orthogonal'"),
        (
            {"target": "qwen3_moe"},
            "target='qwen3_moe' does not have the attention of 'llama'.*use 'mixtral'.*qwen2 to",
        ),
    ],
)
def test_wrong_arguments(change: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        upcycle(dense_model("llama"), **change)


def test_models_without_a_counterpart() -> None:
    with pytest.raises(ValueError, match=r"a GPTNeoXForCausalLM .* has no counterpart.*llama to mixtral"):
        upcycle(AutoModelForCausalLM.from_config(AutoConfig.for_model("gpt_neox", num_hidden_layers=0, vocab_size=9)))
    small = LlamaConfig(vocab_size=8, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1)
    with pytest.raises(ValueError, match=r"a LlamaModel .* has no counterpart"):
        upcycle(LlamaModel(small))
    with pytest.raises(ValueError, match=r"self_attn\.q_proj\.bias of LlamaForCausalLM has no counterpart in Mixtral"):
        upcycle(LlamaForCausalLM(LlamaConfig(**{**small.to_dict(), "attention_bias": True})))
    with pytest.raises(ValueError, match=r"embed_tokens\.weight is on the device 'meta', that is offloaded"):
        upcycle(LlamaForCausalLM(small).to("meta"))
    sliding = dense_model("qwen3", use_sliding_window=True, sliding_window=6, max_window_layers=1)
    with pytest.raises(ValueError, match="layers with sliding attention"):
        upcycle(sliding)


def test_shards_chosen_as_whole_copies_give_the_dense_logits() -> None:
    for family in ("llama", "qwen3"):
        dense = dense_model(family)
        for top_k in (4, 8):
            moe = upcycle_granular(dense, num_copies=3, granularity=4, top_k=top_k)
            chosen: list[torch.Tensor] = []
            for router in find_routers(moe):
                router.observe(lambda output, chosen=chosen: chosen.append(output.indices.sort(dim=-1).values))  # type: ignore[misc]
            assert (logits(moe) - logits(dense)).abs().max() <= 1e-5
            for indices in chosen:
                # The shards of `top_k / 4` copies, all four of each.
                assert torch.equal(
                    indices.unflatten(-1, (-1, 4)) % 4, torch.arange(4).expand(len(indices), top_k // 4, 4)
                )


def test_shards_chosen_one_by_one_do_not() -> None:
    dense = dense_model("llama")
    scale = logits(dense).abs().mean()
    for init, top_k in (("random", 4), ("orthogonal", 4), ("grouped", 3), ("grouped", 6)):
        moe = upcycle_granular(dense, num_copies=3, granularity=4, top_k=top_k, router_init=init)  # type: ignore[arg-type]
        assert (logits(moe) - logits(dense)).abs().mean() > 0.05 * scale


def test_all_shards_with_equal_weight_are_the_dense_mlp_whatever_the_copies() -> None:
    dense = dense_model("llama", torch.float64)
    moe = upcycle_granular(dense, num_copies=2, granularity=4, top_k=8, router_init="random")
    for router in find_routers(moe):
        assert router.weight is not None
        router.weight.data.zero_()
    torch.testing.assert_close(logits(moe), logits(dense), rtol=0, atol=1e-12)


def test_wrong_granularity() -> None:
    with pytest.raises(ValueError, match="granularity=5 does not divide the intermediate size 48"):
        upcycle_granular(dense_model("llama"), granularity=5)
    with pytest.raises(ValueError, match="router_init='even'"):
        upcycle_granular(dense_model("llama"), router_init="even")  # type: ignore[arg-type]
