"""Every two changes of one sparse model, in either order: they work together, or the second is refused in plain words.

Works: both have an effect, gradients are finite, and what is saved and loaded again computes the same.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel, get_peft_model
from torch import Tensor
from transformers import AutoModelForCausalLM, Qwen3MoeConfig, Qwen3MoeForCausalLM

from hf_mixture import ExpertEdit, ExpertEdits, MosConfig, MwqConfig, quantise_experts, replace_routers, tune_experts


TOKENS = torch.arange(24).reshape(2, 12)
EDITS = ExpertEdits([ExpertEdit("model.layers.0.mlp.gate", 1, "off"), ExpertEdit("model.layers.1.mlp.gate", 2, "off")])
EXPERTS = ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]


@dataclass(frozen=True)
class Change:
    """One change of a model.

    Args:
        apply: Makes it, and returns the model to go on with.
        saved: Whether `save_pretrained` of the model keeps it; else it is made again after loading.
    """

    apply: Callable[[Any], Any]
    saved: bool = False


def adapt(model: Any, **where: Any) -> PeftModel:
    torch.manual_seed(1)
    return get_peft_model(model, MosConfig(r=2, init_weights=False, **where)).eval()


def in_place(change: Callable[[Any], Any]) -> Callable[[Any], Any]:
    def apply(model: Any) -> Any:
        change(model)
        return model

    return apply


CHANGES = {
    "MoS": Change(lambda model: adapt(model, target_modules=["q_proj", "v_proj"])),
    "MoS on experts": Change(lambda model: adapt(model, target_modules=[], target_parameters=EXPERTS)),
    "mwq": Change(in_place(lambda model: quantise_experts(model, MwqConfig(group_size=16))), saved=True),
    "mwq of all": Change(
        in_place(lambda model: quantise_experts(model, MwqConfig(group_size=16, linears=True))), saved=True
    ),
    "MoTE": Change(in_place(lambda model: tune_experts(model, EDITS, check_fingerprint=False))),
    "router": Change(in_place(lambda model: replace_routers(model, "sigmoid_bias")), saved=True),
    "compile": Change(lambda model: torch.compile(model, backend="eager")),
}
REFUSED = {
    ("MoS", "MoS on experts"): None,
    ("MoS on experts", "MoS"): None,
    ("MoS on experts", "mwq"): "adapters are attached to the weights of the experts",
    ("MoS on experts", "mwq of all"): "adapters are attached to the weights of the experts",
    ("mwq", "MoS on experts"): "target_parameters",
    ("mwq of all", "MoS on experts"): "target_parameters",
    ("mwq", "mwq of all"): "is quantised already; quantise the full-precision checkpoint instead",
    ("mwq of all", "mwq"): "is quantised already; quantise the full-precision checkpoint instead",
    ("MoTE", "router"): r"untune_experts\(model\), and tune the experts again afterwards",
    ("compile", "MoS"): "the base model is compiled",
    ("compile", "MoS on experts"): "the base model is compiled",
    ("compile", "mwq"): "quantise before torch.compile",
    ("compile", "mwq of all"): "quantise before torch.compile",
    ("compile", "MoTE"): "call tune_experts before torch.compile",
}
# Two adapters of one model are two names of one PeftModel, which PEFT's own tests cover.
PAIRS = [
    # Tracing takes seconds, that of planes half a minute.
    pytest.param(pair, marks=pytest.mark.slow) if pair[0] not in ("router", "MoTE") and pair[1] == "compile" else pair
    for pair in itertools.permutations(CHANGES, 2)
    if REFUSED.get(pair, "") is not None
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    config = Qwen3MoeConfig(
        vocab_size=96,
        hidden_size=32,
        intermediate_size=32,
        moe_intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        num_experts=8,
        num_experts_per_tok=2,
    )
    path = tmp_path_factory.mktemp("base")
    Qwen3MoeForCausalLM(config).save_pretrained(path)
    return path


def load(folder: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(folder).eval()


def logits(model: Any) -> Tensor:
    with torch.no_grad():
        return model(input_ids=TOKENS).logits


def reload(model: Any, pair: tuple[str, ...], folder: Path, base: Path) -> Any:
    """Save what can be saved, load it, and make the other changes again; compiling changes no result."""
    model.save_pretrained(folder)
    pair = tuple(name for name in pair if name != "compile")
    if any(name.startswith("MoS") for name in pair):
        loaded = load(base)
        for name in pair:
            if not name.startswith("MoS"):
                loaded = CHANGES[name].apply(loaded)
        return PeftModel.from_pretrained(loaded, folder).eval()
    loaded = load(folder)
    for name in pair:
        if not CHANGES[name].saved:
            loaded = CHANGES[name].apply(loaded)
    return loaded


@pytest.mark.parametrize("pair", PAIRS, ids=" then ".join)
def test_two_changes(pair: tuple[str, str], folder: Path, tmp_path: Path) -> None:
    first, second = (CHANGES[name].apply for name in pair)
    model = first(load(folder))
    before = logits(model)
    if pair in REFUSED:
        with pytest.raises(ValueError, match=REFUSED[pair]):
            second(model)
        assert torch.equal(logits(model), before)
        return
    model = second(model)
    after = logits(model)
    assert torch.equal(after, before) == (pair[1] == "compile")
    model.train()
    model(input_ids=TOKENS, labels=TOKENS).loss.backward()
    gradients = [parameter.grad for parameter in model.parameters() if parameter.requires_grad]
    assert gradients
    assert all(gradient is not None and torch.isfinite(gradient).all() for gradient in gradients)
    model.eval()
    assert torch.equal(logits(reload(model, pair, tmp_path, folder)), after)
