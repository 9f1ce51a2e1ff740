"""The methods of transformers in which models get their modules and their initial weights."""

from __future__ import annotations

import inspect

import pytest
import torch
from torch import nn
from transformers import MixtralConfig, MixtralForCausalLM, MixtralModel, PreTrainedModel

from hf_mixture._compat.model_init import before_weights, initial_std, initialise_own_modules, keep_float32


@pytest.fixture
def restored(monkeypatch):
    """Give the two methods back as they were."""
    for name in ("post_init", "_initialize_weights"):
        monkeypatch.setattr(PreTrainedModel, name, getattr(PreTrainedModel, name))


def tiny_config(**overrides):
    return MixtralConfig(
        vocab_size=16,
        hidden_size=8,
        intermediate_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        num_local_experts=4,
        **overrides,
    )


def own(function):
    return getattr(function, "__wrapped__", function)


def test_the_methods_are_what_they_were():
    assert list(inspect.signature(own(PreTrainedModel.post_init)).parameters) == ["self"]
    parameters = list(inspect.signature(own(PreTrainedModel._initialize_weights)).parameters)
    assert parameters[:2] == ["self", "module"]
    assert "_is_hf_initialized" in inspect.getsource(own(PreTrainedModel._initialize_weights))
    assert "init_weights" in inspect.getsource(own(PreTrainedModel.post_init))
    assert "_initialize_weights" in inspect.getsource(PreTrainedModel.initialize_weights)
    assert "_keep_in_fp32_modules_strict" in inspect.getsource(PreTrainedModel._get_dtype_plan)


def test_the_function_runs_before_any_weight_is_drawn_inner_models_first(restored):
    seen = []

    def prepare(model):
        gates = [module for module in model.modules() if type(module).__name__ == "MixtralTopKRouter"]
        drawn = any(getattr(gate, "_is_hf_initialized", False) for gate in gates)
        seen.append((type(model), drawn))

    before_weights(prepare)
    MixtralForCausalLM(tiny_config())
    assert seen == [(MixtralModel, False), (MixtralForCausalLM, True)]
    before_weights(lambda model: None)  # replaces, and does not add to
    MixtralForCausalLM(tiny_config())
    assert len(seen) == 2


class Own(nn.Module):
    initialises_itself = True

    def __init__(self):
        super().__init__()
        self.first = nn.Parameter(torch.empty(4))
        self.second = nn.Parameter(torch.empty(4))

    def reset_parameters(self, std):
        nn.init.constant_(self.first, std)
        nn.init.constant_(self.second, -std)


def test_modules_that_initialise_themselves_do_so_also_where_a_file_lacks_their_weights(restored, tmp_path):
    def prepare(model):
        if isinstance(model, MixtralModel):
            model.own = Own()

    config = tiny_config(initializer_range=0.25)
    MixtralForCausalLM(config).save_pretrained(tmp_path)
    before_weights(prepare)
    initialise_own_modules()
    initialise_own_modules()
    model = MixtralForCausalLM(config)
    assert model.model.own.first.tolist() == [0.25] * 4
    # The file has none of its weights, and then one of them.
    loaded = MixtralForCausalLM.from_pretrained(tmp_path)
    assert loaded.model.own.second.tolist() == [-0.25] * 4
    state = {name: tensor for name, tensor in model.state_dict().items() if not name.endswith("own.second")}
    state["model.own.first"] = torch.full((4,), 7.0)
    loaded = MixtralForCausalLM.from_pretrained(None, config=config, state_dict=state)
    assert loaded.model.own.first.tolist() == [7.0] * 4
    assert loaded.model.own.second.tolist() == [-0.25] * 4


def test_named_tensors_stay_in_float32(restored, tmp_path):
    def prepare(model):
        if isinstance(model, MixtralModel):
            model.own = Own()
            keep_float32(model, ("second",))

    before_weights(prepare)
    initialise_own_modules()
    MixtralForCausalLM(tiny_config()).save_pretrained(tmp_path)
    loaded = MixtralForCausalLM.from_pretrained(tmp_path, dtype=torch.bfloat16)
    assert loaded.model.own.first.dtype == torch.bfloat16
    assert loaded.model.own.second.dtype == torch.float32


def test_the_standard_deviation_is_that_of_the_configuration():
    assert initial_std(MixtralModel(tiny_config(initializer_range=0.5))) == 0.5
