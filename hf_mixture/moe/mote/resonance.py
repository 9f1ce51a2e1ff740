"""Functional Token Resonance Imaging: which experts each prompt is routed to, counted while the model runs.

Letters: P prompts, B rows of a batch, S positions, T = B S tokens, L routers, E experts, K chosen, C classes that a
router ranks, N the sum of E over routers.
"""

from __future__ import annotations

from functools import cached_property, partial
from types import TracebackType
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from hf_mixture._compat.caches import given_cache
from hf_mixture._compat.experts import interface_problem
from hf_mixture.moe.anatomy import MoeRouter, RouterOutput, UnsupportedRouterError, find_routers
from hf_mixture.moe.anatomy.call_inputs import called_model, named_inputs, padding_mask_of
from hf_mixture.moe.anatomy.rule import scores_of
from hf_mixture.moe.mote.resonance_maps import FtriMaps, ModelFacts, facts_of
from hf_mixture.moe.mote.token_slices import TokenBatch, TokenSlice, check_slice, chosen_tokens, slice_name


Statistic = Literal["count", "gate", "prob", "norm"]
STATISTICS: tuple[str, ...] = get_args(Statistic)


class FtriCollector:
    """Counts for each prompt how often each expert is chosen: `a_p[l, e] = sum_t 1[e in TopK_l(t)]` (2502.11096).

    A context manager: inside it, each forward pass of the model without a cache begins new prompts, one for each row,
    and each pass that continues a cache adds the tokens of their responses, as `generate` does. Padding is left out by
    `attention_mask`, and so is what a row of a batch is fed behind the end of its response. Rows must stay in place:
    generate with `num_beams=1`. The edits of `tune_experts` are seen as they act.

    Args:
        model: A mixture-of-experts model of transformers that reads text from left to right, bare or wrapped by PEFT.
        statistic: What is summed beside the counts. `"count"`: nothing. `"gate"`: the weights of the chosen experts.
            `"prob"`: the scores of all experts, chosen or not: the family's own function of the logits, or a softmax
            where that is the identity. `"norm"`: the weight of each chosen expert times the norm of its output, as
            pruning by REAP (arXiv 2510.13999) does; runs the experts K times more. Default: `"count"`.
        tokens: Which tokens count: `"prompt"`, `"response"` (tokens that were fed back, so not the last one, nor the
            one that ends the text), `"all"`, the last n of the prompt, or a function from a `TokenBatch` to marks
            [B, S]. Default: `"prompt"`.
        eos_token_id: Tokens that end a response. Default: those of the generation configuration.

    Raises:
        ValueError: If an argument is none of these.
        UnsupportedRouterError: If the model has no routers, or they cannot be counted.

    Example:
        >>> import torch
        >>> from transformers import Qwen3MoeConfig, Qwen3MoeForCausalLM
        >>> from hf_mixture.moe.mote.resonance import FtriCollector
        >>> config = Qwen3MoeConfig(
        ...     vocab_size=16, hidden_size=8, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1,
        ...     head_dim=4, intermediate_size=8, moe_intermediate_size=8, num_experts=4, num_experts_per_tok=2,
        ... )
        >>> model = Qwen3MoeForCausalLM(config).eval()
        >>> with FtriCollector(model) as collector:
        ...     _ = model(torch.arange(6)[None])
        >>> maps = collector.maps()
        >>> maps.counts.shape, maps.tokens.tolist(), maps.counts.sum().item()
        ((1, 8), [6], 24)
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        statistic: Statistic = "count",
        tokens: TokenSlice = "prompt",
        eos_token_id: int | list[int] | None = None,
    ) -> None:
        if statistic not in STATISTICS:
            raise ValueError(f"statistic={statistic!r} must be one of {', '.join(STATISTICS)}")
        check_slice(tokens)
        if getattr(getattr(model, "config", None), "is_encoder_decoder", False):
            raise UnsupportedRouterError(
                f"{type(model).__name__} is an encoder with a decoder: its routers see two texts, and no row of "
                "tokens belongs to all of them; use a decoder-only model"
            )
        self.routers: tuple[MoeRouter, ...] = find_routers(model)
        if statistic == "norm":
            _check_experts(self.routers)
        self.statistic, self.tokens = statistic, tokens
        self._model = called_model(model)
        self._eos = _eos_of(self._model, eos_token_id)
        self._handles: list[RemovableHandle] = []
        self._counts: list[list[Tensor]] = []
        self._values: list[list[Tensor]] = []
        self._tokens: list[Tensor] = []
        self._forget()
        self._ended: Tensor | None = None
        self._marks: Tensor | None = None
        self._called = False

    def __enter__(self) -> FtriCollector:
        for place, router in enumerate(self.routers):
            self._handles += router.observe(partial(self._count, place))
            if self.statistic == "norm":
                assert router.experts is not None  # noqa: S101 - checked when the collector was made
                self._handles.append(router.experts.register_forward_pre_hook(partial(self._weigh, place)))
        self._handles.append(self._model.register_forward_pre_hook(self._begin, with_kwargs=True))
        self._handles.append(self._model.register_forward_hook(self._end))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self._marks = None

    @cached_property
    def facts(self) -> ModelFacts:
        """The model, with a hash of its routers, which takes a moment."""
        return facts_of(self._model, self.routers)

    def take(self) -> FtriMaps:
        """Return what has been counted, and begin anew.

        Returns:
            The maps of the prompts since the last call.

        Raises:
            ValueError: If no prompt was run.
        """
        maps = self.maps()
        self._forget()
        return maps

    def maps(self) -> FtriMaps:
        """Return what has been counted.

        Returns:
            The maps of all prompts, in the order in which they were run.

        Raises:
            ValueError: If no prompt was run.
        """
        if not self._tokens:
            raise ValueError("no prompt was run: call the model inside `with FtriCollector(model) as collector:`")

        def flat(parts: list[list[Tensor]]) -> Any:
            # The last column of each router holds choices that are no expert of it.
            return np.concatenate([torch.cat([rows.cpu() for rows in part]).numpy()[:, :-1] for part in parts], axis=1)

        return FtriMaps(
            facts=self.facts,
            counts=flat(self._counts),
            tokens=torch.cat([block.cpu() for block in self._tokens]).numpy(),
            values=None if self.statistic == "count" else flat(self._values),
            statistic=self.statistic,
            positions=slice_name(self.tokens),
        )

    def _forget(self) -> None:
        self._counts = [[] for _ in self.routers]
        self._values = [[] for _ in self.routers]
        self._tokens = []

    def _begin(self, model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        inputs = named_inputs(model, args, kwargs)
        batch = self._batch(inputs)
        marks = chosen_tokens(self.tokens, batch)
        if not batch.is_decode:
            self._start(marks)
        self._tokens[-1] += marks.sum(dim=1)
        self._marks = marks.reshape(-1)
        self._called = False

    def _batch(self, inputs: dict[str, Any]) -> TokenBatch:
        given = inputs.get("input_ids")
        shaped = inputs.get("inputs_embeds") if given is None else given
        if shaped is None:
            raise ValueError(
                "the model was called without input_ids or inputs_embeds, so that no token can be counted"
            )
        shape = shaped.shape[:2]
        mask, cache = padding_mask_of(inputs), given_cache(inputs)
        num_past = 0 if cache is None else int(cache.get_seq_length())
        ones = torch.ones(shape, dtype=torch.bool, device=shaped.device)
        valid = ones if mask is None else mask[:, -shape[1] :].to(ones.device) != 0
        if num_past == 0:
            return TokenBatch(input_ids=given, valid=valid, is_decode=False, num_past=0)
        if not self._tokens or len(self._tokens[-1]) != shape[0]:
            raise ValueError(
                f"a cache of {num_past} positions is continued by {shape[0]} rows, and its prompt was not run inside "
                "this collector with as many rows; begin with an empty cache"
            )
        if shape[1] != 1:
            raise ValueError(
                f"a cache is continued by {shape[1]} tokens at once: a prompt in chunks, or candidates that may be "
                "rejected; generate without prefill_chunk_size and without an assistant"
            )
        if given is not None and self._eos.numel():
            ends = torch.isin(given[:, 0], self._eos.to(given.device))
            self._ended = ends if self._ended is None else self._ended | ends
            valid = valid & ~self._ended[:, None]
        return TokenBatch(input_ids=given, valid=valid, is_decode=True, num_past=num_past)

    def _start(self, marks: Tensor) -> None:
        """Begin the maps of the prompts of one batch."""
        self._ended = None
        self._tokens.append(torch.zeros(len(marks), dtype=torch.int64, device=marks.device))
        for router, counts, values in zip(self.routers, self._counts, self._values, strict=True):
            # One more column, for choices that are no routed expert.
            shape = (len(marks), router.num_experts + 1)
            counts.append(torch.zeros(shape, dtype=torch.int64))
            values.append(torch.zeros(shape, dtype=torch.float64))

    def _end(self, *_: Any) -> None:
        # A router of another modality, such as that of a vision tower, may stay idle.
        if not self._called:
            raise ValueError(
                "no hook of a router was run in a forward pass: compiled code runs none that come later; collect "
                "before torch.compile"
            )
        self._marks = None

    @torch.no_grad()
    def _count(self, place: int, output: RouterOutput) -> None:
        router, indices = self.routers[place], output.indices
        rows = self._rows(router, len(indices))
        if rows is None:
            return
        self._called = True
        (chosen, tokens), num_experts = rows, router.num_experts
        experts = indices[tokens].to(torch.int64).clamp(max=num_experts)
        cells = chosen[:, None] * (num_experts + 1) + experts
        self._add(self._counts, place, cells, torch.ones_like(cells))
        if self.statistic == "gate":
            self._add(self._values, place, cells, output.weights[tokens].double())
        elif self.statistic == "prob":
            scores = _scores(router, output.logits[tokens])[:, :num_experts].double()
            every = torch.arange(num_experts, device=cells.device)
            self._add(self._values, place, chosen[:, None] * (num_experts + 1) + every, scores)

    @torch.no_grad()
    def _weigh(self, place: int, experts: nn.Module, args: tuple[Any, ...]) -> None:
        hidden, indices, weights = args[:3]
        router = self.routers[place]
        rows = self._rows(router, len(indices))
        if rows is None:
            return
        chosen, tokens = rows
        states, picks = hidden.reshape(-1, hidden.shape[-1])[tokens], indices[tokens]
        ones = torch.ones_like(weights[:1, :1]).expand(len(tokens), 1)
        # One of the K choices at a time, so that the outputs of a token are not yet added up.
        norms = torch.stack(
            [experts.forward(states, picks[:, [k]], ones).double().norm(dim=-1) for k in range(picks.shape[1])], dim=-1
        )
        cells = chosen[:, None] * (router.num_experts + 1) + picks.to(torch.int64).clamp(max=router.num_experts)
        self._add(self._values, place, cells, weights[tokens].double() * norms)

    def _rows(self, router: MoeRouter, num_tokens: int) -> tuple[Tensor, Tensor] | None:
        """The row and the position of each token that counts; None outside a forward pass of the model."""
        marks = self._marks
        if marks is None:
            return None
        if len(marks) != num_tokens:
            raise ValueError(
                f"{router.path} routed {num_tokens} tokens in a forward pass of {len(marks)} positions, so that they "
                "cannot be told apart; only routers that see every position of input_ids once can be counted"
            )
        tokens = marks.nonzero()[:, 0]
        return tokens // (len(marks) // len(self._tokens[-1])), tokens

    def _add(self, sums: list[list[Tensor]], place: int, cells: Tensor, amounts: Tensor) -> None:
        total = sums[place][-1] = sums[place][-1].to(cells.device)
        total.view(-1).index_add_(0, cells.reshape(-1), amounts.reshape(-1).to(total.dtype))


def _scores(router: MoeRouter, logits: Tensor) -> Tensor:
    rule = router.rule
    if rule is not None and rule.probabilities:
        return logits
    if rule is None or rule.score == "identity":
        return logits.softmax(dim=-1, dtype=torch.float32)
    return scores_of(rule, logits)


def _eos_of(model: nn.Module, given: int | list[int] | None) -> Tensor:
    generation: Any = getattr(model, "generation_config", None)
    tokens = getattr(generation, "eos_token_id", None) if given is None else given
    if tokens is None:
        return torch.zeros(0, dtype=torch.int64)
    return torch.tensor([tokens] if isinstance(tokens, int) else list(tokens))


def _check_experts(routers: tuple[MoeRouter, ...]) -> None:
    for router in routers:
        if (problem := interface_problem(router.experts)) is not None:
            raise UnsupportedRouterError(
                f"{router.path}: the outputs of its experts cannot be asked for one by one, because {problem}; use "
                "statistic='gate'"
            )
