"""Simulated trajectories as data sets: a builder of `datasets`, simulated once and cached as Arrow files."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import datasets
import numpy as np

from hf_mixture.models.mixer.collections import COLLECTIONS, SPLITS, Collection
from hf_mixture.models.mixer.simulate import simulate


NAMES = (*COLLECTIONS, "dysts")


@dataclass
class DynamicsConfig(datasets.BuilderConfig):
    """One collection of environments.

    Args:
        seed: Seed of the initial states.
        num_train: Trajectories of an environment in `train`. Default: as published.
        num_test: Trajectories of an environment in `test` and `adapt_test`. Default: as published.
        systems: For `dysts`, names of its chaotic systems.
    """

    seed: int = 0
    num_train: int | None = None
    num_test: int | None = None
    systems: tuple[str, ...] = ()

    def check(self) -> None:
        """Check the values, which `datasets` sets one by one.

        Raises:
            ValueError: A number is out of range, or `systems` is given for another collection.
        """
        for name in ("num_train", "num_test"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name}={value} must be at least 1; give more, or None for the published number")
        if self.systems and self.name != "dysts":
            raise ValueError(f"systems={self.systems!r} is only for the collection 'dysts'; remove it")

    def collection(self) -> Collection:
        """Make the collection."""
        if self.name == "dysts":
            from hf_mixture.models.mixer.chaotic import dysts_collection

            return dysts_collection(self.systems)
        return COLLECTIONS[self.name]()

    def num_trajectories(self, split: str, collection: Collection) -> int:
        """Trajectories of an environment in a split."""
        given = {"train": self.num_train, "test": self.num_test, "adapt_test": self.num_test}.get(split)
        return given or collection.num_trajectories[split]


class DynamicalSystems(datasets.GeneratorBasedBuilder):
    """Builder of simulated trajectories; `load_dynamics` is the short way.

    Each row is one trajectory: `env_ids`, counted from 0 in `train` and `test` and anew in the two splits of new
    environments, `family`, `parameters` of the equations, `initial_state` [D], `times` [T] and `labels` [T, D].

    Example:
        >>> import tempfile
        >>> from hf_mixture.models.mixer.dynamics import DynamicalSystems
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     builder = DynamicalSystems(config_name="lotka_volterra", cache_dir=folder)
        ...     builder.download_and_prepare()
        ...     builder.as_dataset(split="train").num_rows
        36
    """

    BUILDER_CONFIG_CLASS = DynamicsConfig
    BUILDER_CONFIGS = [  # noqa: RUF012 - an attribute of `datasets`
        DynamicsConfig(name=name, version=datasets.Version("1.0.0")) for name in NAMES
    ]

    def _info(self) -> datasets.DatasetInfo:
        self.config.check()
        numbers = datasets.List(datasets.Value("float64"))
        return datasets.DatasetInfo(
            features=datasets.Features(
                {
                    "env_ids": datasets.Value("int64"),
                    "family": datasets.Value("string"),
                    "parameters": numbers,
                    "initial_state": numbers,
                    "times": numbers,
                    "labels": datasets.List(numbers),
                }
            )
        )

    def _split_generators(self, dl_manager: Any) -> list[datasets.SplitGenerator]:
        return [datasets.SplitGenerator(name=name, gen_kwargs={"split": name}) for name in SPLITS]

    def _generate_examples(self, split: str) -> Iterator[tuple[int, dict[str, Any]]]:
        collection = self.config.collection()
        number = self.config.num_trajectories(split, collection)
        environment, key = 0, 0
        for place, group in enumerate(collection.groups):
            generator = np.random.default_rng([self.config.seed, SPLITS.index(split), place])
            initial_states = group.initial_states(number, generator)
            for parameters in group.parameters(split):
                for states in simulate(group.family, parameters, initial_states, group.times):
                    yield (
                        key,
                        {
                            "env_ids": environment,
                            "family": group.family.name,
                            "parameters": parameters.tolist(),
                            "initial_state": states[0].tolist(),
                            "times": group.times.tolist(),
                            "labels": states.tolist(),
                        },
                    )
                    key += 1
                environment += 1


def load_dynamics(
    name: str,
    *,
    seed: int = 0,
    num_train: int | None = None,
    num_test: int | None = None,
    systems: tuple[str, ...] = (),
    cache_dir: str | None = None,
) -> datasets.DatasetDict:
    """Simulate a collection of differential equations, or read it from the cache of `datasets`.

    The trajectories are integrated with a relative tolerance of 1e-10. Collections: `lotka_volterra` (9 environments),
    `selkov` (21), `glycolytic` (9, seven states, stiff), `odebench_small` (4 families of 5), `odebench_ten` (10
    families of 16; two of them are the same equation with other parameters), and `dysts`, chaotic systems of the
    package of that name. Ranges and parameters are those of MixER (arXiv 2502.05335), but for the new environments of
    the two ODEBench collections, which have 0.7 and 1.3 times the reference parameters.

    Args:
        name: Name of the collection.
        seed: Seed of the initial states.
        num_train: Trajectories of an environment in `train`. Default: as published.
        num_test: Trajectories of an environment in `test` and `adapt_test`. Default: as published.
        systems: For `dysts`, names of its systems, for example `("Lorenz", "Rossler")`.
        cache_dir: Where the data are kept. Default: the cache of `datasets`.

    Returns:
        The splits `train`, `test`, `adapt_train` and `adapt_test`. A row is one trajectory: `env_ids`, `family`,
        `parameters` [P], `initial_state` [D], `times` [T] and `labels` [T, D].

    Raises:
        ValueError: There is no such collection, or a number is out of range.
        ImportError: scipy, or for `dysts` that package, is not installed.

    Example:
        >>> import tempfile
        >>> from hf_mixture import load_dynamics
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     data = load_dynamics("odebench_small", num_train=2, num_test=2, cache_dir=folder)
        ...     len(set(data["train"]["env_ids"])), len(data["train"][0]["times"])
        (20, 100)
    """
    if name not in NAMES:
        raise ValueError(f"name={name!r} is no collection; the collections are {', '.join(NAMES)}")
    options: dict[str, Any] = {"seed": seed, "num_train": num_train, "num_test": num_test}
    if systems:
        options["systems"] = tuple(systems)
    builder = DynamicalSystems(config_name=name, cache_dir=cache_dir, **options)
    builder.download_and_prepare()
    return builder.as_dataset()
