"""Causality by characters: what tokens know, and when peers have read a text."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny_experts import TEXT, TOKENIZERS, tokenizer_of

from hf_mixture.models.mixture_of_thoughts.encoding import Rendered, encode
from hf_mixture.models.mixture_of_thoughts.visibility import (
    NEVER,
    committed_ends,
    known_ends,
    own_visible,
    visible,
)


words = st.text(alphabet="abc de 1,é漢🙂\n", max_size=24)


@pytest.mark.parametrize("family", TOKENIZERS)
@given(text=words)
def test_a_token_knows_the_characters_that_no_later_token_begins_in(family, text):
    encoded = tokenizer_of(family)(text, return_offsets_mapping=True)
    spans = encoded["offset_mapping"]
    ends = known_ends(spans)
    for place, (_, end) in enumerate(spans):
        later = [start for start, _ in spans[place + 1 :]]
        assert ends[place] == min([end, *later])


def test_the_first_part_of_an_emoji_does_not_know_it():
    encoded = tokenizer_of("gpt2")("a 🙂!", return_offsets_mapping=True)
    spans = encoded["offset_mapping"]
    parts = [place for place, (start, end) in enumerate(spans) if start <= 2 < end]
    assert len(parts) > 1
    ends = known_ends(spans)
    assert [ends[place] for place in parts[:-1]] == [2] * (len(parts) - 1)
    assert ends[parts[-1]] == 3


def test_committed_text_ends_with_the_last_complete_word():
    text = "A hi: a bc d"
    assert committed_ends(text, 5) == [0, 0, 1, 1, 1, 5, 5, 5, 7, 7, 7, 10, 10]


@pytest.mark.parametrize("family", TOKENIZERS)
@given(text=words)
def test_committed_text_keeps_its_tokens_whatever_follows(family, text):
    tokenizer = tokenizer_of(family)
    prompt, answer = Rendered.plain("The mixture"), " " + text
    last = committed_ends("x" * 11 + answer, 11)[-1]
    committed = encode(tokenizer, prompt, answer[: last - 11]).ids
    assert encode(tokenizer, prompt, answer).ids[: len(committed)] == committed


def test_peer_tokens_are_seen_once_their_last_character_is_known():
    query = torch.tensor([[0, 2, 5]])
    keys = torch.tensor([[0, 1, 2, 4, 5, NEVER]])
    assert visible(query, keys).int().tolist() == [[[1, 0, 0, 0, 0, 0], [1, 1, 1, 0, 0, 0], [1, 1, 1, 1, 1, 0]]]


@pytest.mark.parametrize("mask", [[0, 0, 1, 1, 1], [1, 1, 1, 0, 0], [1, 1, 1, 1, 1]])
@pytest.mark.parametrize("num_queries", [1, 3, 5])
def test_own_tokens_are_seen_in_order_and_padding_only_by_itself(mask, num_queries):
    seen = own_visible(torch.tensor([mask]), num_queries)[0].tolist()
    for place, row in enumerate(seen):
        query = len(mask) - num_queries + place
        assert row == [key == query or (key <= query and bool(mask[key])) for key in range(len(mask))]


def test_texts_of_the_fixtures_have_characters_of_several_bytes():
    assert any(ord(character) > 0xFFFF for character in "".join(TEXT))
