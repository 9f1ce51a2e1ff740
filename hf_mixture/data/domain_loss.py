"""Training loss by domain, from the logits that the model computes anyway.

Letters: b samples of a micro-batch, T tokens, V vocabulary, K domains.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional


Int64 = NDArray[np.int64]
Float64 = NDArray[np.float64]

IGNORED = -100
_LOGITS_AT_ONCE = 2**24
_FOLD_AFTER = 256


def sample_losses(logits: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the cross-entropy of each sample under a causal language model.

    Args:
        logits: [b, T, V]; those at t predict the label at t + 1.
        labels: int64 [b, T]; -100 does not count.

    Returns:
        float32 [b]: nats, summed over the tokens that count; int64 [b]: their number.

    Example:
        ```python
        >>> import torch
        >>> from hf_mixture.data.domain_loss import sample_losses
        >>> nats, tokens = sample_losses(torch.zeros(1, 3, 4), torch.tensor([[0, 1, -100]]))
        >>> round(nats.item(), 4), tokens.item()  # log 4
        (1.3863, 1)

        ```
    """
    targets = labels[:, 1:]
    size = max(1, _LOGITS_AT_ONCE // max(1, logits[0].numel()))
    parts = []
    for start in range(0, len(logits), size):
        part, wanted = logits[start : start + size, :-1], targets[start : start + size]
        nats = functional.cross_entropy(
            part.flatten(0, 1).float(), wanted.flatten(), ignore_index=IGNORED, reduction="none"
        )
        parts.append(nats.view(wanted.shape).sum(dim=1))
    return torch.cat(parts), (targets != IGNORED).sum(dim=1)


class DomainLoss:
    """Collects the loss of each domain over the training steps of this process.

    A forward hook on the model computes the loss of each sample again from logits and labels, without gradients; it
    touches neither random state nor the model. Only the first training forward after `expect` is taken, so that
    evaluation and forwards of others in between do not count.

    Args:
        num_domains: K.
        domains_of: Gives the domain, a number, of each position of the stream.
        readers: Names of those who `take` what has been collected, each at a time of its own.
    """

    def __init__(self, num_domains: int, domains_of: Callable[[Int64], Int64], readers: Sequence[str]) -> None:
        self._totals: dict[str, Float64] = {reader: np.zeros((2, num_domains)) for reader in readers}
        self._domains_of = domains_of
        self._expected: int | None = None
        self._pending: list[tuple[int, torch.Tensor, torch.Tensor]] = []
        self._handle: Any = None
        self.failure: str | None = None
        """Why nothing is collected, once a forward has shown that nothing can be."""

    def attach(self, model: torch.nn.Module) -> None:
        """Watch the forward of a model."""
        self.failure = None
        self._handle = model.register_forward_hook(self._after_forward, with_kwargs=True)

    def detach(self) -> None:
        """Stop watching."""
        if self._handle is not None:
            self._handle.remove()
            self._handle = None

    def expect(self, position: int) -> None:
        """Say that the next training forward is of the samples from this position of the stream on."""
        self._expected = position

    @torch.no_grad()
    def _after_forward(self, module: torch.nn.Module, args: Any, kwargs: dict[str, Any], output: Any) -> None:
        if self._expected is None or not module.training:
            return
        position, self._expected = self._expected, None
        labels, logits = kwargs.get("labels"), getattr(output, "logits", None)
        if labels is None or logits is None or logits.dim() != 3 or logits.shape[:2] != labels.shape:
            self.failure = (
                f"it needs logits [b, T, V] and labels [b, T], and the forward of {type(module).__name__} has "
                f"{None if logits is None else tuple(logits.shape)} and "
                f"{None if labels is None else tuple(labels.shape)} (label smoothing and compute_loss_func keep the "
                "labels from the model)"
            )
            warnings.warn(
                f"the loss of each domain is not logged: {self.failure}; pass log_domain_loss=False", stacklevel=2
            )
            self.detach()
            return
        nats, tokens = sample_losses(logits.detach(), labels)
        self._pending.append((position, nats, tokens))
        if len(self._pending) >= _FOLD_AFTER:
            self._fold()

    def take(self, reader: str) -> Float64:
        """Return what has been collected since this reader took it last.

        Returns:
            float64 [2, K]: nats and tokens of each domain, in this process.
        """
        self._fold()
        taken = self._totals[reader]
        self._totals[reader] = np.zeros_like(taken)
        return taken

    def _fold(self) -> None:
        """Move what is pending from the device to the totals."""
        if not self._pending:
            return
        sizes = [len(nats) for _, nats, _ in self._pending]
        starts = np.repeat([position for position, _, _ in self._pending], sizes)
        within = np.concatenate([np.arange(size) for size in sizes])
        domains = self._domains_of(starts + within)
        for row, values in enumerate(zip(*(pair[1:] for pair in self._pending), strict=True)):
            amounts = torch.cat(values).cpu().double().numpy()
            for totals in self._totals.values():
                totals[row] += np.bincount(domains, weights=amounts, minlength=totals.shape[1])
        self._pending.clear()
