from __future__ import annotations

import pytest
import torch

from hf_mixture import MosConfig
from hf_mixture.adapters.mos.layout import Target, draw_slot, plan_layout


def stack(leaf: str, num_layers: int, in_features: int = 8, out_features: int = 8) -> list[Target]:
    return [
        Target(name=f"model.layers.{i}.attn.{leaf}", in_features=in_features, out_features=out_features)
        for i in range(num_layers)
    ]


def feasible(**changes) -> MosConfig:
    return MosConfig(**{"r": 3, "equivalent_rank": 2, "private_rank": 1, "num_shards": 2, **changes})


def test_groups_are_module_types_of_one_shape():
    targets = (
        stack("q_proj", 4)
        + stack("k_proj", 4, out_features=4)
        + [Target(name=f"vision.{i}.q_proj", in_features=16, out_features=16) for i in range(2)]
    )
    layout = plan_layout(feasible(), targets)
    assert {slot.group: slot.num_modules for slot in layout.values()} == {
        "q_proj_8x8": 4,
        "k_proj_8x4": 4,
        "q_proj_16x16": 2,
    }


def test_positions_follow_natural_order_whatever_the_order_of_visits():
    targets = stack("q_proj", 12)
    shuffled = targets[7:] + targets[6::-1]
    layout = plan_layout(feasible(), shuffled)
    assert [layout[target.name].position for target in targets] == list(range(12))
    assert layout == plan_layout(feasible(), targets)


def test_list_positions_are_not_part_of_the_type():
    targets = [Target(name=f"blocks.{i}.mlp.{j}", in_features=8, out_features=8) for i in range(3) for j in (0, 2)]
    assert {slot.group for slot in plan_layout(feasible(), targets).values()} == {"mlp_8x8"}
    root = [Target(name=str(i), in_features=8, out_features=8) for i in range(3)]
    assert {slot.group for slot in plan_layout(feasible(), root).values()} == {"module_8x8"}


def test_a_mapping_names_the_groups():
    targets = stack("q_proj", 3) + stack("o_proj", 3) + stack("k_proj", 3)
    layout = plan_layout(feasible(pool_by={"(q|o)_proj": "square", "k_proj": "key"}), targets)
    assert {slot.group: slot.num_modules for slot in layout.values()} == {"square": 6, "key": 3}


def test_module_type_alone_needs_equal_shapes():
    targets = [*stack("q_proj", 3), Target(name="head.q_proj", in_features=4, out_features=8)]
    with pytest.raises(ValueError, match=r"head\.q_proj.*'q_proj'.*equal dimensions.*module_type\+shape"):
        plan_layout(feasible(pool_by="module_type"), targets)
    assert {slot.group for slot in plan_layout(feasible(pool_by="module_type"), stack("q_proj", 3)).values()} == {
        "q_proj"
    }


def test_unknown_groups_are_errors():
    targets = stack("q_proj", 3)
    with pytest.raises(ValueError, match=r"'value'.*match none of the 3 targeted modules"):
        plan_layout(feasible(pool_by={"q_proj": "query", "v_proj": "value"}), targets)
    with pytest.raises(ValueError, match=r"no group for the targeted 'model\.layers\.0\.attn\.q_proj'"):
        plan_layout(feasible(pool_by={"v_proj": "value"}), targets)


def test_each_expert_is_a_module_of_its_group():
    targets = [
        Target(name=f"layers.{i}.mlp.experts.down_proj", in_features=8, out_features=4, num_experts=3)
        for i in range(2)
    ]
    layout = plan_layout(feasible(), targets)
    slots = [layout[target.name] for target in targets]
    assert [(slot.group, slot.position, slot.num_modules) for slot in slots] == [
        ("experts_down_proj_8x4", 0, 6),
        ("experts_down_proj_8x4", 3, 6),
    ]
    index = draw_slot(feasible(), slots[1])
    assert index.shape == (2, 3, 6)
    num_public = 1 * 6 * 2
    assert index[:, :, -2:].tolist() == [[[num_public + 2 * i, num_public + 2 * i + 1] for i in (3, 4, 5)]] * 2


def test_rank_pattern_sets_ranks_inside_a_group():
    layout = plan_layout(feasible(rank_pattern={r"layers\.1\.attn\.q_proj": 2}), stack("q_proj", 3))
    assert [slot.rank for slot in layout.values()] == [3, 2, 3]


@pytest.mark.parametrize(
    ("size", "num_shards", "nearest"), [(12, 5, 4), (12, 8, 6), (100, 3, 2), (7, 4, 1), (96, 5, 4)]
)
def test_indivisible_dimensions_name_the_nearest_number_of_shards(size, num_shards, nearest):
    targets = [Target(name=f"{i}.up", in_features=size, out_features=size) for i in range(3)]
    with pytest.raises(
        ValueError, match=rf"num_shards={num_shards} .*in_features={size} of '0\.up'.*num_shards={nearest},"
    ):
        plan_layout(feasible(num_shards=num_shards), targets)
    plan_layout(feasible(num_shards=nearest), targets)


def test_the_default_on_four_layers_names_the_smallest_change():
    targets = stack("q_proj", 4)
    with pytest.raises(ValueError, match=r"r=16 of group 'q_proj_8x8'.*r to at most 5.*equivalent_rank to at least 5"):
        plan_layout(MosConfig(), targets)
    plan_layout(MosConfig(r=5), targets)
    plan_layout(MosConfig(equivalent_rank=5), targets)
    for too_much in (MosConfig(r=6), MosConfig(equivalent_rank=4)):
        with pytest.raises(ValueError, match="is too large"):
            plan_layout(too_much, targets)
    plan_layout(MosConfig(), stack("q_proj", 15))


def test_the_remedy_serves_all_groups():
    targets = stack("q_proj", 8) + stack("k_proj", 2, out_features=4)
    with pytest.raises(ValueError, match=r"group 'k_proj_8x4'.*r to at most 3"):
        plan_layout(MosConfig(num_shards=2), targets)
    plan_layout(MosConfig(num_shards=2, r=3), targets)


def test_all_private_needs_equal_ranks():
    plan_layout(MosConfig(r=2, equivalent_rank=2, private_rank=2), stack("q_proj", 1))
    with pytest.raises(ValueError, match="r=3 of group"):
        plan_layout(MosConfig(r=3, equivalent_rank=2, private_rank=2), stack("q_proj", 4))


def test_pure_sharing_uses_every_shard_everywhere():
    targets = stack("q_proj", 3)
    config = MosConfig(r=6, equivalent_rank=2, private_rank=0, subset_selection=False)
    layout = plan_layout(config, targets)
    indices = [draw_slot(config, slot) for slot in layout.values()]
    assert all(torch.equal(index, indices[0]) for index in indices)
    assert indices[0][0].tolist() == list(range(6 * 4))
    with pytest.raises(ValueError, match=r"r=5 .*subset_selection=False.*r=6"):
        plan_layout(MosConfig(r=5, equivalent_rank=2, private_rank=0, subset_selection=False), targets)
