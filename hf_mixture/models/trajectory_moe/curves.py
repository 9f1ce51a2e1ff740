"""The five growth curves: how growth factors and one shape parameter make an outcome of time.

Each curve is linear in its q growth factors once its shape (a knot or a rate) is known: y(t) = sum_a column_a(t,
shape) eta_a. Column 0 is the constant 1 and is left out of `columns` and `slopes`. Letters: J occasions, S starts, K
classes, N people, q factors of one outcome.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from hf_mixture.models.trajectory_moe.arrays import Array, library_of


class Curve:
    """One family of growth curves.

    Attributes:
        name: Name in the configuration.
        factors: Names of the growth factors as they are estimated.
        reported: Names of the growth factors as they are reported.
        shape_name: Name of the shape parameter, or `""` where there is none.
        has_kinks: Whether the derivative by the shape jumps at observed times.
    """

    name: str
    factors: tuple[str, ...]
    reported: tuple[str, ...]
    shape_name: str = ""
    has_kinks: bool = False

    @property
    def num_factors(self) -> int:
        """q, the number of growth factors."""
        return len(self.factors)

    @property
    def num_shapes(self) -> int:
        """1 if the curve has a shape parameter, else 0."""
        return 1 if self.shape_name else 0

    def columns(self, times: Array, shape: Array) -> list[Array]:
        """Columns 1 to q - 1 of the design; times and shape broadcast against one another."""
        raise NotImplementedError

    def slopes(self, times: Array, shape: Array) -> list[Array | None]:
        """Derivative of each of these columns by the shape; None where it is zero."""
        return [None] * (self.num_factors - 1)

    def shape_from_free(self, free: Array) -> Array:
        """The shape parameter, on standardised time, of an unconstrained number."""
        return free

    def free_from_shape(self, shape: Array) -> Array:
        """The inverse of `shape_from_free`."""
        return shape

    def shape_rate(self, shape: Array) -> Array:
        """Derivative of the shape by the unconstrained number, at this shape."""
        return shape * 0 + 1

    def shape_in_units(self, shape: Array, start: float, length: float) -> Array:
        """The shape on the user's time t = start + length * s of a shape on standardised time s."""
        return shape

    def shape_from_units(self, shape: Array, start: float, length: float) -> Array:
        """The inverse of `shape_in_units`."""
        return shape

    def factor_map(self, shape: Array, start: float, length: float) -> Array:
        """F [..., q, q] with columns(t, shape) = columns(s, shape on s) F, for t = start + length * s.

        Args:
            shape: The shape parameter on the user's time [...].
            start: Origin of standardised time.
            length: Unit of standardised time.
        """
        raise NotImplementedError

    def reported_map(self, shape: Array) -> Array:
        """R [..., q, q]: reported factors = R times the estimated ones."""
        return np.broadcast_to(np.eye(self.num_factors), (*np.shape(shape), self.num_factors, self.num_factors))

    def first_shapes(self, generator: np.random.Generator, size: tuple[int, ...]) -> Any:
        """Shapes on standardised time to start from."""
        return np.ones(size)


def _filled(shape: Array, rows: list[list[Any]]) -> Any:
    shape = np.asarray(shape, dtype=np.float64)
    return np.stack([np.stack([np.broadcast_to(cell, shape.shape) for cell in row], -1) for row in rows], -2)


class Linear(Curve):
    """y = eta0 + eta1 t."""

    name = "linear"
    factors = reported = ("intercept", "slope")

    def columns(self, times: Array, shape: Array) -> list[Array]:
        return [times]

    def factor_map(self, shape: Array, start: float, length: float) -> Array:
        return _filled(shape, [[1.0, start], [0.0, length]])


class Quadratic(Curve):
    """y = eta0 + eta1 t + eta2 t^2."""

    name = "quadratic"
    factors = reported = ("intercept", "slope", "curvature")

    def columns(self, times: Array, shape: Array) -> list[Array]:
        return [times, times * times]

    def factor_map(self, shape: Array, start: float, length: float) -> Array:
        return _filled(shape, [[1.0, start, start**2], [0.0, length, 2 * start * length], [0.0, 0.0, length**2]])


class Bilinear(Curve):
    """Two straight lines that meet at an unknown knot g, with columns (1, t - g, |t - g|).

    The estimated factors are the value at the knot, the mean of the two slopes and half their difference; reported are
    the value at t = 0 (of the first line, so the knot is taken to be above 0) and the two slopes.
    """

    name = "bilinear"
    factors = ("value at the knot", "mean slope", "half difference of slopes")
    reported = ("intercept", "slope 1", "slope 2")
    shape_name = "knot"
    has_kinks = True

    def columns(self, times: Array, shape: Array) -> list[Array]:
        distance = times - shape
        return [distance, abs(distance)]

    def slopes(self, times: Array, shape: Array) -> list[Array | None]:
        distance = times - shape
        sign = library_of(distance).sign(distance)
        return [sign * 0 - 1, -sign]

    # On standardised time the observed range is [0, 1], and a knot outside it has no data on one side.
    def shape_from_free(self, free: Array) -> Array:
        return 1 / (1 + library_of(free).exp(-free))

    def free_from_shape(self, shape: Array) -> Array:
        return np.log(shape / (1 - shape))

    def shape_rate(self, shape: Array) -> Array:
        return shape * (1 - shape)

    def shape_in_units(self, shape: Array, start: float, length: float) -> Array:
        return start + length * shape

    def shape_from_units(self, shape: Array, start: float, length: float) -> Array:
        return (shape - start) / length

    def factor_map(self, shape: Array, start: float, length: float) -> Array:
        return _filled(shape, [[1.0, 0.0, 0.0], [0.0, length, 0.0], [0.0, 0.0, length]])

    def reported_map(self, shape: Array) -> Array:
        shape = np.asarray(shape, dtype=np.float64)
        return _filled(shape, [[1.0, -shape, shape], [0.0, 1.0, -1.0], [0.0, 1.0, 1.0]])

    def first_shapes(self, generator: np.random.Generator, size: tuple[int, ...]) -> Any:
        return generator.uniform(0.2, 0.8, size)


class _Rate(Curve):
    """A curve whose shape is a rate b > 0 in exp(-b t)."""

    def shape_from_free(self, free: Array) -> Array:
        return library_of(free).exp(free)

    def free_from_shape(self, shape: Array) -> Array:
        return np.log(shape)

    def shape_rate(self, shape: Array) -> Array:
        return shape

    def shape_in_units(self, shape: Array, start: float, length: float) -> Array:
        return shape / length

    def shape_from_units(self, shape: Array, start: float, length: float) -> Array:
        return shape * length

    def first_shapes(self, generator: np.random.Generator, size: tuple[int, ...]) -> Any:
        return np.exp(generator.uniform(np.log(0.7), np.log(7.0), size))


class NegativeExponential(_Rate):
    """y = eta0 + eta1 (1 - exp(-b t)): from eta0 towards eta0 + eta1 at the rate b."""

    name = "exponential"
    factors = reported = ("intercept", "capacity")
    shape_name = "rate"

    def columns(self, times: Array, shape: Array) -> list[Array]:
        product = times * shape
        return [1 - library_of(product).exp(-product)]

    def slopes(self, times: Array, shape: Array) -> list[Array | None]:
        product = times * shape
        return [times * library_of(product).exp(-product)]

    def factor_map(self, shape: Array, start: float, length: float) -> Array:
        faded = np.exp(-np.asarray(shape, dtype=np.float64) * start)
        return _filled(shape, [[1.0, 1 - faded], [0.0, faded]])


class JenssBayley(_Rate):
    """y = eta0 + eta1 t + eta2 (exp(-b t) - 1): an early curve that settles, at the rate b, on a line of slope eta1.

    Publications write the rate as c = -b < 0.
    """

    name = "jenss_bayley"
    factors = reported = ("intercept", "asymptotic slope", "vertical distance")
    shape_name = "rate"

    def columns(self, times: Array, shape: Array) -> list[Array]:
        product = times * shape
        return [times + shape * 0, library_of(product).exp(-product) - 1]

    def slopes(self, times: Array, shape: Array) -> list[Array | None]:
        product = times * shape
        return [None, -times * library_of(product).exp(-product)]

    def factor_map(self, shape: Array, start: float, length: float) -> Array:
        faded = np.exp(-np.asarray(shape, dtype=np.float64) * start)
        return _filled(shape, [[1.0, start, faded - 1], [0.0, length, 0.0], [0.0, 0.0, faded]])


CURVES: dict[str, Curve] = {
    curve.name: curve for curve in (Linear(), Quadratic(), Bilinear(), NegativeExponential(), JenssBayley())
}
