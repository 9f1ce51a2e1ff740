"""What two changes of one sparse model do together: they work, or the second is refused in plain words.

Works: both have an effect, gradients are finite, and what is saved and loaded again computes the same. The pairs, and
what became of them, are in `benchmarks/results/composition.json`, which `benchmarks/composition.py` writes.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, Qwen3MoeConfig, Qwen3MoeForCausalLM

from hf_mixture import ExpertEdit, ExpertEdits, MosConfig, MwqConfig, quantise_experts, replace_routers, tune_experts


TOKENS = torch.arange(24).reshape(2, 12)
EDITS = ExpertEdits([ExpertEdit("model.layers.0.mlp.gate", 1, "off"), ExpertEdit("model.layers.1.mlp.gate", 2, "off")])
EXPERTS = ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]
RESULTS = Path(__file__).parents[2] / "benchmarks" / "results" / "composition.json"
WORKS, REFUSED = "works", "refused"


@dataclass(frozen=True)
class Change:
    """One change of a model.

    Args:
        apply: Makes it, and returns the model to go on with. None for what is decided when the model is loaded.
        loading: Arguments of `from_pretrained`, for the latter.
        saved: Whether `save_pretrained` of the model keeps it; else it is made again after loading.
    """

    apply: Callable[[Any], Any] | None = None
    loading: dict[str, Any] = field(default_factory=dict)
    saved: bool = False


def adapt(model: Any, config: Any) -> PeftModel:
    torch.manual_seed(1)
    if isinstance(model, PeftModel):
        model.add_adapter("second", config)
        model.set_adapter("second")
        return model.eval()
    return get_peft_model(model, config).eval()


def in_place(change: Callable[[Any], Any]) -> Callable[[Any], Any]:
    def apply(model: Any) -> Any:
        change(model)
        return model

    return apply


def mos(**where: Any) -> MosConfig:
    return MosConfig(r=2, init_weights=False, **where)


CHANGES = {
    "bitsandbytes 4-bit": Change(
        loading={"quantization_config": BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4")}
    ),
    "bitsandbytes 8-bit": Change(loading={"quantization_config": BitsAndBytesConfig(load_in_8bit=True)}),
    "MoS": Change(lambda model: adapt(model, mos(target_modules=["q_proj", "v_proj"]))),
    "MoS on experts": Change(lambda model: adapt(model, mos(target_modules=[], target_parameters=EXPERTS))),
    "LoRA": Change(
        lambda model: adapt(model, LoraConfig(r=2, init_lora_weights=False, target_modules=["q_proj", "v_proj"]))
    ),
    "mwq": Change(in_place(lambda model: quantise_experts(model, MwqConfig(group_size=16))), saved=True),
    "mwq of all": Change(
        in_place(lambda model: quantise_experts(model, MwqConfig(group_size=16, linears=True))), saved=True
    ),
    "MoTE": Change(in_place(lambda model: tune_experts(model, EDITS, check_fingerprint=False))),
    "router": Change(in_place(lambda model: replace_routers(model, "sigmoid_bias")), saved=True),
    "compile": Change(lambda model: torch.compile(model, backend="eager")),
}
ADAPTERS = ("MoS", "MoS on experts", "LoRA")
# Features of other libraries: what two of them do together is for these to test.
STOCK = ("bitsandbytes 4-bit", "bitsandbytes 8-bit", "LoRA", "compile")


def all_pairs() -> list[tuple[str, str]]:
    """Every two changes of one process; what is decided when the model is loaded can only be the first.

    Two MoS adapters are two names of one `PeftModel`, which PEFT's own tests cover.
    """
    return [
        pair
        for pair in itertools.permutations(CHANGES, 2)
        if CHANGES[pair[1]].apply is not None
        and not set(pair) <= {"MoS", "MoS on experts"}
        and not set(pair) <= set(STOCK)
    ]


def make_base(folder: Path) -> Path:
    """Write a sparse model of two layers."""
    torch.manual_seed(0)
    config = Qwen3MoeConfig(
        vocab_size=96,
        hidden_size=64,
        intermediate_size=64,
        moe_intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        num_experts=8,
        num_experts_per_tok=2,
    )
    Qwen3MoeForCausalLM(config).save_pretrained(folder)
    return folder


def load(folder: Path, **loading: Any) -> Any:
    return AutoModelForCausalLM.from_pretrained(folder, **loading).eval()


def logits(model: Any) -> Tensor:
    with torch.no_grad():
        found: Tensor = model(input_ids=TOKENS).logits
    return found


def reload(model: Any, pair: tuple[str, ...], folder: Path, base: Path) -> Any:
    """Save what can be saved, load it, and make the other changes again; compiling changes no result."""
    model.save_pretrained(folder)
    loading = CHANGES[pair[0]].loading
    pair = tuple(name for name in pair if name != "compile" and CHANGES[name].apply is not None)
    if any(name in ADAPTERS for name in pair):
        loaded = load(base, **loading)
        for name in pair:
            if name not in ADAPTERS:
                loaded = CHANGES[name].apply(loaded)  # type: ignore[misc]
        return PeftModel.from_pretrained(loaded, folder).eval()
    loaded = load(folder)
    for name in pair:
        if not CHANGES[name].saved:
            loaded = CHANGES[name].apply(loaded)  # type: ignore[misc]
    return loaded


def check_gradients(model: Any) -> None:
    """Every parameter that is trained gets a finite gradient."""
    model.train()
    model(input_ids=TOKENS, labels=TOKENS).loss.backward()
    gradients = [parameter.grad for parameter in model.parameters() if parameter.requires_grad]
    assert gradients
    assert all(gradient is not None and torch.isfinite(gradient).all() for gradient in gradients)
    model.eval()


def observe(pair: tuple[str, str], base: Path, folder: Path) -> dict[str, str]:
    """Make both changes of a new model.

    Args:
        pair: Names of the changes, in their order.
        base: What `make_base` wrote.
        folder: An empty folder to save to.

    Returns:
        `outcome` and, of a refusal, what it `says`.

    Raises:
        AssertionError: If the changes neither work together nor is the second refused.
    """
    first, second = (CHANGES[name] for name in pair)
    model = load(base, **first.loading)
    if first.apply is not None:
        model = first.apply(model)
    before = logits(model)
    try:
        model = second.apply(model)  # type: ignore[misc]
    except (TypeError, ValueError) as error:
        assert torch.equal(logits(model), before), "a refusal has changed the model"
        return {"outcome": REFUSED, "says": " ".join(str(error).split())}
    after = logits(model)
    assert torch.equal(after, before) == (pair[1] == "compile"), "the second change has the wrong effect"
    if not first.loading or set(pair) & set(ADAPTERS):
        # What bitsandbytes has quantised is trained through adapters alone.
        check_gradients(model)
    assert torch.equal(logits(reload(model, pair, folder, base)), after), "saved and loaded, the model differs"
    return {"outcome": WORKS}


def recorded() -> dict[tuple[str, str], dict[str, str]]:
    """What `composition.json` says of each pair."""
    rows = json.loads(RESULTS.read_text(encoding="utf-8"))["rows"]
    return {(row["first"], row["second"]): row for row in rows}
