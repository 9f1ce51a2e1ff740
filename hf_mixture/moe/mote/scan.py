"""Scanning: responses of a model to prompts, their labels, and the maps of their experts.

Letters: P prompts.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm.auto import tqdm

from hf_mixture.hub.atomic import write_atomic
from hf_mixture.hub.damage import reading
from hf_mixture.hub.reading import parse_json, read_tensors
from hf_mixture.moe.mote.behaviours import Behaviour
from hf_mixture.moe.mote.resonance import FtriCollector, Statistic
from hf_mixture.moe.mote.resonance_maps import FtriMaps, ModelFacts
from hf_mixture.moe.mote.respond import Prompt, check_prompts, respond, text_of
from hf_mixture.moe.mote.token_slices import TokenSlice, slice_name


_KEY = "hf_mixture"


@dataclass(frozen=True, eq=False)
class Scan:
    """What a scan found.

    Args:
        prompts: The P prompts.
        responses: What the model said; empty texts where labels were given and nothing was generated.
        labels: The class of each response.
        maps: The maps of the prompts.
    """

    prompts: Sequence[Prompt]
    responses: Sequence[str]
    labels: Sequence[str]
    maps: FtriMaps


def scan_prompts(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[Prompt],
    *,
    behaviour: Behaviour | None = None,
    labels: Sequence[str] | None = None,
    statistic: Statistic = "count",
    tokens: TokenSlice = "prompt",
    max_new_tokens: int = 64,
    batch_size: int = 8,
    folder: str | os.PathLike[str] | None = None,
    progress: bool = True,
) -> Scan:
    """Let a model answer prompts, classify what it says, and count the experts of each prompt (arXiv 2502.11096).

    Under several processes each takes a share of the prompts, and all return the whole. Labels that are known make
    generation unnecessary where `tokens` are of the prompt.

    Args:
        model: A causal mixture-of-experts model, edited or not.
        tokenizer: Its tokenizer.
        prompts: Texts, or chats as lists of messages.
        behaviour: Classifier of the responses; see `make_behaviour`. Default: none, with `labels`.
        labels: The class of each prompt, where it is known. Default: None.
        statistic: As in `FtriCollector`. Default: `"count"`.
        tokens: As in `FtriCollector`. Default: `"prompt"`.
        max_new_tokens: Longest response, in tokens, at least 1. Default: 64.
        batch_size: Prompts of one batch, at least 1. Default: 8.
        folder: Where finished batches are kept, so that a scan that was killed goes on. Default: nowhere.
        progress: Whether to show a progress bar. Default: True.

    Returns:
        Responses, labels and maps.

    Raises:
        ValueError: If the arguments do not fit together, or the folder holds another scan.
        UnsupportedRouterError: If the routers of the model cannot be counted.

    Example:
        >>> from tokenizers import Tokenizer, models, pre_tokenizers
        >>> from transformers import PreTrainedTokenizerFast, Qwen3MoeConfig, Qwen3MoeForCausalLM
        >>> from hf_mixture import scan_prompts
        >>> words = Tokenizer(models.WordLevel({"<unk>": 0, "one": 1, "two": 2, "three": 3}, unk_token="<unk>"))
        >>> words.pre_tokenizer = pre_tokenizers.Whitespace()
        >>> tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<unk>")
        >>> config = Qwen3MoeConfig(
        ...     vocab_size=4, hidden_size=8, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1,
        ...     intermediate_size=8, moe_intermediate_size=8, num_experts=4, num_experts_per_tok=2,
        ... )
        >>> model = Qwen3MoeForCausalLM(config)
        >>> found = scan_prompts(model, tokenizer, ["one two", "three"], labels=["short", "long"], progress=False)
        >>> found.maps.counts.sum(axis=1).tolist()  # tokens x layers x chosen experts
        [8, 4]
    """
    from accelerate import PartialState
    from accelerate.utils import gather_object

    check_prompts(prompts)
    if (behaviour is None) == (labels is None):
        raise ValueError("give either behaviour, to classify responses, or labels, but not both")
    if labels is not None and len(labels) != len(prompts):
        raise ValueError(f"there are {len(labels)} labels for {len(prompts)} prompts; give one for each")
    for name, value in (("max_new_tokens", max_new_tokens), ("batch_size", batch_size)):
        if value < 1:
            raise ValueError(f"{name}={value} must be >= 1")
    generates = behaviour is not None or tokens in ("response", "all") or callable(tokens)
    state = PartialState()
    share = -(-len(prompts) // state.num_processes)
    mine = range(len(prompts))[state.process_index * share : (state.process_index + 1) * share]
    if state.num_processes > len(prompts):
        raise ValueError(
            f"there are {len(prompts)} prompts for {state.num_processes} processes; start at most as many processes"
        )
    collector = FtriCollector(model, statistic=statistic, tokens=tokens)
    store = None if folder is None else _BatchStore(Path(folder), collector.facts)
    responses: list[str] = []
    parts: list[FtriMaps] = []
    was_training = model.training
    model.eval()
    try:
        starts = range(mine.start, mine.stop, batch_size)
        for start in tqdm(starts, desc="scan", unit="batch", disable=not (progress and state.is_main_process)):
            batch = list(prompts[start : min(start + batch_size, mine.stop)])
            settings = [batch, statistic, slice_name(tokens), max_new_tokens if generates else 0]
            done = None if store is None else store.read(start, settings)
            if done is None:
                with collector:
                    said = respond(model, tokenizer, batch, max_new_tokens=max_new_tokens if generates else 0)
                done = said, collector.take()
                if store is not None:
                    store.write(start, settings, *done)
            responses += done[0]
            parts.append(done[1])
    finally:
        model.train(was_training)
    maps = FtriMaps.concatenate(parts).gather()
    if state.num_processes > 1:
        responses = gather_object(responses)
    if labels is None:
        assert behaviour is not None  # noqa: S101 - one of the two was given
        labels = [behaviour(text_of(prompt), said) for prompt, said in zip(prompts, responses, strict=True)]
    return Scan(prompts, responses, list(labels), maps)


class _BatchStore:
    """Finished batches on disk: one file each, named after its first prompt, with a hash of all that it depends on."""

    def __init__(self, folder: Path, facts: ModelFacts) -> None:
        self.folder, self.facts = folder, facts
        folder.mkdir(parents=True, exist_ok=True)

    def read(self, start: int, settings: Any) -> tuple[list[str], FtriMaps] | None:
        path = self._path(start)
        if not path.exists():
            return None
        remedy = f"remove {self.folder}, or name another folder"
        metadata, tensors = read_tensors(path, framework="numpy", remedy=remedy)
        with reading(path, remedy):
            return self._content(path, parse_json(metadata[_KEY], "its header"), tensors, settings)

    def _content(self, path: Path, header: Any, tensors: Any, settings: Any) -> tuple[list[str], FtriMaps]:
        if header["settings"] != self._hash(settings):
            raise ValueError(
                f"{path} is of a scan with another model, other prompts or other settings; remove {self.folder}, or "
                "name another folder"
            )
        maps = FtriMaps(
            facts=self.facts,
            counts=tensors["counts"],
            tokens=tensors["tokens"],
            values=tensors.get("values"),
            statistic=header["statistic"],
            positions=header["positions"],
        )
        return header["responses"], maps

    def write(self, start: int, settings: Any, responses: list[str], maps: FtriMaps) -> None:
        from safetensors.numpy import save

        tensors: dict[str, Any] = {"counts": maps.counts, "tokens": maps.tokens}
        if maps.values is not None:
            tensors["values"] = maps.values
        header = {
            "settings": self._hash(settings),
            "responses": responses,
            "statistic": maps.statistic,
            "positions": maps.positions,
        }
        tensors = {name: np.ascontiguousarray(value) for name, value in tensors.items()}
        write_atomic(self._path(start), save(tensors, metadata={_KEY: json.dumps(header)}))

    def _path(self, start: int) -> Path:
        return self.folder / f"batch-{start:08d}.safetensors"

    def _hash(self, settings: Any) -> str:
        return hashlib.sha256(json.dumps([self.facts.fingerprint, settings]).encode()).hexdigest()
