"""Validation losses by domain, measured while the model trains and without leaving a trace in the training."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from accelerate.utils import gather
from torch import nn
from torch.nn.functional import cross_entropy

from hf_mixture.data.search.ranks import FloatArray


IGNORED = -100


@contextmanager
def undisturbed(model: nn.Module) -> Iterator[None]:
    """Evaluate inside, then put back the mode of each module and the random states of Python, NumPy and torch.

    Args:
        model: The model; in evaluation mode inside.
    """
    training = [(module, module.training) for module in model.modules()]
    python, numpy, cpu = random.getstate(), np.random.get_state(), torch.get_rng_state()
    accelerator = torch.accelerator.current_accelerator()
    device = None
    if accelerator is not None and torch.accelerator.is_available():
        device = torch.get_device_module(accelerator.type).get_rng_state()
    model.eval()
    try:
        yield
    finally:
        for module, mode in training:
            module.training = mode
        random.setstate(python)
        np.random.set_state(numpy)
        torch.set_rng_state(cpu)
        if accelerator is not None and device is not None:
            torch.get_device_module(accelerator.type).set_rng_state(device)


def collate(rows: Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
    """Make a batch of a causal language model: `input_ids`, `labels`, and `attention_mask` where rows are padded.

    Args:
        rows: Each with `input_ids`, and `labels` where these differ from them.

    Returns:
        Tensors of shape (len(rows), longest row); padding has the label -100.
    """
    ids = [torch.as_tensor(row["input_ids"], dtype=torch.int64) for row in rows]
    labels = [torch.as_tensor(row.get("labels", row["input_ids"]), dtype=torch.int64) for row in rows]
    pad = nn.utils.rnn.pad_sequence
    batch = {
        "input_ids": pad(ids, batch_first=True),
        "labels": pad(labels, batch_first=True, padding_value=IGNORED),
    }
    lengths = torch.tensor([len(row) for row in ids])
    if (lengths < lengths.max()).any():
        batch["attention_mask"] = (torch.arange(int(lengths.max())) < lengths[:, None]).long()
    return batch


def row_losses(model: nn.Module, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """Sum of -log p over the tokens of each row, in nats.

    Args:
        model: A causal language model: `model(input_ids=..., attention_mask=...).logits`.
        batch: What `collate` returns.

    Returns:
        float32 (or wider) of shape (rows,); it can be differentiated.
    """
    device = next(model.parameters()).device
    inputs = {name: tensor.to(device) for name, tensor in batch.items()}
    labels = inputs.pop("labels")[:, 1:]
    logits = model(**inputs).logits[:, :-1]
    if logits.dtype in (torch.float16, torch.bfloat16):
        logits = logits.float()
    losses = cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORED, reduction="none")
    return losses.view(labels.shape).sum(dim=1)


class ValidationSets:
    """Held-out rows by domain, and the mean loss of a model on each domain.

    Args:
        rows: A dataset by domain: anything with a length and rows with `input_ids` (and `labels`, if these differ from
            them). It is read once, into memory.

    Raises:
        ValueError: A domain has no token to predict.

    Example:
        ```python
        >>> import torch
        >>> from transformers import GPT2Config, GPT2LMHeadModel
        >>> from hf_mixture.data.online.validation import ValidationSets
        >>> model = GPT2LMHeadModel(GPT2Config(vocab_size=8, n_embd=4, n_layer=1, n_head=1))
        >>> sets = ValidationSets({"a": [{"input_ids": [1, 2, 3]}], "b": [{"input_ids": [4, 5]}]})
        >>> [round(float(loss)) for loss in sets.losses(model)]
        [2, 2]

        ```
    """

    def __init__(self, rows: Mapping[str, Any]) -> None:
        self.names = tuple(rows)
        self._rows: list[dict[str, torch.Tensor]] = []
        owners, tokens, digest = [], [], hashlib.sha256()
        for owner, (name, dataset) in enumerate(rows.items()):
            digest.update(name.encode() + b"\0")
            for number in range(len(dataset)):
                row = dataset[number]
                ids = torch.as_tensor(row["input_ids"], dtype=torch.int64)
                labels = torch.as_tensor(row.get("labels", row["input_ids"]), dtype=torch.int64)
                self._rows.append({"input_ids": ids, "labels": labels})
                owners.append(owner)
                tokens.append(int((labels[1:] != IGNORED).sum()))
                digest.update(ids.numpy().tobytes() + b"\0" + labels.numpy().tobytes() + b"\0")
        self._owners = np.asarray(owners, dtype=np.int64)
        self._tokens = np.asarray(tokens, dtype=np.int64)
        counts = np.bincount(self._owners, self._tokens, minlength=len(self.names))
        for name, count in zip(self.names, counts, strict=True):
            if count == 0:
                raise ValueError(f"validation[{name!r}] has no token to predict; give it rows of two tokens or more")
        self._counts = counts
        self.fingerprint = digest.hexdigest()

    def rows(self, domain: int, first: int, count: int) -> list[dict[str, torch.Tensor]]:
        """Rows of a domain, one after the other, from the start again after the last.

        Args:
            domain: Its number in `names`.
            first: Number of the first row.
            count: Number of rows; at most all of the domain.
        """
        numbers = np.flatnonzero(self._owners == domain)
        return [self._rows[numbers[(first + i) % len(numbers)]] for i in range(min(count, len(numbers)))]

    def losses(self, model: nn.Module, *, batch_size: int = 8, rank: int = 0, world_size: int = 1) -> FloatArray:
        """Mean loss of each domain, in nats per token; the same on all ranks and for any number of them.

        Args:
            model: A causal language model, the same on all ranks.
            batch_size: Rows of a batch.
            rank: Number of this process.
            world_size: Number of processes; they share the batches.

        Returns:
            Losses of shape (n,), in the order of `names`.
        """
        starts = range(0, len(self._rows), batch_size)
        turns = -(-len(starts) // world_size)
        sums = torch.zeros(turns, batch_size, dtype=torch.float64)
        with undisturbed(model), torch.no_grad():
            for turn in range(turns):
                # A rank without a batch of its own repeats the last one: sharded models need all ranks in step.
                start = starts[min(turn * world_size + rank, len(starts) - 1)]
                rows = self._rows[start : start + batch_size]
                sums[turn, : len(rows)] = row_losses(model, collate(rows)).cpu().double()
        if world_size > 1:
            device = next(model.parameters()).device
            # The nats travel as bits, because some devices have no float64.
            bits = gather(sums.view(torch.int64).to(device)).cpu().view(torch.float64)
            sums = bits.view(world_size, turns, batch_size).transpose(0, 1).reshape(-1, batch_size)
        row_sums = sums.reshape(-1)[: len(self._rows)].numpy()
        return np.bincount(self._owners, row_sums, minlength=len(self.names)) / self._counts
