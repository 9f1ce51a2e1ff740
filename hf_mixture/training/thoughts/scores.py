"""How many nats the answer of each document costs: under each expert, the mixture, and the mixture with wrong peers.

Letters: N documents, B rows, M experts, T tokens, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from hf_mixture.models.mixture_of_thoughts.data_collator import MixtureOfThoughtsCollator
from hf_mixture.models.mixture_of_thoughts.interplay import call
from hf_mixture.models.mixture_of_thoughts.processing_mixture_of_thoughts import MixtureOfThoughtsProcessor


@dataclass
class DocumentCollator:
    """Batches of documents that are cut somewhere: the end of a text is no label.

    Args:
        processor: The tokenizers.
        expert: Make the batches of this expert alone. Defaults to those of the mixture.
    """

    processor: MixtureOfThoughtsProcessor
    expert: int | None = None

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Make a batch of rows with `prompt`, `answer` and perhaps `expert_nll`."""
        batch = MixtureOfThoughtsCollator(self.processor)(rows)
        for inputs, tokenizer in zip(batch["expert_inputs"], self.processor.tokenizers, strict=True):
            if tokenizer.eos_token_id is not None:
                last = inputs["attention_mask"].sum(-1, keepdim=True) - 1
                inputs["labels"] = inputs["labels"].scatter(-1, last, -100)
        if self.expert is None:
            return batch
        alone = batch["expert_inputs"][self.expert]
        return {name: alone[name] for name in ("input_ids", "attention_mask", "labels")}


def num_answer_bytes(documents: Sequence[Mapping[str, Any]]) -> NDArray[np.int64]:
    """UTF-8 bytes of each answer [N]."""
    return np.array([len(row["answer"].encode()) for row in documents], dtype=np.int64)


def answer_nats(logits: Tensor, labels: Tensor) -> NDArray[np.float64]:
    """Negative log-probability of the labels of each row, summed in float64 [B].

    Args:
        logits: Logits [B, T, V].
        labels: Token ids [B, T]; -100 for what is not predicted.
    """
    losses = F.cross_entropy(
        logits[:, :-1].float().transpose(1, 2), labels[:, 1:].to(logits.device), ignore_index=-100, reduction="none"
    )
    found: NDArray[np.float64] = losses.double().sum(-1).cpu().numpy()
    return found


@torch.no_grad()
def expert_nats(
    experts: Sequence[Any],
    processor: MixtureOfThoughtsProcessor,
    documents: Sequence[Mapping[str, Any]],
    *,
    batch_size: int,
    progress: str = "",
) -> NDArray[np.float64]:
    """Let each expert, on its own, predict the answers.

    Args:
        experts: The models, in evaluation mode.
        processor: Their tokenizers.
        documents: N documents.
        batch_size: Documents at once.
        progress: Label of the progress bar.

    Returns:
        Nats [N, M].
    """
    found = np.zeros((len(documents), len(experts)))
    for rows, batch in _batches(DocumentCollator(processor), documents, batch_size, progress):
        for index, (expert, inputs) in enumerate(zip(experts, batch["expert_inputs"], strict=True)):
            found[rows, index] = answer_nats(call(expert, inputs).logits, inputs["labels"])
    return found


@torch.no_grad()
def alone_nats(
    model: Any,
    processor: MixtureOfThoughtsProcessor,
    index: int,
    documents: Sequence[Mapping[str, Any]],
    *,
    batch_size: int,
    progress: str = "",
) -> NDArray[np.float64]:
    """Let a model with the tokenizer of one expert predict the answers; its training mode is restored afterwards.

    Args:
        model: The model, for example the expert with an adapter.
        processor: The tokenizers.
        index: The expert.
        documents: N documents.
        batch_size: Documents at once.
        progress: Label of the progress bar.

    Returns:
        Nats [N].
    """
    was_training = model.training
    model.eval()
    found = np.zeros(len(documents))
    for rows, batch in _batches(DocumentCollator(processor, index), documents, batch_size, progress):
        found[rows] = answer_nats(call(model, batch).logits, batch["labels"])
    model.train(was_training)
    return found


@torch.no_grad()
def mixture_nats(
    model: Any,
    processor: MixtureOfThoughtsProcessor,
    documents: Sequence[Mapping[str, Any]],
    *,
    batch_size: int,
    progress: str = "",
    wrong: Sequence[Mapping[str, Any]] | None = None,
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Let a mixture predict the answers, each document with the primary that the router chooses.

    Args:
        model: The mixture; its training mode is restored afterwards.
        processor: Its tokenizers.
        documents: N documents.
        batch_size: Documents at once.
        progress: Label of the progress bar.
        wrong: N other documents, for the peers to read instead; the router and the primary read the right one.

    Returns:
        Nats [N], and the primary of each document [N].
    """
    was_training = model.training
    model.eval()
    found, primaries = np.zeros(len(documents)), np.zeros(len(documents), dtype=np.int64)
    collate = DocumentCollator(processor)
    for rows, batch in _batches(collate, documents, batch_size, progress):
        chosen = model.route_scores(batch["encoder_inputs"]).argmax(-1).cpu()
        primaries[rows] = chosen.numpy()
        others = batch if wrong is None else collate(wrong[rows.start : rows.stop])
        for primary in chosen.unique().tolist():
            kept = (chosen == primary).nonzero().squeeze(-1)
            heard = [
                (batch if index == primary else others)["expert_inputs"][index] for index in range(model.num_experts)
            ]
            output = model(
                expert_inputs=[_rows(inputs, kept) for inputs in heard],
                encoder_inputs=_rows(batch["encoder_inputs"], kept),
                primary=chosen[kept],
            )
            found[rows.start + kept.numpy()] = answer_nats(output.logits, heard[primary]["labels"][kept])
    model.train(was_training)
    return found, primaries


def pooled_bits_per_byte(nats: NDArray[np.float64], num_bytes: NDArray[np.int64]) -> float:
    """Bits per byte of some documents together: a long one counts for more.

    Args:
        nats: Nats of each document [N].
        num_bytes: Bytes of each document [N].

    Returns:
        Their quotient, in bits.
    """
    return float(nats.sum() / math.log(2) / num_bytes.sum())


def _rows(inputs: Mapping[str, Tensor], kept: Tensor) -> dict[str, Tensor]:
    # Without labels the mixture computes no loss, which would need the experts' own.
    return {name: value[kept] for name, value in inputs.items() if name != "labels"}


def _batches(
    collate: DocumentCollator, documents: Sequence[Mapping[str, Any]], batch_size: int, progress: str
) -> Iterator[tuple[slice, dict[str, Any]]]:
    from tqdm.auto import tqdm

    starts = range(0, len(documents), batch_size)
    for start in tqdm(starts, desc=progress, leave=False, disable=not progress):
        rows = slice(start, min(start + batch_size, len(documents)))
        yield rows, collate(documents[rows])
