from __future__ import annotations

import torch
from transformers import MixtralConfig, MixtralForCausalLM

from hf_mixture.moe.routers.replace import replace_routers
from hf_mixture.training.blocks import scoring_windows
from hf_mixture.training.upcycle.load import balance_of, expert_counts


def test_counts_are_those_of_the_router_for_the_scored_tokens_alone() -> None:
    torch.manual_seed(0)
    config = MixtralConfig(
        vocab_size=32, hidden_size=16, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=2, num_local_experts=4, num_experts_per_tok=2,
    )  # fmt: skip
    model = MixtralForCausalLM(config).train()
    windows = scoring_windows([[5, 6, 7], list(range(8, 20)), [21]], num_bytes=16, window_size=6, separator=0)
    counts, tokens = expert_counts(model, windows, batch_size=2)
    assert model.training
    assert tokens == 16
    expected = torch.zeros(2, 4, dtype=torch.long)
    model.eval()
    for ids, scored in zip(windows.input_ids, windows.scored, strict=True):
        for layer, logits in enumerate(model(ids[None], output_router_logits=True).router_logits):
            for place, row in enumerate(logits.topk(2, dim=-1).indices.tolist()[:-1]):
                if scored[place]:
                    expected[layer, row] += 1
    assert counts == expected.tolist()

    # A router with a variable number of experts: index E is not counted.
    replace_routers(model, "top_p", threshold=0.26)
    counts, tokens = expert_counts(model, windows, batch_size=3)
    summary = balance_of(counts, tokens)
    assert 1.0 <= summary["experts_per_token"] < 4.0
    assert sum(map(sum, counts)) == round(summary["experts_per_token"] * tokens * 2)


def test_the_summary_of_known_counts() -> None:
    summary = balance_of([[4, 4, 4, 4], [16, 0, 0, 0]], num_tokens=8)
    assert summary == {
        "max_over_mean": 2.5,
        "worst_max_over_mean": 4.0,
        "cov": 3**0.5 / 2,
        "dead": 3,
        "num_experts": 8,
        "experts_per_token": 2.0,
    }
