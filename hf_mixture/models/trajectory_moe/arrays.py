"""Small matrices over many people at once, for NumPy arrays and torch tensors alike.

A matrix is a list of rows, each a list of arrays of one shape that broadcasts, for example [S, K, N]. Loops run over
the few rows and columns in Python and over people in one vectorised operation, which for 3x3 matrices is several times
as fast as batched LAPACK, and which torch can differentiate.
"""

from __future__ import annotations

from typing import Any

import numpy as np


Array = Any
Matrix = list[list[Array]]


def library_of(array: Array) -> Any:
    """The library whose functions take this array: `numpy` or `torch`."""
    if isinstance(array, np.ndarray):
        return np
    import torch

    return torch


def zeros_beside(array: Array, shape: tuple[int, ...]) -> Array:
    """Zeros of the kind, type and device of another array."""
    return np.zeros(shape) if isinstance(array, np.ndarray) else array.new_zeros(shape)


def factorise(matrix: Matrix) -> tuple[Matrix, list[Array]]:
    """Unit lower triangular C and pivots d with C diag(d) C' = matrix; only the lower triangle is read.

    Without square roots, so the matrix may be indefinite.
    """
    size = len(matrix)
    factor: Matrix = [[None] * size for _ in range(size)]
    pivots: list[Array] = []
    for column in range(size):
        scaled = [factor[column][inner] * pivots[inner] for inner in range(column)]
        for row in range(column, size):
            value = matrix[row][column]
            for inner in range(column):
                value = value - factor[row][inner] * scaled[inner]
            if row == column:
                pivots.append(value)
            else:
                factor[row][column] = value / pivots[column]
    return factor, pivots


def solve_unit_lower(factor: Matrix, right: list[Array]) -> list[Array]:
    """Solve C z = b by forward substitution for unit lower triangular C."""
    solution: list[Array] = []
    for row, value in enumerate(right):
        total = value
        for inner, known in enumerate(solution):
            total = total - factor[row][inner] * known
        solution.append(total)
    return solution


def multiply(matrix: Matrix, vector: list[Array]) -> list[Array]:
    """Matrix times vector."""
    return [dot(row, vector) for row in matrix]


def dot(left: list[Array], right: list[Array]) -> Array:
    """Sum of products."""
    total = left[0] * right[0]
    for a, b in zip(left[1:], right[1:], strict=True):
        total = total + a * b
    return total


def lower_indices(size: int) -> tuple[Array, Array]:
    """Row and column of each entry of a lower triangle, row by row."""
    return np.tril_indices(size)
