"""A training step of TaskExpert's decoder, in the forms that the method can be written in.

Candidates compute the loss and all gradients of the same maps: the decoder as it is, with one convolution for all
experts and one product that assembles them for all tasks; a convolution for each expert; a loop over tasks and experts
that adds up weighted maps; and the shared trunk that the recipe compares with, which has as many parameters.
"""

from __future__ import annotations

import argparse
from typing import Any

import torch
from common import compare, print_table, summarise, time_interleaved, write
from transformers import ResNetConfig

from hf_mixture.models.taskexpert import mixture
from hf_mixture.models.taskexpert.configuration_taskexpert import TaskExpertConfig
from hf_mixture.models.taskexpert.mixture import MemorialMixture
from hf_mixture.models.taskexpert.modeling_taskexpert import TaskExpertForMultiTaskVision
from hf_mixture.training.taskexpert.baseline import SharedTrunkForMultiTaskVision, matched_width


def assemble_by_loops(experts: Any, memory: Any, scores: Any) -> Any:
    tasks = []
    for task in range(memory.shape[1]):
        mixed = scores[:, task, -1, None, None, None] * memory[:, task]
        for expert in range(experts.shape[1]):
            mixed = mixed + scores[:, task, expert, None, None, None] * experts[:, expert]
        tasks.append(mixed)
    return torch.stack(tasks, dim=1)


def experts_one_by_one(level: MemorialMixture, features: Any) -> Any:
    block = level.experts
    weights = block.convolution.weight.chunk(level.num_experts)
    maps = [torch.nn.functional.conv2d(features, weight, padding="same") for weight in weights]
    return block.activation(block.normalization(torch.cat(maps, dim=1))).unflatten(1, (level.num_experts, -1))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=24)
    parser.add_argument("--images", type=int, default=16)
    parser.add_argument("--grid", type=int, default=16)
    parser.add_argument("--width", type=int, default=32)
    parser.add_argument("--experts", type=int, default=4)
    parser.add_argument("--dry-run", action="store_true", help="print the table without writing results")
    given = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    backbone = ResNetConfig(embedding_size=16, hidden_sizes=[16, 32, 64], depths=[1, 1, 1], layer_type="basic")
    backbone.set_output_features_output_indices(out_features=None, out_indices=[1, 2, 3])
    config = TaskExpertConfig(backbone_config=backbone, expert_size=given.width, num_experts=given.experts)
    model = TaskExpertForMultiTaskVision(config).train()
    trunk = SharedTrunkForMultiTaskVision(config, matched_width(config)).train()
    maps = tuple(
        torch.randn(given.images, channels, given.grid // 2**level, given.grid // 2**level)
        for level, channels in enumerate(model.backbone.channels)
    )

    def step(decoder: Any) -> None:
        decoder.zero_grad()
        memory, _, _ = decoder.decode(maps)
        sum(values.square().mean() for values in memory.values()).backward()

    fast = mixture.assemble, MemorialMixture.expert_maps

    def in_another_form(assemble: Any, expert_maps: Any) -> None:
        mixture.assemble, MemorialMixture.expert_maps = assemble, expert_maps  # type: ignore[method-assign]
        try:
            step(model)
        finally:
            mixture.assemble, MemorialMixture.expert_maps = fast  # type: ignore[method-assign]

    times = time_interleaved(
        {
            "ours": lambda: step(model),
            "a convolution for each expert": lambda: in_another_form(fast[0], experts_one_by_one),
            "assembled by loops": lambda: in_another_form(assemble_by_loops, fast[1]),
            "shared trunk": lambda: step(trunk),
        },
        rounds=given.rounds,
    )
    ratios = compare(times.cpu, "ours")
    milliseconds = {name: summarise([1e3 * seconds for seconds in samples]) for name, samples in times.cpu.items()}
    print_table(["candidate", "CPU ms"], [[name, f"{row['median']:.1f}"] for name, row in milliseconds.items()])
    print_table(["ratio of CPU time", "median"], [[name, f"{row['median']:.3f}"] for name, row in ratios.items()])
    if not given.dry_run:
        write(
            "taskexpert",
            {
                "setting": {
                    "images": given.images,
                    "grid": given.grid,
                    "width": given.width,
                    "experts": given.experts,
                    "tasks": len(config.tasks),
                },
                "cpu_milliseconds": milliseconds,
                "cpu_time_ratios": ratios,
            },
        )


if __name__ == "__main__":
    main()
