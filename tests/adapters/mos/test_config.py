from __future__ import annotations

import copy
import json
import pickle

import pytest
from peft import PeftConfig, PeftType

from hf_mixture import MosConfig


def test_defaults_are_those_of_the_documentation():
    config = MosConfig()
    assert (config.r, config.equivalent_rank, config.private_rank, config.num_shards) == (16, 2, 1, 4)
    assert (config.mos_alpha, config.mos_dropout, config.pool_by) == (16, 0.0, "module_type+shape")
    assert config.save_indices
    assert config.subset_selection
    assert config.pair_dissociation
    assert config.init_weights
    assert config.bias == "none"
    assert config.peft_type is PeftType.MOS


def test_survives_json(tmp_path):
    config = MosConfig(
        r=3,
        target_modules=["q_proj", "v_proj"],
        exclude_modules=["layers.0.q_proj"],
        pool_by={"q_proj|v_proj": "qv"},
        rank_pattern={"v_proj": 2},
        layers_to_transform=[0, 1],
        modules_to_save=["lm_head"],
        index_seed=7,
    )
    config.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "adapter_config.json").read_text())["peft_type"] == "MOS"
    for loaded in (PeftConfig.from_pretrained(tmp_path), MosConfig.from_pretrained(tmp_path)):
        assert isinstance(loaded, MosConfig)
        assert loaded == config
        assert loaded.target_modules == {"q_proj", "v_proj"}
        assert loaded.peft_type is PeftType.MOS


def through_pickle(value):
    return pickle.loads(pickle.dumps(value))  # noqa: S301 - our own bytes


@pytest.mark.parametrize("duplicate", [copy.deepcopy, through_pickle])
def test_survives_copies(duplicate):
    config = MosConfig(target_modules=["q_proj"])
    assert duplicate(config) == config
    assert duplicate(config).peft_type is PeftType.MOS


def test_a_field_of_a_later_version_is_ignored_with_a_warning(tmp_path):
    MosConfig().save_pretrained(tmp_path)
    path = tmp_path / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "field_of_the_future": 1}))
    with pytest.warns(UserWarning, match="field_of_the_future"):
        assert PeftConfig.from_pretrained(tmp_path).r == 16


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        ({"r": 0}, ["r=0", "at least 1"]),
        ({"r": 2.0}, ["r=2.0", "integer"]),
        ({"equivalent_rank": True}, ["equivalent_rank=True", "integer"]),
        ({"num_shards": 0}, ["num_shards=0", "at least 1"]),
        ({"rank_pattern": {"q_proj": 0}}, ["rank_pattern['q_proj']=0"]),
        ({"private_rank": 3}, ["private_rank=3", "[0, 2]", "lower private_rank"]),
        ({"private_rank": -1}, ["private_rank=-1"]),
        ({"r": 1, "private_rank": 2}, ["r=1", "private_rank=2"]),
        ({"index_seed": "0"}, ["index_seed='0'", "integer"]),
        ({"mos_dropout": 1.0}, ["mos_dropout=1.0", "[0, 1)"]),
        ({"mos_dropout": "0.1"}, ["mos_dropout='0.1'", "[0, 1)"]),
        ({"mos_alpha": "16"}, ["mos_alpha='16'", "finite number"]),
        ({"mos_alpha": float("nan")}, ["mos_alpha=nan", "finite number"]),
        ({"base_model_name_or_path": True}, ["base_model_name_or_path=True", "string"]),
        ({"revision": 1}, ["revision=1", "string"]),
        ({"save_indices": None}, ["save_indices=None", "true or false"]),
        ({"modules_to_save": [None]}, ["modules_to_save=[None]", "list of names"]),
        ({"target_modules": {"q_proj": 1}}, ["target_modules={'q_proj': 1}", "list of names"]),
        ({"layers_to_transform": ["0"]}, ["layers_to_transform=['0']", "list of integers"]),
        ({"rank_pattern": None}, ["rank_pattern=None", "mapping"]),
        ({"bias": "all"}, ["bias='all'", "modules_to_save"]),
        ({"pool_by": "layer"}, ["pool_by='layer'", "module_type+shape"]),
        ({"pool_by": {"q_proj": "a.b"}}, ["'a.b'", "without '.'"]),
        ({"pool_by": {"q_proj": "mos_q"}}, ["'mos_q'", "'mos_'"]),
        ({"layers_pattern": "layers"}, ["layers_pattern='layers'", "layers_to_transform"]),
        ({"target_modules": ".*q_proj", "layers_to_transform": [0]}, ["layers_to_transform=[0]", "'.*q_proj'"]),
        ({"target_modules": "all-linear", "layers_to_transform": [0]}, ["layers_to_transform=[0]", "list the names"]),
        ({"target_parameters": "experts.down_proj"}, ["target_parameters='experts.down_proj'", "list"]),
        ({"target_parameters": ["a.b"], "mos_dropout": 0.1}, ["mos_dropout=0.1", "target_parameters"]),
        ({"target_parameters": ["a.b"], "fan_in_fan_out": True}, ["fan_in_fan_out=True"]),
    ],
)
def test_wrong_values_name_value_and_rule(changes, parts):
    with pytest.raises(ValueError) as error:
        MosConfig(**changes)
    for part in parts:
        assert part in str(error.value)
