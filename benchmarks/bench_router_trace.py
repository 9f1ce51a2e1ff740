"""Training steps of a sparse model with a router trace, against the same steps without.

Candidates: the stock Trainer alone, with `RouterTraceCallback` on every step and on one step in ten, and with the
alternative without hooks: `output_router_logits=True`, the top k computed again from the logits and counted. Each
round trains ten optimizer steps. The time of a run includes what the Trainer needs to begin and end.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import torch
from common import compare, print_table, summarise, time_interleaved, write

from hf_mixture.moe.trace.callback import RouterTraceCallback
from hf_mixture.moe.trace.trace import load_trace


EXPERTS, TOP_K, STEPS, BATCH = 32, 4, 10, 8


def build_model(layers: int, hidden: int) -> Any:
    """A random Qwen3-MoE, the rule of which is the plain top k of its logits."""
    from transformers import Qwen3MoeConfig, Qwen3MoeForCausalLM

    torch.manual_seed(0)
    config = Qwen3MoeConfig(
        vocab_size=1024,
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=hidden // 4,
        intermediate_size=2 * hidden,
        moe_intermediate_size=hidden // 2,
        num_experts=EXPERTS,
        num_experts_per_tok=TOP_K,
        norm_topk_prob=True,
    )
    return Qwen3MoeForCausalLM(config)


def main() -> None:
    from transformers import Trainer, TrainingArguments

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=16)
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--hidden", type=int, default=128)
    parser.add_argument("--length", type=int, default=128)
    parser.add_argument("--dry-run", action="store_true", help="print the table without writing results")
    arguments = parser.parse_args()
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(1024, (BATCH * STEPS, arguments.length), generator=generator)
    data = [{"input_ids": row, "labels": row, "attention_mask": torch.ones_like(row)} for row in ids]

    class FromLogits(Trainer):
        """Counts from the recorded logits, with a second top k."""

        counts: torch.Tensor

        def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False, **kwargs: Any) -> Any:
            loss, outputs = super().compute_loss(
                model, inputs | {"output_router_logits": True}, return_outputs=True, **kwargs
            )
            mask = inputs["attention_mask"].reshape(-1)
            with torch.no_grad():
                for place, logits in enumerate(outputs.router_logits):
                    chosen = logits.softmax(-1).topk(TOP_K, dim=-1).indices.flatten()
                    self.counts[place].index_add_(0, chosen, mask.repeat_interleave(TOP_K))
            return (loss, outputs) if return_outputs else loss

    with tempfile.TemporaryDirectory() as folder:
        settings = TrainingArguments(
            folder,
            max_steps=STEPS,
            per_device_train_batch_size=BATCH,
            learning_rate=0.0,
            save_strategy="no",
            logging_strategy="no",
            report_to=[],
            disable_tqdm=True,
            use_cpu=not torch.cuda.is_available(),
        )
        models = {name: build_model(arguments.layers, arguments.hidden) for name in ("plain", "1", "10", "logits")}
        counts = torch.zeros(arguments.layers, EXPERTS, dtype=torch.int64, device=settings.device)

        def train(name: str, trainer: type[Trainer] = Trainer) -> None:
            trace = []
            if name in ("1", "10"):
                trace = [RouterTraceCallback(f"{folder}/{name}", sample_every=int(name), overwrite=True)]
            run = trainer(models[name], settings, train_dataset=data, callbacks=trace)
            if isinstance(run, FromLogits):
                run.counts = counts.zero_()
            run.train()

        candidates = {
            "without trace": lambda: train("plain"),
            "trace, every step": lambda: train("1"),
            "trace, one step in 10": lambda: train("10"),
            "output_router_logits": lambda: train("logits", FromLogits),
        }
        times = time_interleaved(candidates, rounds=arguments.rounds)
        traced = torch.stack([torch.from_numpy(layer.sum(axis=0)) for layer in load_trace(Path(folder, "1")).counts])
        assert torch.equal(traced, counts.cpu()), "both ways count the same"

    ratios = {}
    for clock in ("wall", "cpu"):
        for subject in [*candidates][1:]:
            for pair, ratio in compare(getattr(times, clock), subject).items():
                if pair.endswith(("/ without trace", "/ output_router_logits")):
                    ratios[f"{pair}, {clock}"] = ratio
    print_table(
        ("ratio", "median", "quartiles"),
        [
            (name, f"{ratio['median']:.3f}", f"{ratio['quartile_1']:.3f}..{ratio['quartile_3']:.3f}")
            for name, ratio in ratios.items()
        ],
    )
    if not arguments.dry_run:
        setting = {
            "layers": arguments.layers,
            "hidden": arguments.hidden,
            "experts": EXPERTS,
            "top_k": TOP_K,
            "batch": BATCH,
            "length": arguments.length,
            "steps_per_run": STEPS,
            "rounds": arguments.rounds,
        }
        seconds = {name: summarise(samples) for name, samples in times.wall.items()}
        write("router_trace", {"setting": setting, "seconds": seconds, "ratios": ratios})


if __name__ == "__main__":
    main()
