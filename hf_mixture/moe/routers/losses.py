"""Losses of routers: pure functions that leave padding out.

The balance loss of Switch Transformers (https://arxiv.org/abs/2101.03961, equations 4 to 6), importance and load of
Shazeer et al. (https://arxiv.org/abs/1701.06538, section 4 and appendix A), the z-loss of ST-MoE
(https://arxiv.org/abs/2202.08906, equation 5), and the orthogonality of router rows or experts.

Two conventions differ between code bases, and both are offered:

- `per="token"` divides counts by tokens, so that f sums to K and uniform routing costs K, as in transformers;
  `per="choice"` divides them by choices, so that f sums to 1 and uniform routing costs 1, as in Megatron. With K
  choices for every token, a coefficient of the second is K times that of the first.
- transformers pools the tokens of all layers before the product, Megatron adds up the losses of the layers. To pool,
  concatenate the layers along the tokens.

Letters: T tokens, E experts, K chosen, B sequences, S positions of a sequence (T = B * S), H hidden size.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.special import ndtr


Per = Literal["token", "choice"]
Scope = Literal["micro", "sequence", "global"]


class ChoiceTotals(NamedTuple):
    """How often each expert was chosen in all that one optimizer step sees, for `scope="global"`.

    Args:
        counts: Choices of each expert [E], summed over micro-batches and processes.
        num_tokens: Tokens that they come from, padding excluded.
    """

    counts: Tensor
    num_tokens: Tensor | int


def count_choices(indices: Tensor, num_experts: int, *, mask: Tensor | None = None) -> Tensor:
    """Count how often each expert is chosen.

    Args:
        indices: Chosen experts [T, K]; ids outside 0 .. E - 1, such as the padding id E, are not counted.
        num_experts: E.
        mask: 1 where a token counts, 0 at padding, [T] or [B, S]. Default: all count.

    Returns:
        int64 [E].

    Example:
        >>> import torch
        >>> from hf_mixture.moe.routers.losses import count_choices
        >>> count_choices(torch.tensor([[0, 1], [1, 3], [0, 2]]), 3, mask=torch.tensor([1, 1, 0])).tolist()
        [1, 2, 0]
    """
    return choices_by_part(indices, num_experts, mask=mask).sum(dim=0)


def choices_by_part(
    indices: Tensor, num_experts: int, *, values: Tensor | None = None, mask: Tensor | None = None, num_parts: int = 1
) -> Tensor:
    """Count, or sum the values of, the choices of each expert in equal parts of the tokens.

    Args:
        indices: Chosen experts [T, K]; ids outside 0 .. E - 1 are not counted.
        num_experts: E.
        values: What to sum [T, K]. Default: ones, in int64.
        mask: 1 where a token counts [T]. Default: all count.
        num_parts: P, number of parts of T / P neighbouring tokens.

    Returns:
        Sums [P, E].
    """
    counted = (indices >= 0) & (indices < num_experts)
    if mask is not None:
        counted &= mask.reshape(-1, 1).bool()
    slots = torch.where(counted, indices, num_experts).reshape(num_parts, -1)
    values = torch.ones_like(slots) if values is None else values.reshape(num_parts, -1)
    sums = values.new_zeros(num_parts, num_experts + 1).scatter_add(1, slots, values)
    return sums[:, :num_experts]


def switch_loss(
    probabilities: Tensor,
    indices: Tensor,
    *,
    mask: Tensor | None = None,
    scope: Scope = "micro",
    totals: ChoiceTotals | None = None,
    per: Per = "token",
) -> Tensor:
    """Balance loss E * sum_i f_i P_i (https://arxiv.org/abs/2101.03961, equation 4, without its coefficient).

    f_i is the share of tokens, or of choices, that expert i got; P_i its mean probability. The gradient flows through
    P alone.

    `scope` says what f and P are taken over: `"micro"`, the tokens given; `"sequence"`, each sequence by itself, and
    the losses of the sequences are averaged (DeepSeek-V3, https://arxiv.org/abs/2412.19437, equation 17);
    `"global"`, all tokens of an optimizer step, of which those given are a part
    (https://arxiv.org/abs/2501.11873). The global losses of the parts then add up to the loss of the whole, and so do
    their gradients.

    Args:
        probabilities: Probabilities of the experts [T, E]; rows sum to 1.
        indices: Chosen experts [T, K]; ids outside 0 .. E - 1 stand for no expert.
        mask: 1 where a token counts, 0 at padding: [T], or [B, S] for `scope="sequence"`. Default: all count.
        scope: `"micro"`, `"sequence"` or `"global"`.
        totals: Counts and tokens of the whole step, for `scope="global"`.
        per: `"token"`: uniform routing costs K. `"choice"`: it costs 1.

    Returns:
        The loss, a scalar.

    Raises:
        ValueError: `scope="sequence"` without a mask [B, S], or `scope="global"` without `totals`.

    Example:
        >>> import torch
        >>> from hf_mixture.moe.routers.losses import switch_loss
        >>> uniform = torch.full((4, 4), 0.25)
        >>> every_expert_twice = torch.tensor([[0, 1], [2, 3], [0, 1], [2, 3]])
        >>> switch_loss(uniform, every_expert_twice).item()
        2.0
        >>> switch_loss(uniform, every_expert_twice, per="choice").item()
        1.0
    """
    num_experts = probabilities.shape[-1]
    if scope == "sequence" and (mask is None or mask.dim() != 2):
        raise ValueError(
            f"scope='sequence' needs a mask of shape [B, S] to know the sequences, not "
            f"{None if mask is None else list(mask.shape)}; give the attention mask, or torch.ones(B, S)"
        )
    if (scope == "global") != (totals is not None):
        raise ValueError(
            f"scope={scope!r} with totals={'None' if totals is None else 'given'}; scope='global', and it alone, "
            "needs ChoiceTotals with the counts of the whole optimizer step"
        )
    num_parts = mask.shape[0] if scope == "sequence" and mask is not None else 1
    counts = choices_by_part(indices, num_experts, mask=mask, num_parts=num_parts)
    sums, tokens = probability_sums(probabilities, mask=mask, num_parts=num_parts)
    if totals is not None:
        counts, tokens = totals.counts.unsqueeze(0), torch.as_tensor(totals.num_tokens, device=sums.device).view(1)
    losses = balance_of_sums(counts, sums, tokens, per=per)
    present = tokens > 0
    return torch.where(present, losses, 0).sum() / present.sum().clamp(min=1)


def probability_sums(
    probabilities: Tensor, *, mask: Tensor | None = None, num_parts: int = 1, dtype: torch.dtype | None = None
) -> tuple[Tensor, Tensor]:
    """Sum probabilities over the tokens of equal parts.

    Args:
        probabilities: [T, E].
        mask: 1 where a token counts, T values. Default: all count.
        num_parts: P, number of parts of T / P neighbouring tokens.
        dtype: Type to sum in. Default: that of the probabilities.

    Returns:
        The sums [P, E], and the number of tokens of each part, int64 [P].
    """
    valid = probabilities.new_ones(len(probabilities), dtype=torch.bool) if mask is None else mask.reshape(-1).bool()
    parts = torch.where(valid.unsqueeze(-1), probabilities, 0).unflatten(0, (num_parts, -1))
    return parts.sum(dim=1, dtype=dtype), valid.view(num_parts, -1).sum(dim=1)


def balance_of_sums(counts: Tensor, sums: Tensor, num_tokens: Tensor, *, per: Per = "token") -> Tensor:
    """Balance loss from sums over tokens: E * sum_i f_i P_i.

    Args:
        counts: Choices of each expert [..., E].
        sums: Sums of probabilities [..., E].
        num_tokens: Tokens that both come from [...].
        per: What f is a share of.

    Returns:
        Losses [...].
    """
    tokens = num_tokens.clamp(min=1).to(sums.dtype)
    counts = counts.to(sums.dtype)
    divisor = tokens if per == "token" else counts.sum(dim=-1).clamp(min=1)
    return sums.shape[-1] * (counts * sums).sum(dim=-1) / (divisor * tokens)


def squared_cov(values: Tensor) -> Tensor:
    """Squared coefficient of variation, variance / mean^2, of the last dimension; 0 where all values are 0.

    Args:
        values: [..., E].

    Returns:
        [...].

    Example:
        >>> import torch
        >>> from hf_mixture.moe.routers.losses import squared_cov
        >>> squared_cov(torch.tensor([[2.0, 2.0], [4.0, 0.0]])).tolist()
        [0.0, 1.0]
    """
    mean = values.mean(dim=-1)
    variance = (values - mean.unsqueeze(-1)).square().mean(dim=-1)
    return torch.where(mean == 0, 0, variance / torch.where(mean == 0, 1, mean).square())


def importance_loss(weights: Tensor, indices: Tensor, num_experts: int, *, mask: Tensor | None = None) -> Tensor:
    """Squared coefficient of variation of the importance (https://arxiv.org/abs/1701.06538, equations 6 and 7).

    The importance of an expert is the sum of its gate weights over the tokens; the published loss has a coefficient.

    Args:
        weights: Gate weights of the chosen experts [T, K].
        indices: Chosen experts [T, K]; ids outside 0 .. E - 1 stand for no expert.
        num_experts: E.
        mask: 1 where a token counts, T values. Default: all count.

    Returns:
        The loss, a scalar.

    Example:
        >>> import torch
        >>> from hf_mixture.moe.routers.losses import importance_loss
        >>> importance_loss(torch.tensor([[0.6], [0.6]]), torch.tensor([[0], [0]]), 2).item()
        1.0
    """
    return squared_cov(choices_by_part(indices, num_experts, values=weights, mask=mask)[0])


def smooth_load(clean: Tensor, noisy: Tensor, noise_std: Tensor, top_k: int) -> Tensor:
    """Probability that each expert is chosen if only its own noise is drawn again, P(x, i).

    https://arxiv.org/abs/1701.06538, equations 8 to 10: Phi((clean_i - bar_i) / std_i), where bar_i is the K-th
    largest noisy logit of the other experts. Its sum over tokens is a differentiable load.

    Args:
        clean: Logits without noise [T, E].
        noisy: Logits that the experts were chosen by [T, E].
        noise_std: Standard deviation of the noise [T, E], > 0.
        top_k: K, less than E.

    Returns:
        Probabilities [T, E].

    Raises:
        ValueError: `top_k` is not less than the number of experts, so that all are always chosen.

    Example:
        >>> import torch
        >>> from hf_mixture.moe.routers.losses import smooth_load
        >>> logits = torch.tensor([[1.0, 1.0, 1.0]])
        >>> smooth_load(logits, logits, torch.ones(1, 3), 1).tolist()
        [[0.5, 0.5, 0.5]]
    """
    if top_k >= clean.shape[-1]:
        raise ValueError(
            f"top_k={top_k} of {clean.shape[-1]} experts: all are always chosen and have the same load; leave the "
            "load loss out"
        )
    best = noisy.topk(top_k + 1, dim=-1).values
    is_chosen = noisy >= best[:, top_k - 1 : top_k]
    bar = torch.where(is_chosen, best[:, top_k:], best[:, top_k - 1 : top_k])
    return ndtr((clean - bar) / noise_std)


def load_loss(clean: Tensor, noisy: Tensor, noise_std: Tensor, top_k: int, *, mask: Tensor | None = None) -> Tensor:
    """Squared coefficient of variation of the smooth load (https://arxiv.org/abs/1701.06538, equation 11).

    Args:
        clean: Logits without noise [T, E].
        noisy: Logits that the experts were chosen by [T, E].
        noise_std: Standard deviation of the noise [T, E], > 0.
        top_k: K, less than E.
        mask: 1 where a token counts, T values. Default: all count.

    Returns:
        The loss, a scalar.

    Example:
        >>> import torch
        >>> from hf_mixture.moe.routers.losses import load_loss
        >>> logits = torch.zeros(4, 3)
        >>> load_loss(logits, logits, torch.ones(4, 3), 1).item()
        0.0
    """
    return squared_cov(probability_sums(smooth_load(clean, noisy, noise_std, top_k), mask=mask)[0][0])


def z_loss(logits: Tensor, *, mask: Tensor | None = None) -> Tensor:
    """Mean over tokens of logsumexp^2, which keeps logits small (https://arxiv.org/abs/2202.08906, equation 5).

    Args:
        logits: Raw logits [T, E].
        mask: 1 where a token counts, T values. Default: all count.

    Returns:
        The loss, a scalar.

    Example:
        >>> import math, torch
        >>> from hf_mixture.moe.routers.losses import z_loss
        >>> round(z_loss(torch.zeros(5, 8)).item(), 4) == round(math.log(8) ** 2, 4)
        True
    """
    sums, tokens = probability_sums(logits.logsumexp(dim=-1, keepdim=True).square(), mask=mask)
    return sums[0, 0] / tokens[0].clamp(min=1)


def orthogonality_loss(weight: Tensor) -> Tensor:
    """Mean squared cosine of all pairs of different rows: 0 where they are orthogonal, 1 where all are parallel.

    It is the penalty ||W W^T - I||^2 on normalised rows, divided by the number of pairs, E (E - 1).

    Args:
        weight: One row, or one matrix, for each expert [E, ...]: the weight of a router, or stacked expert weights.

    Returns:
        The loss, a scalar.

    Example:
        >>> import torch
        >>> from hf_mixture.moe.routers.losses import orthogonality_loss
        >>> orthogonality_loss(torch.eye(3)).item(), orthogonality_loss(torch.ones(3, 2, 2)).item()
        (0.0, 1.0)
    """
    rows = torch.nn.functional.normalize(weight.flatten(1), dim=-1)
    cosines = (rows @ rows.T).square()
    num_pairs = len(rows) * (len(rows) - 1)
    return (cosines.sum() - cosines.diagonal().sum()) / max(num_pairs, 1)
