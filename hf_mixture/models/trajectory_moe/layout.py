"""What a model has: its sizes, its parameters, and the unconstrained vector that optimisers move.

The vector holds, for each class, the means of the growth factors, their regression on growth covariates, the Cholesky
factor of their covariance with the logarithm of its diagonal, the same for the residuals, the free number of each
shape, and with the joint likelihood the means of the growth covariates and the factor of their covariance; then the
gate.

Letters: S starts (parameter vectors side by side), K classes, D outcomes, q factors of an outcome, Q = D q factors,
P growth covariates, G cluster covariates, L numbers of one class, V numbers of the vector.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np

from hf_mixture.models.trajectory_moe.arrays import Array, library_of, lower_indices, zeros_beside
from hf_mixture.models.trajectory_moe.curves import CURVES, Curve


@dataclass(frozen=True, kw_only=True)
class Layout:
    """The sizes of a trajectory mixture of experts.

    Args:
        num_classes: K.
        curve: Name of the curve, a key of `CURVES`.
        num_outcomes: D. Default: 1.
        num_growth: P, growth covariates. Default: 0.
        num_cluster: G, cluster covariates. Default: 0.
        is_joint: Whether growth covariates are part of what the likelihood describes. Default: True.
    """

    num_classes: int
    curve: str = "bilinear"
    num_outcomes: int = 1
    num_growth: int = 0
    num_cluster: int = 0
    is_joint: bool = True

    @property
    def family(self) -> Curve:
        """The curve."""
        return CURVES[self.curve]

    @property
    def num_factors(self) -> int:
        """Q, growth factors of all outcomes."""
        return self.num_outcomes * self.family.num_factors

    @property
    def describes_growth_covariates(self) -> bool:
        """Whether classes have a mean and covariance of the growth covariates."""
        return self.is_joint and self.num_growth > 0

    def blocks(self) -> Iterator[tuple[str, int]]:
        """Name and size of each part of a class's numbers, in order."""
        factors, growth = self.num_factors, self.num_growth
        yield "alpha", factors
        yield "coef", factors * growth
        yield "psi", _triangle(factors)
        yield "theta", _triangle(self.num_outcomes)
        yield "shape", self.num_outcomes * self.family.num_shapes
        if self.describes_growth_covariates:
            yield "mu_x", growth
            yield "phi", _triangle(growth)

    def places(self) -> dict[str, slice]:
        """Where each part is among a class's numbers."""
        found, begin = {}, 0
        for name, size in self.blocks():
            found[name] = slice(begin, begin + size)
            begin += size
        return found

    @property
    def num_of_class(self) -> int:
        """L."""
        return sum(size for _, size in self.blocks())

    @property
    def num_parameters(self) -> int:
        """V, free parameters."""
        return self.num_classes * self.num_of_class + (self.num_classes - 1) * (1 + self.num_cluster)


def _triangle(size: int) -> int:
    return size * (size + 1) // 2


@dataclass(frozen=True, kw_only=True)
class Parameters:
    """Parameters of S models side by side; arrays of NumPy, or tensors of torch.

    Args:
        alpha: Means of the growth factors, or their intercepts where there are growth covariates [S, K, Q].
        coef: Regression of the growth factors on growth covariates [S, K, Q, P].
        psi_factor: Lower Cholesky factor of the covariance of the growth factors [S, K, Q, Q].
        theta_factor: Lower Cholesky factor of the covariance of residuals at one occasion [S, K, D, D].
        shape: Knot or rate of each outcome [S, K, D], or [S, K, 0].
        mu_x: Means of the growth covariates [S, K, P], or None where they are conditioned on.
        phi_factor: Lower Cholesky factor of their covariance [S, K, P, P], or None.
        gate: Logits against class 0, intercept first [S, K - 1, 1 + G].
        psi_signs: Signs s of an indefinite `psi` = L diag(s) L' [S, K, Q], which published estimates may have.
            Default: it is positive semidefinite.
    """

    alpha: Array
    coef: Array
    psi_factor: Array
    theta_factor: Array
    shape: Array
    mu_x: Array
    phi_factor: Array
    gate: Array
    psi_signs: Array = None

    @property
    def psi(self) -> Array:
        """Covariance of the growth factors [S, K, Q, Q]."""
        if self.psi_signs is None:
            return covariance_of(self.psi_factor)
        return (self.psi_factor * self.psi_signs[..., None, :]) @ library_of(self.psi_factor).swapaxes(
            self.psi_factor, -1, -2
        )

    @property
    def theta(self) -> Array:
        """Covariance of the residuals [S, K, D, D]."""
        return covariance_of(self.theta_factor)

    @property
    def phi(self) -> Array:
        """Covariance of the growth covariates [S, K, P, P]."""
        return covariance_of(self.phi_factor)

    def starts(self, index: Any) -> Parameters:
        """The parameters of some starts.

        Args:
            index: A slice, mask or list of places.
        """
        return self.map(lambda array: array[index])

    def map(self, function: Any) -> Parameters:
        """The same function of each array.

        Args:
            function: From array to array.
        """
        arrays = {item.name: getattr(self, item.name) for item in fields(self)}
        return Parameters(**{name: None if array is None else function(array) for name, array in arrays.items()})

    def relabelled(self, order: list[int]) -> Parameters:
        """The same models with their classes in another order; no likelihood changes.

        Args:
            order: Old class of each new class.
        """
        first = np.zeros((len(self.gate), 1, self.gate.shape[2]))
        reference = np.concatenate([first, self.gate], axis=1)[:, order]
        ordered = replace(self, gate=np.zeros((*self.gate.shape[:1], len(order), self.gate.shape[2]))).map(
            lambda array: array[:, order]
        )
        return replace(ordered, gate=(reference - reference[:, :1])[:, 1:])


def join_starts(several: list[Parameters]) -> Parameters:
    """Models of several batches as one batch."""
    return Parameters(
        **{
            item.name: None
            if getattr(several[0], item.name) is None
            else np.concatenate([getattr(one, item.name) for one in several])
            for item in fields(Parameters)
        }
    )


def covariance_of(factor: Array) -> Array:
    """L L' of lower Cholesky factors [..., n, n]."""
    return factor @ library_of(factor).swapaxes(factor, -1, -2)


def pack(parameters: Parameters, layout: Layout) -> Any:
    """The unconstrained vectors [S, V] of parameters on standardised units.

    Args:
        parameters: The parameters.
        layout: The sizes.

    Example:
        >>> import numpy as np
        >>> from hf_mixture.models.trajectory_moe.layout import Layout, pack, unpack
        >>> layout = Layout(num_classes=2)
        >>> vector = np.linspace(-1, 1, layout.num_parameters)[None]
        >>> bool(np.allclose(pack(unpack(vector, layout), layout), vector))
        True
    """
    count = parameters.alpha.shape[0]
    parts: dict[str, Any] = {
        "alpha": parameters.alpha,
        "coef": parameters.coef.reshape(count, layout.num_classes, -1),
        "psi": _log_triangle(parameters.psi_factor),
        "theta": _log_triangle(parameters.theta_factor),
        "shape": layout.family.free_from_shape(parameters.shape),
    }
    if layout.describes_growth_covariates:
        parts |= {"mu_x": parameters.mu_x, "phi": _log_triangle(parameters.phi_factor)}
    classes = np.concatenate([parts[name] for name, _ in layout.blocks()], axis=2)
    return np.concatenate([classes.reshape(count, -1), parameters.gate.reshape(count, -1)], axis=1)


def unpack(vectors: Array, layout: Layout) -> Parameters:
    """Parameters on standardised units of unconstrained vectors.

    Args:
        vectors: [S, V], an array or a tensor.
        layout: The sizes.
    """
    count, classes = vectors.shape[0], layout.num_classes
    end = classes * layout.num_of_class
    own = vectors[:, :end].reshape(count, classes, layout.num_of_class)
    place = layout.places()
    joint = layout.describes_growth_covariates
    return Parameters(
        alpha=own[..., place["alpha"]],
        coef=own[..., place["coef"]].reshape(count, classes, layout.num_factors, layout.num_growth),
        psi_factor=_factor(own[..., place["psi"]], layout.num_factors),
        theta_factor=_factor(own[..., place["theta"]], layout.num_outcomes),
        shape=layout.family.shape_from_free(own[..., place["shape"]]),
        mu_x=own[..., place["mu_x"]] if joint else None,
        phi_factor=_factor(own[..., place["phi"]], layout.num_growth) if joint else None,
        gate=vectors[:, end:].reshape(count, classes - 1, 1 + layout.num_cluster),
    )


def _log_triangle(factor: Any) -> Any:
    rows, columns = lower_indices(factor.shape[-1])
    entries = factor[..., rows, columns]
    diagonal = rows == columns
    # The floor is far below what any usable model has; it keeps a collapsed class a finite vector.
    entries[..., diagonal] = np.log(np.maximum(entries[..., diagonal], 1e-150))
    return entries


def _factor(entries: Array, size: int) -> Array:
    rows, columns = lower_indices(size)
    is_diagonal = rows == columns
    factor = zeros_beside(entries, (*entries.shape[:-1], size, size))
    factor[..., rows[~is_diagonal], columns[~is_diagonal]] = entries[..., np.flatnonzero(~is_diagonal)]
    factor[..., range(size), range(size)] = library_of(entries).exp(entries[..., np.flatnonzero(is_diagonal)])
    return factor
