"""Experts modules of transformers, and tokens with fewer experts than the others.

The index E, with weight 0, stands for "no expert". Eager experts skip it. `batched_mm`, `grouped_mm` and `deepgemm` do
so only in modules marked as a part of expert parallelism: without the mark the first reads outside of the weights, and
the second leaves rows of its result uninitialised. `sonicmoe` always does. The mark changes nothing else.
"""

from __future__ import annotations

from torch import nn


# Their eager forward takes the index E for an expert.
_NO_EAGER_PADDING = {"GptOssExperts", "NemotronHExperts", "OpenAIPrivacyFilterExperts"}
_MARK = "_is_expert_parallel"


def interface_problem(experts: nn.Module | None) -> str | None:
    """Say why experts cannot be called with hidden states, indices and weights.

    Args:
        experts: The experts module of a block.

    Returns:
        The reason, or None if they can.
    """
    if experts is None or not hasattr(experts, _MARK):
        return "its experts do not run through the experts interface of transformers"
    return None


def padding_problem(experts: nn.Module | None) -> str | None:
    """Say why experts cannot skip the index E.

    Args:
        experts: The experts module of a block.

    Returns:
        The reason, with a remedy if there is one, or None if they can.
    """
    if (problem := interface_problem(experts)) is not None:
        return problem
    assert experts is not None  # noqa: S101 - they run through the interface
    eager = getattr(experts.config, "_experts_implementation", None) in (None, "eager")
    if eager and type(experts).__name__ in _NO_EAGER_PADDING:
        return (
            f"the eager forward of {type(experts).__name__} cannot skip a place; call "
            "model.set_experts_implementation('grouped_mm') first"
        )
    return None


def skip_padding(experts: nn.Module, skip: bool = True) -> bool:
    """Let experts skip the index E in all implementations, or take that back.

    Args:
        experts: Experts without a `padding_problem`.
        skip: Whether to skip.

    Returns:
        Whether they did before.
    """
    before: bool = getattr(experts, _MARK)
    setattr(experts, _MARK, skip)
    return before
