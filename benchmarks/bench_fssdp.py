"""A layer of experts over two processes with skewed routes: dispatch of transformers against the ones here.

Two processes with one thread each; on a machine with two cores, a step takes as long as the busier process. The
popular experts are neighbours, as in the worst case of expert parallelism. A round is a forward and a backward pass of
one layer on all candidates, in turn; both processes meet after each.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from common import compare, print_table, summarise, time_interleaved, write

from hf_mixture import CapacityOptions, FssdpOptions, set_capacity_options, set_fssdp_options
from hf_mixture.moe.parallel.fssdp import fssdp_layers


HIDDEN, INNER, EXPERTS, TOP_K, PROCESSES = 256, 512, 16, 2, 2
STOCK = "transformers, all_to_all"


def build(folder: str, implementation: str, options: Any = None) -> Any:
    """The model, spread over the processes."""
    from transformers import AutoModelForCausalLM
    from transformers.distributed import DistributedConfig

    config = DistributedConfig(ep_size=PROCESSES, fsdp_size=PROCESSES, ep_implementation=implementation)
    model = AutoModelForCausalLM.from_pretrained(
        folder, experts_implementation="grouped_mm", distributed_config=config
    ).train()
    if isinstance(options, FssdpOptions):
        set_fssdp_options(model, options)
    if isinstance(options, CapacityOptions):
        set_capacity_options(model, options)
    return model


def candidates_of(folder: str, tokens: int, exponent: float) -> dict[str, Callable[[], Any]]:
    """A forward and a backward pass of the experts of one layer, by each dispatch."""
    models = {
        STOCK: build(folder, "all_to_all"),
        "fssdp, no copies": build(folder, "fssdp", FssdpOptions(num_slots=0)),
        "fssdp, 2 copies": build(folder, "fssdp", FssdpOptions(num_slots=2)),
        "fssdp, 2 copies, fetched again": build(folder, "fssdp", FssdpOptions(num_slots=2, rematerialise=True)),
        "folded, etp 2": build(folder, "folded_etp2"),
        "capacity, factor 1.25": build(folder, "capacity", CapacityOptions(factor=1.25)),
    }
    generator = torch.Generator().manual_seed(dist.get_rank())
    popularity = 1 / torch.arange(1, EXPERTS + 1).float() ** exponent
    index = torch.stack([torch.multinomial(popularity, TOP_K, generator=generator) for _ in range(tokens)])
    hidden = torch.randn(tokens, HIDDEN, generator=generator, requires_grad=True)
    weights = torch.full((tokens, TOP_K), 1 / TOP_K)

    def run(model: Any) -> None:
        model.model.layers[0].mlp.experts(hidden, index, weights).sum().backward()
        model.zero_grad()
        dist.barrier()

    for model in models.values():
        run(model)
    for name in ("fssdp, 2 copies", "fssdp, 2 copies, fetched again"):
        # The prediction of a second step is the first.
        fssdp_layers(models[name])[0].step()
    return {name: lambda model=model: run(model) for name, model in models.items()}


def work(folder: str, rounds: int) -> dict[str, Any]:
    """All settings, on this process."""
    dist.init_process_group("gloo")
    torch.set_num_threads(1)
    seconds, ratios = {}, {}
    for tokens in (512, 4096):
        for exponent in (0.0, 1.0):
            name = f"{tokens:,} tokens, Zipf {exponent:g}"
            times = time_interleaved(candidates_of(folder, tokens, exponent), rounds=rounds, title=name)
            seconds[name] = {key: summarise(samples) for key, samples in times.wall.items()}
            found = [compare({STOCK: times.wall[STOCK], key: samples}, key) for key, samples in times.wall.items()]
            ratios[name] = {key: row for pair in found for key, row in pair.items()}
    return {"seconds": seconds, "wall_time_ratios": ratios}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--dry-run", action="store_true", help="print the table without writing results")
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.folder is None:
        from transformers import MixtralConfig, MixtralForCausalLM

        with tempfile.TemporaryDirectory() as folder:
            torch.manual_seed(0)
            config = MixtralConfig(
                vocab_size=64,
                hidden_size=HIDDEN,
                intermediate_size=INNER,
                num_hidden_layers=1,
                num_attention_heads=4,
                num_key_value_heads=4,
                num_local_experts=EXPERTS,
                num_experts_per_tok=TOP_K,
            )
            MixtralForCausalLM(config).save_pretrained(folder)
            launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(PROCESSES)]
            words = [*launcher, __file__, "--folder", folder, "--rounds", str(given.rounds)]
            words += ["--dry-run"] if given.dry_run else []
            subprocess.run([sys.executable, *words], env={**os.environ, "OMP_NUM_THREADS": "1"}, check=True)
        return
    result = work(given.folder, given.rounds)
    if dist.get_rank() == 0:
        print_table(
            ("setting", "dispatch / transformers", "wall time", "quartiles"),
            [
                (setting, pair, f"{row['median']:.3f}", f"{row['quartile_1']:.3f} to {row['quartile_3']:.3f}")
                for setting, pairs in result["wall_time_ratios"].items()
                for pair, row in pairs.items()
            ],
        )
        setting = {
            "processes": PROCESSES,
            "experts": EXPERTS,
            "hidden": HIDDEN,
            "inner": INNER,
            "experts_of_a_token": TOP_K,
            "rounds": given.rounds,
        }
        if not given.dry_run:
            write("fssdp", {"setting": setting, **result})
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
