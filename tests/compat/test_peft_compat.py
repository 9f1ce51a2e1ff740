from __future__ import annotations

import copy
import importlib
import inspect
import json
import pickle

import peft
import pytest
import torch
from peft import PeftConfig, PeftModel, PeftType, mapping
from peft.tuners import tuners_utils
from peft.utils import save_and_load
from torch import nn
from transformers.integrations.peft import PeftAdapterMixin

import hf_mixture
from hf_mixture import MosConfig, MosModel, plugin
from hf_mixture._compat import loading
from hf_mixture._compat import peft as compat


TABLES = (
    mapping.PEFT_TYPE_TO_CONFIG_MAPPING,
    mapping.PEFT_TYPE_TO_TUNER_MAPPING,
    mapping.PEFT_TYPE_TO_PREFIX_MAPPING,
    mapping.PEFT_TYPE_TO_MIXED_MODEL_MAPPING,
)


def tables() -> list[dict]:
    return [dict(table) for table in TABLES]


@pytest.fixture
def _restored():
    """Takes out of PEFT what a test registers."""
    members, saved = list(PeftType._member_names_), tables()
    yield
    for name in set(PeftType._member_names_) - set(members):
        PeftType._member_names_.remove(name)
        type.__delattr__(PeftType, name)
        PeftType._value2member_map_.pop(PeftType._member_map_.pop(name))
    for table, entries in zip(TABLES, saved, strict=True):
        table.clear()
        table.update(entries)


def test_the_member_is_a_full_enum_member():
    member = PeftType.MOS
    assert PeftType("MOS") is PeftType["MOS"] is member
    assert isinstance(member, PeftType)
    assert (member.name, member.value) == ("MOS", "MOS")
    assert member in list(PeftType)
    assert "MOS" in PeftType.__members__
    assert hash(member) == hash("MOS")
    assert pickle.loads(pickle.dumps(member)) is copy.deepcopy(member) is member  # noqa: S301 - our own bytes
    assert json.dumps({"peft_type": member}) == '{"peft_type": "MOS"}'
    with pytest.raises(ValueError, match="NOT_A_TYPE"):
        PeftType("NOT_A_TYPE")


def test_the_member_is_complete_in_the_tables():
    assert mapping.PEFT_TYPE_TO_CONFIG_MAPPING["MOS"] is MosConfig
    assert mapping.PEFT_TYPE_TO_TUNER_MAPPING[PeftType.MOS] is MosModel
    assert mapping.PEFT_TYPE_TO_PREFIX_MAPPING[PeftType.MOS] == "mos_"


def test_registering_again_changes_nothing():
    before, members = tables(), list(PeftType)
    functions = PeftModel.__dict__["from_pretrained"].__func__, PeftModel.load_adapter, PeftAdapterMixin.load_adapter
    plugin.register_all()
    importlib.reload(plugin).register_all()
    importlib.reload(hf_mixture)
    assert (tables(), list(PeftType)) == (before, members)
    again = PeftModel.__dict__["from_pretrained"].__func__, PeftModel.load_adapter, PeftAdapterMixin.load_adapter
    assert [f.__wrapped__ for f in again] == [f.__wrapped__ for f in functions]
    assert not any(hasattr(f.__wrapped__, "__wrapped__") for f in again[1:])


@pytest.mark.usefixtures("_restored")
def test_reloaded_classes_take_the_place_of_the_old_ones():
    class Config(PeftConfig):
        pass

    class Model(nn.Module):
        prefix = "mostest_"

    compat.register_adapter("mostest", config_cls=Config, model_cls=Model)
    old = Config

    class Config(PeftConfig):
        pass

    compat.register_adapter("mostest", config_cls=Config, model_cls=Model)
    assert mapping.PEFT_TYPE_TO_CONFIG_MAPPING["MOSTEST"] is Config is not old


@pytest.mark.usefixtures("_restored")
def test_a_type_of_somebody_else_is_left_alone():
    before, members = tables(), list(PeftType)
    with pytest.raises(ValueError, match=r"'LORA', which belongs to peft\.tuners\.lora\.config\.LoraConfig"):
        compat.register_adapter("lora", config_cls=MosConfig, model_cls=MosModel)
    assert (tables(), list(PeftType)) == (before, members)
    compat._add_member("MOSTEST")
    with pytest.raises(ValueError, match="'MOSTEST', which belongs to another package"):
        compat.register_adapter("mostest", config_cls=MosConfig, model_cls=MosModel)
    assert tables() == before


def test_a_taken_prefix_is_refused_before_the_enum_changes():
    class Model(nn.Module):
        prefix = "lora_"

    before, members = tables(), list(PeftType)
    with pytest.raises(ValueError, match=r"prefix 'lora_' of .* must be 'mostest_' and free"):
        compat.register_adapter("mostest", config_cls=MosConfig, model_cls=Model)
    assert (tables(), list(PeftType)) == (before, members)


def test_peft_has_no_type_of_its_own_by_that_name():
    source = inspect.getsource(peft.utils.peft_types)
    assert '"MOS"' not in source, "PEFT has gained a MOS type; hf_mixture needs another name or has to hand over"


PARAMETERS = {
    tuners_utils.BaseTuner.inject_adapter: (
        ["self", "model", "adapter_name", "autocast_adapter_dtype", "low_cpu_mem_usage", "state_dict"]
    ),
    tuners_utils.BaseTuner._prepare_model: ["self", "peft_config", "model"],
    tuners_utils.BaseTuner._prepare_adapter_config: ["self", "peft_config", "model_config"],
    tuners_utils.BaseTuner._check_new_adapter_config: ["self", "config"],
    tuners_utils.BaseTuner._check_target_module_exists: ["peft_config", "key"],
    tuners_utils.BaseTuner._create_and_replace: (
        ["self", "peft_config", "adapter_name", "target", "target_name", "parent", "current_key", "parameter_name"]
    ),
    tuners_utils.BaseTuner._replace_module: ["self", "parent", "child_name", "new_module", "child"],
    tuners_utils.BaseTuner._mark_only_adapters_as_trainable: ["self", "model"],
    tuners_utils.BaseTuner._cast_adapter_dtype: ["self", "adapter_name", "autocast_adapter_dtype"],
    tuners_utils.BaseTuner._check_merge_allowed: ["self"],
    tuners_utils.BaseTuner._unload_and_optionally_merge: (
        ["self", "merge", "progressbar", "safe_merge", "adapter_names"]
    ),
    tuners_utils.BaseTuner._get_adapter_state_dict: (
        ["model", "config", "adapter_name", "state_dict", "unwanted_adapter_names"]
    ),
    tuners_utils.BaseTuner._remap_adapter_state_dict_for_load: ["model", "config", "adapter_name", "state_dict"],
    tuners_utils.BaseTunerLayer._move_adapter_to_device_of_base_layer: ["self", "adapter_name", "device"],
    tuners_utils.BaseTunerLayer._get_base_layer_device_and_dtype: ["self", "base_layer"],
    tuners_utils.BaseTunerLayer._cast_input_dtype: ["self", "x", "dtype"],
    tuners_utils.BaseTunerLayer.delete_adapter: ["self", "adapter_name"],
    tuners_utils.BaseTunerLayer.get_base_weight: ["self"],
    tuners_utils.BaseTunerLayer.set_base_weight: ["self", "weight_data"],
    compat.get_in_out_features: ["module"],
    compat.expand_all_linear: ["peft_config", "model"],
    compat.check_adapters_to_merge: ["module", "adapter_names"],
    compat.get_pattern_key: ["pattern_keys", "key_to_match"],
    compat.resolve_quantization_backend: ["base_layer", "kwargs"],
    compat.get_quantization_kwargs: ["model"],
    compat.quantization_extra_repr: ["module"],
    save_and_load._get_adapter_state_dict_key_prefixes: ["model"],
}


@pytest.mark.parametrize("function", PARAMETERS, ids=lambda function: function.__qualname__)
def test_private_functions_have_the_expected_parameters(function):
    assert list(inspect.signature(function).parameters) == PARAMETERS[function]


def test_layers_have_the_expected_parts():
    layer = tuners_utils.BaseTunerLayer
    assert (layer.adapter_layer_names, layer.other_param_names) == ((), ())
    assert not tuners_utils.BaseTuner.uses_shared_state
    assert {"MOS", "LORA"} <= set(PeftType.__members__)
    assert isinstance(compat.DUMMY_TARGET_MODULES, str)
    assert compat.DEFAULT_TARGET_MODULES["llama"] == ["q_proj", "v_proj"]
    buffers = compat.BufferDict(persistent=True)
    buffers["a"] = torch.zeros(1, dtype=torch.int32)
    assert list(buffers.state_dict()) == ["a"]
    assert buffers.to(torch.bfloat16)["a"].dtype == torch.int32


def test_linear_layers_with_adapters_are_recognised_by_class_name():
    source = inspect.getsource(compat.expand_all_linear)
    assert 'linear_names = ("Linear",)' in source
    assert '"ParamWrapper"' in inspect.getsource(tuners_utils.BaseTuner._inject_parameters)


def test_base_state_dict_functions_ask_for_the_prefixes():
    for function in (peft.get_base_model_state_dict, peft.set_base_model_state_dict):
        assert "_get_adapter_state_dict_key_prefixes(model)" in inspect.getsource(function)


@pytest.fixture
def _original_loading():
    before = (
        PeftModel.__dict__["from_pretrained"],
        PeftModel.load_adapter,
        PeftAdapterMixin.load_adapter,
    )
    yield
    PeftModel.from_pretrained, PeftModel.load_adapter, PeftAdapterMixin.load_adapter = before


@pytest.mark.usefixtures("_original_loading")
def test_the_check_sees_folder_and_model_of_every_route(mos_adapter):
    from transformers import AutoModelForCausalLM

    seen = []
    loaded = []
    loading.check_loading(
        lambda folder, model, config, prefix: seen.append((folder, model)),
        lambda model, adapter_name: loaded.append((model, adapter_name)),
    )
    base = AutoModelForCausalLM.from_pretrained(mos_adapter.parent / "base")
    model = PeftModel.from_pretrained(base, str(mos_adapter))
    model.load_adapter(str(mos_adapter), adapter_name="second")
    assert [(folder, found is base) for folder, found in seen] == [
        (str(mos_adapter), True),
        (str(mos_adapter), False),
        (str(mos_adapter), True),
    ]
    seen.clear()
    plain = AutoModelForCausalLM.from_pretrained(mos_adapter.parent / "base")
    plain.load_adapter(str(mos_adapter), adapter_kwargs={})
    assert seen == [(str(mos_adapter), plain)]
    plain.load_adapter(str(mos_adapter), "other")
    assert loaded == [(plain, "default"), (plain, "other")]


def test_transformers_notes_adapters_where_expected(mos_adapter):
    from transformers import AutoModelForCausalLM

    assert PeftAdapterMixin._hf_peft_config_loaded is False
    model = AutoModelForCausalLM.from_pretrained(mos_adapter)
    assert model._hf_peft_config_loaded is True
    assert list(model.peft_config) == ["default"]
    loading.forget_failed_adapter(model, "default")
    assert model._hf_peft_config_loaded is False
    assert model.peft_config == {}


def test_the_check_keeps_signatures():
    assert list(inspect.signature(PeftModel.load_adapter).parameters)[:3] == ["self", "model_id", "adapter_name"]
    assert list(inspect.signature(PeftModel.from_pretrained).parameters)[:2] == ["model", "model_id"]
    assert list(inspect.signature(PeftAdapterMixin.load_adapter).parameters)[:2] == ["self", "peft_model_id"]


def test_bitsandbytes_has_the_inverse_of_its_cpu_layout():
    functional = pytest.importorskip("bitsandbytes.functional")
    signature = inspect.signature(functional._convert_weight_packed_for_cpu_inverse)
    assert list(signature.parameters)[:2] == ["packed_weight", "quant_state"]
    assert "packing_format_for_cpu" in inspect.getsource(functional)


def test_bitsandbytes_asks_the_layer_whether_to_repack_for_the_cpu():
    nn = pytest.importorskip("bitsandbytes.nn")
    source = inspect.getsource(nn.Linear4bit.forward)
    assert "self.support_avx512bf16_for_cpu" in source
    assert hasattr(nn.Linear4bit(64, 64), "support_avx512bf16_for_cpu")
