"""Spread recipes: what is refused before anything is written, and the one that ships."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny_spread import tiny_spread
from tiny_upcycle import write_recipe

from hf_mixture.cli.main import main
from hf_mixture.training.resolve import find_recipe
from hf_mixture.training.spread.resolve import resolve_spread


@pytest.mark.parametrize("smoke", [False, True])
def test_the_recipe_that_ships(smoke):
    recipe = resolve_spread(find_recipe("moe_fssdp"), smoke=smoke)
    assert recipe.systems[recipe.reference].num_processes == 1
    assert {system.num_processes for system in recipe.systems.values()} >= ({1, 2} if smoke else {1, 2, 4})


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"systems": {"two": {"num_processes": 2}}}, "systems has 0 with num_processes: 1; exactly one"),
        ({"publish": "none"}, "publish is 'none'; name one of the systems, one, copies, split, drops"),
        (
            {"systems": {"one": {"num_processes": 1}, "x": {"num_processes": 3}}, "publish": "one"},
            "systems.x.num_processes is 3, which does not divide pretrain.per_device_train_batch_size 4",
        ),
        (
            {"systems": {"one": {"num_processes": 1}, "x": {"num_processes": 2, "etp": 2}}, "publish": "one"},
            "systems.x.etp is 2, which all_to_all cannot do; use folded",
        ),
        (
            {
                "systems": {
                    "one": {"num_processes": 1},
                    "x": {"num_processes": 2, "ep_implementation": "fssdp", "options": {"num_slot": 1}},
                },
                "publish": "one",
            },
            "unknown key 'num_slot' in systems.x.options; did you mean 'num_slots'?",
        ),
        (
            {
                "systems": {
                    "one": {"num_processes": 1},
                    "x": {"num_processes": 2, "ep_implementation": "capacity", "options": {"factor": 0}},
                },
                "publish": "one",
            },
            "systems.x.options: factor=0 is not a positive number",
        ),
        (
            {
                "systems": {"one": {"num_processes": 1}, "x": {"num_processes": 2, "ep_implementation": "none"}},
                "publish": "one",
            },
            "systems.x.ep_implementation is 'none'; known are all_to_all, fssdp, folded, capacity",
        ),
        ({"tolerance": -1}, "tolerance is -1"),
        ({"trace_every": 0}, "trace_every is 0; it must be at least 1"),
        ({"online": {"name": "aiol"}}, "unknown key 'aiol' in the methods (online.name); did you mean 'aioli'?"),
        (
            {"online": {"name": "aioli", "settings": {"lp_step": 1}}},
            "unknown key 'lp_step' in online.settings of aioli; did you mean 'lp_steps'?",
        ),
        ({"online": {"name": "aioli", "settings": {"lp_steps": 0}}}, "online.settings: lp_steps=0 is below 1"),
        (
            {"online": {"name": "aioli"}, "mixture": {"weights": {"code": 1.0, "prose": 0.0}}},
            "mixture.weights has no share of 'prose', and aioli scales shares",
        ),
        ({"planes": {}}, "unknown key 'planes'"),
        ({"bit_routers": {}}, "which is not for hf-mixture spread run; run it with hf-mixture mwq run"),
    ],
)
def test_what_is_wrong_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str], changes, said) -> None:
    path = write_recipe(tmp_path, tiny_spread(tmp_path) | changes)
    assert main(["spread", "run", str(path)]) != 0
    assert said in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_experts_that_do_not_divide_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    values = tiny_spread(tmp_path)
    values["model"]["num_local_experts"] = 5
    assert main(["spread", "run", str(write_recipe(tmp_path, values))]) != 0
    said = capsys.readouterr().err
    assert "systems.copies: ep=2 does not divide the 5 experts of the model; the nearest layout that works is" in said
    assert not (tmp_path / "run").exists()


def test_a_dry_run_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["spread", "run", str(write_recipe(tmp_path, tiny_spread(tmp_path))), "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert "8 experts in each of 2 layers; 6 steps" in said
    assert "fssdp: num_slots 1, window 2, reshard_interval 2" in said
    assert not (tmp_path / "run").exists()
