"""Training a recommender with the stock Trainer, from nothing or to unlearn.

Letters: r retain pairs and f forget pairs of a row.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import PrinterCallback, Trainer, TrainingArguments

from hf_mixture.models.mm_recommender.interactions import Ids, Interactions
from hf_mixture.models.mm_recommender.modeling_mm_recommender import MultiModalRecommender
from hf_mixture.models.mm_recommender.options import UnlearningOptions
from hf_mixture.models.mm_recommender.pairs import PairedInteractions, collate_pairs
from hf_mixture.models.mm_recommender.progress import UnlearningProgress
from hf_mixture.models.mm_recommender.requests import Split, UnlearningRequest, split_interactions
from hf_mixture.models.mm_recommender.rows import pairs_to_retain, prepare_model, rows_to_train
from hf_mixture.models.mm_recommender.unlearning_loss import UnlearningLoss


@dataclass(frozen=True, kw_only=True, eq=False)
class UnlearningOutcome:
    """What an unlearning run leaves besides the model.

    Args:
        split: The parts of the interactions; the next request is about `split.retain`.
        num_steps: Optimizer steps taken.
        num_pairs: Pairs seen, retained and forgotten.
        history: Measurements of `UnlearningProgress`.
    """

    split: Split
    num_steps: int
    num_pairs: int
    history: list[dict[str, float]]


def recommender_arguments(
    output_dir: str | Path, *, num_steps: int, rows: int, learning_rate: float, **fields: Any
) -> TrainingArguments:
    """Arguments of the stock Trainer for `PairedInteractions`.

    Args:
        output_dir: Where checkpoints go; none are written unless `fields` asks for it.
        num_steps: Optimizer steps.
        rows: Rows of a step over all processes.
        learning_rate: Constant learning rate of Adam.
        fields: Further fields; they win.

    Returns:
        The arguments.

    Raises:
        ValueError: If the processes cannot share the rows evenly.
    """
    given = {
        "max_steps": num_steps,
        "learning_rate": learning_rate,
        "lr_scheduler_type": "constant",
        "max_grad_norm": 0.0,
        "train_sampling_strategy": "sequential",
        "remove_unused_columns": False,
        "report_to": "none",
        "save_strategy": "no",
        "logging_steps": max(1, num_steps // 20),
        "disable_tqdm": True,
        "dataloader_pin_memory": torch.cuda.is_available(),
        "restore_callback_states_from_checkpoint": False,
        **fields,
    }
    arguments = TrainingArguments(str(output_dir), **{"per_device_train_batch_size": rows, **given})
    share = arguments.world_size * arguments.gradient_accumulation_steps
    if rows % share:
        raise ValueError(f"a step has {rows} rows, which {share} processes or parts cannot share; change the batch")
    arguments.per_device_train_batch_size = rows // share
    return arguments


def fit(
    model: MultiModalRecommender,
    interactions: Interactions,
    *,
    num_steps: int,
    batch_size: int = 2048,
    learning_rate: float = 1e-3,
    avoided: Interactions | None = None,
    never: Ids | None = None,
    row_pairs: int = 1,
    seed: int = 0,
    output_dir: str | Path = "runs/recommender",
    callbacks: list[Any] | None = None,
    **fields: Any,
) -> Trainer:
    """Train a recommender by BPR with the stock Trainer.

    Args:
        model: The model, changed in place.
        interactions: What to learn.
        num_steps: Optimizer steps.
        batch_size: Pairs of a step. Default: 2048.
        learning_rate: Of Adam. Default: 1e-3.
        avoided: Further interactions that are no negatives, such as forgotten ones. Default: none.
        never: Items that are no negatives. Default: none.
        row_pairs: Pairs of a row, which no two processes share; it divides `batch_size`. Default: 1.
        seed: Seed of order and negatives. Default: 0.
        output_dir: Where checkpoints go; none are written unless `fields` asks for it.
        callbacks: Callbacks of the Trainer.
        fields: Further fields of `TrainingArguments`.

    Returns:
        The Trainer.

    Raises:
        ValueError: If a batch cannot be cut into rows, or the interactions are of another catalogue.
    """
    check_catalogue(model, interactions)
    if batch_size % row_pairs:
        raise ValueError(f"batch_size={batch_size} must be a multiple of row_pairs={row_pairs}; change one of them")
    model.set_graph(torch.from_numpy(interactions.users), torch.from_numpy(interactions.items))
    rows = batch_size // row_pairs
    data = PairedInteractions(
        interactions,
        num_rows=num_steps * rows,
        retain_pairs=row_pairs,
        forget=avoided,
        forget_pairs=0,
        forgotten_items=never,
        seed=seed,
    )
    arguments = recommender_arguments(
        output_dir, num_steps=num_steps, rows=rows, learning_rate=learning_rate, **{"seed": seed, **fields}
    )
    options = UnlearningOptions(schedule="sum", retain_weight=1.0, forget_weight=0.0)
    trainer = Trainer(
        model,
        arguments,
        train_dataset=data,
        data_collator=collate_pairs,
        compute_loss_func=UnlearningLoss(model, options),
        callbacks=callbacks,
    )
    # Without a progress bar the Trainer prints every log entry; they are in `trainer.state.log_history`.
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    model.eval()
    return trainer


def unlearn(
    model: MultiModalRecommender,
    interactions: Interactions,
    request: UnlearningRequest,
    options: UnlearningOptions | None = None,
    *,
    validation: Interactions | None = None,
    never: Ids | None = None,
    output_dir: str | Path = "runs/unlearning",
    callbacks: list[Any] | None = None,
    resume_from_checkpoint: str | None = None,
    **fields: Any,
) -> UnlearningOutcome:
    """Make a trained recommender forget, with the stock Trainer (MMRecUn, arXiv 2405.15328; our definition).

    First goes what needs no training: edges of the graph, modality vectors of forgotten items, and, with a schedule
    that does so, identity rows. Then reverse BPR on what is to be forgotten and forward BPR on what is retained. The
    optimizer is fresh.

    Args:
        model: The model, changed in place.
        interactions: D, what it was trained on; after an earlier request, what that one retained.
        request: What to forget.
        options: How. Default: as `UnlearningOptions` has it.
        validation: Held-out interactions, where they are the reference of the stop level.
        never: Further items that are no negatives of retained interactions: those of earlier requests. Default: none.
        output_dir: Where checkpoints go; none are written unless `fields` asks for it.
        callbacks: Further callbacks of the Trainer.
        resume_from_checkpoint: A checkpoint of the same run.
        fields: Further fields of `TrainingArguments`.

    Returns:
        What it did; give `outcome.split.retain` to the next request.

    Raises:
        ValueError: If the request or the options do not fit; nothing has been changed then.

    Example:
        >>> import contextlib, io
        >>> from hf_mixture import UnlearningOptions, UnlearningRequest, unlearn
        >>> from hf_mixture.models.mm_recommender.synthetic import synthetic_recommender
        >>> model, data = synthetic_recommender(num_users=20, num_items=15)
        >>> options = UnlearningOptions(num_steps=2, retain_batch=16, forget_batch=4)
        >>> with contextlib.redirect_stdout(io.StringIO()):
        ...     outcome = unlearn(model, data.train, UnlearningRequest(users=[3]), options, use_cpu=True)
        >>> outcome.num_steps, outcome.split.forgotten_users.tolist()
        (2, [3])
    """
    options = options or UnlearningOptions()
    check_catalogue(model, interactions)
    split = split_interactions(interactions, request, modality_names=list(model.config.modality_sizes))
    retained = pairs_to_retain(request, split, options)
    loss = UnlearningLoss(model, options)
    progress = UnlearningProgress(model, loss, split, options, validation)
    rows = options.forget_batch
    # Pairs without weight are not read: what is left is fine-tuning, bit for bit.
    forgets = len(split.forget) > 0 and options.forget_weight > 0
    # A request for modalities alone leaves nothing to reverse; one for whole users, nothing to refit.
    nothing = not options.num_steps or not (len(retained) or forgets)
    arguments = None
    if not nothing:
        arguments = recommender_arguments(
            output_dir,
            num_steps=options.num_steps,
            rows=rows,
            learning_rate=options.learning_rate,
            **{"seed": options.seed, "ddp_find_unused_parameters": options.schedule == "refit", **fields},
        )
    prepare_model(model, request, split, options)
    if arguments is None:
        return UnlearningOutcome(split=split, num_steps=0, num_pairs=0, history=[])
    data = PairedInteractions(
        retained,
        num_rows=options.num_steps * rows,
        retain_pairs=options.retain_batch // rows if len(retained) else 0,
        forget=split.forget,
        forget_pairs=int(forgets),
        forgotten_items=split.forgotten_items if never is None else np.union1d(split.forgotten_items, never),
        seed=options.seed,
    )
    with _training_only(model, rows_to_train(model, request, split, options)):
        trainer = Trainer(
            model,
            arguments,
            train_dataset=data,
            data_collator=collate_pairs,
            compute_loss_func=loss,
            callbacks=[progress, *(callbacks or [])],
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train(resume_from_checkpoint=resume_from_checkpoint)
    steps = trainer.state.global_step
    return UnlearningOutcome(
        split=split,
        num_steps=steps,
        num_pairs=steps * rows * (data.retain_pairs + data.forget_pairs),
        history=progress.history,
    )


def check_catalogue(model: MultiModalRecommender, interactions: Interactions) -> None:
    """Refuse interactions of another catalogue.

    Args:
        model: The model.
        interactions: Interactions.

    Raises:
        ValueError: If the numbers of users or items differ.
    """
    for name in ("num_users", "num_items"):
        theirs, ours = getattr(interactions, name), getattr(model.config, name)
        if theirs != ours:
            raise ValueError(
                f"the interactions have {name}={theirs}; the model has {ours}: give those of its training"
            )


@contextlib.contextmanager
def _training_only(model: MultiModalRecommender, rows: Any) -> Iterator[None]:
    model.trained_rows = rows
    try:
        yield
    finally:
        model.trained_rows = None
        model.eval()
