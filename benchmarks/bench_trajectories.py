"""Fits of trajectory mixtures: seconds of whole fits, and a likelihood with its gradient beside the dense form.

The dense form builds one covariance of all occasions for each person and class, batched in torch, and differentiates
it automatically. Whole fits are of the 500 pupils of RMS where they are at hand, else of the simulated people that
come with the package; times are of the processor, because other work on a machine lengthens the wall clock. The
published fits of the same models by OpenMx took 2.0, 17.5 and 63 seconds on another machine.
"""

from __future__ import annotations

import csv
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import compare, print_table, summarise, time_interleaved, write

from hf_mixture.models.trajectory_moe.data import make_data
from hf_mixture.models.trajectory_moe.ecm import ecm
from hf_mixture.models.trajectory_moe.fit import fit_mixture, fit_one_class
from hf_mixture.models.trajectory_moe.layout import Layout, pack, unpack
from hf_mixture.models.trajectory_moe.polish import polish
from hf_mixture.models.trajectory_moe.products import observations_of
from hf_mixture.models.trajectory_moe.scores import evaluate
from hf_mixture.models.trajectory_moe.starts import draw_starts
from hf_mixture.models.trajectory_moe.units import units_of


ROOT = Path(__file__).parents[1]
RMS = ROOT.parent / "shared" / "data" / "trajectories" / "RMS_math.csv"
BLS = ROOT / "hf_mixture" / "training" / "trajectories" / "examples" / "BLS_dat2.csv"
ROUNDS = 15
OURS, DENSE = "growth factors, analytic gradient", "dense covariances, automatic gradient"


def read() -> tuple[str, Any]:
    """The name of the data and the data."""
    path, values, first, last = (RMS, "M", 1, 9) if RMS.exists() else (BLS, "Y", 1, 10)
    with path.open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))

    def columns(prefix: str) -> Any:
        return np.array([[float(row[f"{prefix}{place}"]) for place in range(first, last + 1)] for row in rows])

    times = columns("T")
    return path.stem, make_data(columns(values), times - times[:, :1])


def dense(vector: Any, data: Any, layout: Layout) -> tuple[float, Any]:
    """Log-likelihood and gradient from one covariance of all occasions for each person and class."""
    tensor = torch.tensor(vector, requires_grad=True)
    parameters = unpack(tensor, layout)
    times, values = torch.tensor(data.times)[:, None], torch.tensor(data.values[..., 0])[:, None]
    distance = times - parameters.shape[0, :, 0, None]
    loadings = torch.stack([torch.ones_like(distance), distance, distance.abs()], dim=-1)
    noise = parameters.theta[0, :, 0, 0, None, None] * torch.eye(times.shape[-1], dtype=torch.float64)
    covariance = loadings @ parameters.psi[0] @ loadings.transpose(-1, -2) + noise
    root = torch.linalg.cholesky(covariance)
    centred = values - (loadings @ parameters.alpha[0, :, :, None])[..., 0]
    scaled = torch.linalg.solve_triangular(root, centred[..., None], upper=False)[..., 0]
    log_det = 2 * torch.diagonal(root, dim1=-2, dim2=-1).log().sum(-1)
    density = -0.5 * (times.shape[-1] * math.log(2 * math.pi) + log_det + (scaled**2).sum(-1))
    gate = torch.cat([torch.zeros(1, dtype=torch.float64), parameters.gate[0, :, 0]])
    value = torch.logsumexp(density + torch.log_softmax(gate, dim=0), dim=1).sum()
    value.backward()
    return value.item(), tensor.grad.numpy()


def main() -> None:
    torch.set_num_threads(1)
    name, data = read()
    standard = units_of(data).standardise(data)
    observations = observations_of(standard)
    fits = []
    for number in (1, 2, 3):
        started = time.process_time()
        fit = fit_mixture(data, Layout(num_classes=number), num_starts=20)
        fits.append(
            {
                "classes": number,
                "starts": len(fit.starts),
                "cpu_seconds": time.process_time() - started,
                "minus2ll": -2 * fit.log_likelihood,
                "hits": fit.optima[0].hits,
                "optima": len(fit.optima),
            }
        )
    layout = Layout(num_classes=2)
    one_class = fit_one_class(observations, layout)
    singles = []
    for index in range(6):
        started = time.process_time()
        start = draw_starts(one_class, observations, layout, seed=0, indices=[index])
        estimates, _ = ecm(start, observations, layout, num_iterations=40)
        found = polish(pack(estimates, layout)[0], observations, layout)
        singles.append({"cpu_seconds": time.process_time() - started, "is_converged": found.is_converged})
    vector = pack(estimates, layout)
    value, gradient = dense(vector, standard, layout)
    ours = evaluate(vector, observations, layout)
    np.testing.assert_allclose(ours.log_likelihood[0], value, rtol=1e-10)
    np.testing.assert_allclose(ours.gradient, gradient, atol=1e-6 * np.abs(gradient).max())
    candidates: dict[str, Callable[[], Any]] = {
        OURS: lambda: evaluate(vector, observations, layout),
        DENSE: lambda: dense(vector, standard, layout),
    }
    times = time_interleaved(candidates, rounds=ROUNDS)
    total = sum(fit["cpu_seconds"] for fit in fits)
    write(
        "trajectories",
        {
            "setting": {"people": data.num_people, "waves": data.values.shape[1], "data": name, "rounds": ROUNDS},
            "note": "The machine ran other work at the same time; times are of the processor.",
            "fits": fits,
            "cpu_seconds_of_all_fits": total,
            "one_start_of_two_classes": singles,
            "evaluation_seconds": {key: summarise(values) for key, values in times.cpu.items()},
            "ratio": compare(times.cpu, OURS),
        },
    )
    print_table(
        ["classes", "CPU s", "-2 log L", "hits", "optima"],
        [[f["classes"], f"{f['cpu_seconds']:.1f}", f"{f['minus2ll']:.4f}", f["hits"], f["optima"]] for f in fits],
    )
    print(f"all fits {total:.1f} s; one start {max(single['cpu_seconds'] for single in singles):.2f} s at most")


if __name__ == "__main__":
    main()
