"""Generation with a Mixture of Thoughts against its members on their own: prefill, and one token after it.

Three experts of different families, widths and depths with random weights read the same prompt in their own tokens:
small ones of 54 to 62 million parameters, and large ones of 119 to 125. The prefill of a mixture is everything up to
the logits of the first new token: routing, the peers, the primary; it is compared with the sum of the prefills of all
members. A decoding step is compared with one of the primary alone. Routers read the prompt either with an encoder of
the shape of MiniLM, or in the states of the first expert after its first stack.
"""

from __future__ import annotations

import argparse
import itertools
import sysconfig
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from statistics import median
from typing import Any

import torch
from common import compare, print_table, summarise, synchronize, time_interleaved, write
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    BertConfig,
    GPT2Config,
    LlamaConfig,
    LogitsProcessor,
    LogitsProcessorList,
    PreTrainedConfig,
    PreTrainedTokenizerFast,
    Qwen3Config,
)

from hf_mixture import MixtureOfThoughtsConfig, MixtureOfThoughtsForCausalLM, MixtureOfThoughtsProcessor


WARMUP = 1
DEFAULT_LATENT_SIZE = MixtureOfThoughtsConfig.latent_size
SIZES: dict[str, dict[str, PreTrainedConfig]] = {
    "small": {
        "Llama": LlamaConfig(
            vocab_size=16384, hidden_size=640, intermediate_size=1728, num_hidden_layers=8, num_attention_heads=10
        ),
        "GPT-2": GPT2Config(vocab_size=24576, n_embd=768, n_layer=6, n_head=12),
        "Qwen3": Qwen3Config(
            vocab_size=32768,
            hidden_size=512,
            intermediate_size=1536,
            num_hidden_layers=12,
            num_attention_heads=8,
            num_key_value_heads=4,
            head_dim=64,
            tie_word_embeddings=True,
        ),
    },
    "large": {
        "Llama": LlamaConfig(
            vocab_size=32768,
            hidden_size=768,
            intermediate_size=2048,
            num_hidden_layers=10,
            num_attention_heads=12,
        ),
        "GPT-2": GPT2Config(n_layer=12),
        "Qwen3": Qwen3Config(
            vocab_size=65536,
            hidden_size=768,
            intermediate_size=2304,
            num_hidden_layers=10,
            num_attention_heads=12,
            num_key_value_heads=4,
            head_dim=64,
            tie_word_embeddings=True,
        ),
    },
}
ENCODER = BertConfig(hidden_size=384, num_hidden_layers=6, num_attention_heads=12, intermediate_size=1536)
ROUTERS = {"encoder": "with an encoder", "first": "by the first expert"}


def source() -> list[str]:
    """Modules of the standard library."""
    files = sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py"))
    return [file.read_text(encoding="utf-8", errors="ignore") for file in files]


def train_tokenizer(texts: list[str], vocab_size: int) -> PreTrainedTokenizerFast:
    """Byte-level pairs of some size, so that the experts cut the prompt at different places."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=vocab_size, special_tokens=["</s>"], show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="</s>", pad_token="</s>")


class Clock(LogitsProcessor):
    """Notes when the logits of each new token are there."""

    def __init__(self) -> None:
        self.times: list[tuple[float, float]] = []
        self.tick()

    def tick(self) -> None:
        synchronize()
        self.times.append((time.perf_counter(), time.process_time()))

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        self.tick()
        return scores

    def measured(self) -> dict[str, tuple[float, float]]:
        """Seconds until the first token, and the median of the steps after it, on both clocks."""
        steps = [list(zip(*pair, strict=True)) for pair in zip(self.times, self.times[1:], strict=False)]
        seconds = [tuple(after - before for before, after in step) for step in steps]
        return {"prefill": seconds[0], "decode": tuple(map(median, zip(*seconds[1:], strict=True)))}


def timed(
    generate: Callable[..., Any], new_tokens: int, **inputs: Any
) -> Callable[[], dict[str, tuple[float, float]]]:
    def run() -> dict[str, tuple[float, float]]:
        clock = Clock()
        options = {"max_new_tokens": new_tokens, "min_new_tokens": new_tokens, "do_sample": False}
        generate(**inputs, **options, logits_processor=LogitsProcessorList([clock]))
        return clock.measured()

    return run


def send(value: Any, device: str) -> Any:
    """A batch, with all its tensors on a device."""
    if isinstance(value, torch.Tensor):
        return value.to(device)
    if isinstance(value, list | tuple):
        return [send(part, device) for part in value]
    if isinstance(value, Mapping):
        return {key: send(part, device) for key, part in value.items()}
    return value


def mixtures(experts: list[Any], latent_sizes: list[int]) -> Iterator[tuple[str, int, MixtureOfThoughtsForCausalLM]]:
    """One mixture for each way to route and each latent size, of the same experts, on their device."""
    place = {"device": experts[0].device, "dtype": experts[0].dtype}
    for kind, latent_size in itertools.product(ROUTERS, latent_sizes):
        torch.manual_seed(1)
        encoder = AutoModel.from_config(ENCODER).eval().to(**place) if kind == "encoder" else None
        model = MixtureOfThoughtsForCausalLM.from_experts(
            experts, prompt_encoder=encoder, latent_size=latent_size
        ).eval()
        for level in model.interactions:
            for up in level.up:
                torch.nn.init.normal_(up.weight, std=0.02)
        yield kind, latent_size, model.to(**place)


def measure(
    size: str,
    configs: dict[str, PreTrainedConfig],
    latent_sizes: list[int],
    arguments: argparse.Namespace,
    *,
    device: str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> dict[str, Any]:
    """Time the experts of one size alone and in every mixture, interleaved; print the ratios."""
    torch.manual_seed(0)
    texts = source()
    tokenizers = [train_tokenizer(texts[:60], entries) for entries in (4096, 6144, 8192)]
    experts = [AutoModelForCausalLM.from_config(config).eval().to(device, dtype) for config in configs.values()]
    sizes = {name: expert.num_parameters() for name, expert in zip(configs, experts, strict=True)}
    for expert, tokenizer in zip(experts, tokenizers, strict=True):
        expert.generation_config.pad_token_id = tokenizer.pad_token_id
        expert.generation_config.eos_token_id = None
    prompts = [text[2000 : 2000 + arguments.characters] for text in texts[60 : 60 + arguments.rows]]
    processor = MixtureOfThoughtsProcessor(tokenizers, encoder_tokenizer=tokenizers[0])
    batch = send(dict(processor(prompts)), device)

    runs: dict[str, Callable[[], dict[str, tuple[float, float]]]] = {}
    for place, (name, expert) in enumerate(zip(configs, experts, strict=True)):
        inputs = {key: batch["expert_inputs"][place][key] for key in ("input_ids", "attention_mask")}
        runs[name] = timed(expert.generate, arguments.new_tokens, **inputs)
    trained = {}
    for kind, latent_size, model in mixtures(experts, latent_sizes):
        trained[f"{kind}, {latent_size}"] = sum(p.numel() for p in model.parameters() if p.requires_grad)
        for place, name in enumerate(configs):
            primary = torch.full((arguments.rows,), place, device=device)
            inputs = {**batch, "primary": primary}
            runs[f"mixture {kind}, {latent_size}, {name}"] = timed(model.generate, arguments.new_tokens, **inputs)
    found: dict[str, list[dict[str, tuple[float, float]]]] = {name: [] for name in runs}
    candidates = {name: lambda name=name: found[name].append(runs[name]()) for name in runs}
    time_interleaved(candidates, rounds=arguments.rounds, warmup=WARMUP)

    def seconds(name: str, part: str, clock: int) -> list[float]:
        return [measured[part][clock] for measured in found[name][WARMUP:]]

    ratios: dict[str, dict[str, Any]] = {}
    rows = []
    for latent_size, kind, name in itertools.product(latent_sizes, ROUTERS, configs):
        mixture, row = f"mixture {kind}, {latent_size}, {name}", [name, str(latent_size), ROUTERS[kind]]
        for part in ("decode", "prefill"):
            for clock, unit in enumerate(("wall", "cpu")):
                members = [seconds(member, part, clock) for member in (configs if part == "prefill" else [name])]
                times = {"mixture": seconds(mixture, part, clock), "members": [*map(sum, zip(*members, strict=True))]}
                ratio = compare(times, "mixture")["mixture / members"]
                setting = f"{part}, {size} experts, latent size {latent_size}, routed {ROUTERS[kind]}"
                ratios.setdefault(setting, {}).setdefault(name, {})[unit] = ratio
                if unit == "cpu":
                    row.append(f"{ratio['median']:.3f} ({ratio['quartile_1']:.3f} to {ratio['quartile_3']:.3f})")
        rows.append(row)
    print(f"\n{size} experts")
    print_table(
        ["primary", "latent size", "routed", "decode / primary (CPU time)", "prefill / sum of members (CPU time)"],
        rows,
    )
    return {
        "parameters": sizes,
        "prompt_tokens": {
            name: inputs["input_ids"].shape[1] for name, inputs in zip(configs, batch["expert_inputs"], strict=True)
        },
        "trained_parameters": trained,
        "seconds": {
            name: {
                part: {unit: summarise(seconds(name, part, clock)) for clock, unit in enumerate(("wall", "cpu"))}
                for part in ("prefill", "decode")
            }
            for name in runs
        },
        "ratios": ratios,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--characters", type=int, default=1024, help="length of the prompt")
    parser.add_argument("--new-tokens", type=int, default=32)
    parser.add_argument("--rows", type=int, default=1, help="prompts at once")
    parser.add_argument("--latent-sizes", type=int, nargs="+", default=[512, 768], help="those of the small experts")
    parser.add_argument("--dry-run", action="store_true", help="print the tables without writing results")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    measured = {
        "small": measure("small", SIZES["small"], arguments.latent_sizes, arguments),
        "large": measure("large", SIZES["large"], [DEFAULT_LATENT_SIZE], arguments),
    }
    result = {
        "setting": {
            "rows": arguments.rows,
            "prompt characters": arguments.characters,
            "new tokens": arguments.new_tokens,
            "rounds": arguments.rounds,
            "interaction levels": 3,
            "peers": "prompt",
        },
        "sizes": {
            size: {key: part for key, part in found.items() if key != "ratios"} for size, found in measured.items()
        },
        "ratios": {setting: row for found in measured.values() for setting, row in found["ratios"].items()},
    }
    if not arguments.dry_run:
        write("mot_latency", result)


if __name__ == "__main__":
    main()
