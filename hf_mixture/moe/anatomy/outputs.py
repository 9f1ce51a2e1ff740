"""Reading and rewriting what routers return, whatever its form.

Letters: T tokens, E experts, C classes of the selection, K chosen.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from hf_mixture.moe.anatomy.families import Layout
from hf_mixture.moe.anatomy.rule import UnsupportedRouterError
from hf_mixture.moe.anatomy.selection import RouterOutput


def read_output(layout: Layout, output: Any, *, num_experts: int, top_k: int) -> RouterOutput:
    """Read logits, weights and indices from the output of a router.

    Args:
        layout: Form of the output.
        output: What the forward of the router returned.
        num_experts: E.
        top_k: K.

    Returns:
        Logits [T, C], weights [T, K] and indices [T, K]. The index E stands for no expert: a token beyond the capacity
        of its expert, or one that skips the experts. Identity experts have indices from E on.

    Raises:
        UnsupportedRouterError: If the router returns its logits alone.
    """
    if layout in ("uniform", "skip_class"):
        logits, weights, indices = output[:3]
        if layout == "skip_class":
            # The router writes expert 0 with weight exactly 0 for a token that skips.
            indices = indices.masked_fill(weights == 0, num_experts)
        return RouterOutput(logits, weights, indices)
    if layout == "dense_scores":
        scores, logits = output
        weights, indices = scores.topk(top_k, dim=-1)
        return RouterOutput(logits, weights, indices)
    if layout == "grouped":
        return _read_grouped(output, top_k)
    if layout == "one_hot":
        chosen, weights, logits = output
        chosen, weights, logits = (part.flatten(0, -2) for part in (chosen, weights, logits))
        indices = chosen.argmax(-1, keepdim=True).masked_fill(chosen.sum(-1, keepdim=True) == 0, num_experts)
        return RouterOutput(logits, weights, indices)
    if layout == "combine":
        _, combine, logits = output
        weights, indices = combine.topk(top_k, dim=-1)
        return RouterOutput(logits, weights, indices.masked_fill(weights == 0, num_experts))
    raise UnsupportedRouterError("this router returns its logits alone; its block chooses the experts")


def replace_output(layout: Layout, output: Any, weights: Tensor, indices: Tensor, *, num_experts: int) -> Any:
    """Put other weights and indices into the output of a router.

    Args:
        layout: Form of the output.
        output: What the forward of the router returned.
        weights: New weights [T, K].
        indices: New indices [T, K].
        num_experts: E.

    Returns:
        An output of the same form, with the logits of the old one.

    Raises:
        UnsupportedRouterError: If the form has no place for them.
    """
    if layout == "skip_class":
        skips = indices == num_experts
        weights, indices = weights.masked_fill(skips, 0), indices.masked_fill(skips, 0)
    if layout in ("uniform", "skip_class"):
        return (output[0], weights.to(output[1].dtype), indices, *output[3:])
    if layout == "dense_scores":
        scores, logits = output
        return (torch.zeros_like(scores).scatter(-1, indices, weights.to(scores.dtype)), logits)
    if layout == "grouped":
        return _replace_grouped(output, weights, indices, num_experts)
    raise UnsupportedRouterError(
        "this router does not return weights and indices of its own; its choice can be edited only from inside"
    )


def _read_grouped(output: Any, top_k: int) -> RouterOutput:
    """Undo JetMoe's sort of the T K choices by expert."""
    order, _, gates, sizes, logits = output
    sizes = torch.as_tensor(sizes, device=order.device)
    experts = torch.repeat_interleave(torch.arange(len(sizes), device=order.device), sizes)
    indices = torch.empty_like(order).scatter(0, order, experts.to(order.dtype))
    weights = torch.empty_like(gates).scatter(0, order, gates)
    return RouterOutput(logits, weights.unflatten(0, (-1, top_k)), indices.unflatten(0, (-1, top_k)))


def _replace_grouped(output: Any, weights: Tensor, indices: Tensor, num_experts: int) -> Any:
    flat = indices.flatten()
    order = flat.sort(0).indices
    batch = order.div(indices.shape[-1], rounding_mode="trunc")
    sizes = torch.bincount(flat, minlength=num_experts).tolist()
    return order, batch, weights.to(output[2].dtype).flatten()[order], sizes, output[4]
