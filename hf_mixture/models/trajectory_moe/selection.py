"""How many classes: one fit for each number, information criteria, and the bootstrap likelihood-ratio test.

Letters: K classes.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

from hf_mixture.models.trajectory_moe.bootstrap_test import BootstrapTest, bootstrap_test
from hf_mixture.models.trajectory_moe.configuration_trajectory_moe import TrajectoryMoEConfig
from hf_mixture.models.trajectory_moe.data import data_of_dataset
from hf_mixture.models.trajectory_moe.fit import MixtureFit, fit_mixture


@dataclass(frozen=True, kw_only=True)
class Selection:
    """Models with different numbers of classes, side by side.

    Args:
        models: The fitted model of each number of classes.
        tests: The test of one class less, by number of classes; empty without a bootstrap.
    """

    models: dict[int, Any]
    tests: dict[int, BootstrapTest]

    @property
    def table(self) -> Any:
        """One row for each number of classes, as a `pandas.DataFrame`."""
        import pandas as pd

        rows = []
        for number, model in self.models.items():
            report = model.fit_report
            rows.append(
                {
                    "num_classes": number,
                    "num_parameters": report["num_parameters"],
                    "minus2ll": report["minus2ll"],
                    **report["criteria"],
                    "smallest_share": min(report["shares"]),
                    "num_optima": len(report["optima"]),
                    "hits_of_best": report["optima"][0]["hits"],
                    "is_degenerate": report["is_degenerate"],
                    "bootstrap_p": self.tests[number].p_value if number in self.tests else None,
                }
            )
        return pd.DataFrame(rows)

    def best(self, criterion: str = "bic") -> Any:
        """The model with the least value of a criterion among those that are not degenerate.

        Args:
            criterion: `"aic"`, `"bic"`, `"adjusted_bic"` or `"icl"`. Default: `"bic"`.

        Returns:
            The model.

        Raises:
            ValueError: If there is no such criterion, or every model is degenerate.
        """
        names = ("aic", "bic", "adjusted_bic", "icl")
        if criterion not in names:
            raise ValueError(f"criterion={criterion!r} must be one of {', '.join(names)}")
        usable = [model for model in self.models.values() if not model.fit_report["is_degenerate"]]
        if not usable:
            raise ValueError("every model is degenerate; look at their warnings, and try fewer classes")
        return min(usable, key=lambda model: model.fit_report["criteria"][criterion])


def select_num_classes(
    config: TrajectoryMoEConfig,
    dataset: Any,
    num_classes: Sequence[int] = (1, 2, 3, 4),
    *,
    n_starts: int = 20,
    seed: int = 0,
    num_bootstrap: int = 0,
    journal: str | PathLike[str] | None = None,
) -> Selection:
    """Fit several numbers of classes.

    Args:
        config: The configuration; its number of classes is not used.
        dataset: As for `TrajectoryMoEModel.fit`.
        num_classes: The numbers to try, increasing. Default: 1 to 4.
        n_starts: Random starts of each fit. Default: 20.
        seed: Seed. Default: 0.
        num_bootstrap: Draws of the bootstrap test of each number against one less, where both are fitted. Each is two
            fits of 5 starts. Default: 0, no test.
        journal: Folder in which finished work is kept, to continue after a kill. Default: none.

    Returns:
        The models, with the table of criteria.

    Raises:
        ValueError: If the data cannot support the largest model, or as `fit`.

    Example:
        >>> import numpy as np
        >>> from hf_mixture import TrajectoryMoEConfig, select_num_classes
        >>> rng = np.random.default_rng(0)
        >>> slopes = np.where(np.arange(60) < 30, 1.0, -1.0) + 0.1 * rng.standard_normal(60)
        >>> values = rng.standard_normal((60, 1)) + slopes[:, None] * np.arange(4.0)
        >>> values = values + 0.1 * rng.standard_normal((60, 4))
        >>> data = {"values": values, "times": np.tile(np.arange(4.0), (60, 1))}
        >>> found = select_num_classes(TrajectoryMoEConfig(curve="linear"), data, [1, 2], n_starts=3)
        >>> found.best().config.num_classes
        2
    """
    from hf_mixture.models.trajectory_moe.degenerate import check_support
    from hf_mixture.models.trajectory_moe.modeling_trajectory_moe import TrajectoryMoEModel

    numbers = list(num_classes)
    if not numbers or numbers != sorted(set(numbers)) or numbers[0] < 1:
        raise ValueError(f"num_classes={numbers} must be increasing numbers from 1")
    data = data_of_dataset(
        dataset, growth_covariates=config.growth_covariates, cluster_covariates=config.cluster_covariates
    )
    configs = {}
    for number in numbers:
        configs[number] = copy.deepcopy(config)
        configs[number].num_classes = number
        check_support(data, configs[number].layout)
    folder = None if journal is None else Path(journal)
    fits: dict[int, MixtureFit] = {}
    models, tests = {}, {}
    for number in numbers:
        place = None if folder is None else folder / f"fit_{number}_classes.json"
        fits[number] = fit_mixture(data, configs[number].layout, num_starts=n_starts, seed=seed, journal=place)
        models[number] = TrajectoryMoEModel(configs[number])
        models[number].take_fit(fits[number], data)
        if num_bootstrap and number - 1 in fits:
            tests[number] = bootstrap_test(
                fits[number - 1],
                fits[number],
                data,
                num_draws=num_bootstrap,
                seed=seed,
                journal=None if folder is None else folder / f"bootstrap_{number}_classes.json",
            )
    return Selection(models=models, tests=tests)
