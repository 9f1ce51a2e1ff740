"""Nested bit planes (MWQ): one set of planes that holds a weight at every bit width.

Letters: R rows (outputs), C columns (inputs), g columns of a group, G = C / g groups, b the first bit width; `...` are
leading dimensions, such as the experts.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor


# Weights of a tile: a megabyte of float32.
_TILE = 2**18


@dataclass(frozen=True)
class NestedPlanes:
    r"""A weight as a base of b bits and one bit for each further width.

    \(\hat W_k = o + s_1 Q_1 + \sum_{i=2}^{k} s_i Q_i\), with codes \(Q_1 \in [0, 2^b)\), signs
    \(Q_i \in \{+1, -1\}\), and one offset o and one scale for each level and group of columns (D2MoE,
    arXiv 2504.15299, section 4). The paper writes the base as \((Q_1 - z) s_1\); the offset \(o = -z s_1\) is the same
    number, and keeps its precision where a group is far from zero.

    Args:
        base: Codes of the first width, bit by bit [..., b, R, C / 8], uint8, the lowest bit first. A byte holds the
            columns 8 j to 8 j + 7, the first in its lowest bit.
        offset: The value of code 0 [..., R, G], float16.
        scales: For each width [..., R, G], float16.
        signs: For each width after the first [..., R, C / 8], uint8: 1 for +1 and 0 for -1.
        widths: Bits of each level, ascending by one.
    """

    base: Tensor
    offset: Tensor
    scales: tuple[Tensor, ...]
    signs: tuple[Tensor, ...]
    widths: tuple[int, ...]

    @property
    def group_size(self) -> int:
        """g, columns that share a scale."""
        return 8 * self.base.shape[-1] // self.offset.shape[-1]

    def at(self, width: int) -> NestedPlanes:
        """The planes of a smaller width, without copying."""
        num_levels = self.widths.index(width) + 1
        return NestedPlanes(
            self.base, self.offset, self.scales[:num_levels], self.signs[: num_levels - 1], self.widths[:num_levels]
        )

    def dequantise(self, width: int | None = None, dtype: torch.dtype = torch.float32) -> Tensor:
        """Compute the weight at a width.

        Args:
            width: One of the widths. Default: the last.
            dtype: Type of the result. The sum is made in float32.

        Returns:
            The weight [..., R, C].
        """
        planes = self if width is None else self.at(width)
        lead, (rows, packed) = planes.base.shape[:-3], planes.base.shape[-2:]
        weight = torch.empty(*lead, rows, 8 * packed, dtype=dtype, device=planes.base.device)
        flat = [tensor.reshape(-1, *tensor.shape[len(lead) :]) for tensor in planes.tensors()]
        for index, target in enumerate(weight.view(-1, rows, 8 * packed)):
            one = planes.of([tensor[index] for tensor in flat])
            for start, stop in row_tiles(target):
                target[start:stop] = one.rows(start, stop).compute()
        return weight

    def tensors(self) -> list[Tensor]:
        """All tensors, in the order in which `of` takes them."""
        return [self.base, self.offset, *self.scales, *self.signs]

    def of(self, tensors: Sequence[Tensor]) -> NestedPlanes:
        """Planes of the same widths with other tensors."""
        base, offset, *rest = tensors
        num_levels = len(self.widths)
        return NestedPlanes(base, offset, tuple(rest[:num_levels]), tuple(rest[num_levels:]), self.widths)

    def rows(self, start: int, stop: int) -> NestedPlanes:
        """Some rows, without copying."""
        return self.of([tensor.narrow(-2, start, stop - start) for tensor in self.tensors()])

    def compute(self) -> Tensor:
        """The weight at the last width, float32, all at once."""
        weight = base_weight(self.base, self.offset, self.scales[0])
        for sign, scale in zip(self.signs, self.scales[1:], strict=True):
            add_level_(weight, sign, scale)
        return weight


def pack_bits(bits: Tensor) -> Tensor:
    """Write eight columns of 0 and 1 into a byte, the first in its lowest bit.

    Args:
        bits: [..., C], of any type; C a multiple of 8.

    Returns:
        uint8 [..., C / 8].
    """
    powers = 2 ** torch.arange(8, dtype=torch.uint8, device=bits.device)
    return (bits.to(torch.uint8).unflatten(-1, (-1, 8)) * powers).sum(-1, dtype=torch.uint8)


def unpack_bits(packed: Tensor) -> Tensor:
    """Undo `pack_bits`: uint8 of 0 and 1 [..., C] from bytes [..., C / 8]."""
    return _lookup(packed, _bit_table(packed.device)).view(torch.uint8)


def base_weight(base: Tensor, offset: Tensor, scale: Tensor) -> Tensor:
    """The weight at the first width: offset + scale x codes.

    Args:
        base: [..., b, R, C / 8].
        offset: [..., R, G].
        scale: [..., R, G].

    Returns:
        float32 [..., R, C].
    """
    table = _bit_table(base.device)
    codes = _lookup(base.select(-3, 0), table)
    for bit in range(1, base.shape[-3]):
        # Eight codes in an int64: no code overflows its byte, so one shift moves all eight.
        codes |= _lookup(base.select(-3, bit), table) << bit
    groups = codes.view(torch.uint8).unflatten(-1, (offset.shape[-1], -1)).float()
    # Two passes in place: `addcmul` with operands that are broadcast along the columns takes twice their time.
    return groups.mul_(scale.float().unsqueeze(-1)).add_(offset.float().unsqueeze(-1)).flatten(-2)


def add_level_(weight: Tensor, sign: Tensor, scale: Tensor) -> Tensor:
    """Add one level to a weight in place: scale x (+1 or -1).

    Args:
        weight: float32 [..., R, C], the weight at the width below.
        sign: [..., R, C / 8].
        scale: [..., R, G].

    Returns:
        The same tensor, now the weight at the width of this level.
    """
    scale = scale.float().unsqueeze(-1)
    bits = _lookup(sign, _bit_table(sign.device)).view(torch.uint8).unflatten(-1, (scale.shape[-2], -1)).float()
    # 2 s - s and 0 - s: +s and -s exactly.
    weight += bits.mul_(2 * scale).sub_(scale).flatten(-2)
    return weight


def row_tiles(weight: Tensor) -> Iterator[tuple[int, int]]:
    """Split the rows of a weight [R, C] so that what is computed on the way stays in the cache of a processor.

    Without it the time goes into new pages of memory for each intermediate result. Other devices take all rows at
    once.
    """
    rows, columns = weight.shape
    step = max(1, _TILE // columns) if weight.device.type == "cpu" else rows
    for start in range(0, rows, step):
        yield start, min(start + step, rows)


def num_bytes(shape: Sequence[int], widths: Sequence[int], group_size: int) -> int:
    """Bytes of the planes of a weight, by the formula: bits b + K - 1, and 16 (K + 1) / g for scales and offset.

    Args:
        shape: Shape of the weight [..., R, C].
        widths: Its K widths.
        group_size: g.

    Returns:
        The number of bytes.
    """
    num_weights = 1
    for size in shape:
        num_weights *= size
    return num_weights * widths[-1] // 8 + 2 * (len(widths) + 1) * num_weights // group_size


def _lookup(packed: Tensor, table: Tensor) -> Tensor:
    """Eight bytes, as one int64, for each byte: a gather of words, and no arithmetic on single bits."""
    return table.index_select(0, packed.reshape(-1).int()).view(packed.shape)


@cache
def _bit_table(device: torch.device) -> Tensor:
    """The bits of each byte as eight bytes, read as one int64."""
    bits = (torch.arange(256, device=device)[:, None] >> torch.arange(8, device=device)) & 1
    return bits.to(torch.uint8).view(torch.int64).flatten()
