"""Recipes of trajectories: what is refused, what a run leaves, how it continues, and the ones that ship."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from cards import finished_code, run_card
from tiny_recipe import write_domains
from transformers import AutoModel

from hf_mixture.cli.main import main
from hf_mixture.training.resolve import find_recipe
from hf_mixture.training.trajectories import runs as runs_module
from hf_mixture.training.trajectories.people import read_people
from hf_mixture.training.trajectories.recipe import PeopleSpec, resolve_trajectories


def people(folder: Path) -> dict[str, Any]:
    return {
        "name": "tiny",
        "description": "A test.",
        "output_dir": str(folder / "run"),
        "people": {"file": "bls_dat2", "values": ["Y1", "Y4", "Y7", "Y10"], "times": ["T1", "T4", "T7", "T10"]},
        "trajectories": {
            "curve": "linear",
            "cluster_covariates": ["gx1"],
            "num_classes": [1, 2],
            "criterion": "aic",
            "n_starts": 2,
            "screening": {"covariates": ["gx1", "gx2"], "num_trees": 2, "min_leaf": 200},
        },
    }


def training_runs(folder: Path) -> dict[str, Any]:
    model = {"model_type": "llama", "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1}
    return {
        "name": "tiny",
        "output_dir": str(folder / "run"),
        "runs": {
            "domains": write_domains(folder),
            "model": model | {"num_attention_heads": 1, "num_key_value_heads": 1},
            "num_runs": 8,
            "num_steps": 8,
            "batch_size": 2,
            "block_size": 16,
            "learning_rates": [1e-4, 10.0],
        },
        "trajectories": {"curve": "linear", "num_classes": [1], "n_starts": 2},
    }


def write(folder: Path, values: dict[str, Any]) -> str:
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump(values, sort_keys=False), encoding="utf-8")
    return str(path)


@pytest.mark.parametrize("smoke", [False, True])
@pytest.mark.parametrize("name", ["trajectory_growth", "training_curves"])
def test_the_recipes_that_ship(name: str, smoke: bool) -> None:
    recipe = resolve_trajectories(find_recipe(name), smoke=smoke)
    assert resolve_trajectories(recipe.to_yaml()) == recipe
    assert (recipe.people is None) == (name == "training_curves")


def test_a_run_of_people(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path, people(tmp_path))
    assert main(["trajectories", path, "--dry-run"]) == 0
    assert "tiny: 500 people" in capsys.readouterr().out
    assert not (tmp_path / "run").exists()
    assert main(["trajectories", path]) == 0
    assert "| 2 | 14 |" in capsys.readouterr().out
    folder = tmp_path / "run"
    assert {item.name for item in folder.iterdir()} >= {"classes.png", "optima.png", "report.md", "results.json"}
    results = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    assert results["num_classes"] == 2
    assert results["agreement"] > 0.6
    assert {row["covariate"] for row in results["screening"]} == {"gx1", "gx2"}
    assert AutoModel.from_pretrained(folder / "model").fit_report == results["fit"]
    card = (folder / "model" / "README.md").read_text(encoding="utf-8")
    assert "library_name: transformers" in card
    assert all(f"({name})" in card and (folder / "model" / name).exists() for name in ("classes.png", "optima.png"))
    code = run_card(folder / "model")
    assert code == finished_code("trajectory_growth") == finished_code("training_curves")
    assert main(["trajectories", path]) == 2
    assert "add --resume to continue it" in capsys.readouterr().err
    assert main(["trajectories", path, "--resume"]) == 0
    again = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    assert again["fit"] == results["fit"]


def test_training_runs_continue_where_they_were(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path, training_runs(tmp_path))
    train, made = runs_module._train, []

    def killed(*args: Any) -> Any:
        if len(made) == 3:
            raise KeyboardInterrupt
        made.append(args)
        return train(*args)

    monkeypatch.setattr(runs_module, "_train", killed)
    assert main(["trajectories", path]) == 130
    monkeypatch.setattr(runs_module, "_train", lambda *args: made.append(args) or train(*args))
    assert main(["trajectories", path, "--resume"]) == 0
    assert len(made) == 8
    results = json.loads((tmp_path / "run" / "results.json").read_text(encoding="utf-8"))
    assert results["fit"]["num_people"] == 8
    assert results["class_names"][0] in ("converging", "plateau", "diverging")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"people": None}, "the recipe needs exactly one of people and runs"),
        ({"trajectories.curve": "linaer"}, "unknown key 'linaer' in trajectories.curve; did you mean 'linear'?"),
        ({"trajectories.num_classes": [2, 1]}, "trajectories.num_classes is [2, 1]; give increasing numbers from 1"),
        ({"trajectories.n_starts": 0}, "trajectories.n_starts is 0; it must be at least 1"),
        ({"trajectories.cluster_covariates": ["gx9"]}, "the data set has no column 'gx9'"),
        ({"people.file": "nowhere.csv"}, "people.file is 'nowhere.csv', which is neither a file nor one of bls_dat2"),
        ({"people.values": ["Y0", "Y1", "Y2", "Y3"]}, "has no column 'Y0'"),
        ({"people.values": ["Y1"]}, "people.values and people.times differ in length"),
        ({"systems": {}}, "which is not for hf-mixture trajectories; run it with hf-mixture spread run"),
    ],
)
def test_what_is_wrong_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], change: dict[str, Any], said: str
) -> None:
    values = people(tmp_path)
    for place, value in change.items():
        *parents, last = place.split(".")
        here = values
        for key in parents:
            here = here[key]
        here[last] = value
    assert main(["trajectories", write(tmp_path, values)]) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"learning_rates": [1.0]}, "runs.learning_rates is [1.0]; give the least and the greatest"),
        ({"domains": {"a": "installed:docs"}}, "runs.domains has 1 domains; give two"),
        ({"num_steps": 4}, "runs.num_steps is 4; it must be at least 8"),
        ({"model": {"model_type": "llama", "vocab_size": 9}}, "runs.model has 'vocab_size'"),
    ],
)
def test_runs_that_cannot_be(tmp_path: Path, change: dict[str, Any], said: str) -> None:
    values = training_runs(tmp_path)
    values["runs"] |= change
    with pytest.raises(ValueError) as error:
        resolve_trajectories(yaml.safe_dump(values))
    assert said in str(error.value)


def test_cells_that_are_empty_are_missing(tmp_path: Path) -> None:
    path = tmp_path / "people.csv"
    path.write_text("y1,y2,t1,t2,age\n1,,0,1,30\n2,3.5,0,NA,40\n", encoding="utf-8")
    found = read_people(PeopleSpec(file=str(path), values=["y1", "y2"], times=["t1", "t2"]))
    assert found["values"][0] == [1.0, None]
    assert found["times"][1] == [0.0, None]
    assert found["age"] == [30.0, 40.0]


@pytest.mark.parametrize("name", ["", "\0age"])
def test_columns_need_names_that_can_be_printed(name: str, tmp_path: Path) -> None:
    path = tmp_path / "people.csv"
    path.write_text(f"y1,t1,{name}\n1,0,30\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"people.csv' has a column of the name .* can be printed"):
        read_people(PeopleSpec(file=str(path), values=["y1"], times=["t1"]))
