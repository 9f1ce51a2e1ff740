from __future__ import annotations

import csv
import json
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest

from hf_mixture.models.trajectory_moe.data import make_data


SHARED = Path(__file__).parents[4] / "shared" / "data" / "trajectories"


def columns_of(path) -> dict[str, np.ndarray]:
    with path.open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return {name: np.array([float(row[name]) for row in rows]) for name in rows[0]}


def wide(columns, prefix, numbers):
    return np.stack([columns[f"{prefix}{number}"] for number in numbers], axis=1)


@pytest.fixture(scope="session")
def bls_columns():
    return columns_of(files("hf_mixture.training.trajectories").joinpath("examples", "BLS_dat2.csv"))


@pytest.fixture(scope="session")
def bls(bls_columns):
    """The simulated people; called with whether to take the growth and the cluster covariates."""

    def make(*, growth=False, cluster=False, **changes):
        given = {
            "values": wide(bls_columns, "Y", range(1, 11)),
            "times": wide(bls_columns, "T", range(1, 11)),
            "growth_covariates": wide(bls_columns, "ex", (1, 2)) if growth else None,
            "cluster_covariates": wide(bls_columns, "gx", (1, 2)) if cluster else None,
        } | changes
        return make_data(given.pop("values"), given.pop("times"), **given)

    return make


@pytest.fixture(scope="session")
def bls_class(bls_columns):
    return bls_columns["class"].astype(int) - int(bls_columns["class"].min())


def shared(name):
    path = SHARED / name
    if not path.exists():
        pytest.skip(f"{name} is not in ../shared")
    return columns_of(path) if name.endswith(".csv") else json.loads(path.read_text(encoding="utf-8"))


@pytest.fixture(scope="session")
def rms():
    """Mathematics scores of 500 pupils at nine waves of their own times, read from ../shared and not shipped."""
    columns = shared("RMS_math.csv")
    times = wide(columns, "T", range(1, 10))
    return make_data(wide(columns, "M", range(1, 10)), times - times[:, :1])


@pytest.fixture(scope="session")
def rms_published():
    """Natural vectors, standard errors and -2 log-likelihoods of the published fits, by number of classes."""
    found = {}
    for name, model in shared("RMS_math_params.json")["models"].items():
        number = int(name)

        def natural(values, number=number):
            own = np.array(values[number - 1 :]).reshape(number, 11)
            ordered = np.concatenate([own[:, 7:10], own[:, 1:7], own[:, :1], own[:, 10:]], axis=1)
            return np.concatenate([ordered.ravel(), values[: number - 1]])

        found[number] = natural(model["values"]), natural(model["standard_errors"]), model["minus2ll"]
    return found


@pytest.fixture(scope="session")
def rms_bivariate():
    """Reading and mathematics with two gate covariates; natural vector, standard errors, -2 log-likelihood."""
    reading, mathematics = shared("RMS_reading_gate.csv"), shared("RMS_math.csv")
    times = wide(mathematics, "T", range(1, 10))
    values = np.stack([wide(reading, "R", range(1, 10)), wide(mathematics, "M", range(1, 10))], axis=-1)
    data = make_data(values, times - times[:, :1], cluster_covariates=wide(reading, "gx", (1, 2)))
    published = shared("RMS_bivariate_params.json")

    def natural(values):
        values = np.array(values)
        own = values[6:].reshape(3, 32)
        ordered = np.concatenate([own[:, 24:30], own[:, 3:24], own[:, :3], own[:, 30:]], axis=1)
        return np.concatenate([ordered.ravel(), values[:6].reshape(3, 2).T.ravel()])

    return data, natural(published["values"]), natural(published["standard_errors"]), published["minus2ll"]
