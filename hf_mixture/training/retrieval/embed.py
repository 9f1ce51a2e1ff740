"""Embeddings of a retrieval run: trained by the stock Trainer, or factorised.

Letters: U users, I items, d embedding size.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
from transformers import TrainerCallback

from hf_mixture.training.retrieval.measure import Judge
from hf_mixture.training.retrieval.recipe import EmbeddingSpec


class WatchValidation(TrainerCallback):
    """Measures recall at 10 of one vector every so many steps, and keeps the best embeddings.

    Args:
        judge: Measures lists on validation.
        every: Steps between two measurements.

    Attributes:
        curve: Pairs of step and recall.
        best: The highest recall.
        best_step: Where it was.
        vectors: The embeddings of users and items there.
    """

    def __init__(self, judge: Judge, every: int) -> None:
        self.judge = judge
        self.every = every
        self.curve: list[tuple[int, float]] = []
        self.best, self.best_step = -1.0, 0
        self.vectors: tuple[Any, Any] | None = None

    def on_step_end(self, args: Any, state: Any, control: Any, *, model: Any, **kwargs: Any) -> None:
        """Measure where it is time."""
        if state.global_step % self.every == 0:
            self.measure(state.global_step, *vectors_of(model))

    def measure(self, step: int, users: Any, items: Any) -> None:
        """Measure embeddings.

        Args:
            step: After how many steps they came about.
            users: What users search with [U, d].
            items: Embeddings of items [I, d].
        """
        lists = best_lists(users, items, self.judge)
        recall = self.judge.recall(lists, 10)
        self.curve.append((step, recall))
        if recall > self.best:
            self.best, self.best_step, self.vectors = recall, step, (users.copy(), items.copy())


def make_embeddings(
    spec: EmbeddingSpec,
    train: Any,
    *,
    seed: int,
    folder: Path,
    num_steps: int | None = None,
    watch: WatchValidation | None = None,
) -> tuple[Any, Any, dict[str, Any]]:
    """Train or factorise embeddings.

    Args:
        spec: How.
        train: Training edges, a `csr_array` of ones [U, I].
        seed: Seed of the first embeddings, of batches and negatives.
        folder: Where checkpoints are kept, to continue from.
        num_steps: Optimizer steps instead of those of the specification.
        watch: Measures on the way.

    Returns:
        What users search with [U, d], embeddings of items [I, d], and what it took.
    """
    began = time.process_time()
    if spec.method == "als":
        from hf_mixture.training.retrieval.factorisation import als_embeddings

        users, items = als_embeddings(train, seed=seed, **spec.options)
        return users, items, {"cpu_seconds": time.process_time() - began, "num_steps": spec.options["num_rounds"]}
    model = _train(spec, train, seed=seed, folder=folder, num_steps=num_steps, watch=watch)
    users, items = vectors_of(model)
    steps = num_steps or spec.training["max_steps"]
    return users, items, {"cpu_seconds": time.process_time() - began, "num_steps": steps}


def best_lists(users: Any, items: Any, judge: Judge) -> Any:
    """Lists of ten by one vector, of items that occur in training, for the users who are measured.

    Args:
        users: What users search with [U, d].
        items: Embeddings of items [I, d].
        judge: Says which users, and which edges are known.

    Returns:
        Items [Q, 10].
    """
    from hf_mixture.models.knn_embed.modeling_knn_embed import KnnEmbedModel

    model = KnnEmbedModel.from_embeddings(users, items, smoothing="none")
    model.fit_mixture(judge.known, clusters=np.zeros(len(items), dtype=np.int64), users=[])
    return model.retrieve(judge.users, 10, method="one_vector").item_ids.numpy()


def vectors_of(model: Any) -> tuple[Any, Any]:
    """What users search with, and embeddings of items, of a model of either kind."""
    import torch

    with torch.no_grad():
        if hasattr(model, "propagated"):
            users, items = model.propagated()
        else:
            users, items = model.user_vectors(), model.item_embeddings.weight
    return users.detach().numpy(), items.detach().numpy()


def _train(
    spec: EmbeddingSpec,
    train: Any,
    *,
    seed: int,
    folder: Path,
    num_steps: int | None,
    watch: WatchValidation | None,
) -> Any:
    from transformers import Trainer, TrainingArguments, set_seed

    from hf_mixture.models.knn_embed.configuration_knn_embed import KnnEmbedConfig
    from hf_mixture.models.knn_embed.edges import EdgeDataset, NegativeCollator
    from hf_mixture.models.knn_embed.modeling_knn_embed import KnnEmbedModel
    from hf_mixture.training.retrieval.lightgcn import LightGcn
    from hf_mixture.training.stage import train_on

    set_seed(seed)
    num_users, num_items = train.shape
    edges = EdgeDataset(train, num_users, num_items)
    if spec.method == "lightgcn":
        model: Any = LightGcn(train, **spec.options)
    else:
        model = KnnEmbedModel(KnnEmbedConfig(num_users=num_users, num_items=num_items, **spec.options))
    shared = spec.method == "trained" and spec.options.get("loss", "twhin") != "bpr"
    collate = NegativeCollator(
        num_items,
        num_negatives=spec.num_negatives,
        shared=shared,
        history=None if shared else edges.history,
        seed=seed,
    )
    steps = num_steps or spec.training["max_steps"]
    arguments = {
        "seed": seed,
        "report_to": "none",
        "logging_steps": max(1, steps // 20),
        "save_steps": max(1, steps // 4),
        "save_total_limit": 2,
        "lr_scheduler_type": "constant",
        "max_grad_norm": 0.0,
        "dataloader_pin_memory": False,
        "disable_tqdm": True,
        **spec.training,
        "max_steps": steps,
    }
    trainer = Trainer(
        model=model,
        args=TrainingArguments(output_dir=str(folder), **arguments),
        data_collator=collate,
        train_dataset=edges,
        callbacks=[] if watch is None else [watch],
    )
    train_on(trainer, folder)
    return model
