"""Forward passes of a sparse model whose experts are edited, against the same model without edits.

Every layer is edited. Candidates: the patch by the explicit rule, the interceptor inside the family's own code, edits
baked into the selection bias (a model with such a bias), and the model without edits.
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Callable
from typing import Any

import torch
from common import compare, print_table, summarise, time_interleaved, write

from hf_mixture.moe.anatomy import find_routers
from hf_mixture.moe.mote.edits import ExpertEdit, ExpertEdits
from hf_mixture.moe.mote.patch import tune_experts


LAYERS, HIDDEN, EXPERTS, TOP_K, OFF = 8, 256, 64, 8, 4
BATCH, LENGTH = 4, 128
MODES = ("reroute", "zero_renorm")


def qwen3_moe(layers: int, **overrides: Any) -> Any:
    """A random Qwen3-MoE."""
    from transformers import Qwen3MoeConfig, Qwen3MoeForCausalLM

    torch.manual_seed(0)
    config = Qwen3MoeConfig(
        **{
            "vocab_size": 1024,
            "hidden_size": HIDDEN,
            "num_hidden_layers": layers,
            "num_attention_heads": 8,
            "num_key_value_heads": 2,
            "head_dim": 32,
            "intermediate_size": 512,
            "moe_intermediate_size": 128,
            "num_experts": EXPERTS,
            "num_experts_per_tok": TOP_K,
            "norm_topk_prob": True,
            **overrides,
        }
    )
    return Qwen3MoeForCausalLM(config).eval()


def deepseek_v3(layers: int) -> Any:
    """A random DeepSeek-V3 without dense layers; its selection bias can take baked edits."""
    from transformers import DeepseekV3Config, DeepseekV3ForCausalLM

    torch.manual_seed(0)
    config = DeepseekV3Config(
        vocab_size=1024,
        hidden_size=HIDDEN,
        num_hidden_layers=layers,
        num_attention_heads=8,
        num_key_value_heads=8,
        intermediate_size=512,
        moe_intermediate_size=128,
        n_routed_experts=EXPERTS,
        num_experts_per_tok=TOP_K,
        n_group=8,
        topk_group=4,
        first_k_dense_replace=0,
        kv_lora_rank=64,
        q_lora_rank=96,
        qk_rope_head_dim=16,
        qk_nope_head_dim=16,
        v_head_dim=32,
    )
    model = DeepseekV3ForCausalLM(config).eval()
    for router in find_routers(model):
        torch.nn.init.normal_(router.module.weight, std=0.1)
    return model


def edits_of(model: Any, mode: str) -> ExpertEdits:
    """Switch the first experts of each layer off."""
    return ExpertEdits([ExpertEdit(r.path, e, "off") for r in find_routers(model) for e in range(OFF)], mode=mode)


def edited(model: Any, mode: str, *, intercept: bool = False) -> Any:
    """A patched copy of a model; its weights are those of the model."""
    twin = copy.deepcopy(model)
    twin.load_state_dict(model.state_dict(), assign=True)
    tune_experts(twin, edits_of(model, mode), intercept=intercept)
    return twin


def baked(model: Any) -> Any:
    """A copy of a model whose selection bias excludes the same experts."""
    twin = copy.deepcopy(model)
    twin.load_state_dict(model.state_dict(), assign=True)
    for router in find_routers(twin):
        assert router.bias is not None
        setattr(router.bias.module, router.bias.name, router.bias.tensor.clone())
        router.bias.tensor.view(-1)[:OFF] = -1e4
    return twin


def prefill(model: Any, tokens: torch.Tensor) -> Callable[[], Any]:
    """One pass over a batch of prompts."""

    @torch.no_grad()
    def run() -> None:
        model(input_ids=tokens, use_cache=False)

    return run


def decode(model: Any, tokens: torch.Tensor, steps: int) -> Callable[[], Any]:
    """Some tokens, one at a time, after a prompt that is in the cache."""
    with torch.no_grad():
        cache = model(input_ids=tokens[:1], use_cache=True).past_key_values

    @torch.no_grad()
    def run() -> None:
        for _ in range(steps):
            model(input_ids=tokens[:1, :1], past_key_values=cache, use_cache=True)
        cache.crop(-steps)

    return run


def measure(models: dict[str, Any], tokens: torch.Tensor, rounds: int, subjects: list[str], title: str) -> Any:
    """Times of prefill and of decoding, and their ratios to the model without edits."""
    result = {}
    for phase, make in (("prefill", prefill), ("decode", lambda m, t: decode(m, t, 4))):
        candidates = {name: make(model, tokens) for name, model in models.items()}
        times = time_interleaved(candidates, rounds=rounds, title=f"{title} {phase}")
        ratios = {}
        for subject in subjects:
            for clock in ("wall", "cpu"):
                found = compare(getattr(times, clock), subject)[f"{subject} / unedited"]
                ratios[f"{subject} / unedited, {clock}"] = found
        seconds = {name: summarise(samples) for name, samples in times.wall.items()}
        result[phase] = {"seconds": seconds, "ratios": ratios}
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--layers", type=int, default=LAYERS)
    parser.add_argument("--dry-run", action="store_true", help="print the table without writing results")
    arguments = parser.parse_args()
    tokens = torch.randint(1024, (BATCH, LENGTH), generator=torch.Generator().manual_seed(0))

    base = qwen3_moe(arguments.layers)
    models = {"unedited": base}
    models |= {f"patch, {mode}": edited(base, mode) for mode in MODES}
    models["interceptor"] = edited(base, "reroute", intercept=True)
    results = {"qwen3_moe": measure(models, tokens, arguments.rounds, [*models][1:], "qwen3_moe")}

    base = deepseek_v3(arguments.layers)
    models = {"unedited": base, "patch, reroute": edited(base, "reroute"), "baked": baked(base)}
    results["deepseek_v3"] = measure(models, tokens, arguments.rounds, [*models][1:], "deepseek_v3")

    rows = [
        (family, phase, name, f"{ratio['median']:.3f}", f"{ratio['quartile_1']:.3f}..{ratio['quartile_3']:.3f}")
        for family, phases in results.items()
        for phase, measured in phases.items()
        for name, ratio in measured["ratios"].items()
    ]
    print_table(("family", "phase", "ratio", "median", "quartiles"), rows)
    if not arguments.dry_run:
        setting = {
            "layers": arguments.layers,
            "hidden": HIDDEN,
            "experts": EXPERTS,
            "top_k": TOP_K,
            "off_per_layer": OFF,
            "batch": BATCH,
            "length": LENGTH,
            "rounds": arguments.rounds,
        }
        write("mote_patch", {"setting": setting, **results})


if __name__ == "__main__":
    main()
