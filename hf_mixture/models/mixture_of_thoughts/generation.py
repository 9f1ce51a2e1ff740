"""Generation: the primary of each row writes with its own `generate`, while its layers hear their peers.

Letters: B rows, S tokens of a sequence.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel
from transformers.utils import ModelOutput

from hf_mixture._compat.caches import CACHE_NAME, CACHE_NAMES
from hf_mixture.models.mixture_of_thoughts.cache import MotCache
from hf_mixture.models.mixture_of_thoughts.interplay import peers_of, read_by_peers
from hf_mixture.models.mixture_of_thoughts.router import route
from hf_mixture.models.mixture_of_thoughts.streaming import PeerReaders
from hf_mixture.models.mixture_of_thoughts.thinking import PrimaryRun, active


if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from hf_mixture.models.mixture_of_thoughts.encoding import Rendered
    from hf_mixture.models.mixture_of_thoughts.modeling_mixture_of_thoughts import MixtureOfThoughtsForCausalLM
    from hf_mixture.models.mixture_of_thoughts.processing_mixture_of_thoughts import MixtureOfThoughtsProcessor


# Ways to generate that would need more than one model, or a cache that the latents do not fit.
_UNSUPPORTED = {
    "assistant_model": "assisted decoding",
    "prompt_lookup_num_tokens": "prompt look-up",
    "assistant_early_exit": "early exit",
    "cache_implementation": "a cache of a given implementation",
    **dict.fromkeys(CACHE_NAMES, "a cache of an earlier call"),
    "custom_generate": "custom generation",
    "guidance_scale": "classifier-free guidance",
    "inputs_embeds": "input embeddings",
    "streamer": "a streamer",
}


@dataclass
class MixtureOfThoughtsGeneration(ModelOutput):
    """What a mixture has written.

    Args:
        sequences: Ids of prompt and answer [B, S] in the vocabulary of the primary of each row; -1 after the end.
        primary: Which expert wrote the row [B].
        router_logits: Scores of the router [B, M].
        active: Which experts took part [B, M].
        outputs: For each primary what its own `generate` returned, if `return_dict_in_generate` was asked for.
    """

    sequences: Tensor | None = None
    primary: Tensor | None = None
    router_logits: Tensor | None = None
    active: Tensor | None = None
    outputs: tuple[Any, ...] | None = None


@torch.no_grad()
def generate(
    model: MixtureOfThoughtsForCausalLM,
    expert_inputs: Sequence[Mapping[str, Tensor]],
    encoder_inputs: Mapping[str, Tensor],
    *,
    prompts: Sequence[Sequence[Rendered]] | None,
    primary: Tensor | None,
    processor: MixtureOfThoughtsProcessor | None,
    **kwargs: Any,
) -> MixtureOfThoughtsGeneration:
    """Write on: see `MixtureOfThoughtsForCausalLM.generate`."""
    for name, meaning in _UNSUPPORTED.items():
        given = _option(name, kwargs)
        if given is not None:
            raise ValueError(f"{name}={given!r}: {meaning} does not work with a mixture of thoughts; leave it out")
    uses_cache = _option("use_cache", kwargs) is not False
    streams = model.config.peer_decode == "stream" and model.config.num_interactions > 0
    if streams and not uses_cache:
        raise ValueError("use_cache=False does not go with peer_decode='stream': peers keep what they read in a cache")
    if streams and (processor is None or prompts is None):
        raise ValueError(
            "peer_decode='stream' needs processor= and the prompts that it made: peers read what is written as text"
        )
    scores = model.route_scores(encoder_inputs)
    routing = route(scores, model.config.num_active_experts, primary=primary)
    copies = _option("num_return_sequences", kwargs) or 1
    sequences: dict[int, list[int]] = {}
    outputs = []
    for expert in routing.primary.unique().tolist():
        rows = (routing.primary == expert).nonzero().squeeze(-1)
        group = [{name: value[rows] for name, value in one.items()} for one in expert_inputs]
        decision, inputs = routing.select(rows), group[expert]
        caches = {other: DynamicCache(config=model.experts[other].config) for other in range(len(group))}
        states = read_by_peers(model, group, decision, caches if streams else None)
        peers = peers_of(model, torch.arange(len(rows), device=rows.device), inputs["query_ends"], decision, states)
        writer = model.experts[expert]
        cache = None
        if uses_cache:
            cache = MotCache(writer.config, model.config.num_interactions, peers)
        before_step = None
        if streams and cache is not None and processor is not None and prompts is not None:
            of_rows = [prompts[row] for row in rows.tolist()]
            cache.readers = PeerReaders(
                model,
                processor,
                primary=expert,
                prompts=of_rows,
                group=group,
                routing=decision,
                states=states,
                caches=caches,
            )
            before_step = cache.readers.before_step(peers)
        run = PrimaryRun(expert, model.interactions, peers, cache=cache, before_step=before_step or (lambda ids: None))
        device = writer.get_input_embeddings().weight.device
        with active(model.mixture_id, run):
            written = writer.generate(
                input_ids=inputs["input_ids"].to(device),
                attention_mask=inputs["attention_mask"].to(device),
                **{**_unlike_own(writer, uses_cache=uses_cache, copies=copies), **kwargs},
                **({} if cache is None else {CACHE_NAME: cache}),
            )
        ids = written if isinstance(written, Tensor) else written.sequences
        outputs.append(written)
        prompt = inputs["attention_mask"].repeat_interleave(copies, dim=0).bool()
        for place, row in enumerate(ids.tolist()):
            start = int((~prompt[place]).sum())
            sequences[int(rows[place // copies]) * copies + place % copies] = row[start:]
    length = max(map(len, sequences.values()))
    padded = [sequences[row] + [-1] * (length - len(sequences[row])) for row in range(len(scores) * copies)]
    return MixtureOfThoughtsGeneration(
        sequences=torch.tensor(padded, device=scores.device),
        primary=routing.primary.repeat_interleave(copies),
        router_logits=scores,
        active=routing.active,
        outputs=tuple(outputs) if _option("return_dict_in_generate", kwargs) else None,
    )


def _option(name: str, kwargs: Mapping[str, Any]) -> Any:
    """An option of a call, given by name or in its `generation_config`; None where it is left open."""
    given = kwargs.get(name)
    return getattr(kwargs.get("generation_config"), name, None) if given is None else given


def _unlike_own(writer: PreTrainedModel, *, uses_cache: bool, copies: int) -> dict[str, Any]:
    """Options that the writer's own `generation_config` would set as a mixture cannot follow."""
    own, options = writer.generation_config, dict[str, Any]()
    if own.cache_implementation is not None:
        options["cache_implementation"] = None
    if own.use_cache is False and uses_cache:
        options["use_cache"] = True
    # Rows of all primaries have equally many answers.
    if own.num_return_sequences not in (None, copies):
        options["num_return_sequences"] = copies
    return options
