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
        workspace = Workspace(weight.device)
        tile: Tensor | None = None
        for index, target in enumerate(weight.view(-1, rows, 8 * packed)):
            one = planes.of([tensor[index] for tensor in flat])
            for start, stop in row_tiles(target):
                if dtype == torch.float32:
                    one.rows(start, stop).compute_(target[start:stop], workspace)
                    continue
                tile = torch.empty(stop - start, 8 * packed, device=weight.device) if tile is None else tile
                part = tile[: stop - start]
                one.rows(start, stop).compute_(part, workspace)
                target[start:stop] = part
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

    def compute_(self, weight: Tensor, workspace: Workspace) -> None:
        """Write the weight at the last width into float32 [R, C], of planes without leading dimensions."""
        workspace.set_base_(weight, self.base, self.offset, self.scales[0])
        for sign, scale in zip(self.signs, self.scales[1:], strict=True):
            workspace.add_level_(weight, sign, scale)


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
    words = _bit_table(packed.device).index_select(0, packed.reshape(-1).int())
    return words.view(packed.shape).view(torch.uint8)


class Workspace:
    """Memory in which rows of planes become numbers, allocated once for all rows of a device.

    Args:
        device: Where the planes are.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._size = 0

    def set_base_(self, rows: Tensor, base: Tensor, offset: Tensor, scale: Tensor) -> None:
        """Set rows of a weight to its first width: offset + scale x codes.

        Args:
            rows: float32 [R, C], contiguous.
            base: [b, R, C / 8].
            offset: [R, G].
            scale: [R, G].
        """
        self._reserve(rows.numel())
        words = self._look_up(base[0], 0, self._words)
        for bit in range(1, len(base)):
            # Eight codes in an int64: no code overflows its byte.
            words |= self._look_up(base[bit], bit, self._more_words)
        groups = rows.view(len(rows), scale.shape[-1], -1)
        # Two passes in place: `addcmul` with operands that are broadcast along the columns takes twice their time.
        torch.mul(self._numbers(words, groups), scale.float().unsqueeze(-1), out=groups)
        groups.add_(offset.float().unsqueeze(-1))

    def add_level_(self, rows: Tensor, sign: Tensor, scale: Tensor) -> None:
        """Add one level to rows of a weight: scale x (+1 or -1).

        Args:
            rows: float32 [R, C], contiguous, the weight at the width below.
            sign: [R, C / 8].
            scale: [R, G].
        """
        self._reserve(rows.numel())
        groups = rows.view(len(rows), scale.shape[-1], -1)
        step = scale.float().unsqueeze(-1)
        bits = self._numbers(self._look_up(sign, 0, self._words), groups)
        # 2 s - s and 0 - s: +s and -s exactly.
        groups += bits.mul_(2 * step).sub_(step)

    def _reserve(self, num_weights: int) -> None:
        if self._size < num_weights:
            self._size = num_weights
            self._index = torch.empty(num_weights // 8, dtype=torch.int32, device=self._device)
            self._words = torch.empty(num_weights // 8, dtype=torch.int64, device=self._device)
            self._more_words = torch.empty_like(self._words)
            self._floats = torch.empty(num_weights, dtype=torch.float32, device=self._device)

    def _look_up(self, packed: Tensor, shift: int, out: Tensor) -> Tensor:
        """Eight bytes, as one int64, for each byte: a gather of words, and no arithmetic on single bits."""
        index, words = self._index[: packed.numel()], out[: packed.numel()]
        index.copy_(packed.reshape(-1))
        torch.index_select(_bit_table(packed.device, shift), 0, index, out=words)
        return words

    def _numbers(self, words: Tensor, like: Tensor) -> Tensor:
        return self._floats[: like.numel()].copy_(words.view(torch.uint8)).view(like.shape)


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


@cache
def _bit_table(device: torch.device, shift: int = 0) -> Tensor:
    """The bits of each byte as eight bytes, shifted to the left, read as one int64."""
    bits = (torch.arange(256, device=device)[:, None] >> torch.arange(8, device=device)) & 1
    return (bits << shift).to(torch.uint8).view(torch.int64).flatten()
