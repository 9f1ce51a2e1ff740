"""The sparse model of the recipe, and what of it is trained."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hf_mixture.training.mote.recipe import MoteRecipe


def new_model(recipe: MoteRecipe, tokenizer: Any) -> Any:
    """The sparse model with new weights."""
    from transformers import CONFIG_MAPPING, AutoModelForCausalLM

    fields = dict(recipe.model)
    config_cls = CONFIG_MAPPING[fields.pop("model_type")]
    ids = {name: getattr(tokenizer, name) for name in ("pad_token_id", "bos_token_id", "eos_token_id")}
    return AutoModelForCausalLM.from_config(config_cls(vocab_size=len(tokenizer), **ids, **fields))


def freeze_all_but(model: Any, parts: Sequence[str]) -> None:
    """Freeze all parameters but those with one of the parts in their names.

    Raises:
        ValueError: If a part is in no name.
    """
    names = [name for name, _ in model.named_parameters()]
    for part in parts:
        if not any(part in name for name in names):
            raise ValueError(f"trained has {part!r}, which is in no name of a parameter, such as {names[-2]!r}")
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(any(part in name for part in parts))
