"""The gate of MixER as a router: a sequence goes to one expert, by a weight that is solved for, not trained.

Letters: B sequences, T tokens, E experts, H hidden.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from hf_mixture.moe.anatomy import RouterOutput
from hf_mixture.moe.routers.base import RegistryRouter, RouterShape
from hf_mixture.moe.routers.kmeans_least_squares import GateUpdateReport, KMeansLeastSquaresGate
from hf_mixture.moe.routers.pooled import pool_sequences
from hf_mixture.moe.routers.registry import register_router


@register_router(
    "kmeans_least_squares",
    causal=False,
    context=("attention_mask",),
    paper="https://arxiv.org/abs/2502.05335",
    summary="One expert for each sequence, by K-means on mean states and least squares; no gradient (MixER).",
)
class KMeansLeastSquaresRouter(RegistryRouter):
    """One expert for all tokens of a sequence, with the weight 1, by the gate of MixER on its mean hidden state.

    The gate is a buffer: gradients do not reach it, and a loss that balances experts does not either, as clusters
    without members are left out of an update. `update_kmeans_routers` solves for it.

    Args:
        shape: Numbers of experts, of hidden features and of choices, of which there is one here.
        max_iterations: Largest number of iterations of K-means, at least 1.
        tolerance: Largest move of an entry of a converged centroid, at least 0.
        noise: Standard deviation of what is added to the mean states before the gate is solved for, at least 0.
    """

    def __init__(
        self, shape: RouterShape, *, max_iterations: int = 20, tolerance: float = 1e-4, noise: float = 1e-4
    ) -> None:
        super().__init__(shape)
        self.top_k = 1
        self.gate = KMeansLeastSquaresGate(
            shape.hidden_size, shape.num_experts, max_iterations=max_iterations, tolerance=tolerance, noise=noise
        )
        # While an update is prepared: the expert that takes everything, and the mean states of the last forward.
        self.forced: int | None = None
        self.pooled: Tensor | None = None

    def reset_parameters(self, std: float) -> None:
        """Draw the weight of the gate by its own rule, and forget the centroids."""
        self.gate.reset_parameters()

    def route(self, hidden: Tensor) -> RouterOutput:
        """Choose for each sequence."""
        assert self.context is not None  # noqa: S101 - the entry asks for one
        num_sequences = self.context.num_sequences
        pooled = pool_sequences(hidden, num_sequences, mask=self.context.token_mask(len(hidden)))
        indices, scores = self.gate(pooled)
        self.pooled = pooled.detach()
        if self.forced is not None:
            indices = torch.full_like(indices, self.forced)
        length = len(hidden) // num_sequences
        chosen = indices.repeat_interleave(length).unsqueeze(1)
        logits = scores.repeat_interleave(length, dim=0).to(hidden.dtype)
        return RouterOutput(logits, torch.ones_like(chosen, dtype=hidden.dtype), chosen)


@torch.no_grad()
def update_kmeans_routers(
    model: nn.Module, sequence_losses: Callable[[], Tensor], *, generator: torch.Generator | None = None
) -> list[GateUpdateReport]:
    """Solve for the gates of all `kmeans_least_squares` routers of a model.

    The batch runs once as it is routed, which gives each router the mean states that it clusters, and once for each
    expert, with all routers sending everything to it, which gives the losses.

    Args:
        model: The model.
        sequence_losses: Runs the batch through the model and returns the loss of each sequence [B], B >= E.
        generator: Source of first centroids and noise, on the CPU. Defaults to the global one.

    Returns:
        What each update found, in the order of the layers.

    Raises:
        ValueError: The model has no such router, or the batch has fewer sequences than experts.

    Example:
        >>> import torch
        >>> from transformers import MixtralConfig, MixtralForSequenceClassification
        >>> from hf_mixture import replace_routers
        >>> from hf_mixture.moe.routers.kmeans import update_kmeans_routers
        >>> config = MixtralConfig(
        ...     vocab_size=32, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
        ...     num_key_value_heads=2, num_local_experts=2, pad_token_id=0,
        ... )
        >>> model = MixtralForSequenceClassification(config)
        >>> replaced = replace_routers(model, "kmeans_least_squares", force=True)
        >>> ids, labels = torch.arange(1, 25).view(6, 4), torch.tensor([0, 1, 0, 1, 0, 1])
        >>> def losses():
        ...     return torch.nn.functional.cross_entropy(model(input_ids=ids).logits, labels, reduction="none")
        >>> reports = update_kmeans_routers(model, losses)
        >>> len(reports), reports[0].assignment.shape
        (1, torch.Size([6]))
    """
    routers = [module for module in model.modules() if isinstance(module, KMeansLeastSquaresRouter)]
    if not routers:
        raise ValueError(
            "the model has no router 'kmeans_least_squares'; call replace_routers(model, 'kmeans_least_squares') first"
        )
    sequence_losses()
    pooled = [router.pooled for router in routers]
    columns = []
    try:
        for expert in range(routers[0].num_experts):
            for router in routers:
                router.forced = expert
            columns.append(sequence_losses())
    finally:
        for router in routers:
            router.forced = None
    losses = torch.stack(columns, dim=1).nan_to_num(nan=torch.inf)
    reports = []
    for router, contexts in zip(routers, pooled, strict=True):
        assert contexts is not None  # noqa: S101 - the router has just run
        reports.append(router.gate.update(contexts, losses, generator=generator))
    return reports
