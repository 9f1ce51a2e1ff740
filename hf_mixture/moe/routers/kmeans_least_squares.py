"""The gate of MixER: K-means on contexts, then least squares (https://arxiv.org/abs/2502.05335, algorithm 1).

The gate picks one expert for each context by the largest entry of [xi, 1] W. W is not trained by gradients: contexts
are clustered, each cluster gets the expert that does best on it, and W is the least-squares solution that sends the
contexts of a cluster to its expert.

Letters: E contexts (one for each environment), M experts, d size of a context.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from hf_mixture.moe.routers.checks import check_integer, check_number


Status = Literal["converged", "empty", "not_converged"]
FirstCentroids = Literal["contexts", "origin"]

# The published first centroids lie this close to the origin, where contexts begin.
_FIRST_CENTROIDS = 1e-3
# Share of a centroid's own size that it may still move.
_RTOL = 1e-5


class Clusters(NamedTuple):
    """What K-means found.

    Args:
        status: `"converged"`; `"empty"` if a cluster had no context; `"not_converged"` within the iterations.
        assignment: Cluster of each context [E], by the centroids before their last move.
        centroids: The centroids after it [M, d].
        num_iterations: Iterations done.
    """

    status: Status
    assignment: Tensor
    centroids: Tensor
    num_iterations: int


@dataclass(frozen=True, kw_only=True)
class GateUpdateReport:
    """What an update of the gate did.

    Args:
        status: `"converged"`: the gate has a new weight. `"empty"` or `"not_converged"`: the update was skipped, and
            the weight is the old one, bit by bit.
        assignment: Cluster of each context [E].
        centroids: Centroids [M, d]; of no use after a skipped update.
        num_iterations: Iterations of K-means.
        weight: Weight W of the gate [d + 1, M] after the update, in float64; [d, M] without bias.
        cluster_losses: Median loss of each cluster under each expert [M, M]; None if skipped.
        expert_of_cluster: Expert of each cluster [M], a permutation; None if skipped.

    Attributes:
        converged: Whether the gate has a new weight.
        empty: Whether a cluster had no context.

    Example:
        >>> import torch
        >>> from hf_mixture import KMeansLeastSquaresGate
        >>> gate = KMeansLeastSquaresGate(context_size=2, num_experts=2)
        >>> gate.update(torch.zeros(4, 2), torch.rand(4, 2)).status
        'empty'
    """

    status: Status
    assignment: Tensor
    centroids: Tensor
    num_iterations: int
    weight: Tensor = field(repr=False)
    cluster_losses: Tensor | None = None
    expert_of_cluster: Tensor | None = None

    @property
    def converged(self) -> bool:
        """Whether the gate has a new weight."""
        return self.status == "converged"

    @property
    def empty(self) -> bool:
        """Whether a cluster had no context."""
        return self.status == "empty"


def cluster_contexts(
    contexts: Tensor, centroids: Tensor, *, max_iterations: int = 20, tolerance: float = 1e-4
) -> Clusters:
    """Cluster contexts by K-means with the mean absolute difference as the distance and the mean as the centroid.

    A context belongs to the nearest centroid, the first of equally near ones. The centroids have converged when no
    entry moves by more than `tolerance` + 1e-5 times its size; the last of the allowed iterations counts.

    Args:
        contexts: Contexts xi [E, d].
        centroids: First centroids [M, d].
        max_iterations: Largest number of iterations.
        tolerance: Largest move of an entry of a converged centroid, in units of the contexts.

    Returns:
        The clusters. The search ends at the first empty one.
    """
    for iteration in range(1, max_iterations + 1):
        distances = (contexts.unsqueeze(1) - centroids).abs().mean(dim=-1)
        assignment = distances.argmin(dim=1)
        members = torch.nn.functional.one_hot(assignment, len(centroids)).to(contexts.dtype)
        counts = members.sum(dim=0)
        if not counts.all():
            return Clusters("empty", assignment, centroids, iteration)
        before, centroids = centroids, members.T @ contexts / counts.unsqueeze(1)
        if ((centroids - before).abs() <= tolerance + _RTOL * before.abs()).all():
            return Clusters("converged", assignment, centroids, iteration)
    return Clusters("not_converged", assignment, centroids, max_iterations)


def spread_contexts(contexts: Tensor, number: int, *, generator: torch.Generator | None = None) -> Tensor:
    """Draw contexts that lie apart, to begin K-means at (k-means++, https://doi.org/10.5555/1283383.1283494).

    The first is any; each further one is drawn with a probability proportional to the square of its distance, the mean
    absolute difference, from the nearest drawn one.

    Args:
        contexts: Contexts xi [E, d].
        number: How many.
        generator: Source of the draws. Defaults to the global one.

    Returns:
        Contexts [number, d]; some of them equal where there are too few different ones.
    """
    weights = contexts.new_ones(len(contexts))
    drawn: list[Tensor] = []
    nearest = torch.full_like(weights, torch.inf)
    for _ in range(number):
        drawn.append(contexts[torch.multinomial(weights, 1, generator=generator)])
        nearest = nearest.minimum((contexts - drawn[-1]).abs().mean(dim=-1))
        # Divided by the largest one, as squares of tiny distances would vanish.
        weights = (nearest / nearest.max()).square() if nearest.any() else torch.ones_like(nearest)
    return torch.cat(drawn)


def cluster_median(losses: Tensor, assignment: Tensor) -> Tensor:
    """Take the median loss of each cluster under each expert; the mean of the middle two where their number is even.

    Args:
        losses: Loss of each context under each expert alone [E, M]; infinite where an expert diverged.
        assignment: Cluster of each context [E]; no cluster of the M is empty.

    Returns:
        The medians C, one row for each cluster [M, M].
    """
    rows = []
    for cluster in range(losses.shape[1]):
        ordered = losses[assignment == cluster].sort(dim=0).values
        # torch.median takes the lower of the middle two, and interpolation between infinite losses is no number.
        low, high = ordered[(len(ordered) - 1) // 2], ordered[len(ordered) // 2]
        rows.append(torch.where(low == high, low, (low + high) / 2))
    return torch.stack(rows)


def greedy_experts(cluster_losses: Tensor) -> Tensor:
    """Give each cluster, one after the other, the best expert that is still free.

    The order of the clusters matters, unlike in an optimal assignment; this is the published rule.

    Args:
        cluster_losses: Loss of each cluster under each expert C [M, M].

    Returns:
        Expert of each cluster [M]; the first of equally good ones.
    """
    free = torch.ones(cluster_losses.shape[1], dtype=torch.bool)
    chosen = []
    for losses in cluster_losses:
        places = free.nonzero().squeeze(1)
        best = places[losses[places].argmin()]
        free[best] = False
        chosen.append(best)
    return torch.stack(chosen)


def least_squares_weight(contexts: Tensor, targets: Tensor, *, bias: bool = True) -> Tensor:
    """Solve [xi, 1] W = Y for W, with the smallest norm where there is more than one best solution.

    Args:
        contexts: Contexts xi, noise included [E, d].
        targets: Wanted scores Y [E, M].
        bias: Whether W has a row for the 1.

    Returns:
        W [d + 1, M], or [d, M] without bias.
    """
    # The other drivers assume full rank, which more entries than contexts do not have.
    return torch.linalg.lstsq(_inputs(contexts, bias), targets, driver="gelsd").solution


class KMeansLeastSquaresGate(nn.Module):
    """Gate of MixER: a context goes to the expert of the largest entry of [xi, 1] W (arXiv 2502.05335).

    W, the centroids and whether there are any are buffers: they are saved with the model, and no optimizer sees them.
    `update` computes in float64 on the CPU. An update that finds an empty cluster, or does not converge, leaves W
    untouched and forgets the centroids, so that the next one starts from new ones, as the published code does; while
    all contexts are zero, as in the beginning, every update is skipped.

    Args:
        context_size: d.
        num_experts: M, at least 1.
        bias: Whether W has a row for a constant 1.
        max_iterations: Largest number of iterations of K-means, at least 1.
        tolerance: Largest move of an entry of a converged centroid, in units of the contexts, at least 0.
        noise: Standard deviation of what is added to the contexts before W is solved for, at least 0.
        first_centroids: Where centroids begin: `"contexts"`, at contexts far from one another, drawn as by k-means++;
            or `"origin"`, drawn from U(-1e-3, 1e-3), as published. From the origin, clusters stay empty for as long as
            the contexts lie on few sides of it, which in some runs is for ever.

    Attributes:
        weight: W [d + 1, M], or [d, M] without bias.
        centroids: Centroids of the last update [M, d].
        has_centroids: Whether that update was not skipped.

    Raises:
        ValueError: A number is out of its range, or `first_centroids` is unknown.

    Example:
        >>> import torch
        >>> from hf_mixture import KMeansLeastSquaresGate
        >>> _ = torch.manual_seed(0)
        >>> gate = KMeansLeastSquaresGate(context_size=2, num_experts=2)
        >>> contexts = torch.tensor([[1.0, 0.0], [1.1, 0.1], [-1.0, 0.0], [-1.1, 0.1]])
        >>> losses = torch.tensor([[0.0, 1.0], [0.0, 1.0], [1.0, 0.0], [1.0, 0.0]])
        >>> report = gate.update(contexts, losses, centroids=torch.tensor([[1e-3, 0.0], [-1e-3, 0.0]]))
        >>> report.status, gate(contexts)[0].tolist()
        ('converged', [0, 0, 1, 1])
    """

    weight: Tensor
    centroids: Tensor
    has_centroids: Tensor

    def __init__(
        self,
        context_size: int,
        num_experts: int,
        *,
        bias: bool = True,
        max_iterations: int = 20,
        tolerance: float = 1e-4,
        noise: float = 1e-4,
        first_centroids: FirstCentroids = "contexts",
    ) -> None:
        super().__init__()
        if first_centroids not in ("contexts", "origin"):
            raise ValueError(f"first_centroids={first_centroids!r} must be 'contexts' or 'origin'; give one of them")
        self.first_centroids = first_centroids
        self.context_size = check_integer("context_size", context_size, at_least=1)
        self.num_experts = check_integer("num_experts", num_experts, at_least=1)
        self.bias = bias
        self.max_iterations = check_integer("max_iterations", max_iterations, at_least=1)
        self.tolerance = check_number("tolerance", tolerance, at_least=0.0)
        self.noise = check_number("noise", noise, at_least=0.0)
        self.register_buffer("weight", torch.empty(context_size + bias, num_experts))
        self.register_buffer("centroids", torch.empty(num_experts, context_size))
        self.register_buffer("has_centroids", torch.empty((), dtype=torch.bool))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw W from U(-1/sqrt(d + 1), 1/sqrt(d + 1)), and forget the centroids."""
        nn.init.uniform_(self.weight, -1 / math.sqrt(self.context_size + 1), 1 / math.sqrt(self.context_size + 1))
        nn.init.zeros_(self.centroids)
        nn.init.zeros_(self.has_centroids)

    def extra_repr(self) -> str:
        """The sizes, for `print(model)`."""
        return f"context_size={self.context_size}, num_experts={self.num_experts}, bias={self.bias}"

    def forward(self, contexts: Tensor) -> tuple[Tensor, Tensor]:
        """Choose an expert for each context.

        Args:
            contexts: Contexts xi [..., d].

        Returns:
            Indices [...], the first of equally good experts, and scores [xi, 1] W [..., M].
        """
        scores = _inputs(contexts, self.bias) @ self.weight.to(contexts.dtype)
        return scores.argmax(dim=-1), scores

    @torch.no_grad()
    def update(
        self,
        contexts: Tensor,
        losses: Tensor,
        *,
        centroids: Tensor | None = None,
        noise: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> GateUpdateReport:
        """Solve for W anew.

        Args:
            contexts: Contexts xi of all environments [E, d], E >= M.
            losses: Loss of each environment under each expert alone [E, M]; infinite where an expert diverged.
            centroids: First centroids [M, d]. Defaults to those of the last update, or, after a skipped one, to draws
                as `first_centroids` says.
            noise: What is added to the contexts [E, d]. Defaults to normal draws times `self.noise`.
            generator: Source of the draws, on the CPU. Defaults to the global one.

        Returns:
            What was found. The weight has changed only if `converged`.

        Raises:
            ValueError: The shapes do not belong together, there are fewer contexts than experts, a context is not
                finite, or a loss is no number. Nothing has changed then.
        """
        self._check(contexts, losses)
        contexts, losses = _exact(contexts), _exact(losses)
        if centroids is None and self.has_centroids:
            centroids = self.centroids
        if centroids is None and self.first_centroids == "contexts":
            centroids = spread_contexts(contexts, self.num_experts, generator=generator)
        elif centroids is None:
            drawn = torch.rand(self.num_experts, self.context_size, generator=generator, dtype=torch.float64)
            centroids = _FIRST_CENTROIDS * (2 * drawn - 1)
        if noise is None:
            noise = self.noise * torch.randn(contexts.shape, generator=generator, dtype=torch.float64)
        found = cluster_contexts(
            contexts, _exact(centroids), max_iterations=self.max_iterations, tolerance=self.tolerance
        )
        if found.status != "converged":
            self.has_centroids.fill_(False)
            return GateUpdateReport(**found._asdict(), weight=_exact(self.weight))
        cluster_losses = cluster_median(losses, found.assignment)
        experts = greedy_experts(cluster_losses)
        targets = torch.nn.functional.one_hot(experts[found.assignment], self.num_experts).to(torch.float64)
        weight = least_squares_weight(contexts + _exact(noise), targets, bias=self.bias)
        self.weight.copy_(weight)
        self.centroids.copy_(found.centroids)
        self.has_centroids.fill_(True)
        return GateUpdateReport(
            **found._asdict(), weight=weight, cluster_losses=cluster_losses, expert_of_cluster=experts
        )

    def _check(self, contexts: Tensor, losses: Tensor) -> None:
        if contexts.dim() != 2 or contexts.shape[1] != self.context_size:
            raise ValueError(
                f"contexts has the shape {tuple(contexts.shape)}; give [environments, "
                f"{self.context_size}], one row for each environment"
            )
        if losses.shape != (len(contexts), self.num_experts):
            raise ValueError(
                f"losses has the shape {tuple(losses.shape)}; give [{len(contexts)}, {self.num_experts}], the loss of "
                "each environment under each expert"
            )
        if len(contexts) < self.num_experts:
            raise ValueError(
                f"contexts has {len(contexts)} rows for {self.num_experts} experts, so that a cluster would always be "
                "empty; give at least as many environments as experts"
            )
        if not contexts.isfinite().all():
            raise ValueError(
                "contexts has entries that are not finite; training has diverged: lower its learning rate"
            )
        if losses.isnan().any():
            raise ValueError("losses has entries that are no number; give infinity where an expert diverged")


def _inputs(contexts: Tensor, bias: bool) -> Tensor:
    if not bias:
        return contexts
    return torch.cat([contexts, torch.ones_like(contexts[..., :1])], dim=-1)


def _exact(tensor: Tensor) -> Tensor:
    return tensor.detach().to(device="cpu", dtype=torch.float64)
