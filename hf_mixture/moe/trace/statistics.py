"""Numbers of a trace: how evenly the experts are loaded, over steps and layers.

Letters: S steps, L routers, E experts.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from hf_mixture.moe.trace.trace import RouterTrace


Floats = npt.NDArray[np.float64]


def max_over_mean(counts: npt.NDArray[np.int64]) -> Floats:
    """Largest load over mean load, 0 where nothing was routed: counts [..., E] to [...]."""
    total = counts.sum(axis=-1)
    return counts.max(axis=-1) * counts.shape[-1] / np.maximum(total, 1)


def normalised_entropy(counts: npt.NDArray[np.int64]) -> Floats:
    """Entropy of the shares, divided by log E: counts [..., E] to [...]."""
    shares = counts / np.maximum(counts.sum(axis=-1, keepdims=True), 1)
    logs = np.log(np.where(shares > 0, shares, 1.0))
    return np.abs((shares * logs).sum(axis=-1)) / np.log(max(counts.shape[-1], 2))


def gini(counts: npt.NDArray[np.int64]) -> Floats:
    """Gini coefficient: counts [..., E] to [...]."""
    num_experts = counts.shape[-1]
    ranks = 2 * np.arange(1, num_experts + 1) - num_experts - 1
    return (ranks * np.sort(counts, axis=-1)).sum(axis=-1) / np.maximum(num_experts * counts.sum(axis=-1), 1)


def summarise_trace(trace: RouterTrace) -> dict[str, Any]:
    """Compute the numbers of a report.

    Args:
        trace: The trace.

    Returns:
        JSON values: for each router, the statistics of its counts over all steps and its dead experts, which no token
        chose in any traced step; and for each step the means over the routers.
    """
    routers = []
    for router, counts in zip(trace.routers, trace.counts, strict=True):
        total = counts.sum(axis=0)
        mean = max(float(total.mean()), 1.0)
        routers.append(
            {
                "path": router.path,
                "layer": router.layer,
                "num_experts": router.num_experts,
                "top_k": router.top_k,
                "num_tokens": int(trace.tokens[:, router.ordinal].sum()),
                "num_unrouted": int(trace.unrouted[:, router.ordinal].sum()),
                "counts": total.tolist(),
                "max_over_mean": float(max_over_mean(total)),
                "coefficient_of_variation": float(total.std()) / mean,
                "gini": float(gini(total)),
                "entropy": float(normalised_entropy(total)),
                "dead_experts": np.flatnonzero(total == 0).tolist(),
            }
        )
    means = {
        "max_over_mean": max_over_mean,
        "entropy": normalised_entropy,
        "dead_share": lambda counts: (counts == 0).mean(axis=-1),
    }
    curves = {
        name: np.mean([function(counts) for counts in trace.counts], axis=0).tolist()
        for name, function in means.items()
    }
    return {
        "model_type": trace.header["model_type"],
        "sample_every": trace.header["sample_every"],
        "steps": trace.steps.tolist(),
        "num_dead_experts": sum(len(router["dead_experts"]) for router in routers),
        "routers": routers,
        "curves": curves,
    }
