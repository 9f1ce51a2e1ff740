"""The loss of an unlearning run, for `Trainer(compute_loss_func=...)`.

Letters: B pairs.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from hf_mixture.models.mm_recommender.objective import forward_bpr, gradient_ascent, reverse_bpr
from hf_mixture.models.mm_recommender.options import UnlearningOptions
from hf_mixture.models.mm_recommender.pairs import FORGET, RETAIN


class UnlearningLoss:
    """Forward BPR of retained pairs and reverse BPR of forgotten ones, as the schedule weighs them.

    Sums are divided by the numbers of such pairs of all processes, so that a process without one kind adds nothing,
    and several processes have the loss of one.

    Args:
        model: The recommender; `"project"` needs its parameters.
        options: The options.

    Attributes:
        step: Number of optimizer steps taken; `UnlearningProgress` keeps it.
        forgets: Whether `"two_phase"` is in its first phase.

    Example:
        >>> import torch
        >>> from hf_mixture import UnlearningOptions
        >>> from hf_mixture.models.mm_recommender.modeling_mm_recommender import MultiModalRecommenderOutput
        >>> from hf_mixture.models.mm_recommender.unlearning_loss import UnlearningLoss
        >>> zeros = torch.zeros(2)
        >>> scores = MultiModalRecommenderOutput(positive_scores=zeros, negative_scores=zeros, penalties=zeros)
        >>> loss = UnlearningLoss(torch.nn.Linear(1, 1), UnlearningOptions(retain_weight=1.0, forget_weight=1.0))
        >>> round(loss(scores, torch.tensor([0, 1])).item(), 3)
        1.386
    """

    def __init__(self, model: nn.Module, options: UnlearningOptions) -> None:
        self.options = options
        self.step = 0
        self.forgets = True
        self._parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self._of_forgotten = {"reverse_bpr": reverse_bpr, "gradient_ascent": gradient_ascent}[options.forget_loss]

    def weights(self) -> tuple[float, float]:
        """Weights of the retain loss and of the forget loss in this step."""
        options = self.options
        if options.schedule == "alternate":
            forgets = self.step % (1 + options.retain_steps) == 0
        elif options.schedule == "two_phase":
            forgets = self.forgets
        else:
            return options.retain_weight, options.forget_weight
        return (0.0, options.forget_weight) if forgets else (options.retain_weight, 0.0)

    def __call__(self, outputs: Any, labels: Tensor, num_items_in_batch: Tensor | int | None = None) -> Tensor:
        """The loss of a batch.

        Args:
            outputs: Output of the model.
            labels: 0 for a pair to retain, 1 for one to forget [B].
            num_items_in_batch: Pairs of the whole optimizer step, from the Trainer.

        Returns:
            The loss; the sum over processes is that of all pairs.
        """
        difference = outputs.positive_scores - outputs.negative_scores
        retained, forgotten = labels == RETAIN, labels == FORGET
        counts = torch.stack([retained.sum(), forgotten.sum()])
        if dist.is_available() and dist.is_initialized():
            dist.all_reduce(counts)
        retain_count, forget_count = counts.clamp(min=1).unbind()
        # Sums with zeros, not selections: a process without pairs of a kind still takes part in the backward pass.
        retain = (forward_bpr(difference) * retained).sum() / retain_count
        forget = (self._of_forgotten(difference) * forgotten).sum() / forget_count
        penalty = (outputs.penalties * retained).sum() / retain_count
        retain_weight, forget_weight = self.weights()
        if self.options.schedule == "project" and torch.is_grad_enabled():
            # Adding c times the retain loss removes what of the forget gradient is against the retain gradient.
            retain_weight += forget_weight * self._conflict(retain, forget)
        loss = retain_weight * retain + forget_weight * forget
        if retain_weight:
            loss = loss + penalty
        # With accumulated gradients each part counts by its number of pairs.
        return loss if num_items_in_batch is None else loss * (counts.sum() / num_items_in_batch)

    def _conflict(self, retain: Tensor, forget: Tensor) -> float:
        """max(0, -g_f . g_r / |g_r|^2), over all processes."""
        gradients = []
        for loss in (retain, forget):
            found = torch.autograd.grad(loss, self._parameters, retain_graph=True, allow_unused=True)
            flat = torch.cat([g.flatten() for g in found if g is not None])
            if dist.is_available() and dist.is_initialized():
                dist.all_reduce(flat)
            gradients.append(flat)
        of_retained, of_forgotten = gradients
        square = float(of_retained @ of_retained)
        return max(0.0, -float(of_forgotten @ of_retained) / square) if square else 0.0
