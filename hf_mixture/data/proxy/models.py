"""The model of a proxy: freshly drawn weights, the same wherever it is built."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from hf_mixture.data.proxy.spec import ProxySpec


@contextmanager
def own_randomness() -> Iterator[None]:
    """Put back the random states of Python, NumPy and torch afterwards."""
    python, numpy = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng():
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)


def build_config(spec: ProxySpec) -> Any:
    """Return the configuration of the model.

    Raises:
        ValueError: transformers knows no causal language model of this type, or refuses a field.
    """
    from huggingface_hub.errors import StrictDataclassError
    from transformers import AutoConfig
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    fields = dict(spec.model)
    model_type = fields.pop("model_type")
    if model_type not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        raise ValueError(
            f"model_type={model_type!r} is no causal language model of transformers; proxies are trained on "
            "next-token prediction: choose one such as 'llama' or 'gpt2'"
        )
    try:
        return AutoConfig.for_model(model_type, **fields)
    except (StrictDataclassError, TypeError, ValueError) as error:
        raise ValueError(f"model={dict(spec.model)!r} is refused by transformers: {error}; correct it") from error


def build_model(spec: ProxySpec) -> Any:
    """Return the model in float32 with the weights that `spec.seed` draws, on the CPU.

    Raises:
        ValueError: As `build_config`, or the fields do not fit together.
    """
    from transformers import AutoModelForCausalLM

    config = build_config(spec)
    with own_randomness():
        torch.manual_seed(spec.seed)
        try:
            return AutoModelForCausalLM.from_config(config, dtype=torch.float32)
        except (AssertionError, RuntimeError, ValueError) as error:
            raise ValueError(f"model={dict(spec.model)!r} cannot be built: {error}; correct its fields") from error


def check_tokens(input_ids: torch.Tensor, vocab_size: int, what: str) -> None:
    """Refuse token ids outside the vocabulary.

    Raises:
        ValueError: A token id is outside.
    """
    low, high = (int(value) for value in torch.aminmax(input_ids))
    if low < 0 or high >= vocab_size:
        raise ValueError(
            f"{what} has token ids from {low} to {high}; the model has the vocabulary 0 to {vocab_size - 1}: raise "
            "vocab_size of the model, or use the tokenizer that belongs to it"
        )


def mean_loss(losses: Mapping[str, float]) -> dict[str, float]:
    """Return metrics of a run: `loss/<domain>` for each domain, and `loss/mean`, their unweighted mean."""
    metrics = {f"loss/{name}": float(loss) for name, loss in losses.items()}
    return {**metrics, "loss/mean": float(np.mean(list(metrics.values())))}
