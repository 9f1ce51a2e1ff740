"""Predictors of run results from mixtures: one table of kinds, chosen by rank correlation on held-out rows."""

from __future__ import annotations

from collections.abc import Sequence

from hf_mixture.data.search.predictors.base import Fitted, Kind, Score, choose, cross_validate
from hf_mixture.data.search.predictors.boosting import DEFAULT_SETTINGS, fitter
from hf_mixture.data.search.predictors.law import fit_law
from hf_mixture.data.search.predictors.linear import fit_log_linear, fit_ols, fit_ridge
from hf_mixture.data.search.predictors.process import fit_gp


__all__ = ["AUTO", "KINDS", "Fitted", "Kind", "Score", "choose", "cross_validate", "kinds"]

KINDS: dict[str, Kind] = {
    kind.name: kind
    for kind in (
        Kind("lightgbm", fitter(), lambda k: 16, DEFAULT_SETTINGS),
        Kind("gp", fit_gp, lambda k: 4, {"kernel": "matern52", "ard": True}),
        Kind("law", fit_law, lambda k: k + 2, {"form": "c + exp(t0 + t.w)", "delta": 0.01}),
        Kind("ridge", fit_ridge, lambda k: 3, {"penalty": "leave-one-out"}),
        Kind("log_linear", fit_log_linear, lambda k: k + 1, {}),
        Kind("ols", fit_ols, lambda k: k + 1, {}),
    )
}
"""Every kind of predictor, by name."""

AUTO = ("lightgbm", "gp", "law", "ridge")
"""Kinds that `"auto"` compares. On more than 1,500 rows the Gaussian process, cubic in the rows, is left out."""


def kinds(names: str | Kind | Sequence[str | Kind], num_rows: int, *, positive: bool = True) -> list[Kind]:
    """Resolve `"auto"`, a name, a kind, or a list of names and kinds.

    Args:
        names: What to resolve.
        num_rows: Number of rows that will be fitted.
        positive: Whether all values are above 0, which `"log_linear"` needs; `"auto"` compares it then.

    Raises:
        ValueError: A name is unknown.
    """
    if names == "auto":
        chosen = [name for name in AUTO if name != "gp" or num_rows <= 1500]
        return [KINDS[name] for name in (*chosen, *(["log_linear"] if positive else []))]
    listed = [names] if isinstance(names, (str, Kind)) else list(names)
    resolved = []
    for name in listed:
        if not isinstance(name, Kind) and name not in KINDS:
            raise ValueError(f"predictor={name!r} is not one of {['auto', *KINDS]}; choose one of them")
        resolved.append(name if isinstance(name, Kind) else KINDS[name])
    return resolved
