"""One training step of MixER: all environments in one integration, against environments one by one.

Candidates compute the loss and all gradients of the same batch: the model as it is; the same without the fused
integration (autograd through every step of RK4); a loop over the environments; and a loop over them that integrates
every expert and keeps the winner, as a mixture without sparse selection would. A second comparison takes the losses of
all environments under every expert, which an update of the gate needs, at once and expert by expert.
"""

from __future__ import annotations

import argparse
from typing import Any

import torch
from common import compare, print_table, summarise, time_interleaved, write

from hf_mixture.models.mixer import modeling_mixer
from hf_mixture.models.mixer.configuration_mixer import MixerConfig
from hf_mixture.models.mixer.experts.layers import run_layers
from hf_mixture.models.mixer.modeling_mixer import MixerForTrajectoryReconstruction
from hf_mixture.models.mixer.solvers import integrate_rk4


def plain_integration(layers: Any, initial: Any, times: Any, *, num_substeps: int = 1) -> Any:
    return integrate_rk4(lambda y: run_layers(layers, y), initial, times, num_substeps=num_substeps)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=24)
    parser.add_argument("--environments", type=int, default=20)
    parser.add_argument("--trajectories", type=int, default=4)
    parser.add_argument("--times", type=int, default=16)
    parser.add_argument("--hidden", type=int, default=64)
    parser.add_argument("--experts", type=int, default=4)
    parser.add_argument("--dry-run", action="store_true", help="print the table without writing results")
    given = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    config = MixerConfig(
        num_envs=given.environments, num_experts=given.experts, context_size=8, hidden_size=given.hidden
    )
    model = MixerForTrajectoryReconstruction(config).train()
    torch.nn.init.normal_(model.contexts.weight, std=0.1)
    rows = given.environments * given.trajectories
    batch = {
        "initial_state": torch.randn(rows, 2),
        "times": 0.1 * torch.arange(given.times).expand(rows, -1),
        "env_ids": torch.arange(given.environments).repeat_interleave(given.trajectories),
        "labels": torch.randn(rows, given.times, 2),
    }
    parts = [{k: v[batch["env_ids"] == e] for k, v in batch.items()} for e in range(given.environments)]
    fused = modeling_mixer.integrate_layers

    def step(batches: list[dict[str, Any]], *, losses: bool = False) -> None:
        model.zero_grad()
        for part in batches:
            if losses:
                # Every expert is integrated, with gradients, and the winner kept.
                table, total = model.contexts.weight, 0.0
                winner = int(model.gate(table[part["env_ids"][:1]])[0])
                for expert in range(given.experts):
                    layers = model.experts.layers(table[part["env_ids"][:1]], torch.tensor([expert]))
                    states = fused(layers, part["initial_state"][None], part["times"][None])[0]
                    total = total + (expert == winner) * (states - part["labels"]).square().mean()
                total.backward()
            else:
                model(**part).loss.backward()

    def without_fusion() -> None:
        modeling_mixer.integrate_layers = plain_integration
        try:
            step([batch])
        finally:
            modeling_mixer.integrate_layers = fused

    names = ["ours", "ours, autograd through RK4", "loop over environments", "loop, all experts"]
    times = time_interleaved(
        {
            names[0]: lambda: step([batch]),
            names[1]: without_fusion,
            names[2]: lambda: step(parts),
            names[3]: lambda: step(parts, losses=True),
        },
        rounds=given.rounds,
    )

    def expert_by_expert() -> None:
        with torch.no_grad():
            for part in parts:
                model.expert_losses(**part)

    update = time_interleaved(
        {
            "losses at once": lambda: model.expert_losses(**batch),
            "losses, loop over environments": expert_by_expert,
        },
        rounds=given.rounds,
    )
    ratios = {**compare(times.cpu, names[0]), **compare(update.cpu, "losses at once")}
    milliseconds = {
        name: summarise([1e3 * s for s in samples]) for name, samples in {**times.cpu, **update.cpu}.items()
    }
    print_table(["candidate", "CPU ms"], [[name, f"{row['median']:.1f}"] for name, row in milliseconds.items()])
    print_table(["ratio of CPU time", "median"], [[name, f"{row['median']:.3f}"] for name, row in ratios.items()])
    if not given.dry_run:
        write(
            "mixer",
            {
                "setting": {
                    "environments": given.environments,
                    "trajectories": given.trajectories,
                    "times": given.times,
                    "hidden": given.hidden,
                    "experts": given.experts,
                },
                "note": "The machine did other work as well; ratios are of CPU time within interleaved rounds.",
                "cpu_milliseconds": milliseconds,
                "cpu_time_ratios": ratios,
            },
        )


if __name__ == "__main__":
    main()
