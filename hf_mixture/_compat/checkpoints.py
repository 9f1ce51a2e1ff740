"""What the Trainer of transformers leaves out when it resumes."""

from __future__ import annotations

from typing import Any

from transformers import PreTrainedModel
from transformers.conversion_mapping import get_model_conversion_mapping


def load_converted_weights(model: Any, checkpoint: str) -> None:
    """Read the weights of a checkpoint that are saved under other names than they have in the model.

    Stock mixtures of experts are: each expert by itself, as its family publishes it. The Trainer looks for the names
    of the model, and what it does not find keeps its value without a word: a resumed run would go on with experts that
    were never trained.

    Args:
        model: The model that the Trainer is about to resume; others than those of transformers are left alone.
        checkpoint: The folder of the checkpoint.
    """
    if isinstance(model, PreTrainedModel) and get_model_conversion_mapping(model, add_legacy=False):
        model.load_state_dict(type(model).from_pretrained(checkpoint).state_dict())
