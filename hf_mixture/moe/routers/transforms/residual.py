"""Experts as one shared core and a small residual each, as in RMoE (arXiv 2204.09636).

    W_e = core + left_e right_e

Letters: E experts, A rows and B columns of the matrix of one expert, r rank.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from os import PathLike
from pathlib import Path

import torch
from torch import Tensor, nn

from hf_mixture.hub.atomic import write_tensors
from hf_mixture.hub.damage import reading
from hf_mixture.hub.reading import check_format, read_tensors
from hf_mixture.moe.anatomy import find_routers


FORMAT = "hf_mixture_expert_residuals"
VERSION = "1"


@dataclass(frozen=True)
class ResidualExperts:
    """One stacked weight of experts as core and residuals.

    Args:
        core: The mean of the experts [A, B].
        left: Left factors [E, A, r].
        right: Right factors [E, r, B].
    """

    core: Tensor
    left: Tensor
    right: Tensor

    @property
    def num_parameters(self) -> int:
        """A B + E r (A + B); the stacked weight has E A B."""
        return self.core.numel() + self.left.numel() + self.right.numel()

    def rebuild(self) -> Tensor:
        """The stacked weight [E, A, B]."""
        return self.core + self.left @ self.right


def residual_of(weight: Tensor, rank: int) -> ResidualExperts:
    """Split a stacked weight into its mean and the best residuals of a rank, by singular values.

    Args:
        weight: Stacked weight [E, A, B].
        rank: r, from 0 (the core alone) to min(A, B), where `rebuild` gives the weight back to rounding.

    Returns:
        Core and residuals in the type of the weight.

    Raises:
        ValueError: If the rank is out of range.

    Example:
        >>> import torch
        >>> from hf_mixture.moe.routers.transforms.residual import residual_of
        >>> weight = torch.randn(4, 6, 8)
        >>> exact = residual_of(weight, 6)
        >>> torch.allclose(exact.rebuild(), weight, atol=1e-5), residual_of(weight, 1).num_parameters
        (True, 104)
    """
    if not 0 <= rank <= min(weight.shape[1:]):
        raise ValueError(f"rank={rank}; it must be from 0 to {min(weight.shape[1:])}, the full rank of {weight.shape}")
    exact = weight.detach().double()
    core = exact.mean(dim=0)
    left, values, right = torch.linalg.svd(exact - core, full_matrices=False)
    return ResidualExperts(
        core=core.to(weight.dtype),
        left=(left[..., :rank] * values[:, None, :rank]).to(weight.dtype).contiguous(),
        right=right[:, :rank].to(weight.dtype).contiguous(),
    )


def to_residual(model: nn.Module, rank: int) -> dict[str, ResidualExperts]:
    """Split the experts of a model into cores and residuals; the model is not changed.

    Args:
        model: A transformers model with stacked experts.
        rank: r, at least 0; a weight whose full rank is lower gets that.

    Returns:
        For the name of each stacked weight, as in the state dict of the bare model, its core and residuals.

    Raises:
        ValueError: If a layer has no stacked experts, or the rank is negative.

    Example:
        >>> from transformers import MixtralConfig, MixtralForCausalLM
        >>> from hf_mixture.moe.routers.transforms.residual import from_residual, to_residual
        >>> config = MixtralConfig(
        ...     vocab_size=32, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
        ...     num_key_value_heads=2, num_local_experts=4, num_experts_per_tok=2,
        ... )
        >>> model = MixtralForCausalLM(config)
        >>> residuals = to_residual(model, rank=2)
        >>> sum(part.num_parameters for part in residuals.values())
        1408
        >>> from_residual(model, residuals)
    """
    return {name: residual_of(weight, min(rank, *weight.shape[1:])) for name, weight in _weights(model).items()}


def from_residual(model: nn.Module, residuals: Mapping[str, ResidualExperts]) -> None:
    """Write rebuilt experts into a model: an ordinary model, with experts of a core and small residuals.

    Args:
        model: The model, or another of the same shape.
        residuals: What `to_residual` returned.

    Raises:
        ValueError: If a name or a shape does not fit. Nothing has been changed.
    """
    weights = _weights(model)
    rebuilt = {name: part.rebuild() for name, part in residuals.items()}
    for name, weight in rebuilt.items():
        if name not in weights or weights[name].shape != weight.shape:
            shape = tuple(weights[name].shape) if name in weights else "not there"
            raise ValueError(f"{name} {tuple(weight.shape)} does not fit the model, where it is {shape}")
    for name, weight in rebuilt.items():
        weights[name].data.copy_(weight)


def save_residuals(residuals: Mapping[str, ResidualExperts], path: str | PathLike[str]) -> None:
    """Write cores and residuals to a safetensors file, smaller than the experts by what the rank saves."""
    tensors = {
        f"{name}.{kind}": getattr(part, kind) for name, part in residuals.items() for kind in ("core", "left", "right")
    }
    write_tensors(Path(path), tensors, metadata={"format": FORMAT, "version": VERSION})


def load_residuals(path: str | PathLike[str]) -> dict[str, ResidualExperts]:
    """Read what `save_residuals` wrote.

    Raises:
        ValueError: If the file is of another format or version.
    """
    remedy = "write it with save_residuals"
    about, tensors = read_tensors(path, remedy=remedy)
    check_format(about, FORMAT, VERSION, where=os.fspath(path), remedy=remedy)
    with reading(path, remedy):
        names = sorted({key.rpartition(".")[0] for key in tensors})
        found = {
            name: ResidualExperts(*(tensors[f"{name}.{kind}"] for kind in ("core", "left", "right"))) for name in names
        }
        for name, part in found.items():
            (rows, columns), (num_experts, _, rank) = part.core.shape, part.left.shape
            if part.left.shape[1] != rows or part.right.shape != (num_experts, rank, columns):
                shapes = ", ".join(str(list(tensor.shape)) for tensor in (part.core, part.left, part.right))
                raise ValueError(f"core, left and right of {name!r} have the shapes {shapes}, which do not fit")
        return found


def _weights(model: nn.Module) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    for router in find_routers(model):
        if router.experts is None:
            raise ValueError(f"{router.path} has no stacked experts beside it")
        for name, parameter in router.experts.named_parameters(recurse=False):
            if parameter.dim() == 3:
                found[f"{router.experts_path}.{name}"] = parameter
    if not found:
        raise ValueError("the experts of this model are not stacked weights of three dimensions")
    return found
