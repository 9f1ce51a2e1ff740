"""`search_mixture` and `search_result`: every method, its bounds, its record, and what it imports."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest

from hf_mixture.data import Mixture, Source
from hf_mixture.data.search import (
    Constraints,
    GridSearch,
    Objective,
    RegMixSearch,
    Run,
    RunTable,
    search_mixture,
    search_result,
)
from hf_mixture.data.search.baselines import natural, stratified
from hf_mixture.data.search.entry import SEARCHES
from hf_mixture.data.search.plots import plot_mixtures, plot_predictions, plot_ternary, plot_trace
from hf_mixture.data.search.proposal import Space


DOMAINS = ("web", "code", "math")
BEST = np.array([0.5, 0.2, 0.3])


def loss(weights) -> float:
    return 2 + float(((np.asarray(weights) - BEST) ** 2).sum())


@pytest.fixture(scope="module")
def table() -> RunTable:
    weights = np.random.default_rng(0).dirichlet(np.ones(3), 80)
    return RunTable(range(80), DOMAINS, weights, {"loss": [loss(row) for row in weights]})


SETTINGS = {
    "regmix": {"predictor": ["gp", "ridge"], "num_candidates": 2000},
    "climb": {"predictor": "gp", "num_candidates": 2000},
    "admire": {"num_candidates": 64},
    "dml": {},
    "random": {},
    "grid": {},
}


@pytest.mark.parametrize("method", list(SEARCHES))
def test_every_method_proposes_from_a_table(table, method) -> None:
    result = search_result(method, objective="loss", direction="minimize", table=table, **SETTINGS[method])
    assert sum(result.weights) == pytest.approx(1, abs=1e-9)
    # The law is monotone along each line and cannot bend to an inner optimum.
    assert method == "dml" or loss(result.weights) < 2.02
    assert result.table_sha256 == table.sha256
    assert result.num_rows == 80
    if method in ("regmix", "climb", "admire"):
        assert result.rho > 0.95
        assert abs(result.predicted - loss(result.weights)) <= 3 * result.uncertainty + 1e-3


@pytest.mark.parametrize("method", ["regmix", "climb", "dml", "admire", "random"])
def test_every_proposal_obeys_its_bounds(table, method) -> None:
    limits = Constraints(
        caps={"web": 0.4}, floors={"math": 0.1}, fixed={"code": 0.25} if method in ("regmix", "climb") else {}
    )
    result = search_result(
        method, objective="loss", direction="minimize", table=table, constraints=limits, **SETTINGS[method]
    )
    shares = dict(zip(result.domains, result.weights, strict=True))
    assert shares["web"] <= 0.4 + 1e-9
    assert shares["math"] >= 0.1 - 1e-9
    if "code" in limits.fixed:
        assert shares["code"] == pytest.approx(0.25, abs=1e-9)
    assert result.constraints == limits.to_dict()


def test_the_mixture_records_how_it_was_found(table, tmp_path) -> None:
    result = search_result("regmix", objective="loss", direction="minimize", table=table, predictor="ridge")
    mixture = result.to_mixture(unit="tokens", name="searched")
    mixture.save_pretrained(tmp_path)
    read = Mixture.from_pretrained(tmp_path)
    assert read == mixture
    origin = read.metadata["provenance"]
    assert origin["method"] == "regmix"
    assert origin["direction"] == "minimize"
    assert origin["table"] == {"sha256": table.sha256, "rows": 80}
    assert origin["predictor"]["rho"] == result.rho
    assert origin["predicted"] == result.predicted
    assert origin["uncertainty"] == result.uncertainty
    assert json.dumps(origin)


def test_a_search_returns_a_mixture_with_its_evidence(table, caplog) -> None:
    request = {"objective": "loss", "direction": "minimize", "predictor": "ridge"}
    result = search_result("regmix", table, **request)
    mixture = search_mixture("regmix", table, **request, unit="tokens", name="found")
    assert mixture == result.to_mixture(unit="tokens", name="found")
    assert mixture == search_mixture("regmix", table=table, **request, unit="tokens", name="found")
    assert caplog.messages == []
    wrong = search_mixture("regmix", table, **{**request, "direction": "maximize"}, unit="tokens")
    assert caplog.messages == [f"regmix: {wrong.metadata['provenance']['warnings'][0]}"]
    assert "contradicts" in caplog.messages[0]
    with pytest.raises(ValueError, match="table is given too"):
        search_mixture("regmix", table, table=table, **request, unit="tokens")


def test_sizes_of_domains_are_their_natural_shares() -> None:
    class Pack:
        num_tokens = 100

        def __len__(self) -> int:
            return 3

    source = Source("json", data_files="web.jsonl", size={"tokens": 600, "examples": 5})
    domains = {"web": source, "code": 300, "math": Pack()}
    rule = {"objective": "loss", "direction": "minimize"}
    mixture = search_mixture("natural", domains, **rule, unit="tokens")
    assert mixture.weights == pytest.approx({"web": 0.6, "code": 0.3, "math": 0.1})
    assert mixture.sources == {"web": source}
    rows = search_mixture("natural", {"web": source, "math": Pack()}, **rule, unit="examples")
    assert rows.weights == pytest.approx({"web": 5 / 8, "math": 3 / 8})
    # A prior that is given needs no sizes.
    given = search_mixture("natural", {"web": Source("json"), "code": None}, **rule, prior=[1, 3], unit="bytes")
    assert given.weights == {"web": 0.25, "code": 0.75}
    settings = {"num_runs": 12, "predictor": "ridge", "max_usage": None, "evaluate": lambda t: {"loss": t.weights[0]}}
    found = search_mixture("regmix", domains, **rule, **settings, unit="tokens")
    assert found.sources == {"web": source}
    natural_loss = found.metadata["provenance"]["comparison"]["natural"]
    assert natural_loss == pytest.approx(0.6, abs=1e-3)
    with pytest.raises(ValueError, match=r"domains\['web'\] is a Source that tells no size in bytes"):
        search_mixture("natural", domains, **rule, unit="bytes")
    with pytest.raises(ValueError, match=r"domains\['web'\] is a Source that tells no size in any unit"):
        search_result("natural", domains, **rule)
    with pytest.raises(ValueError, match=r"domains names \['a'\] more than once"):
        search_result("natural", ["a", "b", "a"], **rule)
    with pytest.raises(TypeError, match="domains='web' is a string"):
        search_result("natural", "web", **rule)


@pytest.mark.parametrize("method", ["regmix", "climb", "admire", "dml", "random", "grid"])
def test_every_method_runs_its_own_trials(method) -> None:
    settings = {
        "regmix": {"num_runs": 24, "predictor": "gp", "max_usage": None, "num_candidates": 500},
        "climb": {"rounds": (12, 6), "predictor": "gp", "num_candidates": 500},
        "admire": {"budget": 8.0, "num_candidates": 32},
        "dml": {"num_runs": 16},
        "random": {"num_runs": 12},
        "grid": {"steps": 3},
    }[method]
    seen = []

    def evaluate(trial):
        seen.append(trial.mixture(unit="tokens").weights)
        return {"loss": loss(trial.weights)}

    result = search_result(method, DOMAINS, objective="loss", direction="minimize", evaluate=evaluate, **settings)
    assert result.incumbent["value"] == min(loss(list(weights.values())) for weights in seen)
    assert len(seen) == {"regmix": 24, "climb": 18, "admire": 8, "dml": 16, "random": 12, "grid": 10}[method]


def test_rules_need_no_runs() -> None:
    space = Space.build(DOMAINS, {"web": 0.9, "code": 0.1, "math": 0.0})
    np.testing.assert_allclose(natural(space), [0.9, 0.1, 0])
    np.testing.assert_allclose(natural(space, temperature=0), [0.5, 0.5, 0])
    np.testing.assert_allclose(stratified(space), [1 / 3] * 3)
    result = search_result(
        "temperature", DOMAINS, objective="loss", direction="minimize", prior=[0.9, 0.1, 0], temperature=0.5
    )
    np.testing.assert_allclose(result.weights, [0.75, 0.25, 0])
    capped = Space.build(DOMAINS, [0.9, 0.1, 0.0], Constraints(caps={"web": 0.5}))
    assert natural(capped)[0] == pytest.approx(0.5)


def test_weighted_objectives(table) -> None:
    twice = RunTable(table.run_ids, DOMAINS, table.weights, {"loss": table.metrics["loss"], "size": np.zeros(80)})
    objective = {"loss": 2.0, "size": 1.0}
    result = search_result("random", objective=objective, direction="minimize", table=twice)
    assert result.incumbent["value"] == pytest.approx(2 * table.metrics["loss"].min())


@pytest.mark.parametrize(
    ("method", "settings", "message"),
    [
        ("bayes", {}, "method='bayes' is not one of"),
        ("regmix", {"rounds": 3}, r"'regmix' has no settings \['rounds'\]"),
        ("natural", {"num_runs": 3}, r"'natural' has no settings \['num_runs'\]"),
        # The result would be called natural, and be something else.
        ("natural", {"temperature": 0.5}, r"'natural' has no settings \['temperature'\]"),
        ("regmix", {"prior": [0.5, 0.5]}, "prior has 2 shares for 3 domains"),
        ("regmix", {"prior": {"web": 1.0}}, "prior names"),
        ("regmix", {"domains": ["a", "b", "c"]}, "table has domains"),
        ("regmix", {"objective": "acc"}, "no metric 'acc'"),
        ("regmix", {"direction": "down"}, "direction='down'"),
    ],
)
def test_bad_requests_are_refused(table, method, settings, message) -> None:
    request = {"objective": "loss", "direction": "minimize", "table": table, **settings}
    with pytest.raises(ValueError, match=message):
        search_result(method, **request)


def test_nothing_to_learn_from_is_refused() -> None:
    with pytest.raises(ValueError, match="table and evaluate are both missing"):
        search_result("regmix", DOMAINS, objective="loss", direction="minimize")
    with pytest.raises(ValueError, match="domains and table are both missing"):
        search_result("natural", objective="loss", direction="minimize")
    with pytest.raises(ValueError, match="no run was told"):
        RegMixSearch(DOMAINS, Objective("loss", "minimize")).propose()
    with pytest.raises(ValueError, match="no run at fidelity 1"):
        GridSearch(DOMAINS, Objective("loss", "minimize")).propose()
    search = GridSearch(DOMAINS, Objective("loss", "minimize"))
    with pytest.raises(ValueError, match="num=0"):
        search.ask(0)


def test_the_absence_of_optional_libraries_is_explained(monkeypatch) -> None:
    for name in ("lightgbm", "botorch", "gpytorch", "sklearn"):
        monkeypatch.setitem(sys.modules, name, None)
    table = RunTable(range(40), ["a", "b"], [[i / 40, 1 - i / 40] for i in range(40)], {"loss": list(range(40))})
    proposed = search_result("regmix", objective="loss", direction="minimize", table=table, predictor="law")
    assert proposed.weights[0] < 0.1
    with pytest.raises(ImportError) as caught:
        search_result("regmix", objective="loss", direction="minimize", table=table, predictor="lightgbm")
    assert str(caught.value) == (
        "the predictor 'lightgbm' needs the package that provides 'lightgbm', which is not installed; "
        'install it with: pip install "hf-mixture[search]"'
    )


def test_plots_are_drawn(table, tmp_path) -> None:
    search = GridSearch(DOMAINS, Objective("loss", "minimize"), steps=2)
    search.tell([Run(trial.trial_id, {"loss": loss(trial.weights)}) for trial in search.ask(9)])
    drawn = {
        "predictions": plot_predictions([1.0, 2.0, 3.0], [1.1, 2.2, 2.9], name="loss"),
        "mixtures": plot_mixtures({"natural": [0.2, 0.3, 0.5], "searched": BEST}, DOMAINS),
        "ternary": plot_ternary(table.weights, table.metrics["loss"], DOMAINS),
        "trace": plot_trace({"grid": search.trace}),
    }
    assert drawn["predictions"].get_title() == "rank correlation 1.000, n = 3"
    assert len(drawn["mixtures"].patches) == 6
    assert len(drawn["ternary"].collections[0].get_offsets()) == 80
    assert drawn["trace"].lines[0].get_ydata()[-1] == search.incumbent["value"]
    for name, axes in drawn.items():
        axes.figure.savefig(tmp_path / f"{name}.png")
    with pytest.raises(ValueError, match="a triangle shows exactly 3"):
        plot_ternary(table.weights, table.metrics["loss"], ["a", "b"])
