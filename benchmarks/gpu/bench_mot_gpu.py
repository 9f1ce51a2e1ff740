"""The comparison of bench_mot_latency.py with experts of half a billion parameters in bf16 on one CUDA device."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from transformers import GPT2Config, LlamaConfig, PreTrainedConfig, Qwen3Config


sys.path.insert(0, str(Path(__file__).parents[1]))

from bench_mot_latency import DEFAULT_LATENT_SIZE, measure
from part import parse


def experts(tiny: bool) -> dict[str, PreTrainedConfig]:
    """Three families, as in the comparison on CPUs."""
    width, layers = (64, 4) if tiny else (1536, 16)
    return {
        "Llama": LlamaConfig(
            vocab_size=32768,
            hidden_size=width,
            intermediate_size=width * 8 // 3,
            num_hidden_layers=layers,
            num_attention_heads=width // 32,
        ),
        "GPT-2": GPT2Config(n_embd=width * 5 // 6 // 32 * 32, n_head=width * 5 // 6 // 32, n_layer=layers * 3 // 2),
        "Qwen3": Qwen3Config(
            vocab_size=65536,
            hidden_size=width,
            intermediate_size=width * 3,
            num_hidden_layers=layers,
            num_attention_heads=width // 32,
            num_key_value_heads=max(1, width // 128),
            head_dim=32,
            tie_word_embeddings=True,
        ),
    }


def main() -> None:
    part = parse(__doc__)
    rounds, new_tokens, characters = (2, 3, 64) if part.tiny else (5, 16, 1024)
    arguments = argparse.Namespace(rounds=rounds, new_tokens=new_tokens, characters=characters, rows=1)
    latent_size = 16 if part.tiny else DEFAULT_LATENT_SIZE
    configs = experts(part.tiny)
    result = measure("GPU", configs, [latent_size], arguments, device=part.device, dtype=part.dtype)
    setting = {"prompt_characters": characters, "new_tokens": new_tokens, "rounds": rounds, "latent_size": latent_size}
    setting["parameters"] = result["parameters"]
    ratios = {
        f"{name.partition(', ')[0]}, {name.rpartition(', ')[2]}, primary {primary}: mixture / "
        + ("sum of members" if name.startswith("prefill") else "primary"): row["wall"]
        for name, primaries in result["ratios"].items()
        for primary, row in primaries.items()
    }
    del result["ratios"]
    part.write("mot_gpu", setting, result, ratios)


if __name__ == "__main__":
    main()
