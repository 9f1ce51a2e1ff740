"""The experts that a behaviour is trained into: expert-specialised fine-tuning (ESFT, arXiv 2407.01906).

Letters: E experts of a layer.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from hf_mixture.moe.mote.ranking import RankedExpert
from hf_mixture.training.mote.questions import PRIVATE, Question
from hf_mixture.training.mote.recipe import ChosenSpec


def choose_experts(
    model: Any,
    tokenizer: Any,
    questions: Sequence[Question],
    spec: ChosenSpec,
    *,
    last_tokens: int | None,
    batch_size: int,
) -> list[RankedExpert]:
    """Choose the experts with the highest affinity to private prompts, over all layers, until prompts have one.

    The affinity is that of ESFT: the share of tokens that choose the expert, or the mean of its gate. ESFT sums it
    until a threshold is reached; here each further expert is the one with the highest affinity to the prompts that
    have none yet, so that few are enough.

    Args:
        model: The model before it refuses anything.
        tokenizer: Its tokenizer.
        questions: Questions of the training; the public ones are left out.
        spec: How many experts at most, for how many of the prompts, and by which affinity.
        last_tokens: Number of tokens at the end of a prompt at which it is measured; None for all.
        batch_size: Prompts at once.

    Returns:
        The experts, each with its affinity as score.
    """
    from hf_mixture.moe.mote.scan import scan_prompts

    prompts = [question.prompt for question in questions if question.topic == PRIVATE]
    maps = scan_prompts(
        model,
        tokenizer,
        prompts,
        labels=[PRIVATE] * len(prompts),
        statistic=spec.affinity,  # type: ignore[arg-type]
        tokens=last_tokens or "prompt",
        batch_size=batch_size,
        progress=False,
    ).maps
    affinity = maps.rows(normalise=True)
    places = list(maps.facts.columns)
    chosen: list[RankedExpert] = []
    without = np.ones(len(affinity), bool)
    while len(chosen) < spec.num_experts and without.mean() > 1 - spec.coverage:
        # The first of equal ones is that of the first layer.
        best = int(affinity[without].sum(axis=0).argmax())
        router, expert = places[best]
        score = float(affinity[:, best].mean())
        chosen.append(RankedExpert(router.path, router.layer, router.ordinal, expert, score))
        without &= affinity[:, best] == 0
    return chosen


def train_experts_alone(model: Any, experts: Sequence[RankedExpert]) -> None:
    """Let only some experts learn: of the experts' weights, the gradients of all others are zero.

    Parameters that are no experts' are left as they are.

    Args:
        model: A model with the weights of the experts of a layer in one tensor [E, ...].
        experts: The experts that learn.

    Raises:
        TypeError: If a layer has its experts in another form.
    """
    import torch

    from hf_mixture.moe.anatomy import find_routers

    for router in find_routers(model):
        own = [expert.expert for expert in experts if expert.path == router.path]
        parameters = [] if router.experts is None else list(router.experts.parameters())
        if not parameters or any(parameter.shape[0] != router.num_experts for parameter in parameters):
            raise TypeError(
                f"the experts beside {router.path} are not rows of tensors, so that some of them could be trained "
                "alone; take chosen out of the recipe, or choose another model_type"
            )
        for parameter in parameters:
            if not own:
                parameter.requires_grad_(False)
            elif parameter.requires_grad:
                learns = torch.zeros(len(parameter), *[1] * (parameter.dim() - 1))
                learns[own] = 1
                parameter.register_hook(lambda gradient, learns=learns: gradient * learns.to(gradient))


def num_trained(model: Any, num_experts: int) -> int:
    """Count the weights that learn where only some experts do, in a model with equally large experts.

    Args:
        model: The model; what is frozen requires no gradient.
        num_experts: Number of experts that learn.
    """
    from hf_mixture.moe.anatomy import find_routers

    stacks = [router.experts for router in find_routers(model) if router.experts is not None]
    stacked = sum(p.numel() for stack in stacks for p in stack.parameters() if p.requires_grad)
    of_one = sum(p.numel() // len(p) for p in stacks[0].parameters() if p.requires_grad)
    others: int = model.num_parameters(only_trainable=True) - stacked
    return others + num_experts * of_one
