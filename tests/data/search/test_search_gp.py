"""The exact process and the acquisition functions, against BoTorch and against plain integration."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch

from hf_mixture.data.search.acquisition import (
    expected_improvement,
    max_value_entropy,
    multi_fidelity_entropy,
    sample_maxima,
)
from hf_mixture.data.search.gp import fit_process, prior_process
from hf_mixture.data.search.kernels import Hyper, Levels, kernel
from hf_mixture.data.search.surrogate import fit_surrogate, refit_size


pytest.importorskip("botorch", reason='BoTorch comes with pip install "hf-mixture[search]"')
pytestmark = pytest.mark.filterwarnings("ignore")
F64 = torch.float64


def random_process(seed: int, noise: float):
    """A BoTorch process over 8 random points, with random length scales."""
    from botorch.models import SingleTaskGP

    torch.manual_seed(seed)
    x, y = torch.rand(8, 3, dtype=F64), torch.randn(8, 1, dtype=F64)
    process = SingleTaskGP(x, y, train_Yvar=torch.full_like(y, noise), outcome_transform=None)
    process.covar_module.lengthscale = 0.2 + torch.rand(1, 3, dtype=F64)
    return process.eval()


def test_max_value_entropy_equals_botorch() -> None:
    """Acceptance check 5a: 100 random processes, equal samples of the maximum, every informative point."""
    from botorch.acquisition.multi_objective.max_value_entropy_search import (
        qLowerBoundMultiObjectiveMaxValueEntropySearch,
    )

    for seed in range(100):
        process = random_process(seed, 1e-8)
        points = torch.rand(20, 3, dtype=F64)
        with torch.no_grad():
            posterior = process.posterior(points)
            maxima = posterior.rsample(torch.Size([10])).amax(dim=(1, 2))
            cells = torch.stack([torch.full((10, 1, 1), -1e10, dtype=F64), maxima[:, None, None]], dim=1)
            theirs = qLowerBoundMultiObjectiveMaxValueEntropySearch(process, cells, estimation_type="0")(
                points[:, None]
            )
            ours = max_value_entropy(posterior.mean[:, 0], posterior.variance[:, 0], maxima)
        told = theirs > 1e-2 * theirs.max()
        torch.testing.assert_close(ours[told], theirs[told], rtol=1e-3, atol=0)


def test_noisy_entropy_equals_botorch() -> None:
    """`qMaxValueEntropy` integrates by sampling; evenly spread normal quantiles make that precise."""
    from botorch.acquisition.max_value_entropy_search import qMaxValueEntropy

    num = 2**15
    quantiles = torch.special.ndtri((torch.arange(num, dtype=F64) + 0.5) / num)
    for seed in range(10):
        process = random_process(seed, 0.05)
        process.likelihood.noise_covar.noise = torch.full((8,), 0.05, dtype=F64)
        points = torch.rand(100, 3, dtype=F64)
        theirs = qMaxValueEntropy(process, points, num_mv_samples=4, num_y_samples=num)
        with torch.no_grad():
            clean = process.posterior(points)
            noisy = process.posterior(points, observation_noise=True)
            maxima = theirs.posterior_max_values[:, 0]
            variance = clean.variance[:, 0]
            ours = multi_fidelity_entropy(noisy.variance[:, 0], clean.mean[:, 0], variance, variance, maxima)
            best = ours.argsort(descending=True)[:3]
            theirs(points[best][:, None])
            theirs.sampler.base_samples = quantiles.view_as(theirs.sampler.base_samples)
            torch.testing.assert_close(ours[best], theirs(points[best][:, None]), rtol=1e-3, atol=0)


@pytest.mark.parametrize("gamma", [-6.0, -1.0, 0.0, 2.5])
@pytest.mark.parametrize("rho", [-0.5, 0.05, 0.6, 0.86, 0.9, 0.99, 0.999])
def test_multi_fidelity_entropy_equals_plain_integration(gamma, rho) -> None:
    scipy_integrate = pytest.importorskip("scipy.integrate")

    def log_cdf(u: float) -> float:
        return float(torch.special.log_ndtr(torch.tensor(u, dtype=F64)))

    def density(z: float) -> float:
        s = math.sqrt(1 - rho**2)
        return math.exp(-(z**2) / 2 - math.log(2 * math.pi) / 2 + log_cdf((gamma - rho * z) / s) - log_cdf(gamma))

    def term(z: float) -> float:
        value = density(z)
        return -value * math.log(value) if value > 1e-300 else 0.0

    centre = -rho * math.exp(-(gamma**2) / 2 - math.log(2 * math.pi) / 2 - log_cdf(gamma))
    cuts = [centre - 12, *sorted({centre, gamma / rho}), centre + 12]
    parts = [scipy_integrate.quad(term, a, b, epsabs=1e-11, limit=300)[0] for a, b in itertools.pairwise(cuts)]
    expected = math.log(2 * math.pi * math.e) / 2 - sum(parts)
    one = torch.ones(1, dtype=F64)
    found = multi_fidelity_entropy(one, 0 * one, one, rho * one, gamma * one)
    assert float(found[0]) == pytest.approx(expected, rel=1e-6, abs=1e-9)


def test_noise_free_target_runs_are_the_single_fidelity_case() -> None:
    mean, variance = torch.linspace(-1, 1, 5, dtype=F64), torch.linspace(0.5, 2, 5, dtype=F64)
    maxima = torch.tensor([1.5, 2.0], dtype=F64)
    both = multi_fidelity_entropy(variance, mean, variance, variance, maxima)
    torch.testing.assert_close(both, max_value_entropy(mean, variance, maxima), rtol=1e-3, atol=1e-6)


def test_expected_improvement_equals_botorch() -> None:
    from botorch.acquisition import ExpectedImprovement

    process = random_process(0, 1e-4)
    points = torch.rand(20, 3, dtype=F64)
    with torch.no_grad():
        posterior = process.posterior(points)
        theirs = ExpectedImprovement(process, best_f=0.3)(points[:, None])
    ours = expected_improvement(posterior.mean[:, 0], posterior.variance[:, 0], 0.3)
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-9)


def test_maxima_follow_the_joint_posterior() -> None:
    mean = torch.tensor([0.0, 0.5], dtype=F64)
    covariance = torch.tensor([[1.0, 0.999], [0.999, 1.0]], dtype=F64)
    draws = sample_maxima(mean, covariance, 20_000, seed=0)
    # Two nearly equal variables: the larger is the second one.
    assert float(draws.mean()) == pytest.approx(0.5, abs=0.03)
    assert float(draws.std()) == pytest.approx(1.0, abs=0.03)


@pytest.mark.parametrize("levels", [(1.0,), (0.1, 0.5, 1.0)])
def test_the_process_equals_botorch_under_equal_hyperparameters(levels) -> None:
    from botorch.models import SingleTaskMultiFidelityGP

    rng = np.random.default_rng(0)
    x, fidelity = rng.dirichlet(np.ones(4), 20), rng.choice(levels, 20)
    y = rng.normal(size=20)
    hyper = Hyper.initial(4, len(levels))
    hyper.lengthscale.copy_(torch.tensor(rng.normal(size=4)))
    hyper.bias_lengthscale.copy_(torch.tensor(rng.normal(size=4)))
    hyper = Hyper(**{**hyper.fields(), "bias": torch.zeros((), dtype=F64), "noise": torch.tensor(-3.0, dtype=F64)})
    known = torch.tensor(levels, dtype=F64)
    same = Levels(known, torch.zeros(len(levels), dtype=F64), spread=0.0)
    inputs, level = torch.as_tensor(x), torch.as_tensor(fidelity)

    theirs = SingleTaskMultiFidelityGP(
        torch.cat([inputs, level[:, None]], 1),
        torch.as_tensor(y)[:, None],
        data_fidelities=[4],
        outcome_transform=None,
    )
    truncated = theirs.covar_module.base_kernel.kernels[0]
    theirs.covar_module.outputscale = 1.0
    truncated.power = torch.ones(1, dtype=F64)
    truncated.covar_module_unbiased.lengthscale = hyper.lengthscale.exp()
    truncated.covar_module_biased.lengthscale = hyper.bias_lengthscale.exp()
    queries, top = torch.as_tensor(rng.dirichlet(np.ones(4), 6)), torch.as_tensor(rng.choice(levels, 6))
    expected = theirs.covar_module(torch.cat([inputs, level[:, None]], 1), torch.cat([queries, top[:, None]], 1))
    found = kernel(inputs, level, queries, top, hyper, levels=same)
    torch.testing.assert_close(found, expected.to_dense().detach(), rtol=1e-6, atol=1e-9)

    process = prior_process(x, fidelity, y, all_levels=levels, hyper=hyper)
    theirs.likelihood.noise = torch.exp(hyper.noise)
    if len(levels) == 1:
        theirs.mean_module.constant = process.centre + process.unit * float(process.levels.offset[0])
        theirs.covar_module.outputscale = process.unit**2
        theirs.likelihood.noise = process.unit**2 * torch.exp(hyper.noise)
        posterior = theirs.eval().posterior(torch.cat([queries, top[:, None]], 1))
        mean, covariance = process.posterior(queries, top)
        torch.testing.assert_close(mean, posterior.mean[:, 0].detach(), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(torch.diagonal(covariance), posterior.variance[:, 0].detach(), rtol=1e-3, atol=1e-5)


def test_pairs_agree_with_the_joint_posterior_and_conditioning_with_a_new_process() -> None:
    rng = np.random.default_rng(1)
    x, fidelity, y = rng.dirichlet(np.ones(3), 12), np.repeat([0.2, 1.0], 6), rng.normal(size=12)
    process = fit_process(x, fidelity, y)
    points, levels = torch.as_tensor(rng.dirichlet(np.ones(3), 4)), torch.tensor([0.2, 1.0, 0.2, 1.0], dtype=F64)
    mean_m, _, mean_t, var_t, covariance = process.pairs(points, levels)
    for row in range(4):
        both = torch.stack([points[row], points[row]])
        mean, joint = process.posterior(both, torch.stack([levels[row], torch.ones((), dtype=F64)]))
        torch.testing.assert_close(torch.stack([mean_m[row], mean_t[row]]), mean)
        torch.testing.assert_close(joint[1, 1], var_t[row])
        torch.testing.assert_close(joint[0, 1], covariance[row])
    # A believed value leaves the mean where it is and only narrows it.
    believed = process.condition(points[:1], levels[:1], mean_m[:1])
    torch.testing.assert_close(believed.pairs(points, levels)[2], mean_t, rtol=1e-4, atol=1e-5)
    assert float(believed.pairs(points, levels)[3][0]) < float(var_t[0])


def test_the_surrogates_agree_on_which_mixture_is_best() -> None:
    rng = np.random.default_rng(2)
    x = rng.dirichlet(np.ones(3), 30)
    y = -((x[:, 0] - 0.5) ** 2) - x[:, 1] ** 2
    points = torch.as_tensor(rng.dirichlet(np.ones(3), 200))
    top = torch.ones(200, dtype=F64)
    best = []
    for kind in ("exact", "botorch"):
        surrogate = fit_surrogate(kind, x, np.ones(30), y, levels=(1.0,))
        best.append(points[int(surrogate.posterior(points, top)[0].argmax())])
        assert all(part.shape == (200,) for part in surrogate.pairs(points, top))
        surrogate = surrogate.condition(points[:1], top[:1], torch.tensor([0.0], dtype=F64))
        assert surrogate.posterior(points[:2], top[:2])[1].shape == (2, 2)
    torch.testing.assert_close(best[0], best[1], atol=0.1, rtol=0)
    with pytest.raises(ValueError, match="surrogate='forest'"):
        fit_surrogate("forest", x, np.ones(30), y, levels=(1.0,))


def test_refits_follow_a_schedule_of_their_own() -> None:
    assert [refit_size(num) for num in (1, 2, 7, 8, 9, 10, 100)] == [1, 2, 7, 8, 8, 10, 97]
    sizes = [refit_size(num) for num in range(1, 300)]
    assert sizes == sorted(sizes)
    assert all(size <= num <= 1.25 * size + 1 for num, size in zip(range(1, 300), sizes, strict=True))
