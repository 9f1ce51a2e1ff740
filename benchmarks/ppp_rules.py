"""The options of PPP that its benchmark compares."""

from __future__ import annotations

from typing import Any


RULES: dict[str, dict[str, Any]] = {
    "base: auto, EM to convergence": {"family": "auto", "em_steps": None, "merge_family": None},
    "tied, EM to convergence": {"family": "tied", "em_steps": None, "merge_family": None},
    "diag, EM to convergence": {"family": "diag", "em_steps": None, "merge_family": None},
    "any of full, tied, diag, EM to convergence": {
        "family": ("full", "tied", "diag"),
        "em_steps": None,
        "merge_family": None,
    },
    "full, agreement .8, EM to convergence": {
        "family": "full",
        "min_agreement": 0.8,
        "em_steps": None,
        "merge_family": None,
    },
    "tied, agreement .8, EM to convergence": {
        "family": "tied",
        "min_agreement": 0.8,
        "em_steps": None,
        "merge_family": None,
    },
    "E: full": {"family": "full", "merge_family": None},
    "E: tied": {"family": "tied", "merge_family": None},
    "E: diag": {"family": "diag", "merge_family": None},
    "E: tied_diag": {"family": "tied_diag", "merge_family": None},
    "E: spherical": {"family": "spherical", "merge_family": None},
    "E: pdiag": {"family": "pdiag", "merge_family": None},
    "E + M: diag, full": {"family": "diag", "merge_family": "full"},
    "E + M: diag, tied": {"family": "diag", "merge_family": "tied"},
    "E + M: spherical, full": {"family": "spherical", "merge_family": "full"},
    "E + M: pdiag, full": {"family": "pdiag", "merge_family": "full"},
    "E + M: full or pdiag, full": {"family": ("full", "pdiag"), "merge_family": "full"},
    "E + M: full or pdiag, tied": {"family": ("full", "pdiag"), "merge_family": "tied"},
    "E + M: full, tied or pdiag, full": {"family": ("full", "tied", "pdiag"), "merge_family": "full"},
    "E + M + S: full or pdiag, full": {
        "family": ("full", "pdiag"),
        "merge_family": "full",
        "test": ("bic", "stability"),
    },
    "E + M + G: full or pdiag, full": {"family": ("full", "pdiag"), "merge_family": "full", "test": ("bic", "dip")},
    "E + M + H: full or pdiag, full, margin .05": {
        "family": ("full", "pdiag"),
        "merge_family": "full",
        "test": ("bic", "cross_fit"),
        "margin": 0.05,
    },
    "E + M + H: full or pdiag, full, margin .1": {
        "family": ("full", "pdiag"),
        "merge_family": "full",
        "test": ("bic", "cross_fit"),
        "margin": 0.1,
    },
    "E + M + H: spherical, full, margin .1": {
        "family": "spherical",
        "merge_family": "full",
        "test": ("bic", "cross_fit"),
        "margin": 0.1,
    },
    "M: diag, tied, EM to convergence": {"family": "diag", "merge_family": "tied", "em_steps": None},
    "O: 12, full, EM to convergence": {
        "family": "full",
        "start_clusters": 12,
        "merge_family": "full",
        "em_steps": None,
    },
    "O: 12, tied, EM to convergence": {
        "family": "full",
        "start_clusters": 12,
        "merge_family": "tied",
        "em_steps": None,
    },
    "E + O: 16, full": {"family": "full", "start_clusters": 16, "merge_family": "full"},
    "E + O: 16, tied": {"family": "full", "start_clusters": 16, "merge_family": "tied"},
    "O: 16, dip": {"family": "full", "start_clusters": 16, "test": "dip"},
    "G: dip": {"family": "full", "test": "dip", "merge_family": None},
    "H: full, margin 0": {"family": "full", "test": "cross_fit", "merge_family": None},
    "H: tied, margin 0": {"family": "tied", "test": "cross_fit", "merge_family": None},
    "H: tied, margin .1": {"family": "tied", "test": "cross_fit", "margin": 0.1, "merge_family": None},
    "S alone": {"family": "full", "test": "stability", "merge_family": None},
}
