"""What modules with nested planes in the place of their weights share.

Letters: R rows and C columns of a matrix, g columns of a group.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from hf_mixture.moe.mwq.planes import NestedPlanes


class NestedModule:
    """The first base of a stock module class whose weights are planes.

    Attributes:
        mwq_widths (`tuple[int, ...]`): Bits of each level.
        mwq_width (`int`): The width it runs at where nothing chooses another.
    """

    mwq_widths: tuple[int, ...]
    mwq_width: int
    _parameters: dict[str, Any]

    def matrices(self) -> tuple[str, ...]:
        """Names of the weights that are planes."""
        raise NotImplementedError

    def planes_of(self, name: str) -> NestedPlanes:
        """The planes of a weight."""
        return NestedPlanes(
            base=getattr(self, f"{name}_base"),
            offset=getattr(self, f"{name}_offset"),
            scales=tuple(getattr(self, f"{name}_scale_{width}") for width in self.mwq_widths),
            signs=tuple(getattr(self, f"{name}_sign_{width}") for width in self.mwq_widths[1:]),
            widths=self.mwq_widths,
        )

    def all_plane_names(self) -> set[str]:
        """Names of the tensors of all planes."""
        return {name for matrix in self.matrices() for name in plane_names(matrix, self.mwq_widths)}

    def _apply(self: Any, fn: Any, recurse: bool = True) -> Any:
        """Move the planes with the module, and keep their types: scales are float16 whatever the model computes in."""
        names = self.all_plane_names() & set(self._parameters)
        kept = {name: self._parameters.pop(name) for name in list(self._parameters) if name in names}
        super()._apply(fn, recurse)  # type: ignore[misc]
        for name, tensor in kept.items():
            moved = fn(tensor.data)
            moved = moved if moved.dtype == tensor.dtype else tensor.data.to(moved.device)
            self._parameters[name] = nn.Parameter(moved, requires_grad=False)
        return self


def plane_names(weight: str, widths: tuple[int, ...]) -> list[str]:
    """Names of the tensors of the planes of a weight, in the order of `NestedPlanes.tensors`."""
    scales = [f"{weight}_scale_{width}" for width in widths]
    return [f"{weight}_base", f"{weight}_offset", *scales, *(f"{weight}_sign_{width}" for width in widths[1:])]


def level_names(weight: str, widths: tuple[int, ...], level: int) -> tuple[str, ...]:
    """Names of the tensors of one level of a weight, in the order in which they are computed with."""
    width = widths[level]
    if level == 0:
        return f"{weight}_base", f"{weight}_offset", f"{weight}_scale_{width}"
    return f"{weight}_sign_{width}", f"{weight}_scale_{width}"


def empty_planes(
    shape: tuple[int, ...], widths: tuple[int, ...], group_size: int, device: torch.device | str
) -> NestedPlanes:
    """Planes without values for a weight [..., R, C]."""
    *lead, rows, columns = shape

    def empty(dtype: torch.dtype, *sizes: int) -> Tensor:
        return torch.empty(*lead, *sizes, dtype=dtype, device=device)

    num_groups = columns // group_size
    return NestedPlanes(
        base=empty(torch.uint8, widths[0], rows, columns // 8),
        offset=empty(torch.float16, rows, num_groups),
        scales=tuple(empty(torch.float16, rows, num_groups) for _ in widths),
        signs=tuple(empty(torch.uint8, rows, columns // 8) for _ in widths[1:]),
        widths=widths,
    )


def set_planes(module: nn.Module, name: str, planes: NestedPlanes) -> None:
    """Put planes into the place of a weight."""
    for tensor_name, tensor in zip(plane_names(name, planes.widths), planes.tensors(), strict=True):
        module.register_parameter(tensor_name, nn.Parameter(tensor, requires_grad=False))


def drop_weight(module: nn.Module, name: str) -> None:
    """Remove the stock weight that planes take the place of."""
    module._parameters.pop(name, None)


def drop_planes(module: Any) -> None:
    """Remove the planes, where they are read from disk."""
    for name in module.all_plane_names():
        del module._parameters[name]
