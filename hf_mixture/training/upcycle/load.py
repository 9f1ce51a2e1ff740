"""How evenly a model uses its experts on held-out text.

Letters: L routers, E experts, T tokens.
"""

from __future__ import annotations

from typing import Any

from hf_mixture.training.blocks import Windows


def expert_counts(model: Any, windows: Windows, *, batch_size: int) -> tuple[list[list[int]], int]:
    """Count how often each expert is chosen for the tokens from which a held-out token is predicted.

    Args:
        model: A mixture-of-experts model; its training mode is restored afterwards.
        windows: The text.
        batch_size: Windows in one forward pass, at least 1.

    Returns:
        Counts [L][E], and the number of tokens T.
    """
    import torch

    from hf_mixture.moe.anatomy import RouterOutput, find_routers

    routers = find_routers(model)
    counts = [torch.zeros(router.num_experts + 1, dtype=torch.long) for router in routers]
    scored = torch.zeros(0, dtype=torch.bool)

    def counter(place: int) -> Any:
        def add(output: RouterOutput) -> None:
            chosen = output.indices.cpu().unflatten(0, (len(scored), -1))[:, :-1][scored]
            # Index E stands for no expert.
            counts[place] += torch.bincount(chosen.flatten(), minlength=len(counts[place]))

        return add

    handles = [handle for place, router in enumerate(routers) for handle in router.observe(counter(place))]
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            for start in range(0, len(windows.input_ids), batch_size):
                scored = windows.scored[start : start + batch_size]
                model(input_ids=windows.input_ids[start : start + batch_size].to(model.device), use_cache=False)
    finally:
        model.train(was_training)
        for handle in handles:
            handle.remove()
    return [row[:-1].tolist() for row in counts], int(windows.scored.sum())


def balance_of(counts: list[list[int]], num_tokens: int) -> dict[str, Any]:
    """Summarise counts.

    Args:
        counts: How often each expert was chosen [L][E].
        num_tokens: T.

    Returns:
        `max_over_mean` and `cov` (standard deviation over mean), each the mean over the layers; `worst_max_over_mean`,
        that of the worst layer; `dead`, experts of all layers that were never chosen; `num_experts` of all layers;
        `experts_per_token`, the mean over layers and tokens.

    Example:
        >>> from hf_mixture.training.upcycle.load import balance_of
        >>> summary = balance_of([[6, 2, 0, 0], [2, 2, 2, 2]], num_tokens=4)
        >>> summary["max_over_mean"], summary["dead"], summary["experts_per_token"]
        (2.0, 2, 2.0)
    """
    import numpy as np

    table = np.array(counts, dtype=np.float64)
    mean = table.mean(axis=1)
    peaks = table.max(axis=1) / mean
    return {
        "max_over_mean": float(peaks.mean()),
        "worst_max_over_mean": float(peaks.max()),
        "cov": float((table.std(axis=1) / mean).mean()),
        "dead": int((table == 0).sum()),
        "num_experts": int(table.size),
        "experts_per_token": float(table.sum() / len(table) / num_tokens),
    }
