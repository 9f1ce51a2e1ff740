"""Modules with the parameters of many copies, which apply to each row of a batch those of its copy.

Letters: P copies, B rows of one copy, R = P * B, T tokens, D and F widths, V vocabulary.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.func import functional_call, vmap
from torch.nn import functional as F


class Rows:
    """How many copies there are, and how many rows each has in the present batch.

    Args:
        num_copies: P.
    """

    def __init__(self, num_copies: int) -> None:
        self.num_copies = num_copies
        self.per_copy = 0

    def split(self, x: torch.Tensor) -> torch.Tensor:
        """[R, ...] -> [P, B, ...]; a tensor [1, ...] that all rows share becomes [P, 1, ...]."""
        if x.shape[0] == 1 and self.num_copies * self.per_copy > 1:
            return x.unsqueeze(0).expand(self.num_copies, *x.shape)
        return x.reshape(self.num_copies, -1, *x.shape[1:])

    def join(self, x: torch.Tensor) -> torch.Tensor:
        """[P, B, ...] -> [R, ...]; [P, 1, ...] is repeated for the rows of each copy."""
        if x.shape[1] == 1 and self.per_copy > 1:
            x = x.expand(self.num_copies, self.per_copy, *x.shape[2:])
        return x.reshape(-1, *x.shape[2:])


class StackedLinear(nn.Module):
    """`nn.Linear`, or `Conv1D` of transformers, of P copies.

    Args:
        rows: The rows.
        weight: [P, F, D]; [P, D, F] if `transposed`.
        bias: [P, F] or None.
        transposed: Whether the weight multiplies from the right as it is.
    """

    def __init__(self, rows: Rows, weight: nn.Parameter, bias: nn.Parameter | None, transposed: bool) -> None:
        super().__init__()
        self.rows, self.transposed = rows, transposed
        self.weight, self.bias = weight, bias

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[R, ..., D] -> [R, ..., F]."""
        x = self.rows.split(x)
        flat = x.reshape(x.shape[0], -1, x.shape[-1])
        weight = self.weight if self.transposed else self.weight.transpose(1, 2)
        y = torch.bmm(flat, weight) if self.bias is None else torch.baddbmm(self.bias.unsqueeze(1), flat, weight)
        return self.rows.join(y.view(*x.shape[:-1], y.shape[-1]))


class StackedEmbedding(nn.Module):
    """`nn.Embedding` of P copies.

    Args:
        rows: The rows.
        weight: [P, V, D].
        padding_idx: Token whose embedding is not trained, or None.
    """

    def __init__(self, rows: Rows, weight: nn.Parameter, padding_idx: int | None) -> None:
        super().__init__()
        self.rows, self.weight, self.padding_idx = rows, weight, padding_idx

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """[R, T] -> [R, T, D]."""
        ids = self.rows.split(ids)
        first = torch.arange(self.weight.shape[0], device=ids.device) * self.weight.shape[1]
        table = self.weight.flatten(0, 1)
        y = F.embedding(ids + first.view(-1, *[1] * (ids.dim() - 1)), table)
        if self.padding_idx is not None:
            y = torch.where((ids == self.padding_idx).unsqueeze(-1), y.detach(), y)
        return self.rows.join(y)


class StackedLayerNorm(nn.Module):
    """`nn.LayerNorm` of P copies.

    Args:
        rows: The rows.
        norm: The module of one copy.
        weight: [P, D].
        bias: [P, D] or None.
    """

    def __init__(self, rows: Rows, norm: nn.LayerNorm, weight: nn.Parameter, bias: nn.Parameter | None) -> None:
        super().__init__()
        self.rows, self.shape, self.eps = rows, norm.normalized_shape, norm.eps
        self.weight, self.bias = weight, bias

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[R, ..., D] -> the same shape."""
        y = F.layer_norm(x, self.shape, eps=self.eps)
        split = self.rows.split(y)
        parameter_shape = (split.shape[0], *[1] * (split.dim() - 2), split.shape[-1])
        split = split * self.weight.view(parameter_shape)
        if self.bias is not None:
            split = split + self.bias.view(parameter_shape)
        return self.rows.join(split)


class StackedModule(nn.Module):
    """Any other module of P copies: its own forward, vectorised over the copies by `torch.func.vmap`.

    Args:
        rows: The rows.
        module: The module of one copy, whose own parameters are not used any more.
        stacked: Parameters [P, ...] by name.
    """

    def __init__(self, rows: Rows, module: nn.Module, stacked: dict[str, nn.Parameter]) -> None:
        super().__init__()
        self.rows = rows
        self.names = list(stacked)
        self.stacked = nn.ParameterList(stacked.values())
        # A list keeps the module, and its own parameters with it, out of those of the stacked model.
        self.inner = [module]
        self.padding_idx = module.padding_idx if isinstance(module, nn.Embedding) else None

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Tensors [R, ...], and other values that all rows share -> a tensor [R, ...] or a tuple of such."""
        inner = self.inner[0]
        names = list(kwargs)
        values = [self.rows.split(v) if isinstance(v, torch.Tensor) else v for v in (*args, *kwargs.values())]
        dims = [0 if isinstance(value, torch.Tensor) else None for value in values]

        def one(parameters: dict[str, torch.Tensor], *values: Any) -> Any:
            by_name = dict(zip(names, values[len(args) :], strict=True))
            return functional_call(inner, parameters, values[: len(args)], by_name)

        parameters = dict(zip(self.names, self.stacked, strict=True))
        result = vmap(one, in_dims=(0, *dims))(parameters, *values)
        if isinstance(result, tuple):
            return tuple(map(self.rows.join, result))
        if self.padding_idx is not None:
            # vmap forgets that the embedding of padding is not trained.
            result = torch.where((values[0] == self.padding_idx).unsqueeze(-1), result.detach(), result)
        return self.rows.join(result)
