"""The router of a mixture on its own: the same network and the same loss, fitted on scores instead of losses.

Letters: q queries, F features of an embedding, M experts.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from tqdm import trange

from hf_mixture.models.mixture_of_thoughts.router import PromptRouter, expert_nll_loss
from hf_mixture.models.mixture_of_thoughts.routing.queries import FloatArray, check_embeddings, check_queries


@dataclass(frozen=True, eq=False)
class PerceptronRouter:
    """Scores experts by the network that a mixture uses.

    Args:
        network: The network, in evaluation mode.
        num_features: F.
    """

    network: PromptRouter
    num_features: int

    @torch.no_grad()
    def __call__(self, embeddings: npt.ArrayLike) -> FloatArray:
        """Scores [q, M] of embeddings [q, F]."""
        features = check_embeddings(embeddings, self.num_features)
        scores: FloatArray = self.network(torch.from_numpy(features)).double().cpu().numpy()
        return scores


def fit_mlp_router(
    embeddings: npt.ArrayLike,
    scores: npt.ArrayLike,
    *,
    weights: npt.ArrayLike | None = None,
    temperature: float = 0.1,
    hidden_size: int = 256,
    dropout: float = 0.1,
    num_steps: int = 200,
    batch_size: int = 256,
    learning_rate: float = 1e-3,
    seed: int = 0,
) -> PerceptronRouter:
    """Train the router of a mixture on scores: cross-entropy against softmax(scores / temperature), as in RouterDC.

    Args:
        embeddings: Sentence embeddings [q, F].
        scores: Score of each expert on each query [q, M].
        weights: How often each query is drawn, relative to the others [q]; None: all alike.
        temperature: Of the targets, above 0, in the unit of the scores.
        hidden_size: Width of the two hidden layers.
        dropout: Probability that a hidden unit is dropped in training, at least 0 and below 1.
        num_steps: Steps of AdamW, at least 1.
        batch_size: Queries of a step, drawn with replacement, at least 1.
        learning_rate: Above 0; it falls to zero along a cosine.
        seed: Seed of the initial weights, the draws and the dropout. The global generator is left as it was.

    Returns:
        The router.

    Raises:
        ValueError: If the arrays do not fit, or a number is out of its range.

    Example:
        >>> from hf_mixture.models.mixture_of_thoughts.routing import fit_mlp_router
        >>> router = fit_mlp_router([[1.0, 0.0], [0.0, 1.0]], [[1, 0], [0, 1]], num_steps=100)
        >>> router([[1.0, 0.0], [0.0, 1.0]]).argmax(-1).tolist()
        [0, 1]
    """
    features, values, shares = check_queries(embeddings, scores, weights)
    if not (temperature > 0 and learning_rate > 0):
        raise ValueError(f"temperature={temperature} and learning_rate={learning_rate} must be above 0")
    if min(hidden_size, num_steps, batch_size) < 1:
        raise ValueError(
            f"hidden_size={hidden_size}, num_steps={num_steps} and batch_size={batch_size} must be at least 1"
        )
    if not 0 <= dropout < 1:
        raise ValueError(f"dropout={dropout} must be at least 0 and below 1")
    inputs = torch.from_numpy(features).float()
    losses = torch.from_numpy(-values).float()
    draws = np.random.default_rng(seed).choice(len(shares), (num_steps, batch_size), p=shares / shares.sum())
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        torch.manual_seed(seed)
        network = PromptRouter(features.shape[1], values.shape[1], hidden_size, dropout)
        optimizer = torch.optim.AdamW(network.parameters(), lr=learning_rate)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, num_steps)
        for step in trange(num_steps, desc="train router", leave=False):
            rows = torch.from_numpy(draws[step])
            optimizer.zero_grad()
            expert_nll_loss(network(inputs[rows]), losses[rows], temperature).backward()
            optimizer.step()
            schedule.step()
    return PerceptronRouter(network.eval().requires_grad_(False), features.shape[1])
