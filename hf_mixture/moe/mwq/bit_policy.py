"""What chooses the width of a token in an expert: scores of each width, less a price for each bit.

Letters: T tokens, H hidden size, K experts of a token, E experts, N widths, S rows of the sample.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn


Gradient = Literal["straight_through", "scale"]
# Scores that are kept of each layer to find prices with.
SAMPLE_SIZE = 2048


class Choice(NamedTuple):
    """Places to compute, and how they are combined.

    Args:
        experts: Experts [T, K].
        levels: Place of the width of each [T, K]; -1 where a token skips its expert.
        weights: [T, K].
    """

    experts: Tensor
    levels: Tensor
    weights: Tensor


class BitPolicy(nn.Module):
    r"""Chooses \(\arg\max_k (u_k - \lambda b_k)\) of the scores u of the widths b, the fewest bits among equals.

    The choice for a token depends on nothing but the token, its expert and the price \(\lambda\), which
    `set_bit_budget` finds on a sample of scores.

    Args:
        widths: b, ascending.
    """

    price: Tensor
    sample: Tensor
    num_sampled: Tensor

    def __init__(self, widths: tuple[int, ...]) -> None:
        super().__init__()
        self.widths = widths
        self.register_buffer("price", torch.zeros((), dtype=torch.float32))
        self.register_buffer("sample", torch.zeros(SAMPLE_SIZE, len(widths), dtype=torch.float32))
        self.register_buffer("num_sampled", torch.zeros((), dtype=torch.int64))
        self.keeps_sample = False
        # Places that were computed at each width, since they were last asked for.
        self.counts = [0] * len(widths)

    def scores(self, hidden: Tensor, top_k_index: Tensor, top_k_weights: Tensor) -> Tensor:
        """Scores of the widths [T, K, N], float32."""
        raise NotImplementedError

    def forward(self, hidden: Tensor, top_k_index: Tensor, top_k_weights: Tensor) -> Choice:
        """Choose the widths.

        Args:
            hidden: [T, H].
            top_k_index: [T, K].
            top_k_weights: [T, K].

        Returns:
            The choice.
        """
        scores = self.scores(hidden, top_k_index, top_k_weights)
        levels = cheapest_best(scores, self.price)
        self.note(scores, levels)
        return Choice(top_k_index, levels, top_k_weights)

    def take_counts(self) -> list[int]:
        """Places that were computed at each width, since this was last asked for."""
        counts, self.counts = self.counts, [0] * len(self.widths)
        return counts

    @torch.no_grad()
    def note(self, scores: Tensor, levels: Tensor) -> None:
        """Count what was chosen, and keep scores where they are wanted."""
        chosen = torch.bincount(levels.flatten() + 1, minlength=len(self.widths) + 1)[1:].tolist()
        self.counts = [count + more for count, more in zip(self.counts, chosen, strict=True)]
        if not self.keeps_sample:
            return
        rows = scores.detach().flatten(0, 1)[-SAMPLE_SIZE:].to(self.sample.dtype)
        start = int(self.num_sampled) % SAMPLE_SIZE
        where = (start + torch.arange(len(rows), device=rows.device)) % SAMPLE_SIZE
        self.sample[where] = rows
        self.num_sampled += len(rows)

    def sampled(self) -> Tensor:
        """The scores that are kept [S, N]."""
        return self.sample[: int(self.num_sampled)]

    def _apply(self, fn: Any, recurse: bool = True) -> BitPolicy:
        # A change of the type of the model leaves prices and scores in float32.
        super()._apply(fn, recurse)
        for tensor in [*self.parameters(recurse=False), *self.buffers(recurse=False)]:
            if tensor.is_floating_point():
                tensor.data = tensor.data.float()
        return self


class GateErrorPolicy(BitPolicy):
    r"""The policy without training: \(u_k = -g \cdot \epsilon_{e, k}\), gate weight times quantisation error.

    A token thus takes one bit more of an expert as long as that lowers gate weight times error by more than the price.

    Args:
        widths: Bits of each level.
        num_experts: E.
    """

    error: Tensor

    def __init__(self, widths: tuple[int, ...], num_experts: int) -> None:
        super().__init__(widths)
        self.register_buffer("error", torch.zeros(num_experts, len(widths), dtype=torch.float32))

    def scores(self, hidden: Tensor, top_k_index: Tensor, top_k_weights: Tensor) -> Tensor:
        error = self.error[top_k_index.clamp(max=len(self.error) - 1)]
        return -top_k_weights.detach().float().abs().unsqueeze(-1) * error


class BitRouter(BitPolicy):
    r"""A linear router for each expert: \(u = \log \mathrm{softmax}(W_e x + c_e)\) (D2MoE, arXiv 2504.15299).

    While it is trained, each width takes at most its part of the places of a call; those beyond it, drawn at random,
    skip their expert. At inference nothing is skipped.

    Args:
        widths: Bits of each level.
        num_experts: E.
        hidden_size: H.
        gradient: How the loss reaches the router through its choice, which the paper leaves open. With
            `"straight_through"` the chosen width counts fully, and the gradient is that of the mean over the widths
            with their probabilities, for which training computes all of them; with `"scale"` the chosen output is
            multiplied by its probability, as in mixtures of depths, at inference too. Default: `"straight_through"`.
    """

    def __init__(
        self, widths: tuple[int, ...], num_experts: int, hidden_size: int, gradient: Gradient = "straight_through"
    ) -> None:
        super().__init__(widths)
        self.gradient = gradient
        self.weight = nn.Parameter(torch.zeros(num_experts, len(widths), hidden_size, dtype=torch.float32))
        nn.init.normal_(self.weight, std=hidden_size**-0.5)
        self.bias = nn.Parameter(torch.zeros(num_experts, len(widths), dtype=torch.float32))
        self.capacity: Mapping[int, float] | None = None
        # Mean bits of the last call in training, with its gradient.
        self.expected_bits: Tensor | None = None

    def scores(self, hidden: Tensor, top_k_index: Tensor, top_k_weights: Tensor) -> Tensor:
        num_experts, num_widths, _ = self.weight.shape
        index = top_k_index.clamp(max=num_experts - 1)
        logits = nn.functional.linear(hidden.float(), self.weight.flatten(0, 1), self.bias.flatten())
        logits = logits.view(len(hidden), num_experts, num_widths)
        chosen = logits.gather(1, index.unsqueeze(-1).expand(-1, -1, num_widths))
        return chosen.log_softmax(-1)

    def forward(self, hidden: Tensor, top_k_index: Tensor, top_k_weights: Tensor) -> Choice:
        scores = self.scores(hidden, top_k_index, top_k_weights)
        levels = cheapest_best(scores.detach(), self.price)
        if not self.training or self.capacity is None:
            self.note(scores, levels)
            if self.gradient == "straight_through":
                return Choice(top_k_index, levels, top_k_weights)
            chosen = scores.gather(-1, levels.unsqueeze(-1)).squeeze(-1).exp()
            return Choice(top_k_index, levels, top_k_weights * chosen.to(top_k_weights.dtype))
        probabilities = scores.exp()
        self.expected_bits = (probabilities @ torch.tensor(self.widths, device=scores.device).float()).mean()
        levels = skip_beyond_capacity(levels, [self.capacity[width] for width in self.widths])
        self.note(scores, levels)
        hard = nn.functional.one_hot(levels + 1, len(self.widths) + 1)[..., 1:].to(scores.dtype)
        if self.gradient == "scale":
            part = hard * probabilities
        else:
            # All widths are computed, those that are not chosen with the factor 0 and the gradient of their p.
            part = hard + (probabilities - probabilities.detach()) * hard.sum(-1, keepdim=True)
        return _at_all_widths(top_k_index, top_k_weights, part)


def _at_all_widths(top_k_index: Tensor, top_k_weights: Tensor, part: Tensor) -> Choice:
    """Each place once for each width, with the part [T, K, N] of it in its weight."""
    num_widths = part.shape[-1]
    index = top_k_index.unsqueeze(-1).expand_as(part)
    levels = torch.arange(num_widths, device=part.device).expand_as(part)
    weights = top_k_weights.unsqueeze(-1) * part.to(top_k_weights.dtype)
    return Choice(index.flatten(1), levels.flatten(1), weights.flatten(1))


def cheapest_best(scores: Tensor, price: Tensor | float) -> Tensor:
    """The width with the highest score less price times its place [...], from scores [..., N].

    Widths ascend by one bit, so that their places differ as their bits do.
    """
    places = torch.arange(scores.shape[-1], device=scores.device, dtype=scores.dtype)
    return (scores - price * places).argmax(-1)


def skip_beyond_capacity(levels: Tensor, capacity: list[float]) -> Tensor:
    """Let places skip their expert where more chose a width than it may take.

    Args:
        levels: Chosen widths [T, K].
        capacity: For each width, the part of all places it may take.

    Returns:
        The levels, with -1 for those beyond the capacity, drawn at random.
    """
    flat = levels.flatten().clone()
    for level, part in enumerate(capacity):
        where = (flat == level).nonzero().flatten()
        excess = len(where) - int(part * len(flat))
        if excess > 0:
            flat[where[torch.randperm(len(where), device=where.device)[:excess]]] = -1
    return flat.view_as(levels)
