"""Peers that read along: what the primary has written reaches them word by word, as text.

Letters: b rows, M experts, N tokens that a peer has read, n tokens that it reads now.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from transformers import DynamicCache

from hf_mixture.models.mixture_of_thoughts.encoding import Rendered, encode
from hf_mixture.models.mixture_of_thoughts.interplay import peer_latents
from hf_mixture.models.mixture_of_thoughts.peers import PeerLatents, PeerStates
from hf_mixture.models.mixture_of_thoughts.router import Routing
from hf_mixture.models.mixture_of_thoughts.visibility import NEVER, committed_ends


if TYPE_CHECKING:
    from hf_mixture.models.mixture_of_thoughts.modeling_mixture_of_thoughts import MixtureOfThoughtsForCausalLM
    from hf_mixture.models.mixture_of_thoughts.processing_mixture_of_thoughts import MixtureOfThoughtsProcessor


@dataclass
class _Reader:
    """What one peer has read.

    Args:
        cache: Its own keys and values.
        mask: Which of its tokens are no padding [b, N].
        num_read: For each row how many tokens of the text it has read.
    """

    cache: DynamicCache
    mask: Tensor
    num_read: list[int]


class PeerReaders:
    """The peers of the rows of one primary while it writes.

    Args:
        model: The mixture.
        processor: Its tokenizers.
        primary: Index of the primary.
        prompts: The prompt of each row, as each expert reads it.
        group: Inputs of all experts for these rows.
        routing: The decision for these rows.
        states: What the peers think of the prompts.
        caches: Their caches, filled with the prompts.
    """

    def __init__(
        self,
        model: MixtureOfThoughtsForCausalLM,
        processor: MixtureOfThoughtsProcessor,
        *,
        primary: int,
        prompts: Sequence[Sequence[Rendered]],
        group: Sequence[Mapping[str, Tensor]],
        routing: Routing,
        states: Mapping[int, PeerStates],
        caches: Mapping[int, DynamicCache],
    ) -> None:
        self.model = model
        self.processor = processor
        self.tokenizer = processor.tokenizers[primary]
        self.prompts = list(prompts)
        self.is_peer = routing.peers
        self.readers = {
            expert: _Reader(caches[expert], (state.ends != NEVER).long(), (state.ends != NEVER).sum(-1).tolist())
            for expert, state in states.items()
        }
        inputs = group[primary]
        real = zip(inputs["input_ids"], inputs["attention_mask"].bool(), strict=True)
        self.given = [ids[mask].tolist() for ids, mask in real]
        self.written: list[list[int]] = [[] for _ in prompts]
        self.committed = [row[0].num_characters for row in prompts]
        self.started = False

    def select(self, rows: Tensor) -> None:
        """Keep rows, in this order: beams are repeated, dropped and exchanged."""
        order = rows.tolist()
        for reader in self.readers.values():
            reader.cache.batch_select_indices(rows)
            reader.mask = reader.mask[rows.to(reader.mask.device)]
            reader.num_read = [reader.num_read[row] for row in order]
        self.is_peer = self.is_peer[rows.to(self.is_peer.device)]
        self.prompts = [self.prompts[row] for row in order]
        self.given = [self.given[row] for row in order]
        self.written = [list(self.written[row]) for row in order]
        self.committed = [self.committed[row] for row in order]

    def before_step(self, peers: PeerLatents) -> Callable[[Tensor], None]:
        """Make the function that lets the peers read before each step of the primary.

        Args:
            peers: What the primary sees of its peers; it grows.

        Returns:
            A function of the ids of the step [b, T].
        """

        def read(ids: Tensor) -> None:
            # Generation repeats the prompts for its beams before the first step.
            if len(self.prompts) != len(ids):
                self.select(torch.arange(len(self.prompts)).repeat_interleave(len(ids) // len(self.prompts)))
            if not self.started:
                self.started = True
                return
            for row, token in zip(self.written, ids[:, -1].tolist(), strict=True):
                row.append(token)
            self._read(peers)

        return read

    def _read(self, peers: PeerLatents) -> None:
        """Let the peers read all words that have been completed."""
        answers = [self._answer(row) for row in range(len(self.prompts))]
        starts = [row[0].num_characters for row in self.prompts]
        ends = [committed_ends("x" * s + a, s)[-1] for s, a in zip(starts, answers, strict=True)]
        if ends == self.committed:
            return
        self.committed = ends
        known = [answer[: end - start] for answer, start, end in zip(answers, starts, ends, strict=True)]
        for expert, reader in self.readers.items():
            tokenizer = self.processor.tokenizers[expert]
            texts = [encode(tokenizer, p[expert], a).ids for p, a in zip(self.prompts, known, strict=True)]
            fresh = [ids[count:] for ids, count in zip(texts, reader.num_read, strict=True)]
            if any(fresh):
                reader.num_read = [max(len(ids), n) for ids, n in zip(texts, reader.num_read, strict=True)]
                self._feed(expert, reader, fresh, peers)

    def _feed(self, expert: int, reader: _Reader, fresh: list[list[int]], peers: PeerLatents) -> None:
        length = max(map(len, fresh))
        ids = torch.tensor([row + [0] * (length - len(row)) for row in fresh])
        mask = torch.tensor([[1] * len(row) + [0] * (length - len(row)) for row in fresh])
        reader.mask = torch.cat([reader.mask, mask.to(reader.mask)], dim=-1)
        inputs = {"input_ids": ids, "attention_mask": reader.mask}
        latents = peer_latents(self.model, expert, inputs, reader.cache)
        pairs = [level.keys_values(part) for level, part in zip(self.model.interactions, latents, strict=True)]
        seen = mask.bool() & self.is_peer[:, expert].cpu().unsqueeze(-1)
        peers.append([keys for keys, _ in pairs], [values for _, values in pairs], seen)

    def _answer(self, row: int) -> str:
        """What the primary has written in a row, without a character that is still incomplete."""
        options = {"skip_special_tokens": True, "clean_up_tokenization_spaces": False}
        prompt = self.tokenizer.decode(self.given[row], **options)
        text: str = self.tokenizer.decode(self.given[row] + self.written[row], **options)
        return text[len(prompt) :].rstrip("\ufffd")
