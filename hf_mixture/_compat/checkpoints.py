"""What the Trainer of transformers leaves out when it resumes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
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


def load_rest_of_checkpoint(trainer: Any) -> None:
    """Let a Trainer resume a nested model: what is not quantised is read, and the planes stay as they are.

    The Trainer knows checkpoints by the file names of transformers, which nested models do not use.

    Args:
        trainer: A Trainer of a nested model; this object alone is changed.
    """

    def load(resume_from_checkpoint: str, model: Any = None) -> None:
        files = sorted(Path(resume_from_checkpoint).glob("mwq-rest*.safetensors"))
        if not files:
            raise ValueError(
                f"{resume_from_checkpoint} holds no checkpoint of a nested model; name a folder that this training "
                "has saved"
            )
        try:
            state = {name: tensor for file in files for name, tensor in load_file(file).items()}
        except SafetensorError as error:
            raise ValueError(
                f"a file of {resume_from_checkpoint} is truncated or damaged ({error}); resume from an earlier "
                "checkpoint"
            ) from error
        (trainer.model if model is None else model).load_state_dict(state, strict=False)

    trainer._load_from_checkpoint = load
