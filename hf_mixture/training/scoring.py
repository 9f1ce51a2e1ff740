"""Bits per byte: how well a causal language model predicts held-out text, whatever its tokenizer.

bits per byte = (sum over tokens of -ln p(token | tokens before)) / (ln 2 * UTF-8 bytes of the text)
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from hf_mixture.training.blocks import Windows


def total_nats(model: Any, windows: Windows, *, batch_size: int = 8, progress: str = "") -> float:
    """Sum the negative log-probabilities of the scored tokens.

    Args:
        model: A causal language model of transformers; its training mode is restored afterwards.
        windows: The text, from `hf_mixture.training.blocks.scoring_windows`.
        batch_size: Windows in one forward pass, at least 1.
        progress: Label of the progress bar; without one there is no bar.

    Returns:
        Nats, summed in float64.
    """
    import torch
    from tqdm.auto import tqdm

    was_training = model.training
    model.eval()
    total = torch.zeros((), dtype=torch.float64)
    starts = range(0, len(windows.input_ids), batch_size)
    try:
        with torch.no_grad():
            for start in tqdm(starts, desc=progress, leave=False, disable=not progress):
                ids = windows.input_ids[start : start + batch_size].to(model.device)
                scored = windows.scored[start : start + batch_size].to(model.device)
                logits = model(input_ids=ids, use_cache=False).logits[:, :-1].float()
                nats = torch.nn.functional.cross_entropy(
                    logits.flatten(0, 1), ids[:, 1:].flatten(), reduction="none"
                ).view_as(scored)
                total += nats.double().masked_fill(~scored, 0).sum().cpu()
    finally:
        model.train(was_training)
    return float(total)


def bits_per_byte(nats: float, num_bytes: int) -> float:
    """Convert the nats of a text to bits per byte.

    Args:
        nats: Sum of the negative log-probabilities of all tokens of the text, >= 0.
        num_bytes: UTF-8 bytes of the text, at least 1.

    Returns:
        Bits per byte.

    Raises:
        ValueError: If `num_bytes` is not positive.

    Example:
        >>> import math
        >>> from hf_mixture.training.scoring import bits_per_byte
        >>> bits_per_byte(100 * math.log(256), num_bytes=100)
        8.0
    """
    if num_bytes < 1:
        raise ValueError(f"num_bytes={num_bytes}; the text must have at least 1 byte")
    return nats / math.log(2) / num_bytes


def learning_curve(log: Sequence[Mapping[str, Any]], validation: Mapping[str, Windows]) -> list[dict[str, float]]:
    """Held-out bits per byte along a training: `step`, and one value for each domain.

    They come from the Trainer's evaluation, a mean over batches that are nearly equally large, and are as near to
    those of `total_nats`.
    """
    by_step: dict[int, dict[str, float]] = {}
    for domain, windows in validation.items():
        # Nats per scored token, to bits per byte.
        factor = float(windows.scored.sum()) / windows.num_bytes / math.log(2)
        for entry in log:
            if f"eval_{domain}_loss" in entry:
                by_step.setdefault(entry["step"], {})[domain] = entry[f"eval_{domain}_loss"] * factor
    return [{"step": step, **values} for step, values in sorted(by_step.items())]


def finite(value: float) -> float | None:
    """Return a score, or None for one that is not finite: JSON has no NaN."""
    return value if math.isfinite(value) else None


def mixture_scores(
    model: Any, windows: Mapping[str, Windows], weights: Mapping[str, float], *, batch_size: int, label: str
) -> dict[str, float]:
    """Score a model on every domain, and on the mixture as a whole.

    Args:
        model: The model.
        windows: Held-out windows of each domain.
        weights: Shares of the domains in the mixture.
        batch_size: Windows that are scored at once.
        label: Name of the model, for progress and messages.

    Returns:
        Bits per byte of every domain, and their mean by the shares as `mean`.

    Raises:
        RuntimeError: If a loss is not finite.
    """
    found = {}
    for domain, held_out in windows.items():
        nats = total_nats(model, held_out, batch_size=batch_size, progress=f"scoring {label} on {domain}")
        found[domain] = bits_per_byte(nats, held_out.num_bytes)
    if not all(math.isfinite(value) for value in found.values()):
        raise RuntimeError(f"{label}: the loss is not finite; lower the learning rate of the recipe")
    total = math.fsum(weights.values())
    return found | {"mean": math.fsum(found[domain] * share for domain, share in weights.items()) / total}
