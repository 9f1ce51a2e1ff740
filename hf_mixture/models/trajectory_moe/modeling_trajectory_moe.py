"""Trajectory mixture of experts as a model of transformers.

Letters: B people of a batch, J occasions, D outcomes, K classes, P growth and G cluster covariates.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.utils import ModelOutput, cached_file

from hf_mixture.models.trajectory_moe import fit_report as reports
from hf_mixture.models.trajectory_moe.configuration_trajectory_moe import TrajectoryMoEConfig
from hf_mixture.models.trajectory_moe.data import TrajectoryData, data_of_dataset, make_data
from hf_mixture.models.trajectory_moe.fit import MixtureFit, fit_mixture
from hf_mixture.models.trajectory_moe.layout import Parameters, unpack
from hf_mixture.models.trajectory_moe.likelihood import components, gate_logits, log_prior, log_sum_exp
from hf_mixture.models.trajectory_moe.products import observations_of
from hf_mixture.models.trajectory_moe.units import Units, in_user_units, units_of


@dataclass
class TrajectoryMoEOutput(ModelOutput):
    """What `TrajectoryMoEModel` returns.

    Args:
        loss: Minus the mean log-likelihood of the people, on the units of the data.
        log_prob: Log density of each person under each class [B, K]; with the joint likelihood, of the growth
            covariates too.
        posterior: Probability of each class given curve and covariates [B, K].
        class_logits: Logits of the gate [B, K].
        trajectories: Expected outcome of each person under each class, given their values [B, K, J, D].
    """

    loss: torch.Tensor | None = None
    log_prob: torch.Tensor | None = None
    posterior: torch.Tensor | None = None
    class_logits: torch.Tensor | None = None
    trajectories: torch.Tensor | None = None


class TrajectoryMoEModel(PreTrainedModel):
    """Latent classes of growth curves with covariates of growth and of the classes, arXiv 2007.02432.

    log L = sum_i log sum_k pi_k(x_i) N(y_i; Lambda_i (alpha_k + B_k x_i), Lambda_i Psi_k Lambda_i' + Theta_k), with
    pi = softmax(gate). `fit` maximises it from many starts; the stock `Trainer` can train it too, but gradient descent
    does not get near the optimum that `fit` reaches in seconds. Parameters are unconstrained numbers on standardised
    units, which are buffers; see `parameters_in_user_units` and `summary`.

    Args:
        config: The configuration.

    Example:
        >>> import numpy as np
        >>> from hf_mixture import TrajectoryMoEConfig, TrajectoryMoEModel
        >>> rng = np.random.default_rng(0)
        >>> times = np.arange(5.0)
        >>> slopes = np.where(np.arange(80) < 50, 1.0, -1.0) + 0.1 * rng.standard_normal(80)
        >>> values = rng.standard_normal((80, 1)) + slopes[:, None] * times + 0.1 * rng.standard_normal((80, 5))
        >>> model = TrajectoryMoEModel(TrajectoryMoEConfig(num_classes=2, curve="linear"))
        >>> report = model.fit({"values": values, "times": np.tile(times, (80, 1))}, n_starts=4)
        >>> [round(share, 2) for share in report["shares"]]
        [0.62, 0.38]
    """

    config_class = TrajectoryMoEConfig
    base_model_prefix = "trajectory_moe"
    main_input_name = "values"

    def __init__(self, config: TrajectoryMoEConfig) -> None:
        super().__init__(config)
        config.check_sizes()
        layout = config.layout
        self.layout = layout
        self.fit_report: dict[str, Any] | None = None
        self.class_parameters = nn.Parameter(_zeros(layout.num_classes, layout.num_of_class))
        self.gate = nn.Parameter(_zeros(layout.num_classes - 1, 1 + layout.num_cluster))
        sizes = {"values": layout.num_outcomes, "growth": layout.num_growth, "cluster": layout.num_cluster}
        for name, size in sizes.items():
            self.register_buffer(f"units_{name}", torch.stack([_zeros(size), _zeros(size) + 1]))
        self.register_buffer("units_times", torch.tensor([0.0, 1.0], dtype=torch.float64))
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        """Nothing: the parameters begin where `__init__` puts them, and data say where they should be."""

    @property
    def units(self) -> Units:
        """The units of the parameters."""
        names = ("values", "times", "growth", "cluster")
        return Units(**{name: getattr(self, f"units_{name}").detach().cpu().numpy() for name in names})

    @property
    def vector(self) -> torch.Tensor:
        """All unconstrained numbers as a batch of one [1, V]."""
        return torch.cat([self.class_parameters.flatten(), self.gate.flatten()])[None]

    def parameters_in_user_units(self) -> Parameters:
        """Return means, covariances, knots and the gate on the units of the data, as arrays with a leading 1."""
        vector = self.vector.detach().cpu().numpy()
        return in_user_units(unpack(vector, self.layout), self.units, self.layout)

    def set_units(self, dataset: Any) -> None:
        """Take origins and units from data, as `fit` does; for training with a Trainer.

        Args:
            dataset: As for `fit`.

        Raises:
            ValueError: As `fit`.
        """
        self._take_units(units_of(self._data(dataset)))

    def forward(  # noqa: PLR0917 - the stack passes batches by position too
        self,
        values: torch.Tensor,
        times: torch.Tensor,
        mask: torch.Tensor | None = None,
        growth_covariates: torch.Tensor | None = None,
        cluster_covariates: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        return_dict: bool | None = None,
    ) -> TrajectoryMoEOutput | tuple[torch.Tensor, ...]:
        """Log-likelihood, class probabilities and expected trajectories.

        Args:
            values: Outcomes [B, J] or [B, J, D]; NaN where missing.
            times: Times [B, J].
            mask: 1 where a value has been observed, of the shape of `values` or [B, J]. Default: where it is not NaN.
            growth_covariates: [B, P].
            cluster_covariates: [B, G].
            labels: Known classes [B], -1 or -100 where unknown; they enter loss and posterior.
            return_dict: Whether to return an output with names. Default: True.

        Returns:
            The output.

        Raises:
            ValueError: If shapes do not fit the configuration, or a value that is observed is not finite.
        """
        data = make_data(
            _array(values),
            _array(times),
            mask=_array(mask),
            growth_covariates=_array(growth_covariates),
            cluster_covariates=_array(cluster_covariates),
            labels=None if labels is None else np.maximum(_array(labels), -1),
        )
        self._check(data)
        units, layout, device = self.units, self.layout, self.class_parameters.device
        standard = units.standardise(data)

        def convert(array: Any) -> torch.Tensor:
            return torch.as_tensor(array, dtype=self.class_parameters.dtype, device=device)

        observations = observations_of(standard, convert)
        parameters = unpack(self.vector, layout)
        component = components(parameters, observations, layout)
        joint = component.log_density + log_prior(parameters, observations)
        person = log_sum_exp(joint)[0]
        shift = convert(units.log_density_shifts(data, layout))
        log_likelihood = person + shift
        trajectories = self._trajectories(component.mean, parameters, observations.times)
        output = TrajectoryMoEOutput(
            loss=-log_likelihood.mean(),
            log_prob=component.log_density[0].T + shift[:, None],
            posterior=torch.exp(joint - person[None, None])[0].T,
            class_logits=gate_logits(parameters, observations)[0].T,
            trajectories=trajectories,
        )
        return output.to_tuple() if return_dict is False else output

    def fit(
        self,
        dataset: Any,
        *,
        n_starts: int = 20,
        seed: int = 0,
        first_classes: Any = None,
        journal: str | PathLike[str] | None = None,
    ) -> dict[str, Any]:
        """Maximise the likelihood: many starts of ECM, then BFGS with analytic gradients to a gradient criterion.

        Args:
            dataset: A `datasets.Dataset`, or a mapping, with the columns `values` and `times`, optionally `mask` and
                `labels`, and the covariates by their names.
            n_starts: Random starts, at least 1. Default: 20.
            seed: Seed of the starts. Default: 0.
            first_classes: A class for each person, from which one more start is made. Default: none.
            journal: File in which finished starts are kept, to continue a fit that is killed. Default: none.

        Returns:
            The report, which `save_pretrained` writes as `fit_report.json`: estimates with standard errors, criteria,
            the distinct optima and how many starts found each, and what became of each start.

        Raises:
            ValueError: If the data are malformed or cannot support the model, or the journal is of another fit.
        """
        data = self._data(dataset)
        found = fit_mixture(
            data, self.layout, num_starts=n_starts, seed=seed, first_classes=first_classes, journal=journal
        )
        report = self.take_fit(found, data)
        for warning in report["warnings"]:
            warnings.warn(warning, stacklevel=2)
        return report

    def take_fit(self, found: MixtureFit, data: TrajectoryData) -> dict[str, Any]:
        """Take parameters, units and report from a fit of the pure functions.

        Args:
            found: What `fit_mixture` returned.
            data: The data of the fit.

        Returns:
            The report.
        """
        config = self.config
        report = reports.make_report(found, data, growth=config.growth_covariates, cluster=config.cluster_covariates)
        self._take_units(found.units)
        with torch.no_grad():
            numbers = torch.as_tensor(found.vector, dtype=self.class_parameters.dtype)
            end = self.class_parameters.numel()
            self.class_parameters.copy_(numbers[:end].reshape(self.class_parameters.shape))
            self.gate.copy_(numbers[end:].reshape(self.gate.shape))
        self.fit_report = report
        return report

    def select(self, dataset: Any, num_classes: Sequence[int] = (1, 2, 3, 4), **options: Any) -> Any:
        """Fit several numbers of classes with the rest of this configuration; see `select_num_classes`.

        Args:
            dataset: As for `fit`.
            num_classes: The numbers to try. Default: 1 to 4.
            options: Further arguments of `select_num_classes`.

        Returns:
            The table of criteria and the models.
        """
        from hf_mixture.models.trajectory_moe.selection import select_num_classes

        return select_num_classes(copy.deepcopy(self.config), dataset, num_classes, **options)

    def summary(self, *, reported: bool = True, robust: bool = False) -> Any:
        """Estimates with standard errors and 95 % intervals as a `pandas.DataFrame`.

        Args:
            reported: Whether growth factors are the reported ones, for the bilinear curve intercept and slopes;
                otherwise those that are estimated. Default: True.
            robust: Whether to use sandwich standard errors. Default: False.

        Returns:
            One row for each parameter.

        Raises:
            ValueError: If the model has not been fitted.
        """
        return reports.summary_table(self._report(), reported=reported, robust=robust)

    def optima(self) -> Any:
        """The distinct optima, best first, as a `pandas.DataFrame`.

        Returns:
            -2 log-likelihood, number of starts that ended there, shares of the classes and fault of each.

        Raises:
            ValueError: If the model has not been fitted.
        """
        import pandas as pd

        return pd.DataFrame(self._report()["optima"])[["minus2ll", "hits", "shares", "fault"]]

    def save_pretrained(self, save_directory: str | PathLike[str], **kwargs: Any) -> None:
        """Save configuration, weights and, of a fitted model, `fit_report.json`.

        Args:
            save_directory: The folder.
            kwargs: As for any model of transformers.
        """
        if self.fit_report is not None:
            Path(save_directory).mkdir(parents=True, exist_ok=True)
            reports.write_fit_report(Path(save_directory), self.fit_report)
        super().save_pretrained(save_directory, **kwargs)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, *args: Any, **kwargs: Any) -> Any:
        """Load a model, with its report if there is one.

        Args:
            pretrained_model_name_or_path: Folder or Hub id.
            args: As for any model of transformers.
            kwargs: As for any model of transformers.

        Returns:
            The model.
        """
        loaded = super().from_pretrained(pretrained_model_name_or_path, *args, **kwargs)
        model = loaded[0] if isinstance(loaded, tuple) else loaded
        names = ("cache_dir", "force_download", "local_files_only", "token", "revision", "subfolder")
        path = cached_file(
            str(pretrained_model_name_or_path),
            reports.FILE,
            _raise_exceptions_for_missing_entries=False,
            _raise_exceptions_for_connection_errors=False,
            **{name: kwargs[name] for name in names if name in kwargs},
        )
        if path is not None:
            model.fit_report = reports.read_fit_report(Path(path))
        return loaded

    def _data(self, dataset: Any) -> TrajectoryData:
        data = data_of_dataset(
            dataset,
            growth_covariates=self.config.growth_covariates,
            cluster_covariates=self.config.cluster_covariates,
        )
        self._check(data)
        return data

    def _check(self, data: TrajectoryData) -> None:
        config = self.config
        if data.num_outcomes != config.num_outcomes:
            raise ValueError(f"values has {data.num_outcomes} outcomes; the configuration has {config.num_outcomes}")
        for name in ("growth_covariates", "cluster_covariates"):
            width, names = getattr(data, name).shape[1], getattr(config, name)
            if width != len(names):
                raise ValueError(f"{name} has {width} columns; the configuration names {len(names)}: {names}")
        if data.labels is not None and data.labels.max() >= config.num_classes:
            raise ValueError(f"labels has the class {data.labels.max()}; there are {config.num_classes}, from 0")

    def _take_units(self, units: Units) -> None:
        for name in ("values", "times", "growth", "cluster"):
            buffer = getattr(self, f"units_{name}")
            buffer.copy_(torch.as_tensor(getattr(units, name), dtype=buffer.dtype))

    def _trajectories(self, means: list[torch.Tensor], parameters: Parameters, times: torch.Tensor) -> torch.Tensor:
        """Expected outcomes on the units of the data [B, K, J, D]."""
        curve, found = self.layout.family, []
        q = curve.num_factors
        for d in range(self.layout.num_outcomes):
            shape = parameters.shape[None, :, :, d, None] if curve.num_shapes else times[:1] * 0
            total = means[d * q]
            for a, column in enumerate(curve.columns(times, shape), start=1):
                total = total + means[d * q + a] * column
            found.append(total[:, 0].permute(2, 1, 0) * self.units_values[1, d] + self.units_values[0, d])
        return torch.stack(found, dim=-1)

    def _report(self) -> dict[str, Any]:
        if self.fit_report is None:
            raise ValueError("the model has no fit; call fit(dataset) first")
        return self.fit_report


def _zeros(*shape: int) -> torch.Tensor:
    return torch.zeros(shape, dtype=torch.float64)


def _array(tensor: Any) -> Any:
    if not isinstance(tensor, torch.Tensor):
        return tensor
    # NumPy has no bfloat16.
    return (tensor.double() if tensor.is_floating_point() else tensor).detach().cpu().numpy()
