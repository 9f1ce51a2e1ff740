"""The model of transformers: outputs, saving, Trainer, summary, selection."""

from __future__ import annotations

import json
import warnings

import numpy as np
import pytest
import torch
from datasets import Dataset
from tiny_trajectories import two_groups
from transformers import AutoConfig, AutoModel, Trainer, TrainingArguments

import hf_mixture
from hf_mixture.models.trajectory_moe.bootstrap_test import bootstrap_test
from hf_mixture.models.trajectory_moe.criteria import information_criteria
from hf_mixture.models.trajectory_moe.fit import fit_mixture
from hf_mixture.models.trajectory_moe.layout import Layout
from hf_mixture.models.trajectory_moe.plots import draw_classes, draw_optima
from hf_mixture.models.trajectory_moe.training_curves import mean_curves


@pytest.fixture(scope="module")
def full(bls):
    """A fitted full mixture of experts and its data set."""
    data = bls(growth=True, cluster=True)
    dataset = Dataset.from_dict(
        {
            "values": data.values[..., 0].tolist(),
            "times": data.times.tolist(),
            "growth_covariates": data.growth_covariates.tolist(),
            "cluster_covariates": data.cluster_covariates.tolist(),
        }
    )
    config = hf_mixture.TrajectoryMoEConfig(growth_covariates=["ex1", "ex2"], cluster_covariates=["gx1", "gx2"])
    model = hf_mixture.TrajectoryMoEModel(config)
    model.fit(dataset, n_starts=2)
    return model, dataset, data


def batch_of(data, rows=slice(None)):
    names = ("values", "times", "mask", "growth_covariates", "cluster_covariates")
    return {name: torch.tensor(getattr(data, name)[rows]) for name in names}


def test_forward(full):
    model, _, data = full
    output = model(**batch_of(data))
    assert output.loss.item() * data.num_people == pytest.approx(23237.6950 / 2, abs=1e-3)
    assert output.loss.dtype == torch.float64
    assert {name: tuple(value.shape) for name, value in output.items() if name != "loss"} == {
        "log_prob": (500, 2),
        "posterior": (500, 2),
        "class_logits": (500, 2),
        "trajectories": (500, 2, 10, 1),
    }
    prior = torch.log_softmax(output.class_logits, dim=1)
    joint = prior + output.log_prob
    torch.testing.assert_close(output.posterior, torch.softmax(joint, dim=1))
    torch.testing.assert_close(-torch.logsumexp(joint, dim=1).mean(), output.loss)
    best = output.posterior.argmax(dim=1)
    fitted = output.trajectories[torch.arange(500), best]
    residual = (fitted - torch.tensor(data.values)).std().item()
    assert 0.7 < residual < 1.1
    torch.testing.assert_close(model(**batch_of(data), return_dict=False)[0], output.loss)


def test_missing_values_and_labels(full):
    model, _, data = full
    batch = batch_of(data, slice(0, 6))
    masked = batch | {"mask": batch["mask"].clone()}
    masked["mask"][:, 3:] = False
    nan = {name: value for name, value in batch.items() if name != "mask"}
    nan["values"] = torch.where(masked["mask"], batch["values"], torch.nan)
    torch.testing.assert_close(model(**masked).loss, model(**nan).loss)
    labels = torch.tensor([0, 1, -1, -100, 1, 0])
    posterior = model(**batch, labels=labels).posterior
    assert posterior[[0, 1, 4, 5], [0, 1, 1, 0]].tolist() == pytest.approx([1] * 4)
    assert 0 < posterior[2, 0] < 1
    with pytest.raises(ValueError, match="labels has the class 2"):
        model(**batch, labels=labels + 1)
    with pytest.raises(ValueError, match="growth_covariates has 0 columns; the configuration names 2"):
        model(batch["values"], batch["times"])


def test_a_saved_model_is_the_same(full, tmp_path):
    model, _, data = full
    model.save_pretrained(tmp_path)
    loaded = AutoModel.from_pretrained(tmp_path)
    assert isinstance(loaded, hf_mixture.TrajectoryMoEModel)
    assert AutoConfig.from_pretrained(tmp_path).variant == "full"
    assert all(value.dtype == torch.float64 for value in loaded.state_dict().values())
    assert loaded.fit_report == model.fit_report
    assert loaded.summary().equals(model.summary())
    assert torch.equal(loaded(**batch_of(data)).loss, model(**batch_of(data)).loss)
    content = json.loads((tmp_path / "fit_report.json").read_text())
    assert (content["format"], content["version"]) == ("hf_mixture.trajectory_fit", 1)
    (tmp_path / "fit_report.json").write_text(json.dumps(content | {"optima": [{}]}))
    with pytest.raises(ValueError, match=r"fit_report.json is not the report of a fit: 'minus2ll' is a required"):
        AutoModel.from_pretrained(tmp_path)
    (tmp_path / "fit_report.json").unlink()
    with pytest.raises(ValueError, match="the model has no fit"):
        AutoModel.from_pretrained(tmp_path).summary()


def test_values_of_any_type_are_computed_with_in_double_precision():
    data, _ = two_groups(num_people=5)
    model = hf_mixture.TrajectoryMoEModel(hf_mixture.TrajectoryMoEConfig(curve="linear"))
    inputs = {"values": torch.tensor(data.values[..., 0]), "times": torch.tensor(data.times)}
    halved = {name: values.bfloat16() for name, values in inputs.items()}
    expected = model(**{name: values.double() for name, values in halved.items()})
    assert torch.equal(model(**halved).log_prob, expected.log_prob)


def test_one_class_without_a_gate_is_saved(tmp_path):
    data, _ = two_groups()
    model = hf_mixture.TrajectoryMoEModel(hf_mixture.TrajectoryMoEConfig(num_classes=1, curve="linear"))
    model.fit({"values": data.values[..., 0], "times": data.times})
    model.save_pretrained(tmp_path)
    assert AutoModel.from_pretrained(tmp_path).fit_report["criteria"]["entropy"] == 1


def test_summary(full):
    model, _, _ = full
    table = model.summary()
    assert len(table) == 47
    knots = table[table.parameter == "knot"]
    assert knots.estimate.tolist() == pytest.approx([5.518, 3.432], abs=0.002)
    assert ((table.low < table.estimate) & (table.estimate < table.high)).all()
    assert {"mean intercept", "slope 1 on ex1"} <= set(table.parameter)
    assert {"mean value at the knot"} <= set(model.summary(reported=False).parameter)
    ratio = model.summary(robust=True).standard_error / table.standard_error
    assert ratio.between(0.7, 1.4).all()
    assert model.optima().hits.sum() == 2
    report = model.fit_report
    expected = information_criteria(report["log_likelihood"], 47, np.full((500, 2), 0.5))
    assert report["criteria"]["bic"] == pytest.approx(expected["bic"])
    assert expected["entropy"] == pytest.approx(0)
    assert expected["icl"] == pytest.approx(expected["bic"] + 1000 * np.log(2))


def test_mean_curves(full):
    model, _, data = full
    ends = mean_curves(model, np.array([0.0, 1.0]))
    table = model.summary()
    mean = {name: table[table.parameter == f"mean {name}"].estimate.to_numpy() for name in ("intercept", "ex1", "ex2")}
    slopes = [table[table.parameter == f"intercept on {name}"].estimate.to_numpy() for name in ("ex1", "ex2")]
    average = data.growth_covariates.mean(axis=0)
    expected = mean["intercept"] + slopes[0] * average[0] + slopes[1] * average[1]
    np.testing.assert_allclose(ends[:, 0], expected, rtol=1e-9)


def test_the_stock_trainer_runs_and_stays_above_the_fit(full, tmp_path):
    fitted, dataset, data = full
    model = hf_mixture.TrajectoryMoEModel(fitted.config)
    model.set_units(dataset)
    before = model(**batch_of(data)).loss.item()
    arguments = TrainingArguments(
        str(tmp_path),
        max_steps=60,
        learning_rate=0.05,
        per_device_train_batch_size=125,
        use_cpu=True,
        report_to="none",
    )
    trainer = Trainer(model, arguments, train_dataset=dataset)
    trainer.train()
    after = model(**batch_of(data)).loss.item()
    best = fitted(**batch_of(data)).loss.item()
    assert best < after < before - 1
    # The Trainer reports a loss of data that have labels; -1 is a class that is not known.
    labelled = dataset.add_column("labels", [-1] * data.num_people)
    assert trainer.evaluate(labelled)["eval_loss"] == pytest.approx(after, abs=1e-3)


def test_selection_and_bootstrap(tmp_path):
    data, _ = two_groups(num_people=60)
    dataset = {"values": data.values[..., 0], "times": data.times}
    model = hf_mixture.TrajectoryMoEModel(hf_mixture.TrajectoryMoEConfig(curve="linear"))
    options = {"n_starts": 3, "num_bootstrap": 5, "journal": tmp_path}
    found = model.select(dataset, (1, 2), **options)
    table = found.table.set_index("num_classes")
    assert found.best().config.num_classes == 2
    assert table.loc[2, "bic"] < table.loc[1, "bic"]
    assert table.loc[2, "bootstrap_p"] == pytest.approx(1 / 6)
    assert found.tests[2].statistic == pytest.approx(table.loc[1, "minus2ll"] - table.loc[2, "minus2ll"])
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "bootstrap_2_classes.json",
        "fit_1_classes.json",
        "fit_2_classes.json",
    ]
    again = model.select(dataset, (1, 2), **options)
    assert again.tests == found.tests
    with pytest.raises(ValueError, match="criterion='deviance' must be one of"):
        found.best("deviance")
    with pytest.raises(ValueError, match="must be increasing numbers from 1"):
        model.select(dataset, (2, 1))


def test_the_bootstrap_does_not_reject_a_true_number():
    data, _ = two_groups(num_people=50)
    fits = [
        fit_mixture(data, Layout(num_classes=number, curve="linear"), num_starts=3, progress=False)
        for number in (2, 3)
    ]
    assert bootstrap_test(*fits, data, num_draws=6, num_starts=2).p_value > 0.1
    with pytest.raises(ValueError, match="must differ by one class"):
        bootstrap_test(fits[1], fits[0], data)


def test_a_fit_that_is_not_sure_warns():
    data, _ = two_groups(num_people=40)
    model = hf_mixture.TrajectoryMoEModel(hf_mixture.TrajectoryMoEConfig(curve="linear"))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        report = model.fit({"values": data.values[..., 0], "times": data.times}, n_starts=1)
    assert "one start only found the best optimum; use more starts" in [str(item.message) for item in caught]
    assert report["warnings"]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"num_classes": 0}, "num_classes=0 must be at least 1"),
        ({"num_outcomes": 0}, "num_outcomes=0 must be at least 1"),
        ({"growth_covariates": ["a", "a"]}, "has a name twice"),
    ],
)
def test_configurations_that_cannot_be(changes, said):
    with pytest.raises(ValueError, match=said):
        hf_mixture.TrajectoryMoEModel(hf_mixture.TrajectoryMoEConfig(**changes))


def test_plots(full, tmp_path):
    model, _, data = full
    posterior = model(**batch_of(data)).posterior.detach().numpy()
    draw_classes(tmp_path / "classes.png", model, data, posterior)
    draw_optima(tmp_path / "optima.png", model.fit_report)
    assert all(path.read_bytes()[:4] == b"\x89PNG" for path in tmp_path.iterdir())
