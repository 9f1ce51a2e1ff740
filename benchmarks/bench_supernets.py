"""Accuracies of all 36 paths of a network: from a tree that shares what paths have in common, against path by path.

The evaluation at the end of a search needs them for every model. A second comparison is a training step with weights
in channels-last order, as the recipe has them, against the usual order.
"""

from __future__ import annotations

import argparse

import torch
from common import compare, print_table, summarise, time_interleaved, write
from torch import Tensor

from hf_mixture import PoolingResNetConfig, PoolingResNetForImageClassification
from hf_mixture.models.pooling_supernet.path_tree import logits_of_paths
from hf_mixture.models.pooling_supernet.paths import enumerate_paths


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=24)
    parser.add_argument("--images", type=int, default=256)
    parser.add_argument("--size", type=int, default=16)
    parser.add_argument("--width", type=int, default=8)
    parser.add_argument("--dry-run", action="store_true", help="print the table without writing results")
    given = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    widths = [given.width] * 4 + [2 * given.width] * 3 + [4 * given.width] * 3
    config = PoolingResNetConfig(num_channels=1, layer_widths=widths, num_labels=10)
    usual = PoolingResNetForImageClassification(config)
    last = PoolingResNetForImageClassification(config)
    last.load_state_dict(usual.state_dict())
    last.to(memory_format=torch.channels_last)
    paths = enumerate_paths(config.num_layers, 3)
    images = torch.randn(given.images, 1, given.size, given.size)
    labels = torch.randint(10, (given.images,))

    @torch.no_grad()
    def tree() -> dict[int, Tensor]:
        return dict(logits_of_paths(last, images, paths))

    @torch.no_grad()
    def one_by_one() -> dict[int, Tensor]:
        return {i: last.classify(last.backbone.hidden_states(images, path)[-1]) for i, path in enumerate(paths)}

    found, expected = tree(), one_by_one()
    difference = max(float((found[index] - expected[index]).abs().max()) for index in expected)
    assert difference < 1e-3, difference

    def step(model: PoolingResNetForImageClassification) -> None:
        model.zero_grad()
        model(images[:64], labels=labels[:64]).loss.backward()

    evaluation = time_interleaved({"tree": tree, "path by path": one_by_one}, rounds=given.rounds)
    training = time_interleaved(
        {"channels last": lambda: step(last), "channels first": lambda: step(usual)}, rounds=given.rounds
    )
    ratios = {**compare(evaluation.cpu, "tree"), **compare(training.cpu, "channels last")}
    milliseconds = {
        name: summarise([1e3 * s for s in samples]) for name, samples in {**evaluation.cpu, **training.cpu}.items()
    }
    print_table(["candidate", "CPU ms"], [[name, f"{row['median']:.1f}"] for name, row in milliseconds.items()])
    print_table(["ratio of CPU time", "median"], [[name, f"{row['median']:.3f}"] for name, row in ratios.items()])
    if not given.dry_run:
        write(
            "supernets",
            {
                "setting": {"images": given.images, "size": given.size, "widths": widths, "paths": len(paths)},
                "note": "The machine did other work as well; ratios are of CPU time within interleaved rounds.",
                "cpu_milliseconds": milliseconds,
                "cpu_time_ratios": ratios,
            },
        )


if __name__ == "__main__":
    main()
