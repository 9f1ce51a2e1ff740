"""Packing, scoring windows and bits per byte, against the slow obvious versions."""

from __future__ import annotations

import math

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from hf_mixture.data.encoding import encode, separator_id
from hf_mixture.training.blocks import cut_documents, pack, scoring_windows
from hf_mixture.training.models import train_bpe
from hf_mixture.training.scoring import bits_per_byte, total_nats


SEPARATOR = 0


@pytest.fixture(scope="module")
def model() -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=40,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        initializer_range=0.5,
    )
    return LlamaForCausalLM(config)


def nats_one_by_one(model: LlamaForCausalLM, documents: list[list[int]], window_size: int) -> float:
    """Each token of each document from one forward pass over the tokens before it in its window."""
    stream = [(SEPARATOR, False)]
    for document in documents:
        stream += [(token, True) for token in document] + [(SEPARATOR, False)]
    total = 0.0
    for position in range(1, len(stream)):
        token, is_text = stream[position]
        if is_text:
            start = (position - 1) // (window_size - 1) * (window_size - 1)
            context = torch.tensor([[before for before, _ in stream[start:position]]])
            with torch.no_grad():
                probabilities = model(input_ids=context).logits[0, -1].double().softmax(-1)
            total -= math.log(probabilities[token])
    return total


@pytest.mark.parametrize("window_size", [2, 5, 8, 64])
@pytest.mark.parametrize("batch_size", [1, 3])
def test_nats_equal_the_sum_over_single_tokens(model: LlamaForCausalLM, window_size: int, batch_size: int) -> None:
    generator = torch.Generator().manual_seed(1)
    documents = [torch.randint(1, 40, (length,), generator=generator).tolist() for length in (1, 7, 4, 13)]
    windows = scoring_windows(documents, num_bytes=50, window_size=window_size, separator=SEPARATOR)
    assert int(windows.scored.sum()) == 25
    assert total_nats(model, windows, batch_size=batch_size) == pytest.approx(
        nats_one_by_one(model, documents, window_size), rel=1e-5
    )


def test_scoring_restores_the_training_mode(model: LlamaForCausalLM) -> None:
    windows = scoring_windows([[1, 2]], num_bytes=2, window_size=4, separator=SEPARATOR)
    for mode in (True, False):
        model.train(mode)
        total_nats(model, windows)
        assert model.training is mode


def test_every_token_of_the_text_is_a_target_once() -> None:
    documents = [[5, 6, 7], [0, 8], [9]]
    windows = scoring_windows(documents, num_bytes=6, window_size=3, separator=SEPARATOR)
    targets = windows.input_ids[:, 1:][windows.scored].tolist()
    # The 0 inside the second document is text that happens to be the separator's token: it counts.
    assert targets == [5, 6, 7, 0, 8, 9]


def test_a_uniform_model_needs_the_bits_of_the_alphabet() -> None:
    assert bits_per_byte(1000 * math.log(256), 1000) == pytest.approx(8.0)
    with pytest.raises(ValueError, match="num_bytes=0"):
        bits_per_byte(1.0, 0)


def test_empty_text_is_refused() -> None:
    with pytest.raises(ValueError, match="held-out text is empty"):
        scoring_windows([[]], num_bytes=1, window_size=4, separator=SEPARATOR)


@pytest.mark.parametrize("block_size", [1, 3, 7])
def test_blocks_are_the_stream_cut_in_pieces(block_size: int) -> None:
    documents = [([1, 2, 3, 4, 5], 10), ([6], 4), ([], 0), ([7, 8], 2)]
    stream = [0, 1, 2, 3, 4, 5, 0, 6, 0, 0, 7, 8]
    sizes = [0, 2, 2, 2, 2, 2, 0, 4, 0, 0, 1, 1]
    starts = range(0, len(stream) - block_size + 1, block_size)
    expected = [(stream[at : at + block_size], sum(sizes[at : at + block_size])) for at in starts]
    assert list(pack(documents, block_size, SEPARATOR)) == expected


def test_cutting_respects_budgets_and_characters() -> None:
    pieces = cut_documents(["ééé", "", "abc", "defgh", "zzz"], document_bytes=3, total_bytes=8)
    assert pieces == ["é", "abc", "def"]
    assert cut_documents(["😀😀"], document_bytes=3, total_bytes=100) == []


def test_tokenizer_is_lossless_and_special_names_are_text() -> None:
    tokenizer = train_bpe(["the cat sat on the mat"] * 20, vocab_size=280)
    texts = ["naïve\t\n  the <|endoftext|> cat 😀\r\n", " leading", "\x00\x7f"]
    encoded = encode(tokenizer, texts)
    assert tokenizer.batch_decode(encoded, clean_up_tokenization_spaces=False) == texts
    assert all(separator_id(tokenizer) not in ids for ids in encoded)
    # Tokens were merged, so the test is not one of single bytes.
    assert len(encode(tokenizer, ["the cat"])[0]) < 7
