"""A mixture of Llama and Qwen3 experts, layer by layer, with attention written token by token: the slow reference."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from hf_mixture.models.mixture_of_thoughts.modeling_mixture_of_thoughts import MixtureOfThoughtsForCausalLM
from hf_mixture.models.mixture_of_thoughts.stacks import stack_ends


def lock_step(model: MixtureOfThoughtsForCausalLM, inputs, *, primary: int, peers: list[int]) -> Tensor:
    """Logits of the primary for one row without padding; all experts advance together from boundary to boundary."""
    states = {expert: _Stepper(model.experts[expert], inputs[expert]["input_ids"]) for expert in [primary, *peers]}
    ends = {expert: stack_ends(len(s.layers), model.config.num_levels) for expert, s in states.items()}
    for level in range(model.config.num_levels):
        for expert, stepper in states.items():
            stepper.advance(ends[expert][level])
        if level < model.config.num_interactions:
            _interact(model.levels[level], states, inputs, primary, peers)
    return states[primary].logits()


class _Stepper:
    """A Llama or Qwen3 model that runs some of its layers at a time."""

    def __init__(self, model, input_ids):
        self.model = model
        self.layers = model.model.layers
        self.hidden = model.model.embed_tokens(input_ids)
        positions = torch.arange(input_ids.shape[1]).unsqueeze(0)
        self.rope = model.model.rotary_emb(self.hidden, positions)
        length = input_ids.shape[1]
        self.mask = torch.full((length, length), -1e30, dtype=self.hidden.dtype).triu(1)[None, None]
        self.done = 0

    def advance(self, end):
        for layer in self.layers[self.done : end]:
            self.hidden = layer(self.hidden, attention_mask=self.mask, position_embeddings=self.rope)
        self.done = end

    def logits(self):
        return self.model.lm_head(self.model.model.norm(self.hidden))


def _interact(level, states, inputs, primary, peers):
    latents = {e: level.down[e](level.norm_in[e](states[e].hidden))[0] for e in [primary, *peers]}
    own = latents[primary]
    size = own.shape[-1] // level.num_heads
    updates = []
    for token in range(len(own)):
        known = inputs[primary]["query_ends"][0, token]
        seen = [own[j] for j in range(token + 1)]
        for peer in peers:
            ends = inputs[peer]["key_ends"][0]
            seen += [latents[peer][j] for j in range(len(ends)) if ends[j] <= known]
        query = level.query(own[token])
        heads = []
        for head in range(level.num_heads):
            part = slice(head * size, (head + 1) * size)
            scores = torch.stack([query[part] @ level.key(u)[part] / math.sqrt(size) for u in seen])
            values = torch.stack([level.value(u)[part] for u in seen])
            heads.append(scores.softmax(0) @ values)
        updates.append(level.up[primary](level.norm_out(level.output(torch.cat(heads)) + own[token])))
    states[primary].hidden = states[primary].hidden + torch.stack(updates).unsqueeze(0)
