"""The ranking loss of MatSim / a loop over triplets, and one-shot retrieval of many images.

The loss and its gradient by the embeddings are computed for a batch of whole groups by the vectorised function, and by
a loop over anchors, positives and others on torch scalars, as published code does it. Retrieval scores random
embeddings in both modes, from arrays and through the `evaluate` module, which keeps its rows in an Arrow table.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from common import compare, print_table, summarise, time_interleaved, write
from torch import Tensor
from torch.nn.functional import normalize

from hf_mixture.metrics import load_metric
from hf_mixture.metrics.one_shot_retrieval.one_shot_retrieval import one_shot_retrieval
from hf_mixture.models.matsim.ranking import margin_ranking_loss, soft_labels


TEMPERATURE = 0.2


def loop_loss(embeddings: Tensor, set_ids: list[int], ratios: list[float]) -> Tensor:
    """The mode `reference`, one triplet after another."""
    number = len(set_ids)
    labels = [
        [1 - abs(ratios[i] - ratios[j]) if set_ids[i] == set_ids[j] else 0.0 for j in range(number)]
        for i in range(number)
    ]
    cosines = [[(embeddings[i] * embeddings[j]).sum() for j in range(number)] for i in range(number)]
    total, count = embeddings.sum() * 0, 0
    for i in range(number):
        for j in range(number):
            if i == j or labels[i][j] <= 0:
                continue
            for k in range(number):
                d = labels[i][j] - labels[i][k]
                if abs(d) < 1e-6 or (k <= i and labels[i][k] > 0):
                    continue
                p = torch.softmax(torch.stack([cosines[i][j], cosines[i][k]]) / TEMPERATURE, dim=0)
                wrong = p[1] if d > 0 else p[0]
                if wrong + d / 4 > 0.5:
                    count += 1
                    total = total - torch.log((p[0] if d > 0 else p[1]) + 1e-7)
    return total / max(1, count)


def seconds(function: Callable[[], Any]) -> tuple[float, float, Any]:
    wall, cpu = time.perf_counter(), time.process_time()
    found = function()
    return time.perf_counter() - wall, time.process_time() - cpu, found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--batch", type=int, default=24)
    parser.add_argument("--sets", type=int, default=3)
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--classes", type=int, default=1000)
    parser.add_argument("--dry-run", action="store_true", help="print the table without writing results")
    given = parser.parse_args()
    torch.manual_seed(0)
    set_ids = torch.arange(given.batch) % given.sets
    ratios = torch.randint(0, 5, (given.batch,)) / 4
    embeddings = normalize(torch.randn(given.batch, given.size), dim=1).requires_grad_()

    def fast() -> Tensor:
        embeddings.grad = None
        labels = soft_labels(set_ids, ratios)
        similarities = embeddings @ embeddings.T
        loss, _ = margin_ranking_loss(similarities, labels, temperature=TEMPERATURE, margin_mode="reference")
        loss.backward()
        return loss

    def slow() -> Tensor:
        embeddings.grad = None
        loss = loop_loss(embeddings, set_ids.tolist(), ratios.tolist())
        loss.backward()
        return loss

    values = []
    for function in (fast, slow):
        values.append((function().detach(), embeddings.grad))
    torch.testing.assert_close(*(value for value, _ in values), rtol=0, atol=1e-6)
    torch.testing.assert_close(*(gradient for _, gradient in values), rtol=0, atol=1e-5)
    # One call of the vectorised loss is too short to be timed alone.
    repeats = 100
    times = time_interleaved(
        {"vectorised": lambda: [fast() for _ in range(repeats)], "loop over triplets": slow}, rounds=given.rounds
    )
    times.cpu["vectorised"] = [value / repeats for value in times.cpu["vectorised"]]
    ratio = compare(times.cpu, "loop over triplets")
    milliseconds = {name: summarise([1e3 * s for s in samples]) for name, samples in times.cpu.items()}

    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(given.images, given.size)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    classes = [f"class {i % given.classes}" for i in range(given.images)]
    superclasses = [f"superclass {i % given.classes % 20}" for i in range(given.images)]
    metric = load_metric("one_shot_retrieval")
    retrieval = {}
    for name, function in (
        ("arrays", lambda: one_shot_retrieval(vectors, classes, superclasses, votes=5)),
        (
            "evaluate module",
            lambda: metric.compute(embeddings=vectors, classes=classes, superclasses=superclasses, votes=5),
        ),
    ):
        wall, cpu, found = seconds(function)
        retrieval[name] = {"cpu_seconds": cpu, "wall_seconds": wall, "top1_all": found["top1_all"]}
    print_table(
        ["loss and gradient", "CPU ms"], [[name, f"{row['median']:.3f}"] for name, row in milliseconds.items()]
    )
    print_table(["ratio of CPU time", "median"], [[name, f"{row['median']:.0f}"] for name, row in ratio.items()])
    print_table(["retrieval", "CPU s"], [[name, f"{row['cpu_seconds']:.2f}"] for name, row in retrieval.items()])
    if not given.dry_run:
        write(
            "matsim",
            {
                "setting": {
                    "batch": given.batch,
                    "sets": given.sets,
                    "embedding": given.size,
                    "images": given.images,
                    "classes": given.classes,
                },
                "note": "The machine did other work as well; times are of all threads of this process.",
                "cpu_milliseconds": milliseconds,
                "cpu_time_ratios": ratio,
                "retrieval": retrieval,
            },
        )


if __name__ == "__main__":
    main()
