"""MaskMoE: each entry of the vocabulary may use only some experts, rare ones a single one.

Letters: T tokens, E experts, K chosen, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from transformers import initialization

from hf_mixture.moe.anatomy import RouterOutput
from hf_mixture.moe.routers.allowed import check_ids, route_allowed
from hf_mixture.moe.routers.base import LinearRouter, RouterShape
from hf_mixture.moe.routers.checks import check_integer, check_number
from hf_mixture.moe.routers.registry import register_router


INPUT_KEY = "input_ids"


def frequent_tokens(counts: Sequence[int] | Tensor, coverage: float) -> Tensor:
    """Mark the fewest entries of the vocabulary that make up a share of a text.

    Args:
        counts: How often each entry occurs [V].
        coverage: Share of all occurrences, in [0, 1].

    Returns:
        bool [V]. Of equal counts, lower ids come first.

    Raises:
        ValueError: `coverage` is out of range.

    Example:
        >>> from hf_mixture.moe.routers.mask_moe import frequent_tokens
        >>> frequent_tokens([5, 80, 0, 15], 0.95).tolist()
        [False, True, False, True]
    """
    check_number("coverage", coverage, at_least=0.0, at_most=1.0)
    counted = torch.as_tensor(counts, dtype=torch.float64)
    order = counted.argsort(descending=True, stable=True)
    before = counted[order].cumsum(0) - counted[order]
    frequent = torch.zeros(len(counted), dtype=torch.bool)
    frequent[order] = before < coverage * counted.sum()
    return frequent


def visible_experts(num_visible: Tensor, num_experts: int, seed: int) -> Tensor:
    """Draw, for each entry of the vocabulary, the experts that it may use.

    Args:
        num_visible: How many each entry may use [V], from 1 to E.
        num_experts: E.
        seed: Seed of the draw.

    Returns:
        bool [V, E], on the CPU: the same on every machine. More visible experts include those of fewer.
    """
    generator = torch.Generator().manual_seed(seed)
    ranks = torch.rand(len(num_visible), num_experts, dtype=torch.float64, generator=generator).argsort(dim=-1)
    return ranks < num_visible.cpu().unsqueeze(-1)


@register_router(
    "mask_moe",
    causal=True,
    context=(INPUT_KEY,),
    paper="https://arxiv.org/abs/2407.09816",
    summary="Top-k softmax among a fixed random subset of experts for each token id; rare ids have one expert.",
)
class MaskMoeRouter(LinearRouter):
    """Top-k softmax among the experts that the token's id may use (MaskMoE).

    Each id has a fixed random set of visible experts, another one in every layer. Frequent ids see `num_visible` of
    them, rare ids `num_visible_rare`, so that all training of a rare id goes into the same expert. Which ids are
    frequent is a matter of the training text: `set_token_frequencies` says so from counts; before that, ids below
    `num_frequent` are, as vocabularies made by merging are roughly ordered by frequency. The sets are saved with the
    model. The weights are a softmax over the visible experts.

    Args:
        shape: Numbers of experts, of hidden features and of choices.
        vocab_size: V.
        num_frequent: Ids below this are frequent, from 0 to V.
        num_visible: Experts that frequent ids see. Default: all.
        num_visible_rare: Experts that rare ids see.
        seed: Seed of the sets.
    """

    def __init__(
        self,
        shape: RouterShape,
        *,
        vocab_size: int,
        num_frequent: int,
        num_visible: int | None = None,
        num_visible_rare: int = 1,
        seed: int = 0,
    ) -> None:
        super().__init__(shape)
        self.vocab_size = check_integer("vocab_size", vocab_size, at_least=1)
        self.num_frequent = check_integer("num_frequent", num_frequent, at_least=0, at_most=vocab_size)
        self.num_visible = shape.num_experts if num_visible is None else num_visible
        check_integer("num_visible", self.num_visible, at_least=1, at_most=shape.num_experts)
        self.num_visible_rare = check_integer(
            "num_visible_rare", num_visible_rare, at_least=1, at_most=shape.num_experts
        )
        # Every layer draws for itself.
        self.seed = check_integer("seed", seed, at_least=0, at_most=2**31) * 2**20 + shape.layer
        self.visible: Tensor
        self.register_buffer("visible", torch.empty(vocab_size, shape.num_experts, dtype=torch.bool))

    @property
    def pads(self) -> bool:
        """An id may see fewer than K experts."""
        return min(self.num_visible, self.num_visible_rare) < self.top_k

    def reset_parameters(self, std: float) -> None:
        """Draw the gate, and the sets of visible experts."""
        super().reset_parameters(std)
        initialization.copy_(self.visible, self._draw(torch.arange(self.vocab_size) < self.num_frequent))

    def set_frequent(self, frequent: Tensor) -> None:
        """Say which ids are frequent; others keep a part of their visible experts, or get more.

        Args:
            frequent: bool [V].
        """
        self.visible.copy_(self._draw(frequent))

    def _draw(self, frequent: Tensor) -> Tensor:
        counts = torch.where(frequent.cpu(), self.num_visible, self.num_visible_rare)
        return visible_experts(counts, self.num_experts, self.seed)

    def route(self, hidden: Tensor) -> RouterOutput:
        """Choose among the experts that each token's id may use."""
        assert self.context is not None  # noqa: S101 - the entry asks for one
        ids = check_ids(INPUT_KEY, self.context.per_token(INPUT_KEY, len(hidden)), self.vocab_size)
        return route_allowed(self.logits(hidden), self.visible[ids], self.top_k, normalise=False)


def set_token_frequencies(model: nn.Module, counts: Sequence[int] | Tensor, *, coverage: float) -> int:
    """Tell the MaskMoE routers of a model which ids are frequent, before it is trained.

    Args:
        model: A model with routers `mask_moe`.
        counts: How often each id occurs in the training text [V].
        coverage: Share of the text that the frequent ids make up, in [0, 1].

    Returns:
        The number of frequent ids.

    Raises:
        ValueError: The model has no such routers, or `counts` has not one entry for each id.

    Example:
        >>> from transformers import MixtralConfig, MixtralForCausalLM
        >>> from hf_mixture.moe.routers import replace_routers
        >>> from hf_mixture.moe.routers.mask_moe import set_token_frequencies
        >>> config = MixtralConfig(
        ...     vocab_size=4, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
        ...     num_key_value_heads=2, num_local_experts=4, num_experts_per_tok=1,
        ... )
        >>> model = MixtralForCausalLM(config)
        >>> replaced = replace_routers(model, "mask_moe", vocab_size=4, num_frequent=0)
        >>> set_token_frequencies(model, [5, 80, 0, 15], coverage=0.9)
        2
        >>> model.model.layers[0].mlp.gate.visible.sum(dim=1).tolist()
        [1, 4, 1, 4]
    """
    routers = [module for module in model.modules() if isinstance(module, MaskMoeRouter)]
    if not routers:
        raise ValueError("the model has no MaskMoE routers; call replace_routers(model, 'mask_moe', ...) first")
    if len(counts) != routers[0].vocab_size:
        raise ValueError(
            f"counts has {len(counts)} entries, and the routers know {routers[0].vocab_size} ids; give one for each"
        )
    frequent = frequent_tokens(counts, coverage)
    for router in routers:
        router.set_frequent(frequent)
    return int(frequent.sum())
