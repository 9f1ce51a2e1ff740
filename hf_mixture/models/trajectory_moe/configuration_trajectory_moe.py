"""Configuration of a trajectory mixture of experts."""

from __future__ import annotations

from dataclasses import field
from typing import Any, Literal

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig

from hf_mixture.models.trajectory_moe.layout import Layout


@strict
class TrajectoryMoEConfig(PreTrainedConfig):
    """What makes a trajectory mixture of experts: its classes, their curve and its covariates.

    People belong to latent classes. Within a class the outcome follows a growth curve with random effects, at times of
    each person's own; growth covariates move the growth factors (the experts), cluster covariates the probability of
    the classes (the gate). With both it is the full mixture of experts, with one the growth-predictor or
    cluster-predictor mixture, with neither the finite mixture. arXiv 2007.02432.

    Args:
        num_classes: K, number of classes.
        curve: `"linear"`, `"quadratic"`, `"bilinear"` (two lines that meet at an unknown knot), `"exponential"`
            (negative exponential) or `"jenss_bayley"`.
        num_outcomes: D, outcomes that are measured together; their growth factors and residuals are correlated.
        growth_covariates: Names of the covariates of the growth factors.
        cluster_covariates: Names of the covariates of the gate.
        covariate_likelihood: Whether the likelihood describes the growth covariates too, with a mean and covariance of
            each class (`"joint"`), or is conditional on them (`"conditional"`). The two are not comparable.

    Example:
        >>> from hf_mixture import TrajectoryMoEConfig
        >>> config = TrajectoryMoEConfig(growth_covariates=["ex1", "ex2"], cluster_covariates=["gx1", "gx2"])
        >>> config.variant, config.num_free_parameters
        ('full', 47)
    """

    model_type = "trajectory_moe"

    num_classes: int = 2
    curve: Literal["linear", "quadratic", "bilinear", "exponential", "jenss_bayley"] = "bilinear"
    num_outcomes: int = 1
    growth_covariates: list[str] = field(default_factory=list)
    cluster_covariates: list[str] = field(default_factory=list)
    covariate_likelihood: Literal["joint", "conditional"] = "joint"

    def __post_init__(self, **kwargs: Any) -> None:
        # Covariances of nearly collinear growth factors need all the digits there are.
        kwargs.setdefault("dtype", "float64")
        super().__post_init__(**kwargs)

    def check_sizes(self) -> None:
        """Check what a model needs of its configuration.

        Raises:
            ValueError: If a number is too small, or a covariate is named twice.
        """
        for name in ("num_classes", "num_outcomes"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 1")
        for name in ("growth_covariates", "cluster_covariates"):
            names = getattr(self, name)
            if len(set(names)) < len(names):
                raise ValueError(f"{name}={names} has a name twice; name each covariate once")

    @property
    def layout(self) -> Layout:
        """The sizes, as the pure functions of this folder take them."""
        return Layout(
            num_classes=self.num_classes,
            curve=self.curve,
            num_outcomes=self.num_outcomes,
            num_growth=len(self.growth_covariates),
            num_cluster=len(self.cluster_covariates),
            is_joint=self.covariate_likelihood == "joint",
        )

    @property
    def variant(self) -> str:
        """`"full"`, `"growth_predictor"`, `"cluster_predictor"` or `"finite_mixture"`."""
        if self.growth_covariates:
            return "full" if self.cluster_covariates else "growth_predictor"
        return "cluster_predictor" if self.cluster_covariates else "finite_mixture"

    @property
    def num_free_parameters(self) -> int:
        """Number of free parameters."""
        return self.layout.num_parameters
