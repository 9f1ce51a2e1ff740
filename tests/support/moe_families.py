"""Every mixture-of-experts family of the installed transformers as a tiny random model, found by its code.

A family is a model type, e.g. "qwen3_moe". Composite families ("gemma4") stand beside their
text model ("gemma4_text").
"""

import contextlib
import dataclasses
import functools
import importlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import transformers
from moe_family_configs import BY_MODEL_TYPE, EXCEPTIONS, MODEL_CLASSES, SHARED, TOWER
from transformers.models.auto import modeling_auto
from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES, model_type_to_module_name


_MODEL_MAPPINGS = (
    modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    modeling_auto.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES,
    modeling_auto.MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING_NAMES,
)
_SIGNS_OF_EXPERTS = re.compile(r'"router_logits"|use_experts_implementation|top_k_index|num_experts')
_TOWER_CLASS = re.compile("Vision|Audio|Sam|Encoder|Code2Wav")
_SELECTION_BIAS = re.compile(r"(correction|expert|balancing)_bias(es)?$")


@dataclasses.dataclass
class TinyMoe:
    """A tiny model of one family and the keyword arguments of one forward of it."""

    model: transformers.PreTrainedModel
    inputs: dict[str, torch.Tensor]
    family: str


def find_moe_modules() -> set[str]:
    """The packages below transformers.models whose modelling code has a sign of a mixture of experts."""
    models = Path(transformers.__file__).parent / "models"
    return {path.parent.name for path in models.glob("*/modeling_*.py") if _SIGNS_OF_EXPERTS.search(path.read_text())}


def module_of(family: str) -> str:
    """The package below transformers.models that holds a family."""
    return model_type_to_module_name(family)


@functools.cache
def _model_names() -> dict[str, str]:
    """The name of the model class of each family, sorted by family."""
    modules = find_moe_modules() - set(EXCEPTIONS)
    names = {}
    for family in sorted(CONFIG_MAPPING_NAMES):
        mapped = [mapping[family] for mapping in _MODEL_MAPPINGS if family in mapping]
        if (
            f"{family}_text" not in CONFIG_MAPPING_NAMES
            and module_of(family) in modules
            and (mapped or family in MODEL_CLASSES)
        ):
            names[family] = MODEL_CLASSES.get(family) or mapped[0]
    return names


MOE_FAMILIES: tuple[str, ...] = tuple(_model_names())


def build_tiny_moe(family: str, *, seed: int = 0, **overrides: Any) -> TinyMoe:
    """Build a family on the CPU in fp32 and eval mode, with random routers and selection biases and finite weights.

    Args:
        family: A name in MOE_FAMILIES.
        seed: Seed of every random value.
        overrides: Fields of the text configurations, for the families that have them. A name of SHARED also sets its
            synonyms, as `num_experts=16` sets `n_routed_experts`.

    Returns:
        The model, and deterministic text inputs: 2 rows of 9 tokens, of which the second begins with 2 of padding.
    """
    package = module_of(family)
    module = importlib.import_module(f"transformers.models.{package}.modeling_{package}")
    model_class = getattr(module, _model_names()[family])
    config_class = transformers.models.auto.configuration_auto.CONFIG_MAPPING[family]
    config = config_class(**_config_values(config_class, overrides))
    with torch.random.fork_rng(devices=[]), _uninitialised_memory_is_nan():
        torch.manual_seed(seed)
        model = model_class(config).eval()
        for name, tensor in model.state_dict().items():
            if tensor.is_floating_point() and (
                _SELECTION_BIAS.search(name) or not tensor.any() or tensor.isnan().any()
            ):
                tensor.normal_(std=0.2)
    return TinyMoe(model, _text_inputs(config), family)


def _config_values(config_class: type[transformers.PreTrainedConfig], overrides: dict[str, Any]) -> dict[str, Any]:
    fields = {field.name for field in dataclasses.fields(config_class)}
    values = TOWER if _TOWER_CLASS.search(config_class.__name__) else SHARED | overrides
    own = {name: value for name, value in values.items() if name in fields} | BY_MODEL_TYPE.get(
        config_class.model_type, {}
    )
    nested = {
        name: _config_values(sub_class, overrides)
        for name, sub_class in config_class.sub_configs.items()
        if name not in own
    }
    return nested | own | {name: value for name, value in overrides.items() if name in fields and values is not TOWER}


@contextlib.contextmanager
def _uninitialised_memory_is_nan() -> Iterator[None]:
    """Deterministic mode fills `torch.empty` with NaN, which shows what an initialiser leaves out."""
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


def _text_inputs(config: transformers.PreTrainedConfig) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    input_ids, decoder_input_ids = torch.randint(5, 60, (2, 2, 9), generator=generator)
    attention_mask = torch.ones_like(input_ids)
    attention_mask[1, :2] = 0
    inputs = {"input_ids": input_ids, "attention_mask": attention_mask}
    return inputs | {"decoder_input_ids": decoder_input_ids} if config.is_encoder_decoder else inputs
