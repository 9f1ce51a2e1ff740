"""What the router knows of a prompt: mean states of a frozen encoder, or of the first expert after its first stack.

Letters: B rows, T tokens, F features.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

from hf_mixture.models.mixture_of_thoughts.interplay import call
from hf_mixture.models.mixture_of_thoughts.thinking import EndOfReading, FirstStackRun, active


if TYPE_CHECKING:
    from hf_mixture.models.mixture_of_thoughts.modeling_mixture_of_thoughts import MixtureOfThoughtsForCausalLM


@torch.no_grad()
def prompt_features(model: MixtureOfThoughtsForCausalLM, encoder_inputs: Mapping[str, Tensor]) -> Tensor:
    """Features of prompts, without gradient.

    Args:
        model: The mixture.
        encoder_inputs: `input_ids` and `attention_mask` of the prompts [B, T].

    Returns:
        Means over the tokens of each prompt [B, F], in float32.
    """
    mask = encoder_inputs["attention_mask"]
    if model.prompt_encoder is None:
        states = _states_of_first(model, encoder_inputs)
    else:
        device = model.prompt_encoder.device
        output = model.prompt_encoder(**{name: value.to(device) for name, value in encoder_inputs.items()})
        states = output.last_hidden_state.float()
    weights = mask.to(states.device, states.dtype).unsqueeze(-1)
    return (states * weights).sum(1) / weights.sum(1).clamp(min=1)


def _states_of_first(model: MixtureOfThoughtsForCausalLM, encoder_inputs: Mapping[str, Tensor]) -> Tensor:
    """Normalised states of the first expert after its first stack [B, T, F]; the rest of it need not run."""
    run = FirstStackRun(0)
    with active(model.mixture_id, run), contextlib.suppress(EndOfReading):
        output = call(model.experts[0].base_model, encoder_inputs)
        # With one stack nobody listens.
        run.states = output.last_hidden_state
    assert run.states is not None  # noqa: S101 - one of the two has set it
    # A few features of a residual stream may be a thousand times the others.
    return F.layer_norm(run.states.float(), run.states.shape[-1:])
