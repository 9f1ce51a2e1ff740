"""Every mixture-of-experts family of the installed transformers as a tiny random model, found by its code.

A family is a model type, e.g. "qwen3_moe". Composite families ("gemma4") stand beside their
text model ("gemma4_text").
"""

import contextlib
import dataclasses
import functools
import importlib
import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
import transformers
from moe_family_configs import BROKEN, BY_MODEL_TYPE, EXCEPTIONS, SHARED, SYNONYMS, TOWER, UNMAPPED
from transformers.models.auto import modeling_auto
from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES, model_type_to_module_name


_MODEL_MAPPINGS = (
    modeling_auto.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES,
    modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    modeling_auto.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES,
    modeling_auto.MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING_NAMES,
)
_TOWER_CLASS = re.compile("Vision|Audio|Sam|Encoder|Code2Wav")
_SELECTION_BIAS = re.compile(r"(correction|expert|balancing)_bias(es)?$")


@dataclasses.dataclass
class TinyMoe:
    """A tiny model of one family and the keyword arguments of one forward of it."""

    model: transformers.PreTrainedModel
    inputs: dict[str, torch.Tensor]
    family: str


@functools.cache
def find_packages_with_experts() -> frozenset[str]:
    """The packages below transformers.models whose modelling code speaks of experts."""
    models = Path(transformers.__file__).parent / "models"
    paths = models.glob("*/modeling_*.py")
    return frozenset(path.parent.name for path in paths if "expert" in path.read_text(encoding="utf-8").lower())


@functools.cache
def _classes() -> dict[str, tuple[str, str]]:
    """The package below transformers.models and the name of the model class of each family."""
    modules = find_packages_with_experts() - set(EXCEPTIONS)
    classes = dict(UNMAPPED)
    for family in CONFIG_MAPPING_NAMES:
        names = [mapping[family] for mapping in _MODEL_MAPPINGS if family in mapping]
        if names and model_type_to_module_name(family) in modules:
            classes[family] = model_type_to_module_name(family), names[0]
    return classes


MOE_FAMILIES: tuple[str, ...] = tuple(sorted(_classes().keys() - BROKEN))


def module_of(family: str) -> ModuleType:
    """The modelling module of transformers that holds a family."""
    package, _ = _classes()[family]
    return importlib.import_module(f"transformers.models.{package}.modeling_{package}")


def build_tiny_moe(family: str, *, seed: int = 0, **overrides: Any) -> TinyMoe:
    """Build a family on the CPU in fp32 and eval mode, with random routers and selection biases and finite weights.

    Args:
        family: A name in MOE_FAMILIES.
        seed: Seed of every random value.
        overrides: Fields of the text configurations, set where a family has them. `num_experts` and `top_k` stand for
            the name that the family uses.

    Returns:
        The model, and deterministic text inputs: 2 rows of 9 tokens, of which the second begins with 2 of padding.
    """
    for name, synonyms in SYNONYMS.items():
        if name in overrides:
            overrides |= dict.fromkeys(synonyms, overrides[name])
    model_class = getattr(module_of(family), _classes()[family][1])
    config = model_class.config_class(**_config_values(model_class.config_class, family, overrides))
    with torch.random.fork_rng(devices=[]), _uninitialised_memory_is_nan():
        torch.manual_seed(seed)
        model = model_class(config).eval()
        for name, tensor in model.state_dict().items():
            if tensor.is_floating_point():
                _randomise(name, tensor)
            elif name.endswith("tid2eid"):
                # The hash layers of DeepSeek-V4: a table of K distinct experts for each token id.
                tensor.copy_(torch.rand(len(tensor), config.n_routed_experts).topk(tensor.shape[1]).indices)
    return TinyMoe(model, _text_inputs(model), family)


def _config_values(
    config_class: type[transformers.PreTrainedConfig], model_type: str, overrides: dict[str, Any]
) -> dict[str, Any]:
    """Tiny values of the fields of a configuration class and of the configurations inside it."""
    is_tower = _TOWER_CLASS.search(config_class.__name__)
    shared, overriding = (TOWER, {}) if is_tower else (SHARED, overrides)
    fields = {field.name for field in dataclasses.fields(config_class)}
    values = {name: value for name, value in shared.items() if name in fields}
    values |= BY_MODEL_TYPE.get(model_type, {})
    values |= {name: value for name, value in overriding.items() if name in fields}
    default = config_class()
    for name in config_class.sub_configs:
        part = getattr(default, name)
        if part is not None:
            inner = _config_values(type(part), part.model_type, overrides)
            values[name] = {"model_type": part.model_type} | inner | values.get(name, {})
    return values


@contextlib.contextmanager
def _uninitialised_memory_is_nan() -> Iterator[None]:
    """Deterministic mode fills `torch.empty` with NaN, which shows what an initialiser leaves out."""
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


def _randomise(name: str, tensor: torch.Tensor) -> None:
    """Draw what is not initialised, and make constants random: zero routers and biases would hide every mistake."""
    if _SELECTION_BIAS.search(name):
        # Scores spread by about 0.1, so that both they and the bias decide.
        tensor.normal_(std=0.05)
    elif tensor.isnan().any():
        tensor.normal_(std=0.2)
    elif tensor.min() == tensor.max():
        tensor.add_(torch.randn_like(tensor), alpha=0.2)


def _text_inputs(model: transformers.PreTrainedModel) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    input_ids, decoder_input_ids = torch.randint(5, 60, (2, 2, 9), generator=generator)
    attention_mask = torch.ones_like(input_ids)
    attention_mask[1, :2] = 0
    inputs = {"input_ids": input_ids, "attention_mask": attention_mask}
    if model.config.is_encoder_decoder:
        inputs["decoder_input_ids"] = decoder_input_ids
    if "talker_input_ids" in inspect.signature(model.forward).parameters:
        # A talker ignores input_ids: it reads embeddings of text and codes summed.
        inputs["inputs_embeds"] = model.get_input_embeddings()(input_ids).detach()
    return inputs
