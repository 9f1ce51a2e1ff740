"""Simulated data: equations against independent ones, accuracy, layout of the collections, the builder."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.integrate import solve_ivp

from hf_mixture import load_dynamics
from hf_mixture.models.mixer.collections import COLLECTIONS, SPLITS
from hf_mixture.models.mixer.dynamics import DynamicsConfig
from hf_mixture.models.mixer.simulate import simulate
from hf_mixture.models.mixer.systems import FAMILIES, Family


def glycolytic(s: Any, k1: float, big_k1: float) -> list[float]:
    """The glycolytic oscillator as it is published, with its constants by name."""
    j0, k2, k3, k4, k5, k6, q, n, a, kappa, psi, k = 2.5, 6, 16, 100, 1.28, 12, 4, 1, 4, 13, 0.1, 1.8
    s1, s2, s3, s4, s5, s6, s7 = s
    r = k1 * s1 * s6 / (1 + (s6 / big_k1) ** q)
    return [
        j0 - r,
        2 * r - k2 * s2 * (n - s5) - k6 * s2 * s5,
        k2 * s2 * (n - s5) - k3 * s3 * (a - s6),
        k3 * s3 * (a - s6) - k4 * s4 * s5 - kappa * (s4 - s7),
        k2 * s2 * (n - s5) - k4 * s4 * s5 - k6 * s2 * s5,
        -2 * r + 2 * k3 * s3 * (a - s6) - k5 * s6,
        psi * kappa * (s4 - s7) - k * s7,
    ]


EQUATIONS = {
    "lotka_volterra": lambda y, b, c: [0.5 * y[0] - b * y[0] * y[1], c * y[0] * y[1] - 0.5 * y[1]],
    "selkov": lambda y, b: [-y[0] + 0.1 * y[1] + y[0] ** 2 * y[1], b - 0.1 * y[1] - y[0] ** 2 * y[1]],
    "glycolytic": glycolytic,
    "harmonic": lambda y, c: [y[1], -c * y[0]],
    "damped_harmonic": lambda y, c, d: [y[1], -c * y[0] - d * y[1]],
    "pendulum": lambda y, c: [y[1], -c * np.sin(y[0])],
    "double_well": lambda y, c: [y[1], -c * y[1] - y[0] ** 3 + y[0]],
    "rotating_hoop": lambda y, c: [y[1], (np.cos(y[0]) - c) * np.sin(y[0])],
    "shear_flow": lambda y, c: [
        np.cos(y[0]) / np.tan(y[1]),
        np.sin(y[0]) * (c * np.sin(y[1]) ** 2 + np.cos(y[1]) ** 2),
    ],
    "van_der_pol": lambda y, c: [y[1], c * y[1] * (1 - y[0] ** 2) - y[0]],
    "van_der_pol_simplified": lambda y, c: [c * (y[0] - y[0] ** 3 / 3 + y[1]), -y[0] / c],
    "glycolytic_2d": lambda y, c, d: [c * y[1] + y[0] ** 2 * y[1] - y[0], -c * y[0] + d - y[0] ** 2 * y[1]],
}


@pytest.mark.parametrize("name", FAMILIES)
def test_fields_are_the_published_equations(name: str) -> None:
    family = FAMILIES[name]
    generator = np.random.default_rng(0)
    states = generator.uniform(0.1, 2, (5, family.state_size))
    parameters = generator.uniform(0.1, 2, family.num_parameters)
    found = family.field(states, parameters)
    for state, derivative in zip(states, found, strict=True):
        np.testing.assert_allclose(derivative, EQUATIONS[name](state, *parameters), rtol=1e-12)


@pytest.mark.parametrize("name", COLLECTIONS)
def test_trajectories_are_those_of_another_solver_one_by_one(name: str) -> None:
    group = COLLECTIONS[name]().groups[-1]
    states = group.initial_states(3, np.random.default_rng(1))
    found = simulate(group.family, group.train[-1], states, group.times)
    for state, trajectory in zip(states, found, strict=True):
        slow = solve_ivp(
            lambda _, y: EQUATIONS[group.family.name](y, *group.train[-1]),
            (group.times[0], group.times[-1]),
            state,
            method="Radau",
            t_eval=group.times,
            rtol=1e-9,
            atol=1e-11,
        )
        np.testing.assert_allclose(trajectory, slow.y.T, rtol=0, atol=2e-6)


@pytest.mark.parametrize(
    ("name", "families", "train", "adapt", "times", "last", "trajectories"),
    [
        ("lotka_volterra", 1, 9, 4, 20, 9.5, (4, 32, 1, 32)),
        ("selkov", 1, 21, 6, 11, 40.0, (4, 4, 1, 4)),
        ("glycolytic", 1, 9, 4, 20, 0.95, (32, 32, 1, 32)),
        ("odebench_small", 4, 20, 8, 100, None, (4, 32, 1, 32)),
        ("odebench_ten", 10, 160, 20, 100, None, (4, 32, 1, 32)),
    ],
)
def test_collections_have_the_published_sizes(  # noqa: PLR0917 - columns of the table above
    name: str, families: int, train: int, adapt: int, times: int, last: float | None, trajectories: tuple[int, ...]
) -> None:
    collection = COLLECTIONS[name]()
    assert len(collection.groups) == families
    assert sum(len(group.train) for group in collection.groups) == train
    assert sum(len(group.adapt) for group in collection.groups) == adapt
    assert all(len(group.times) == times for group in collection.groups)
    assert last is None or collection.groups[0].times[-1] == pytest.approx(last)
    assert tuple(collection.num_trajectories[split] for split in SPLITS) == trajectories


def test_parameters_are_the_published_ones() -> None:
    lotka = COLLECTIONS["lotka_volterra"]().groups[0]
    assert lotka.train[:4].tolist() == [[0.5, 0.5], [0.75, 0.5], [1.0, 0.5], [0.5, 0.75]]
    assert lotka.adapt.tolist() == [[0.625, 0.625], [0.625, 1.125], [1.125, 0.625], [1.125, 1.125]]
    small = {group.family.name: group for group in COLLECTIONS["odebench_small"]().groups}
    assert small["harmonic"].train.ravel().tolist() == [1.68, 1.89, 2.1, 2.31, 2.52]
    assert small["double_well"].train.ravel().tolist() == [0.08, 0.09, 0.1, 0.11, 0.12]
    assert small["van_der_pol"].train.ravel().tolist() == [0.71, 0.8, 0.89, 0.97, 1.06]
    assert small["shear_flow"].initial_states(3, np.random.default_rng(0))[:2].tolist() == [[0.3, -0.3], [0.5, -0.5]]
    # New environments are new, unlike those of the released data.
    for group in COLLECTIONS["odebench_small"]().groups:
        assert group.adapt.min() < group.train.min() < group.train.max() < group.adapt.max()


def test_what_cannot_be_integrated_is_refused() -> None:
    explosion = Family("explosion", lambda y, c: c * y**2, 1, 1)
    with pytest.raises(ValueError, match=r"explosion with the parameters \[1\.0\] cannot be integrated to time 2"):
        simulate(explosion, np.ones(1), np.ones((1, 1)), np.linspace(0, 2, 5))
    with pytest.raises(ValueError, match=r"takes \[1\] and"):
        simulate(explosion, np.ones(2), np.ones((1, 1)), np.linspace(0, 2, 5))


def test_the_builder_makes_rows_for_the_model_and_keeps_them(tmp_path: Path) -> None:
    data = load_dynamics("odebench_small", num_train=3, num_test=2, cache_dir=str(tmp_path))
    assert {name: split.num_rows for name, split in data.items()} == {
        "train": 60,
        "test": 40,
        "adapt_train": 8,
        "adapt_test": 16,
    }
    row = data["train"][3]
    assert (row["env_ids"], row["family"], row["parameters"]) == (1, "harmonic", [1.89])
    assert row["labels"][0] == row["initial_state"] == [0.5, 0.5]
    assert sorted(set(data["adapt_train"]["env_ids"])) == list(range(8))
    # Initial states are shared by the environments, and differ between splits and seeds.
    assert data["train"][2]["initial_state"] == data["train"][5]["initial_state"]
    assert data["train"][2]["initial_state"] != data["adapt_test"][1]["initial_state"]
    files = sorted(tmp_path.rglob("*.arrow"))
    stamps = [file.stat().st_mtime_ns for file in files]
    again = load_dynamics("odebench_small", num_train=3, num_test=2, cache_dir=str(tmp_path))
    assert again["train"][3] == row
    assert [file.stat().st_mtime_ns for file in files] == stamps
    other = load_dynamics("odebench_small", num_train=3, num_test=2, seed=1, cache_dir=str(tmp_path))
    assert other["train"][2]["initial_state"] != data["train"][2]["initial_state"]


def test_unknown_collections_and_numbers_out_of_range_are_refused() -> None:
    with pytest.raises(ValueError, match="the collections are"):
        load_dynamics("lorenz")
    with pytest.raises(ValueError, match="num_train=0 must be at least 1"):
        load_dynamics("selkov", num_train=0)
    with pytest.raises(ValueError, match="only for the collection 'dysts'"):
        DynamicsConfig(name="selkov", systems=("Lorenz",)).check()


@pytest.mark.skipif(
    importlib.util.find_spec("dysts") is None or importlib.util.find_spec("gluonts") is None,
    reason="needs dysts: pip install --no-deps dysts==0.96 gluonts==0.17.0 toolz==0.12.1",
)
def test_chaotic_systems_of_dysts_have_the_scale_of_their_attractors(tmp_path: Path) -> None:
    from hf_mixture.models.mixer.chaotic import dysts_collection

    collection = dysts_collection(("Lorenz", "Rossler"))
    lorenz, rossler = collection.groups
    # The Lorenz equations, by hand, in units of standard deviations and periods.
    mean = np.array([-0.44713708338891345, -0.312509325103127, 23.545984293942695])
    scale = np.array([7.906225526391357, 8.999339290833237, 8.579487084165056])
    x, y, z = mean + scale * np.array([0.3, -0.2, 0.5])
    by_hand = np.array([10 * (y - x), x * (28 - z) - y, x * y - 2.667 * z]) * 1.5008 / scale
    found = lorenz.family.field(np.array([0.3, -0.2, 0.5]), lorenz.train[2])
    np.testing.assert_allclose(found, by_hand, rtol=1e-9)
    assert len(rossler.train) == 5
    data = load_dynamics("dysts", systems=("Lorenz", "Rossler"), num_train=1, num_test=1, cache_dir=str(tmp_path))
    assert set(data["train"]["family"]) == {"dysts_Lorenz", "dysts_Rossler"}
    assert np.abs(np.array(data["train"]["labels"])).max() < 6
    with pytest.raises(ValueError, match="did you mean 'Lorenz'"):
        dysts_collection(("Lorentz",))
    with pytest.raises(ValueError, match="different numbers of variables"):
        dysts_collection(("Lorenz", "HyperRossler"))
    with pytest.raises(ValueError, match="name chaotic systems"):
        dysts_collection(())
