"""A prompt and an answer as the tokens of one tokenizer, with the characters that each token stands for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Encoded:
    """Tokens of a text.

    Args:
        ids: Token ids.
        spans: Start and end character of each token in the common text; special tokens are empty spans.
        num_prompt: How many of them belong to the prompt.
    """

    ids: list[int]
    spans: list[tuple[int, int]]
    num_prompt: int


@dataclass(frozen=True)
class Rendered:
    """A prompt as one expert reads it.

    Args:
        text: The text for its tokenizer, chat template included.
        places: For each part of the common text: where it starts in `text`, where it starts in the common text, and
            its length.
        special: Whether the tokenizer still has to add its special tokens.
    """

    text: str
    places: tuple[tuple[int, int, int], ...]
    special: bool

    @classmethod
    def plain(cls, text: str) -> Rendered:
        """A prompt without a template."""
        return cls(text, ((0, 0, len(text)),), True)

    @property
    def common_text(self) -> str:
        """What the prompt says, without the parts of a template."""
        return "".join(self.text[start : start + length] for start, _, length in self.places)

    @property
    def num_characters(self) -> int:
        """Length of the common text."""
        return sum(length for _, _, length in self.places)

    def common(self, position: int) -> int:
        """Character of the common text that a position of the rendered text has reached."""
        reached = 0
        for start, common, length in self.places:
            if position < start:
                break
            reached = common + min(position - start, length)
        return reached


def encode(tokenizer: Any, prompt: Rendered, answer: str, *, end: bool = False) -> Encoded:
    """Tokenise a prompt and an answer so that the prompt keeps the tokens that it has on its own.

    Args:
        tokenizer: A fast tokenizer.
        prompt: The prompt.
        answer: What follows; may be empty.
        end: Whether to close with the end-of-text token, where the tokenizer has one.

    Returns:
        Tokens and their spans.
    """
    ids, offsets = _tokens(tokenizer, prompt.text, special=prompt.special)
    spans = [(prompt.common(a), prompt.common(b)) for a, b in offsets]
    num_prompt, base = len(ids), prompt.num_characters
    if answer:
        joint_ids, joint_offsets = _tokens(tokenizer, prompt.text + answer, special=prompt.special)
        if joint_ids[:num_prompt] == ids:
            more_ids, more, shift = joint_ids[num_prompt:], joint_offsets[num_prompt:], base - len(prompt.text)
        else:
            # The last word of the prompt goes on in the answer: a model that writes cannot take its tokens back.
            more_ids, more = _tokens(tokenizer, answer, special=False)
            shift = base
        ids, spans = ids + more_ids, spans + [(max(base, a + shift), max(base, b + shift)) for a, b in more]
    if end and tokenizer.eos_token_id is not None:
        total = base + len(answer)
        ids, spans = [*ids, tokenizer.eos_token_id], [*spans, (total, total)]
    return Encoded(ids, spans, num_prompt)


def _tokens(tokenizer: Any, text: str, *, special: bool) -> tuple[list[int], list[tuple[int, int]]]:
    encoded = tokenizer(text, add_special_tokens=special, return_offsets_mapping=True)
    ids, offsets = list(encoded["input_ids"]), [tuple(pair) for pair in encoded["offset_mapping"]]
    # Some tokenizers close every text; an answer follows here.
    while special and ids and ids[-1] == tokenizer.eos_token_id and offsets[-1][0] == offsets[-1][1]:
        ids, offsets = ids[:-1], offsets[:-1]
    return ids, offsets
