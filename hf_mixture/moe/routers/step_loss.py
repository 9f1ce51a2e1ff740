"""The part of one micro-batch in the router losses of an optimizer step.

Letters: E experts, P parts of the tokens (1, or one for each sequence), n numbers of all layers.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Collection, Mapping, Sequence

import torch
from torch import Tensor

from hf_mixture.moe.anatomy import MoeRouter
from hf_mixture.moe.routers.losses import Per, Scope, orthogonality_loss
from hf_mixture.moe.routers.step_sums import Pooling, losses_of_sums, unpack


class StepLoss:
    """Computes, micro-batch by micro-batch, what each adds to the losses of an optimizer step.

    The parts, and their gradients, add up to the losses of the step over all micro-batches and processes.

    Args:
        coefficients: Coefficients of the losses, by name.
        scope: What losses are taken over.
        pooling: How layers are put together.
        per: What shares of the balance loss are shares of.
        num_experts: E of each layer.
        reduce: Adds a tensor up over all processes.
    """

    def __init__(
        self,
        coefficients: Mapping[str, float],
        *,
        scope: Scope,
        pooling: Pooling,
        per: Per,
        num_experts: Sequence[int],
        reduce: Callable[[Tensor], Tensor],
    ) -> None:
        self.coefficients = coefficients
        self.scope, self.pooling, self.per = scope, pooling, per
        self._num_experts = num_experts
        self._reduce = reduce
        self._expected: Tensor | None = None
        self._totals: Tensor | None = None
        self._so_far: Tensor | None = None
        self._num_done = 0

    def begin(self, expected: Tensor | None) -> None:
        """Begin an optimizer step.

        Args:
            expected: Sums of all its micro-batches on this process [1, n]; None where they are not known.
        """
        self._expected = expected
        self._totals = None if expected is None else self._reduce(expected)
        self._so_far = None
        self._num_done = 0

    def part(self, sums: Tensor, *, num_batches: int, num_processes: int) -> tuple[Tensor, dict[str, Tensor]]:
        """Return what a micro-batch adds, and the losses without coefficients, for the log.

        Args:
            sums: Its sums [P, n]; P is 1 except in the scope of sequences.
            num_batches: Micro-batches of the step on each process.
            num_processes: Processes.
        """
        share = 1.0 / (num_batches * num_processes)
        if self.scope == "global":
            return self._global_part(sums, share, num_batches)
        layers = unpack(sums, self._num_experts)
        present = torch.stack([layer.tokens for layer in layers]).sum(dim=0) > 0
        values = {
            name: torch.where(present, value, 0).sum() / present.sum().clamp(min=1)
            for name, value in losses_of_sums(layers, per=self.per, pooling=self.pooling).items()
        }
        return share * self.weighted(values), values

    def weighted(self, values: Mapping[str, Tensor]) -> Tensor:
        """Add up losses with their coefficients; those without one do not count.

        Args:
            values: Losses by name.
        """
        parts = [self.coefficients[name] * value for name, value in values.items() if name in self.coefficients]
        return torch.stack(parts).sum() if parts else torch.zeros(())

    def _global_part(self, sums: Tensor, share: float, num_batches: int) -> tuple[Tensor, dict[str, Tensor]]:
        self._num_done += 1
        self._so_far = sums.detach() if self._so_far is None else self._so_far + sums.detach()
        if self._totals is None:
            totals = self._reduce(self._so_far) * (num_batches / self._num_done)
        else:
            totals = self._totals
            if self._num_done == num_batches:
                self._compare(self._so_far)
        totals = totals.detach().requires_grad_()
        with torch.enable_grad():
            losses = losses_of_sums(unpack(totals, self._num_experts), per=self.per, pooling=self.pooling)
            values = {name: value[0] for name, value in losses.items()}
            whole = self.weighted(values)
        if not whole.requires_grad:
            return whole, values
        (slope,) = torch.autograd.grad(whole, totals)
        part = (slope * sums).sum()
        # The gradient is that of `part`; the value is an equal share of the whole.
        return part - part.detach() + share * whole.detach(), values

    def _compare(self, sums: Tensor) -> None:
        assert self._expected is not None  # noqa: S101 - totals are made of it
        pairs = zip(unpack(sums, self._num_experts), unpack(self._expected, self._num_experts), strict=True)
        moved, total = sums.new_zeros(()), sums.new_zeros(())
        for found, expected in pairs:
            moved += (found.counts - expected.counts).abs().sum() / 2
            total += found.counts.sum()
        share = (moved / total.clamp(min=1)).item()
        if share > 0.01:
            warnings.warn(
                f"{share:.1%} of the choices of experts differ between the pass that counts and the pass that trains, "
                "so that the global losses are only near; the model draws random numbers outside of torch, or changes "
                "between forwards",
                stacklevel=2,
            )


def orthogonality_losses(routers: Sequence[MoeRouter], names: Collection[str]) -> dict[str, Tensor]:
    """Compute the losses that depend on weights alone, added up over the layers.

    Args:
        routers: The routers.
        names: Which of `orthogonality` and `expert_orthogonality` are wanted.

    Returns:
        Losses by name.

    Raises:
        ValueError: The model has no weight with one row for each expert.
    """
    weights: dict[str, list[Tensor]] = {}
    if "orthogonality" in names:
        weights["orthogonality"] = [router.weight for router in routers if router.weight is not None]
    if "expert_orthogonality" in names:
        modules = [router.experts for router in routers if router.experts is not None]
        weights["expert_orthogonality"] = [
            tensor for module in modules for tensor in module.parameters() if tensor.dim() == 3
        ]
    values = {}
    for name, tensors in weights.items():
        if not tensors:
            raise ValueError(f"the model has no weight with one row for each expert, as {name} needs; leave it out")
        values[name] = torch.stack([orthogonality_loss(tensor).to(tensors[0].device) for tensor in tensors]).sum()
    return values
