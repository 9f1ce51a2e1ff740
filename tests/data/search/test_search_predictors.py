"""Predictors on the published RegMix runs, and their choice by held-out rank correlation."""

from __future__ import annotations

import inspect
import math

import numpy as np
import pytest

from hf_mixture.data.search import Objective, RegMixSearch, RunTable, search_result
from hf_mixture.data.search.predictors import KINDS, Kind, choose, cross_validate, kinds
from hf_mixture.data.search.predictors.boosting import fitter
from hf_mixture.data.search.predictors.law import fit_law, huber
from hf_mixture.data.search.predictors.linear import fit_log_linear, fit_ols, fit_ridge
from hf_mixture.data.search.ranks import spearman
from hf_mixture.data.search.regmix import fit_reference, reference_optimum


PILE_CC = "metric/the_pile_pile_cc_val_loss"
PUBLISHED_RHO = (99.6, 99.71, 99.08, 99.45, 97.2, 99.77, 99.73, 99.18, 98.92, 96.87, 98.51, 99.19, 99.12)
# Printed by the published notebook: the prior that it samples from and the optimum that it finds.
NOTEBOOK_PRIOR = (
    0.11328527, 0.07960865, 0.00391349, 0.1853759, 0.05108136, 0.01596293, 0.10175077, 0.00370752, 0.06652935,
    0.00175077, 0.02708548, 0.23686921, 0.01184346, 0.00792997, 0.00803296, 0.03882595, 0.04644696,
)  # fmt: skip
NOTEBOOK_OPTIMUM = (
    4.66329544e-03, 3.94374644e-03, 4.83724817e-07, 5.81013210e-03, 7.25528969e-03, 6.89717990e-04, 1.13732015e-03,
    1.25776313e-04, 1.11175820e-03, 2.56605336e-03, 3.72214513e-03, 8.90924344e-01, 6.14285142e-02, 3.44762896e-04,
    2.49409048e-03, 1.23006293e-02, 1.48194075e-03,
)  # fmt: skip


def rho(model, weights, values) -> float:
    return 100 * spearman(model.predict(weights), values)


@pytest.mark.slow
def test_reference_recipe_reproduces_the_published_figures(train_1m, held_1m, held_60m) -> None:
    """Acceptance check 1: 13 correlations at 1M, Pile-CC at 60M, the optimum; check 2: run 217 is predicted best."""
    models = {name: fit_reference(train_1m, held_1m, name) for name in train_1m.metrics}
    found = [rho(models[name], held_1m.raw_weights, held_1m.metrics[name]) for name in train_1m.metrics]
    np.testing.assert_allclose(found, PUBLISHED_RHO, atol=0.01)
    model = models[PILE_CC]
    assert rho(model, held_60m.raw_weights, held_60m.metrics[PILE_CC]) == pytest.approx(98.49, abs=0.05)
    assert held_60m.run_ids[int(np.argmin(model.predict(held_60m.raw_weights)))] == "217"
    optimum = reference_optimum(model, NOTEBOOK_PRIOR)
    assert np.abs(optimum - NOTEBOOK_OPTIMUM).max() <= 1e-6


def test_leak_free_trees_rank_as_well(train_1m, held_1m, held_60m) -> None:
    """Acceptance checks 1 and 2 for the recipe that sees training rows only."""
    model = KINDS["lightgbm"].fit(train_1m.weights, train_1m.metrics[PILE_CC])
    assert rho(model, held_1m.weights, held_1m.metrics[PILE_CC]) >= 98.5
    assert rho(model, held_60m.weights, held_60m.metrics[PILE_CC]) >= 98.0
    assert held_60m.run_ids[int(np.argmin(model.predict(held_60m.weights)))] == "217"


@pytest.mark.slow
def test_the_default_search_chooses_a_good_predictor_by_itself(train_1m, held_1m, held_60m, prior) -> None:
    result = RegMixSearch(train_1m.domains, Objective(PILE_CC, "minimize"), prior=prior, table=train_1m).propose()
    assert result.rho >= 0.98
    chosen = KINDS[result.predictor["kind"]].fit(train_1m.weights, train_1m.metrics[PILE_CC])
    assert rho(chosen, held_1m.weights, held_1m.metrics[PILE_CC]) >= 98.5
    assert rho(chosen, held_60m.weights, held_60m.metrics[PILE_CC]) >= 98.0
    # The optimum is flat: mixtures are compared by prediction, not by distance.
    published = chosen.predict(np.array([NOTEBOOK_OPTIMUM]))[0]
    assert result.predicted <= published + 0.02
    assert result.predicted < min(result.comparison.values())


def test_no_searcher_takes_rows_to_stop_on() -> None:
    for cls in (RegMixSearch, *(type(kind) for kind in KINDS.values())):
        for name in inspect.signature(cls).parameters:
            assert not any(word in name for word in ("stop", "eval", "valid", "test")), name
    with pytest.raises(ValueError, match=r"'regmix' has no settings \['eval_set'\]"):
        search_result("regmix", ["a"], objective="x", direction="minimize", eval_set=[])


def test_least_squares_and_the_law_reproduce_their_figures(train_1m, held_1m, held_60m) -> None:
    """Acceptance check 2, on mixtures as published, not normalised."""
    line = fit_ols(train_1m.raw_weights, train_1m.metrics[PILE_CC])
    assert rho(line, held_1m.raw_weights, held_1m.metrics[PILE_CC]) == pytest.approx(90.21, abs=0.01)
    assert rho(line, held_60m.raw_weights, held_60m.metrics[PILE_CC]) == pytest.approx(89.33, abs=0.01)
    law = fit_law(train_1m.weights, train_1m.metrics[PILE_CC])
    assert rho(law, held_60m.weights, held_60m.metrics[PILE_CC]) >= 95


def test_the_process_ranks_well_and_knows_its_error(climb_runs) -> None:
    values = climb_runs.metrics["valid_avg"]
    train, held = climb_runs.select(slice(0, 250)), climb_runs.select(slice(250, None))
    model = KINDS["gp"].fit(train.weights, values[:250])
    assert spearman(model.predict(held.weights), values[250:]) >= 0.95
    covered = np.abs(model.predict(held.weights) - values[250:]) <= 2 * model.deviation(held.weights)
    assert 0.85 <= covered.mean() <= 1.0


def test_climb_script_split(climb_runs) -> None:
    """Acceptance check 4: the published script's split and recipe give rho 95.91 for the average accuracy."""
    import pandas

    order = pandas.Series(range(379)).sample(frac=1, random_state=42).to_numpy()
    cut = int(379 * 0.9)
    model = fit_reference(climb_runs.select(order[:cut]), climb_runs.select(order[cut:]), "valid_avg")
    held = climb_runs.select(order[cut:])
    assert rho(model, held.raw_weights, held.metrics["valid_avg"]) == pytest.approx(95.91, abs=0.1)


def test_ridge_penalty_has_the_least_leave_one_out_error() -> None:
    rng = np.random.default_rng(0)
    weights = rng.dirichlet(np.ones(6), 12)
    values = weights @ rng.normal(size=6) + 0.3 * rng.normal(size=12)
    fitted = fit_ridge(weights, values)

    def loo(penalty: float) -> float:
        errors = []
        for row in range(12):
            keep = np.arange(12) != row
            centre, mean = values[keep].mean(), weights[keep].mean(axis=0)
            design = weights[keep] - mean
            slope = np.linalg.solve(design.T @ design + penalty * np.eye(6), design.T @ (values[keep] - centre))
            errors.append(values[row] - centre - (weights[row] - mean) @ slope)
        return float(np.mean(np.square(errors)))

    best = min(np.logspace(-6, 2, 13), key=loo)
    design, centre = weights - weights.mean(axis=0), values.mean()
    slope = np.linalg.solve(design.T @ design + best * np.eye(6), design.T @ (values - centre))
    np.testing.assert_allclose(fitted.slope, slope, atol=1e-6)


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_the_law_is_recovered(sign) -> None:
    rng = np.random.default_rng(1)
    weights, rates = rng.dirichlet(np.ones(4), 60), np.array([-2.0, 0.5, 1.0, -0.3])
    values = sign * (3.0 + np.exp(weights @ rates))
    values[::15] += 2.0  # outliers, which the Huber loss shrugs off
    held = rng.dirichlet(np.ones(4), 50)
    law = fit_law(weights, values)
    np.testing.assert_allclose(law.predict(held), sign * (3.0 + np.exp(held @ rates)), atol=0.02)
    assert huber(np.array([0.0, 0.005, 1.0]), 0.01) == pytest.approx((0.005**2 / 2 + 0.01 * 0.995) / 3)


def test_log_linear_needs_positive_values() -> None:
    with pytest.raises(ValueError, match="needs values above 0"):
        fit_log_linear(np.eye(2), np.array([1.0, -1.0]))


def test_small_tables_do_not_give_a_constant(train_1m, held_1m) -> None:
    few = train_1m.select(slice(0, 40))
    model = KINDS["lightgbm"].fit(few.weights, few.metrics[PILE_CC])
    assert rho(model, held_1m.weights, held_1m.metrics[PILE_CC]) > 60
    constant = fitter({"min_child_samples": 20})(few.weights[:32], few.metrics[PILE_CC][:32])
    assert math.isnan(rho(constant, held_1m.weights, held_1m.metrics[PILE_CC]))


def test_too_few_rows_are_refused(train_1m) -> None:
    few = train_1m.select(slice(0, 10))
    with pytest.raises(
        ValueError, match=r"the table has 10 rows; predictors \['law'\] with 17 domains .* at least 24 \(law\)"
    ):
        search_result("dml", objective=PILE_CC, direction="minimize", table=few)
    with pytest.raises(ValueError, match=r"the table has 3 rows; predictors .* need at least 4 \(ridge\)"):
        search_result("regmix", objective=PILE_CC, direction="minimize", table=few.select(slice(0, 3)))
    # The numbers that the messages name are enough.
    enough = train_1m.select(slice(0, 4))
    assert search_result("regmix", objective=PILE_CC, direction="minimize", table=enough).num_rows == 4
    assert search_result("dml", objective=PILE_CC, direction="minimize", table=train_1m.select(slice(0, 24))).num_rows


def test_the_choice_follows_the_held_out_ranking() -> None:
    rng = np.random.default_rng(0)
    weights = rng.dirichlet(np.ones(3), 60)
    values = np.exp(4 * weights[:, 0]) + np.exp(4 * weights[:, 1])
    noise = Kind("noise", lambda w, v: KINDS["ols"].fit(w, rng.permutation(v)), lambda k: 2, {})
    fitted = choose([noise, KINDS["gp"], KINDS["ridge"]], weights, values)
    assert fitted.kind.name == "gp"
    assert [score.kind for score in fitted.scores] == ["noise", "gp", "ridge"]
    assert fitted.score.rho == max(score.rho for score in fitted.scores)
    again, _ = cross_validate(KINDS["ridge"], weights, values)
    assert again.rho == fitted.scores[2].rho


def test_unknown_predictors_are_refused() -> None:
    with pytest.raises(ValueError, match="predictor='forest' is not one of"):
        kinds("forest", 10)


def test_stated_uncertainty_covers_held_out_errors(held_1m) -> None:
    """For a kind that states none, the fold spread and held-out error stand in."""
    train, held = held_1m.select(slice(0, 128)), held_1m.select(slice(128, None))
    fitted = choose([KINDS["ridge"]], train.weights, train.metrics[PILE_CC])
    error = np.abs(fitted.predict(held.weights) - held.metrics[PILE_CC])
    assert 0.9 <= (error <= 2 * fitted.deviation(held.weights)).mean() <= 1.0


def test_a_useless_predictor_is_reported() -> None:
    rng = np.random.default_rng(0)
    table = RunTable(range(40), ["a", "b", "c"], rng.dirichlet(np.ones(3), 40), {"loss": rng.normal(size=40)})
    result = search_result("regmix", objective="loss", direction="minimize", table=table, predictor="ridge")
    assert any("held-out rank correlation" in warning for warning in result.warnings)
