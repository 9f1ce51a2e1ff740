"""Experts computed from packed planes, against planes that are dequantised for the stock experts.

Candidates, on the same tokens and routes: nested experts of 2, 3 and 4 bits at 4 bits, the stock `grouped_mm` and
`eager` experts after all planes of the layer are dequantised, and the stock experts with weights in full precision,
which need eight times the memory in float32. A call is one layer.
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Callable
from typing import Any

import torch
from common import compare, print_table, summarise, time_interleaved, write

from hf_mixture.moe.mwq.config import MwqConfig
from hf_mixture.moe.mwq.quantise import quantise_experts
from hf_mixture.moe.mwq.targets import nested_experts


EXPERTS, TOP_K = 32, 4


def build_layer(hidden: int, inner: int, dtype: torch.dtype) -> tuple[Any, Any]:
    """A stock experts module with random weights, and the same one nested."""
    from transformers import Qwen3MoeConfig, Qwen3MoeForCausalLM

    torch.manual_seed(0)
    config = Qwen3MoeConfig(
        vocab_size=64,
        hidden_size=hidden,
        num_hidden_layers=1,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=hidden // 4,
        intermediate_size=hidden,
        moe_intermediate_size=inner,
        num_experts=EXPERTS,
        num_experts_per_tok=TOP_K,
    )
    full = Qwen3MoeForCausalLM(config).to(dtype).eval()
    nested = copy.deepcopy(full)
    quantise_experts(nested, MwqConfig())
    return full.model.layers[0].mlp.experts, next(iter(nested_experts(nested).values()))


def candidates_of(full: Any, nested: Any, dequantised: Any, given: tuple[Any, ...]) -> dict[str, Callable[[], Any]]:
    """The same call, computed in each way.

    Args:
        full: Stock experts with their weights.
        nested: The same, nested.
        dequantised: Stock experts that get the dequantised weights.
        given: Hidden states, experts and weights.
    """

    def stock(experts: Any, implementation: str) -> Any:
        experts.config._experts_implementation = implementation
        return experts(*given)

    def dequantise_first(implementation: str) -> Any:
        for name in nested.matrices():
            getattr(dequantised, name).data = nested.planes_of(name).dequantise(dtype=given[0].dtype)
        return stock(dequantised, implementation)

    return {
        "planes": lambda: nested(*given),
        "dequantise, grouped_mm": lambda: dequantise_first("grouped_mm"),
        "dequantise, eager": lambda: dequantise_first("eager"),
        "full precision, grouped_mm": lambda: stock(full, "grouped_mm"),
    }


def compare_experts(
    *, hidden: int, inner: int, tokens: list[int], dtypes: list[torch.dtype], rounds: int, device: str = "cpu"
) -> dict[str, Any]:
    """Time all ways of computing a layer.

    Args:
        hidden: Hidden size.
        inner: Inner size of an expert.
        tokens: Numbers of tokens of a call.
        dtypes: Types that are computed in.
        rounds: Measured rounds.
        device: Where.

    Returns:
        The result, as it is written.
    """
    ratios: dict[str, dict[str, float]] = {}
    seconds: dict[str, dict[str, float]] = {}
    for dtype in dtypes:
        full, nested = (experts.to(device) for experts in build_layer(hidden, inner, dtype))
        dequantised = copy.deepcopy(full)
        for num_tokens in tokens:
            label = f"{str(dtype).removeprefix('torch.')}, {num_tokens} tokens"
            given = (
                torch.randn(num_tokens, hidden, dtype=dtype, device=device),
                torch.rand(num_tokens, EXPERTS, device=device).topk(TOP_K, dim=-1).indices,
                torch.full((num_tokens, TOP_K), 1 / TOP_K, dtype=dtype, device=device),
            )
            candidates = candidates_of(full, nested, dequantised, given)
            with torch.no_grad():
                difference = (candidates["planes"]() - candidates["dequantise, eager"]()).abs().max().item()
                assert difference < (1e-3 if dtype == torch.float32 else 0.1), difference
                times = time_interleaved(candidates, rounds=rounds, title=label)
            for pair, ratio in compare(times.wall, "planes").items():
                ratios[f"{label}: {pair}"] = ratio
            seconds[label] = {name: summarise(samples)["median"] for name, samples in times.wall.items()}
    print_table(
        ("ratio of wall times", "median", "quartiles"),
        [(n, f"{r['median']:.3f}", f"{r['quartile_1']:.3f}..{r['quartile_3']:.3f}") for n, r in ratios.items()],
    )
    return {
        "experts": EXPERTS,
        "experts_per_token": TOP_K,
        "hidden": hidden,
        "inner": inner,
        "seconds": seconds,
        "wall_time_ratios": ratios,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--hidden", type=int, default=1024)
    parser.add_argument("--inner", type=int, default=512)
    parser.add_argument("--tokens", type=int, nargs="+", default=[1, 8, 64, 512])
    parser.add_argument("--dry-run", action="store_true", help="print the table without writing results")
    arguments = parser.parse_args()
    result = compare_experts(
        hidden=arguments.hidden,
        inner=arguments.inner,
        tokens=arguments.tokens,
        dtypes=[torch.float32, torch.bfloat16],
        rounds=arguments.rounds,
    )
    if not arguments.dry_run:
        write("mwq_experts", result)


if __name__ == "__main__":
    main()
