"""The tokenizers of a mixture: one text becomes the inputs of all experts, aligned by its characters."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from huggingface_hub import snapshot_download
from torch import Tensor
from transformers import AutoTokenizer, BatchFeature
from transformers.utils.hub import PushToHubMixin

from hf_mixture.hub.atomic import write_atomic
from hf_mixture.hub.damage import naming, reading
from hf_mixture.hub.reading import read_document
from hf_mixture.models.mixture_of_thoughts.encoding import Encoded, Rendered, encode
from hf_mixture.models.mixture_of_thoughts.visibility import NEVER, committed_ends, known_ends


_FILE = "mixture_of_thoughts_processor.json"
_FORMAT, _VERSION = "hf_mixture/mixture_of_thoughts_processor", 1


class MixtureOfThoughtsProcessor(PushToHubMixin):
    """All tokenizers of a mixture of thoughts.

    Args:
        tokenizers: One fast tokenizer for each expert, in their order.
        encoder_tokenizer: That of the prompt encoder. None: that of the first expert.
        peer_decode: What peers read of the answer, as in `MixtureOfThoughtsConfig`.
        max_length: Largest number of tokens of a text for any expert; longer texts lose their end.

    Raises:
        ValueError: If a tokenizer is slow, or there is none.

    Example:
        >>> from tokenizers import Tokenizer, models, pre_tokenizers
        >>> from transformers import PreTrainedTokenizerFast
        >>> from hf_mixture import MixtureOfThoughtsProcessor
        >>> words = Tokenizer(models.WordLevel({"[UNK]": 0, "one": 1, "mixture": 2}, unk_token="[UNK]"))
        >>> words.pre_tokenizer = pre_tokenizers.Whitespace()
        >>> tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, pad_token="[UNK]")
        >>> batch = MixtureOfThoughtsProcessor([tokenizer, tokenizer])("one mixture")
        >>> [inputs["key_ends"].tolist() for inputs in batch["expert_inputs"]]
        [[[3, 11]], [[3, 11]]]
    """

    def __init__(
        self,
        tokenizers: Sequence[Any],
        *,
        encoder_tokenizer: Any = None,
        peer_decode: Literal["prompt", "stream"] = "prompt",
        max_length: int | None = None,
    ) -> None:
        for index, tokenizer in enumerate([*tokenizers, *([encoder_tokenizer] if encoder_tokenizer else [])]):
            if not getattr(tokenizer, "is_fast", False):
                raise ValueError(
                    f"tokenizer {index}, {type(tokenizer).__name__}, must be a fast tokenizer: only those tell which "
                    "characters a token stands for"
                )
        if not tokenizers:
            raise ValueError("tokenizers is empty; give one for each expert")
        if peer_decode not in ("prompt", "stream"):
            raise ValueError(f"peer_decode={peer_decode!r} must be 'prompt' or 'stream'")
        self.tokenizers = list(tokenizers)
        self.encoder_tokenizer = encoder_tokenizer
        self.peer_decode = peer_decode
        self.max_length = max_length

    def __call__(
        self,
        text: str | Sequence[str],
        answers: str | Sequence[str] | None = None,
        *,
        padding_side: Literal["left", "right"] | None = None,
    ) -> BatchFeature:
        """Make the inputs of a mixture.

        Args:
            text: Prompts.
            answers: What the mixture shall say, one for each prompt; with them the inputs carry labels on the answers.
            padding_side: Where short rows are filled. Defaults to the left for prompts alone, as generation needs it,
                and to the right with answers.

        Returns:
            `expert_inputs` and `encoder_inputs` for `MixtureOfThoughtsForCausalLM`; without answers also `prompts`.
        """
        prompts = [Rendered.plain(part) for part in ([text] if isinstance(text, str) else text)]
        return self._batch([[prompt] * len(self.tokenizers) for prompt in prompts], answers, padding_side)

    def apply_chat_template(
        self,
        conversations: Sequence[Mapping[str, str]] | Sequence[Sequence[Mapping[str, str]]],
        answers: str | Sequence[str] | None = None,
        *,
        padding_side: Literal["left", "right"] | None = None,
    ) -> BatchFeature:
        """Make the inputs from conversations, each expert with its own chat template.

        The common text is what the messages say; the parts of a template stand for no character of it.

        Args:
            conversations: Messages with role and content, of one conversation or of several.
            answers: What the mixture shall say.
            padding_side: As in `__call__`.

        Returns:
            As `__call__`.

        Raises:
            ValueError: If a tokenizer has no template, or its template changes what a message says.
        """
        several: Any = [conversations] if conversations and isinstance(conversations[0], Mapping) else conversations
        rendered = [[_render(tokenizer, messages) for tokenizer in self.tokenizers] for messages in several]
        return self._batch(rendered, answers, padding_side)

    def batch_decode(self, generated: Any, **kwargs: Any) -> list[str]:
        """Turn the result of `generate` into texts, each row with the tokenizer of its primary.

        Args:
            generated: What `MixtureOfThoughtsForCausalLM.generate` returned.
            kwargs: For the `decode` of the tokenizers, such as `skip_special_tokens`.

        Returns:
            One text for each row, prompt included.
        """
        rows = zip(generated.sequences.tolist(), generated.primary.tolist(), strict=True)
        return [self.tokenizers[expert].decode([i for i in ids if i >= 0], **kwargs) for ids, expert in rows]

    def save_pretrained(self, folder: str | os.PathLike[str], *, push_to_hub: bool = False, **kwargs: Any) -> None:
        """Save all tokenizers into sub-folders, and the settings beside them.

        Args:
            folder: Where; it is made.
            push_to_hub: Whether to upload it too.
            kwargs: For `push_to_hub`.
        """
        place = Path(folder)
        place.mkdir(parents=True, exist_ok=True)
        for index, tokenizer in enumerate(self.tokenizers):
            tokenizer.save_pretrained(place / f"tokenizer_{index}")
        if self.encoder_tokenizer is not None:
            self.encoder_tokenizer.save_pretrained(place / "encoder_tokenizer")
        settings = {
            "format": _FORMAT,
            "version": _VERSION,
            "num_tokenizers": len(self.tokenizers),
            "peer_decode": self.peer_decode,
            "max_length": self.max_length,
        }
        write_atomic(place / _FILE, json.dumps(settings, indent=2) + "\n")
        if push_to_hub:
            self.push_to_hub(kwargs.pop("repo_id", place.name), **kwargs)

    @classmethod
    def from_pretrained(
        cls, name: str | os.PathLike[str], *, revision: str | None = None, **kwargs: Any
    ) -> MixtureOfThoughtsProcessor:
        """Load what `save_pretrained` wrote.

        Args:
            name: Folder, or repository on the Hub.
            revision: Branch, tag or commit of the repository.
            kwargs: For the download, such as `token` and `cache_dir`.

        Returns:
            The processor.

        Raises:
            ValueError: If there is no processor, or a newer one.
        """
        place = Path(name)
        if not place.is_dir():
            patterns = [_FILE, "tokenizer_*/*", "encoder_tokenizer/*"]
            place = Path(snapshot_download(str(name), revision=revision, allow_patterns=patterns, **kwargs))
        if not (place / _FILE).is_file():
            raise ValueError(f"{name} must contain {_FILE}, as MixtureOfThoughtsProcessor.save_pretrained writes it")
        settings = read_document(place / _FILE, _FORMAT, _VERSION)
        encoder = place / "encoder_tokenizer"
        with reading(place / _FILE):
            tokenizers = [place / f"tokenizer_{index}" for index in range(settings["num_tokenizers"])]
            missing = [folder.name for folder in tokenizers if not folder.is_dir()]
            if missing:
                raise ValueError(f"it has no folder {missing[0]}")
            options = {key: settings[key] for key in ("peer_decode", "max_length")}
        loaded = [AutoTokenizer.from_pretrained(folder) for folder in tokenizers]
        with naming(place / _FILE):
            return cls(
                loaded,
                encoder_tokenizer=AutoTokenizer.from_pretrained(encoder) if encoder.is_dir() else None,
                **options,
            )

    def _batch(
        self,
        prompts: Sequence[Sequence[Rendered]],
        answers: str | Sequence[str] | None,
        padding_side: Literal["left", "right"] | None,
    ) -> BatchFeature:
        """Encode rows of one prompt for each expert."""
        if not prompts:
            raise ValueError("there are no prompts; give at least one")
        given = [answers] if isinstance(answers, str) else answers
        if given is not None and len(given) != len(prompts):
            raise ValueError(f"answers has {len(given)} entries for {len(prompts)} prompts; give one for each")
        side = padding_side or ("left" if given is None else "right")
        replies = [""] * len(prompts) if given is None else list(given)
        inputs = []
        for index, tokenizer in enumerate(self.tokenizers):
            rows = [
                self._row(encode(tokenizer, row[index], reply, end=given is not None), row[index], reply)
                for row, reply in zip(prompts, replies, strict=True)
            ]
            names = list(rows[0]) if given is not None else [name for name in rows[0] if name != "labels"]
            inputs.append({name: _pad([row[name] for row in rows], name, side, tokenizer) for name in names})
        batch = {"expert_inputs": inputs, "encoder_inputs": self._for_encoder(prompts)}
        return BatchFeature(batch if given is not None else {**batch, "prompts": prompts})

    def _row(self, encoded: Encoded, prompt: Rendered, answer: str) -> dict[str, list[int]]:
        """One row of one expert: ids, up to where each token hears the peers, and where it ends itself."""
        committed = committed_ends(prompt.common_text + answer, prompt.num_characters)
        known = [committed[end] for end in known_ends(encoded.spans)]
        if self.peer_decode == "stream":
            ends = [end if end <= committed[-1] else NEVER for _, end in encoded.spans]
        else:
            ends = [end if place < encoded.num_prompt else NEVER for place, (_, end) in enumerate(encoded.spans)]
        labels = [-100] * encoded.num_prompt + encoded.ids[encoded.num_prompt :]
        row = {
            "input_ids": encoded.ids,
            "attention_mask": [1] * len(encoded.ids),
            "query_ends": known,
            "key_ends": ends,
            "labels": labels,
        }
        return {name: values[: self.max_length] for name, values in row.items()}

    def _for_encoder(self, prompts: Sequence[Sequence[Rendered]]) -> dict[str, Tensor]:
        """The common text of the prompts, for the router."""
        tokenizer = self.encoder_tokenizer or self.tokenizers[0]
        texts = [row[0].common_text for row in prompts]
        limit = self.max_length or getattr(tokenizer, "model_max_length", None)
        encoded = [tokenizer(text, truncation=limit is not None and limit < 10**9, max_length=limit) for text in texts]
        names = ("input_ids", "attention_mask")
        return {name: _pad([list(row[name]) for row in encoded], name, "right", tokenizer) for name in names}


def _pad(rows: list[list[int]], name: str, side: str, tokenizer: Any) -> Tensor:
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id or 0
    fill = {"input_ids": pad, "attention_mask": 0, "query_ends": 0, "key_ends": NEVER, "labels": -100}[name]
    length = max(1, *map(len, rows))
    gaps = [[fill] * (length - len(row)) for row in rows]
    filled = [gap + row if side == "left" else row + gap for gap, row in zip(gaps, rows, strict=True)]
    return torch.tensor(filled, dtype=torch.long)


def _render(tokenizer: Any, messages: Sequence[Mapping[str, str]]) -> Rendered:
    """Apply a chat template and find what each message says in the result."""
    if not getattr(tokenizer, "chat_template", None):
        raise ValueError(f"the tokenizer {tokenizer.name_or_path!r} has no chat template; give the prompts as texts")
    text = tokenizer.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=True)
    places, position, common = [], 0, 0
    for message in messages:
        content = message["content"]
        start = text.find(content, position)
        if start < 0:
            content = content.strip()
            start = text.find(content, position)
        if start < 0:
            raise ValueError(
                f"the chat template of {tokenizer.name_or_path!r} changes the message {message['content'][:32]!r} and "
                "its characters cannot be aligned"
            )
        places.append((start, common, len(content)))
        position, common = start + len(content), common + len(content)
    return Rendered(text, tuple(places), False)
