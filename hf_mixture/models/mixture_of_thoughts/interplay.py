"""Peers read, the primary predicts: the two passes of a mixture.

Letters: B rows, b of them, M experts, T tokens of the primary, N tokens of a peer, R latent size.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from transformers import Cache, PreTrainedModel

from hf_mixture._compat.caches import CACHE_NAME
from hf_mixture.models.mixture_of_thoughts.objective import Group
from hf_mixture.models.mixture_of_thoughts.peers import PeerLatents, PeerStates
from hf_mixture.models.mixture_of_thoughts.router import Routing
from hf_mixture.models.mixture_of_thoughts.thinking import EndOfReading, PeerRun, PrimaryRun, active
from hf_mixture.models.mixture_of_thoughts.visibility import NEVER, visible


if TYPE_CHECKING:
    from hf_mixture.models.mixture_of_thoughts.modeling_mixture_of_thoughts import MixtureOfThoughtsForCausalLM

ExpertInputs = Sequence[Mapping[str, Tensor]]


def predict(model: MixtureOfThoughtsForCausalLM, expert_inputs: ExpertInputs, routing: Routing) -> list[Group]:
    """Logits of each group of rows with the same primary: (expert, rows [b], logits [b, T, V])."""
    states = read_by_peers(model, expert_inputs, routing)
    groups = []
    for expert in routing.primary.unique().tolist():
        rows = (routing.primary == expert).nonzero().squeeze(-1)
        inputs = {name: value[rows] for name, value in expert_inputs[expert].items()}
        peers = peers_of(model, rows, inputs["query_ends"], routing, states)
        run = PrimaryRun(expert, model.interactions, peers, inputs["attention_mask"])
        with active(model.mixture_id, run):
            logits = call(model.experts[expert], inputs).logits
        groups.append((expert, rows, logits))
    return groups


def read_by_peers(
    model: MixtureOfThoughtsForCausalLM,
    expert_inputs: ExpertInputs,
    routing: Routing,
    caches: Mapping[int, Cache] | None = None,
) -> dict[int, PeerStates]:
    """Run each peer once on the rows where it is active.

    Args:
        model: The mixture.
        expert_inputs: Inputs of all experts.
        routing: The decision.
        caches: Where a peer shall keep what it has read, to go on later; it then reads all rows.

    Returns:
        States of each expert that is a peer of some row.
    """
    states = {}
    for expert, inputs in enumerate(expert_inputs):
        takes_part = routing.peers[:, expert]
        if not takes_part.any() or not model.config.num_interactions:
            continue
        rows = torch.arange(len(takes_part)) if caches is not None else takes_part.nonzero().squeeze(-1)
        rows = rows.to(inputs["key_ends"].device)
        columns = (inputs["key_ends"][rows] != NEVER).any(0).nonzero().squeeze(-1)
        ends = inputs["key_ends"][rows][:, columns]
        # Tokens that nobody reads may lie between others where the rows of a batch differ.
        chosen = {"input_ids": inputs["input_ids"][rows][:, columns], "attention_mask": (ends != NEVER).long()}
        cache = None if caches is None else caches[expert]
        if len(columns):
            latents = peer_latents(model, expert, chosen, cache)
        else:
            # Prompts without a token, as an empty one is to a tokenizer that puts nothing before a text.
            weight = next(model.router.parameters())
            latents = [weight.new_zeros(len(rows), 0, model.config.latent_size) for _ in model.levels]
        states[expert] = PeerStates(rows, ends, latents)
    return states


def peer_latents(
    model: MixtureOfThoughtsForCausalLM, expert: int, inputs: Mapping[str, Tensor], cache: Cache | None = None
) -> list[Tensor]:
    """Let one peer read tokens: for each level its latents [b, N, R]."""
    run = PeerRun(expert, model.interactions, torch.is_grad_enabled())
    with torch.no_grad(), active(model.mixture_id, run), contextlib.suppress(EndOfReading):
        call(model.experts[expert].base_model, inputs, cache)
    return run.latents


def peers_of(
    model: MixtureOfThoughtsForCausalLM,
    rows: Tensor,
    query_ends: Tensor,
    routing: Routing,
    states: Mapping[int, PeerStates],
) -> PeerLatents:
    """Gather what the peers of some rows say, and who sees it.

    Args:
        model: The mixture.
        rows: The rows [b], all with the same primary.
        query_ends: Characters that each token of the primary knows [b, T].
        routing: The decision for all rows.
        states: From `read_by_peers`.

    Returns:
        Keys, values and masks.
    """
    weight = next(model.router.parameters())
    heads, size = model.config.num_heads, model.config.latent_size // model.config.num_heads
    empty = weight.new_zeros(len(rows), heads, 0, size)
    keys, values = [[empty] for _ in model.levels], [[empty] for _ in model.levels]
    masks = [query_ends.new_zeros(*query_ends.shape, 0, dtype=torch.bool)]
    opens = [query_ends.new_zeros(len(rows), 0, dtype=torch.bool)]
    for expert, peer in states.items():
        is_peer = routing.peers[rows, expert]
        if not is_peer.any():
            continue
        # Rows where this expert is no peer borrow another row's states, which their mask hides.
        places = torch.searchsorted(peer.rows, rows).clamp(max=len(peer.rows) - 1)
        ends = peer.ends[places].masked_fill(~is_peer.unsqueeze(-1), NEVER)
        masks.append(visible(query_ends, ends) & (ends != NEVER).unsqueeze(-2))
        opens.append(ends != NEVER)
        gate = routing.gates[rows, expert]
        for level, latents in enumerate(peer.latents):
            new_keys, new_values = model.interactions[level].keys_values(latents[places.to(latents.device)])
            keys[level].append(new_keys)
            if gate.requires_grad:
                new_values = new_values * gate[:, None, None, None].to(new_values.dtype)
            values[level].append(new_values)
    return PeerLatents(
        [torch.cat(parts, dim=-2) for parts in keys],
        [torch.cat(parts, dim=-2) for parts in values],
        torch.cat(masks, dim=-1),
        torch.cat(opens, dim=-1),
    )


def call(expert: PreTrainedModel, inputs: Mapping[str, Tensor], cache: Cache | None = None) -> Any:
    """Run an expert on its device; its mask includes the tokens in the cache, if there is one."""
    device = expert.get_input_embeddings().weight.device
    ids, mask = inputs["input_ids"].to(device), inputs["attention_mask"].to(device)
    positions = {name: value[:, -ids.shape[1] :] for name, value in _positions(expert, mask).items()}
    kept = {} if cache is None else {CACHE_NAME: cache}
    return expert(input_ids=ids, attention_mask=mask, **positions, **kept, use_cache=cache is not None)


def _positions(model: nn.Module, attention_mask: Tensor) -> dict[str, Tensor]:
    """Positions that count tokens and not padding, for models that take them."""
    if "position_ids" not in inspect.signature(model.forward).parameters:
        return {}
    return {"position_ids": (attention_mask.cumsum(-1) - 1).clamp(min=0)}
