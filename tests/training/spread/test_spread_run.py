"""A spread run from end to end: equal losses, files, interruption."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from cards import run_card
from killed_runs import kill_once_there, without_times
from tiny_spread import tiny_spread
from tiny_upcycle import write_recipe

from hf_mixture.cli.main import main
from hf_mixture.moe.trace import load_trace


pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("spread")
    assert main(["spread", "run", str(write_recipe(folder, tiny_spread(folder)))]) == 0
    return folder


def results_of(folder: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((folder / "run" / "results.json").read_text(encoding="utf-8"))
    return loaded


def test_systems_that_drop_nothing_train_as_one_process(home: Path) -> None:
    rows = {row["name"]: row for row in results_of(home)["rows"]}
    assert rows["one"]["largest_difference"] == 0
    for name in ("copies", "split"):
        assert 0 < rows[name]["largest_difference"] < 1e-4
        assert rows[name]["dropped"] is None
        assert rows[name]["bits_per_byte"]["mean"] == pytest.approx(rows["one"]["bits_per_byte"]["mean"], abs=1e-4)
    assert rows["drops"]["dropped"] > 0.4
    assert rows["drops"]["largest_difference"] > 1e-4
    assert rows["copies"]["copies"] > 0
    assert rows["copies"]["moved_of_fsdp"] == pytest.approx(2 * rows["copies"]["copies"] / (3 / 2 * 8))


def test_the_output_folder_is_complete(home: Path) -> None:
    folder = home / "run"
    assert sorted(path.name for path in folder.iterdir()) == [
        "comparison.png",
        "journal.json",
        "logs",
        "models",
        "prepared",
        "recipe.yaml",
        "report.md",
        "results.json",
    ]
    assert sorted(path.name for path in (folder / "models").iterdir()) == ["copies", "drops", "one", "split", "start"]
    assert {"README.md", "comparison.png", "model.safetensors", "recipe.yaml", "tokenizer.json"} <= {
        path.name for path in (folder / "models" / "copies").iterdir()
    }
    assert not [path for path in folder.rglob("*") if path.suffix in (".bin", ".pt", ".pth", ".pkl")]
    assert (folder / "comparison.png").read_bytes().startswith(b"\x89PNG")
    assert "It is a stock checkpoint" in (folder / "models" / "copies" / "README.md").read_text(encoding="utf-8")
    run_card(folder / "models" / "copies")


@pytest.mark.parametrize("place", ["checkpoints/one/checkpoint-2", "checkpoints/copies/checkpoint-4/training_state"])
def test_a_run_that_was_killed_goes_on(home: Path, tmp_path: Path, place: str) -> None:
    path = str(write_recipe(tmp_path, tiny_spread(home) | {"output_dir": str(tmp_path / "run")}))
    kill_once_there(["spread", "run", path], tmp_path / "run" / place)
    assert main(["spread", "run", path, "--resume"]) == 0
    assert without_times(results_of(tmp_path)) == without_times(results_of(home))


def test_losses_that_differ_are_an_error(home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    values = tiny_spread(home) | {"output_dir": str(tmp_path / "run"), "tolerance": 0}
    values["systems"] = {name: values["systems"][name] for name in ("one", "split")}
    values["publish"] = "split"
    assert main(["spread", "run", str(write_recipe(tmp_path, values))]) == 1
    assert "error: a loss of split differs from that of one process by" in capsys.readouterr().err


def test_a_mixture_is_steered_alike_on_one_process_and_on_two(home: Path, tmp_path: Path) -> None:
    settings = {"lp_rounds": 1, "lp_steps": 1, "update_steps": 8, "one_hot_factor": 0.75, "prior_steps": 2}
    values = tiny_spread(home) | {
        "output_dir": str(tmp_path / "run"),
        "online": {"name": "aioli", "settings": settings},
        "trace_every": 3,
    }
    values["systems"] = {name: values["systems"][name] for name in ("one", "copies")}
    values["pretrain"] |= {"max_steps": 10, "save_steps": 4}
    path = str(write_recipe(tmp_path, values))
    kill_once_there(["spread", "run", path], tmp_path / "run/checkpoints/copies/checkpoint-4/training_state")
    assert main(["spread", "run", path, "--resume"]) == 0
    one, copies = ({row["name"]: row for row in results_of(tmp_path)["rows"]}[name] for name in ("one", "copies"))
    assert 0 < copies["largest_difference"] < 1e-4
    assert copies["online"]["average_weights"] == pytest.approx(one["online"]["average_weights"], abs=1e-5)
    assert copies["online"]["average_weights"] != pytest.approx(copies["online"]["initial_weights"])
    traces = [load_trace(tmp_path / "run" / "traces" / name) for name in ("one", "copies")]
    assert traces[0].steps.tolist() == traces[1].steps.tolist() == [1, 4, 7, 10]
    # Held-out text that the method measures is not counted.
    assert traces[0].tokens.tolist() == traces[1].tokens.tolist() == [[4 * 32] * 2] * 4
