from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from peft import LoraConfig, get_peft_model
from peft.helpers import disable_input_dtype_casting
from torch import nn
from transformers import AutoModelForCausalLM

from hf_mixture import MosConfig
from hf_mixture.adapters.mos.layer import MosLayer


class Stack(nn.Module):
    """Equal linear layers, one after the other."""

    def __init__(self, num_layers: int = 4, size: int = 16, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.ModuleDict({"proj": nn.Linear(size, size)}) for _ in range(num_layers))
        self.to(dtype)

    def forward(self, x):
        for layer in self.layers:
            x = torch.tanh(layer["proj"](x))
        return x


def config(**changes) -> MosConfig:
    settings = {"r": 4, "equivalent_rank": 2, "private_rank": 1, "num_shards": 4, "init_weights": False}
    return MosConfig(**{**settings, "target_modules": ["proj"], **changes})


def mos_layers(model: nn.Module) -> list[MosLayer]:
    return [module for module in model.modules() if isinstance(module, MosLayer)]


def dense_factor(pool: torch.Tensor, index: torch.Tensor, num_shards: int) -> torch.Tensor:
    """The construction of the paper: strided slices of the gathered shards, side by side."""
    gathered = pool[index.long()]
    return torch.cat([gathered[start::num_shards] for start in range(num_shards)], dim=1)


def test_factors_are_the_shards_of_the_index_side_by_side():
    model = get_peft_model(Stack(), config())
    for layer in mos_layers(model):
        pools = layer.bank["default"]
        index = layer.mos_index["default"]
        a, b = layer.factors("default")
        assert torch.equal(a, pools["A_proj_16x16"][index[0].long()].reshape(4, 16))
        assert torch.equal(a, dense_factor(pools["A_proj_16x16"], index[0], 4))
        assert torch.equal(b, dense_factor(pools["B_proj_16x16"], index[1], 4))


def test_output_and_pool_gradients_equal_the_dense_form():
    torch.manual_seed(0)
    base = Stack()
    weights = [(layer["proj"].weight.detach().clone(), layer["proj"].bias.detach().clone()) for layer in base.layers]
    model = get_peft_model(base, config(mos_alpha=8))
    x = torch.randn(5, 16)
    model(x).square().sum().backward()
    pools = model.base_model.model.mos_bank["default"]
    dense = {name: pool.detach().clone().requires_grad_() for name, pool in pools.items()}
    out = x
    for layer, (weight, bias) in zip(mos_layers(model), weights, strict=True):
        index_a, index_b = layer.mos_index["default"]
        update = dense_factor(dense["B_proj_16x16"], index_b, 4).T @ dense_factor(dense["A_proj_16x16"], index_a, 4)
        out = torch.tanh(F.linear(out, weight + 8 / 4 * update, bias))
    torch.testing.assert_close(model(x), out, rtol=0, atol=1e-6)
    out.square().sum().backward()
    for name, pool in pools.items():
        torch.testing.assert_close(pool.grad, dense[name].grad, rtol=1e-5, atol=1e-5)


def test_starts_as_the_base_model():
    base = Stack()
    x = torch.randn(3, 16)
    expected = base(x)
    assert torch.equal(get_peft_model(base, config(init_weights=True))(x), expected)


@pytest.mark.parametrize("rank", [1, 3])
def test_all_private_shards_are_lora_bit_for_bit(rank):
    torch.manual_seed(0)
    ours = get_peft_model(Stack(), config(r=rank, equivalent_rank=rank, private_rank=rank, mos_alpha=8))
    torch.manual_seed(0)
    lora = get_peft_model(Stack(), LoraConfig(r=rank, lora_alpha=8, target_modules=["proj"]))
    lora_layers = [module for module in lora.modules() if hasattr(module, "lora_A")]
    for ours_layer, lora_layer in zip(mos_layers(ours), lora_layers, strict=True):
        a, b = ours_layer.factors("default")
        lora_layer.lora_A["default"].weight.data.copy_(a)
        lora_layer.lora_B["default"].weight.data.copy_(b.T)
    x = torch.randn(6, 16)
    outputs = [model(x) for model in (ours, lora)]
    assert torch.equal(*outputs)
    for output in outputs:
        output.square().sum().backward()
    pools = ours.base_model.model.mos_bank["default"]
    assert torch.equal(
        pools["A_proj_16x16"].grad.reshape(4, rank, 16),
        torch.stack([layer.lora_A["default"].weight.grad for layer in lora_layers]),
    )
    assert torch.equal(
        pools["B_proj_16x16"].grad.reshape(4, rank, 16),
        torch.stack([layer.lora_B["default"].weight.grad.T for layer in lora_layers]),
    )


def test_update_has_rank_r_at_the_cost_of_rank_e():
    model = get_peft_model(Stack(num_layers=8), config(r=6))
    for layer in mos_layers(model):
        a, b = (factor.double() for factor in layer.factors("default"))
        assert torch.linalg.matrix_rank(b.T @ a) == 6
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == 2 * 8 * (16 + 16)


def test_scaling_uses_the_active_rank():
    model = get_peft_model(Stack(), config(mos_alpha=10, rank_pattern={r"0\.proj": 2}))
    assert [layer.scaling["default"] for layer in mos_layers(model)] == [5.0, 2.5, 2.5, 2.5]
    layer = mos_layers(model)[1]
    a, b = layer.factors("default")
    torch.testing.assert_close(layer.get_delta_weight("default"), 2.5 * b.T @ a)


def test_dropout_acts_on_the_input_of_the_update_only():
    model = get_peft_model(Stack(num_layers=2), config(r=2, mos_dropout=0.5))
    x = torch.randn(4, 16)
    assert not torch.equal(model(x), model(x))
    model.eval()
    assert torch.equal(model(x), model(x))
    layer = mos_layers(model)[0]
    layer.train()
    layer.mos_dropout["default"] = nn.Dropout(1.0)
    assert torch.equal(layer(x), layer.base_layer(x))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("scale", [1.0, 100.0])
def test_unmerging_restores_the_weights_bit_for_bit(dtype, scale):
    model = get_peft_model(Stack(dtype=dtype), config(mos_alpha=16 * scale))
    model.add_adapter("other", config(r=2, index_seed=1))
    before = [layer.get_base_weight().clone() for layer in mos_layers(model)]
    model.base_model.set_adapter(["default", "other"])
    model.merge_adapter()
    assert not any(torch.equal(layer.get_base_weight(), w) for layer, w in zip(mos_layers(model), before, strict=True))
    model.unmerge_adapter()
    assert all(torch.equal(layer.get_base_weight(), w) for layer, w in zip(mos_layers(model), before, strict=True))


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.bfloat16, 3e-2), (torch.float16, 3e-3)]
)
def test_merged_and_unmerged_models_agree(dtype, tolerance):
    model = get_peft_model(Stack(dtype=dtype), config()).eval()
    x = torch.randn(3, 16, dtype=dtype)
    expected = model(x)
    assert expected.dtype == dtype
    model.merge_adapter(safe_merge=True)
    torch.testing.assert_close(model(x), expected, rtol=0, atol=tolerance)
    model.unmerge_adapter()
    assert torch.equal(model(x), expected)
    torch.testing.assert_close(model.merge_and_unload()(x), expected, rtol=0, atol=tolerance)


def test_safe_merge_refuses_a_broken_adapter_and_keeps_the_weights():
    model = get_peft_model(Stack(), config())
    layer = mos_layers(model)[0]
    before = layer.get_base_weight().clone()
    with torch.no_grad():
        layer.bank["default"]["B_proj_16x16"].fill_(float("nan"))
    with pytest.raises(
        ValueError, match=r"NaNs detected in the merged weights\. The adapter default seems to be broken"
    ):
        layer.merge(safe_merge=True)
    assert torch.equal(layer.get_base_weight(), before)
    assert not layer.merged


def test_half_precision_base_trains_float32_pools():
    model = get_peft_model(Stack(dtype=torch.bfloat16), config())
    assert {pool.dtype for pool in model.base_model.model.mos_bank.parameters()} == {torch.float32}
    output = model(torch.randn(2, 16, dtype=torch.bfloat16))
    assert output.dtype == torch.bfloat16
    output.float().sum().backward()
    assert all(pool.grad is not None for pool in model.base_model.model.mos_bank.parameters())
    same = get_peft_model(Stack(dtype=torch.bfloat16), config(), autocast_adapter_dtype=False)
    assert {pool.dtype for pool in same.base_model.model.mos_bank.parameters()} == {torch.bfloat16}
    assert same(torch.randn(2, 16, dtype=torch.bfloat16)).dtype == torch.bfloat16


def test_the_cast_of_inputs_can_be_switched_off_as_in_peft():
    model = get_peft_model(Stack(), config())
    x = torch.randn(2, 16, dtype=torch.bfloat16)
    layer = next(module for module in model.modules() if isinstance(module, MosLayer))
    assert layer._cast_input_dtype(x, torch.float32).dtype == torch.float32
    with disable_input_dtype_casting(model):
        assert layer._cast_input_dtype(x, torch.float32).dtype == torch.bfloat16
    assert layer._cast_input_dtype(x, torch.float32).dtype == torch.float32


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast(dtype):
    model = get_peft_model(Stack(), config())
    x = torch.randn(2, 16)
    expected = model(x)
    with torch.autocast("cpu", dtype):
        output = model(x)
    torch.testing.assert_close(output.float(), expected, rtol=0, atol=5e-2)
    output.float().square().sum().backward()
    assert all(pool.grad.isfinite().all() for pool in model.base_model.model.mos_bank.parameters())


def test_conv1d_of_gpt2(gpt2_folder, tokens):
    base = AutoModelForCausalLM.from_pretrained(gpt2_folder).eval()
    with pytest.warns(UserWarning, match="fan_in_fan_out is set to False but the target module is `Conv1D`"):
        model = get_peft_model(base, config(target_modules=["c_attn", "c_proj"])).eval()
    shapes = {name: tuple(pool.shape) for name, pool in base.mos_bank["default"].items()}
    assert shapes["A_c_attn_32x96"] == (2 * 3 * 4, 8)
    assert shapes["B_c_attn_32x96"] == (2 * 3 * 4, 24)
    expected = model(tokens).logits
    layer = base.transformer.h[0].attn.c_attn
    assert layer.get_delta_weight("default").shape == layer.base_layer.weight.shape == (32, 96)
    torch.testing.assert_close(model.merge_and_unload()(tokens).logits, expected, rtol=0, atol=1e-5)


def test_cached_factors_follow_every_change_of_pools_and_indices():
    model = get_peft_model(Stack(), config()).eval()
    x = torch.randn(2, 16)
    layer, pools = mos_layers(model)[0], model.base_model.model.mos_bank["default"]
    model.base_model.cache_factors()
    with torch.no_grad():
        expected = model(x)
        first = layer.factors("default")
        assert torch.equal(model(x), expected)
        assert layer.factors("default")[0] is first[0]
        pools["B_proj_16x16"].mul_(2)
        assert not torch.equal(model(x), expected)
        layer.mos_index["default"][0, 0] += 1
        assert not torch.equal(layer.factors("default")[0], first[0])
    assert layer.factors("default")[0].requires_grad
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model(x).sum().backward()
    optimizer.step()
    with torch.no_grad():
        cached = model(x)
    model.base_model.cache_factors(enabled=False)
    assert torch.equal(cached, model(x))
    assert layer.factor_cache is None


def test_compiles_without_graph_breaks():
    model = get_peft_model(Stack(num_layers=2), config(r=2))
    x = torch.randn(2, 16)
    expected = model(x)
    expected.square().sum().backward()
    gradients = [pool.grad.clone() for pool in model.base_model.model.mos_bank.parameters()]
    model.zero_grad()
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    output = compiled(x)
    assert torch.equal(output, expected)
    output.square().sum().backward()
    for pool, gradient in zip(model.base_model.model.mos_bank.parameters(), gradients, strict=True):
        torch.testing.assert_close(pool.grad, gradient)
