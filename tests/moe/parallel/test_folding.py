"""Plans: what they refuse, what they name instead, and how engines are told."""

from __future__ import annotations

import tomllib

import pytest
from transformers import MixtralConfig, Qwen3MoeConfig
from two_processes import run_alone

from hf_mixture.moe.parallel.engines import (
    PROBLEMS,
    to_distributed_config,
    to_megatron_args,
    to_parallelism_config,
    to_torchtitan,
)
from hf_mixture.moe.parallel.folding import FoldingPlan, all_plans


def test_sizes_follow():
    plan = FoldingPlan(world=64, tp=2, cp=2, pp=2, ep=8, etp=1)
    assert (plan.dp, plan.edp) == (8, 4)
    assert plan.sizes() == "world=64, tp=2, cp=2, pp=2, ep=8"


@pytest.mark.parametrize(
    ("sizes", "said"),
    [
        ({"world": 0}, "world=0 is not a positive whole number"),
        ({"world": 8, "tp": 2.0}, "tp=2.0 is not a positive whole number"),
        (
            {"world": 8, "tp": 3},
            "tp=3 x cp=1 x pp=1 = 3 does not divide the 8 ranks; the nearest layout that works is world=8, tp=4",
        ),
        ({"world": 8, "ep": 16}, "etp=1 x ep=16 x pp=1 = 16 does not divide the 8 ranks; .* world=8, ep=8"),
        ({"world": 24, "ep": 8, "pp": 2, "etp": 2}, "= 32 does not divide the 24 ranks; the nearest layout"),
    ],
)
def test_layouts_that_cannot_be_are_refused(sizes, said):
    with pytest.raises(ValueError, match=said):
        FoldingPlan(**sizes)


@pytest.mark.parametrize(
    ("sizes", "config", "said"),
    [
        ({"ep": 8}, MixtralConfig(num_local_experts=12), r"ep=8 does not divide the 12 experts .* is world=64, ep=6"),
        ({"ep": 8}, MixtralConfig(num_local_experts=4), "ep=8 does not divide the 4 experts of the model; .* ep=4"),
        ({"tp": 8}, MixtralConfig(num_attention_heads=12), "tp=8 does not divide the 12 attention heads"),
        ({"pp": 8}, MixtralConfig(num_hidden_layers=12), "pp=8 does not divide the 12 layers of the model"),
        ({"etp": 8}, Qwen3MoeConfig(moe_intermediate_size=12), "etp=8 does not divide the 12 inner columns"),
    ],
)
def test_models_that_do_not_divide_are_refused(sizes, config, said):
    plan = FoldingPlan(world=64, **sizes)
    if "ep=6" in said:
        # 6 does not divide 64 ranks: the nearest is a power of two.
        said = said.replace("ep=6", "ep=4")
    with pytest.raises(ValueError, match=said):
        plan.check_model(config)
    FoldingPlan(world=64).check_model(config)


@pytest.mark.parametrize(("started", "near"), [(2, "world=2, tp=2"), (16, "world=16, tp=2, ep=4"), (3, "world=3")])
def test_other_numbers_of_processes_are_refused(started, near, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", str(started))
    with pytest.raises(ValueError, match=f"world=8 and the launcher started {started} processes; .*: {near}"):
        FoldingPlan(world=8, tp=2, ep=4).to_distributed_config()
    monkeypatch.setenv("WORLD_SIZE", "8")
    FoldingPlan(world=8, tp=2, ep=4).to_distributed_config()


def test_nothing_is_started_to_refuse_a_plan(tmp_path, monkeypatch):
    program = (
        "import torch.distributed as dist\nfrom hf_mixture.moe.parallel.folding import FoldingPlan\n"
        "try:\n    FoldingPlan(world=8, tp=3)\nexcept ValueError:\n    print(dist.is_initialized())\n"
    )
    (tmp_path / "program.py").write_text(program)
    monkeypatch.setenv("WORLD_SIZE", "8")
    assert run_alone(tmp_path / "program.py") == "False\n"


def test_engines_say_what_they_cannot_run():
    """Each refusal names the reason, an engine that can, and a layout that this one runs."""
    for plan in all_plans(16):
        for engine, export in {
            "transformers": to_distributed_config,
            "accelerate": to_parallelism_config,
            "torchtitan": to_torchtitan,
        }.items():
            problem = PROBLEMS[engine](plan)
            if problem is None:
                export(plan)
                continue
            with pytest.raises(ValueError) as refused:
                export(plan)
            assert str(refused.value).startswith(problem)
            assert "export the plan to " in str(refused.value)
            assert f"nearest layout that {engine} runs: world=16" in str(refused.value)


def test_transformers_itself_accepts_what_we_give_it_and_nothing_else():
    """Our reasons against its own checks: if they disagree, transformers has moved."""
    from transformers.distributed import DistributedConfig

    for plan in all_plans(16):
        if plan.cp > 1 or plan.etp > 1:
            continue
        try:
            config = DistributedConfig(tp_size=plan.tp, fsdp_size=plan.dp, pp_size=plan.pp, ep_size=plan.ep)
        except ValueError:
            assert PROBLEMS["transformers"](plan) is not None, plan
        else:
            # A pipeline with experts is refused later, when the model is known; experts without expert parallelism
            # would be split.
            split = plan.tp > 1 and plan.ep == 1
            assert PROBLEMS["transformers"](plan) is None or (plan.pp > 1 and plan.ep > 1) or split, plan
            assert plan.pp > 1 or config.efsdp_size == plan.edp
    given = FoldingPlan(world=16, tp=2, ep=8).to_distributed_config(ep_implementation="all_to_all")
    assert (given.tp_size, given.fsdp_size, given.ep_size, given.ep_implementation) == (2, 8, 8, "all_to_all")


def test_exports():
    plan = FoldingPlan(world=64, tp=2, cp=2, pp=2, ep=8, etp=2)
    assert (
        to_megatron_args(plan)
        == plan.to_megatron_args()
        == [
            *("--tensor-model-parallel-size", "2", "--context-parallel-size", "2"),
            *("--pipeline-model-parallel-size", "2", "--expert-model-parallel-size", "8"),
            *("--expert-tensor-parallel-size", "2", "--sequence-parallel"),
        ]
    )
    assert "--expert-tensor-parallel-size" in to_megatron_args(FoldingPlan(world=8, tp=8))
    toml = tomllib.loads(FoldingPlan(world=64, tp=2, cp=2, pp=2, ep=8).to_torchtitan())
    assert toml["parallelism"]["data_parallel_shard_degree"] == 8
    assert toml["parallelism"]["expert_parallel_degree"] == 8
    config = FoldingPlan(world=16, tp=2, cp=2).to_parallelism_config()
    assert (config.tp_size, config.cp_size, config.dp_shard_size) == (2, 2, 4)
    assert config.total_size == 16
