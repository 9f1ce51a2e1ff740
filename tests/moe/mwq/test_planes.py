"""Packing, dequantising, and the size of nested planes."""

from __future__ import annotations

import pytest
import torch
from tiny_planes import slow_weight

from hf_mixture.moe.mwq.fit import fit_planes
from hf_mixture.moe.mwq.planes import NestedPlanes, Workspace, num_bytes, pack_bits, row_tiles, unpack_bits


def random_planes(lead=(), rows=5, columns=32, widths=(2, 3, 4), group_size=16):
    generator = torch.Generator().manual_seed(0)

    def bits(*shape):
        return torch.randint(0, 256, (*lead, *shape), dtype=torch.uint8, generator=generator)

    def numbers():
        return torch.randn(*lead, rows, columns // group_size, generator=generator).half()

    return NestedPlanes(
        base=bits(widths[0], rows, columns // 8),
        offset=numbers(),
        scales=tuple(numbers() for _ in widths),
        signs=tuple(bits(rows, columns // 8) for _ in widths[1:]),
        widths=widths,
    )


def test_packing_puts_the_first_column_into_the_lowest_bit():
    bits = torch.tensor([[1, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 0, 0, 0, 0, 1]])
    assert pack_bits(bits).tolist() == [[1, 2 + 4 + 128]]
    assert unpack_bits(pack_bits(bits)).tolist() == bits.tolist()
    random = torch.rand(3, 5, 64) < 0.5
    assert torch.equal(unpack_bits(pack_bits(random)).bool(), random)


@pytest.mark.parametrize("widths", [(1,), (2, 3, 4), (5, 6, 7, 8), (8,)])
def test_dequantising_is_the_formula(widths):
    planes = random_planes(widths=widths)
    for width in widths:
        torch.testing.assert_close(planes.dequantise(width), slow_weight(planes, width), rtol=1e-6, atol=1e-5)
        assert torch.equal(planes.dequantise(width), planes.at(width).dequantise())


def test_dequantising_experts_and_tiles_gives_the_same_bits():
    planes = random_planes(lead=(3,), rows=40, columns=16384, group_size=128)
    assert len(list(row_tiles(torch.empty(40, 16384)))) == 3
    whole = planes.dequantise()
    for expert in range(3):
        one = planes.of([tensor[expert] for tensor in planes.tensors()])
        assert torch.equal(one.dequantise(), whole[expert])
        at_once = torch.empty(40, 16384)
        one.compute_(at_once, Workspace(at_once.device))
        assert torch.equal(at_once, whole[expert])
    assert torch.equal(planes.dequantise(dtype=torch.bfloat16), whole.bfloat16())


def test_planes_of_fewer_widths_are_the_first_planes_of_more():
    """Acceptance check 1: bit by bit, at every width."""
    weight = torch.randn(3, 8, 64, generator=torch.Generator().manual_seed(1))
    for first, last in ((2, 4), (5, 8)):
        widths = tuple(range(first, last + 1))
        whole = fit_planes(weight, widths, 32)
        for number in range(1, len(widths) + 1):
            few = fit_planes(weight, widths[:number], 32)
            for ours, theirs in zip(few.tensors(), whole.at(widths[number - 1]).tensors(), strict=True):
                assert torch.equal(ours, theirs)
            assert torch.equal(few.dequantise(), whole.dequantise(widths[number - 1]))


@pytest.mark.parametrize(("widths", "group_size"), [((2, 3, 4), 128), ((2,), 32), ((5, 6, 7, 8), 64)])
def test_bytes_are_the_formula(widths, group_size):
    """Acceptance check 2: a weight takes its bits, and each group two bytes for each scale and the offset."""
    shape = (3, 16, 256)
    planes = fit_planes(torch.randn(shape), widths, group_size)
    held = sum(tensor.numel() * tensor.element_size() for tensor in planes.tensors())
    assert held == num_bytes(shape, widths, group_size)
    bits = 8 * held / (3 * 16 * 256)
    assert bits == widths[-1] + 16 * (len(widths) + 1) / group_size
