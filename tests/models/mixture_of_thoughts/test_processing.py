"""Texts and conversations as the inputs of all experts."""

from __future__ import annotations

import pytest
import torch
from tiny_experts import tokenizer_of
from tiny_mixture import ALL, tiny_mixture
from transformers import BatchFeature

from hf_mixture.models.mixture_of_thoughts.data_collator import MixtureOfThoughtsCollator, score_experts
from hf_mixture.models.mixture_of_thoughts.encoding import Rendered, encode
from hf_mixture.models.mixture_of_thoughts.processing_mixture_of_thoughts import MixtureOfThoughtsProcessor
from hf_mixture.models.mixture_of_thoughts.visibility import NEVER


@pytest.fixture
def processor():
    return MixtureOfThoughtsProcessor([tokenizer_of(family) for family in ALL])


def test_prompts_are_filled_on_the_left_and_answers_on_the_right(processor):
    prompts = processor(["The", "The mixture of thoughts"])
    assert isinstance(prompts, BatchFeature)
    for inputs in prompts["expert_inputs"]:
        assert inputs["attention_mask"][0, 0] == 0
        assert inputs["key_ends"][0, 0] == NEVER
        assert "labels" not in inputs
    answered = processor(["The", "The mixture"], [" answer", " of thoughts"])
    for inputs in answered["expert_inputs"]:
        assert inputs["attention_mask"][0, -1] == 0


def test_labels_are_the_answer_and_its_end(processor):
    batch = processor(["The mixture"], [" of thoughts"])
    for tokenizer, inputs in zip(processor.tokenizers, batch["expert_inputs"], strict=True):
        labels = inputs["labels"][0]
        answer = labels[labels != -100].tolist()
        assert answer[-1] == tokenizer.eos_token_id
        assert tokenizer.decode(answer[:-1]).strip().lower() == "of thoughts"
        assert (inputs["key_ends"][0][labels != -100] == NEVER).all()


def test_a_prompt_keeps_its_own_tokens_when_a_word_goes_on_in_the_answer():
    tokenizer = tokenizer_of("llama")
    alone = tokenizer("The mixture of tho")["input_ids"]
    encoded = encode(tokenizer, Rendered.plain("The mixture of tho"), "ughts let")
    assert encoded.ids[: encoded.num_prompt] == alone
    assert encoded.spans[-1][1] == len("The mixture of thoughts let")


def test_the_parts_of_a_chat_template_stand_for_no_character(processor):
    conversation = [{"role": "user", "content": "The mixture"}, {"role": "bot", "content": "of thoughts"}]
    batch = processor.apply_chat_template(conversation, [" lets"])
    for tokenizer, inputs in zip(processor.tokenizers, batch["expert_inputs"], strict=True):
        ends = [end for end in inputs["key_ends"][0].tolist() if end != NEVER]
        assert ends == sorted(ends)
        assert ends[-1] == len("The mixtureof thoughts")
        text = tokenizer.decode(inputs["input_ids"][0])
        assert "user" in text.replace(" ", "") or "[UNK]" in text
    first, last = batch["expert_inputs"][0], batch["expert_inputs"][1]
    assert (
        first["key_ends"][0][first["key_ends"][0] != NEVER].max()
        == last["key_ends"][0][last["key_ends"][0] != NEVER].max()
    )


def test_a_template_that_changes_a_message_is_refused():
    import copy

    tokenizer = copy.deepcopy(tokenizer_of("gpt2"))
    tokenizer.chat_template = "{% for m in messages %}{{ m.content | upper }}{% endfor %}"
    with pytest.raises(ValueError, match="changes the message 'The mixture'"):
        MixtureOfThoughtsProcessor([tokenizer]).apply_chat_template([{"role": "user", "content": "The mixture"}])
    tokenizer.chat_template = None
    with pytest.raises(ValueError, match="has no chat template"):
        MixtureOfThoughtsProcessor([tokenizer]).apply_chat_template([{"role": "user", "content": "The mixture"}])


def test_slow_tokenizers_are_refused():
    class Slow:
        is_fast = False

    with pytest.raises(ValueError, match="tokenizer 1, Slow, must be a fast tokenizer"):
        MixtureOfThoughtsProcessor([tokenizer_of("gpt2"), Slow()])


def test_a_processor_is_saved_and_loaded(processor, tmp_path):
    processor.peer_decode, processor.max_length = "stream", 7
    processor.encoder_tokenizer = tokenizer_of("bloom")
    processor.save_pretrained(tmp_path)
    again = MixtureOfThoughtsProcessor.from_pretrained(tmp_path)
    first, second = (one(["The mixture of thoughts"], [" lets several"]) for one in (processor, again))
    for name in ("input_ids", "query_ends", "key_ends", "labels"):
        for left, right in zip(first["expert_inputs"], second["expert_inputs"], strict=True):
            assert torch.equal(left[name], right[name])
            assert left[name].shape[1] <= 7
    with pytest.raises(ValueError, match=r"must contain mixture_of_thoughts_processor\.json"):
        MixtureOfThoughtsProcessor.from_pretrained(tmp_path / "tokenizer_0")


def test_the_collator_makes_batches_and_names_a_missing_column(processor):
    collate = MixtureOfThoughtsCollator(processor)
    rows = [
        {"prompt": "The", "answer": " mixture", "expert_nll": [1.0] * 5},
        {"prompt": "A", "answer": " peer", "expert_nll": [2.0] * 5},
    ]
    batch = collate(rows)
    assert batch["expert_nll"].shape == (2, 5)
    assert len(batch["expert_inputs"]) == 5
    with pytest.raises(ValueError, match=r"column 'answer' is not in the batch.*remove_unused_columns=False"):
        collate([{"prompt": "The"}])


def test_experts_are_scored_in_bits_per_byte():
    model, processor = tiny_mixture(("llama", "gpt2"))
    prompts, answers = ["The mixture", "A peer"], [" of thoughts 🙂", " may know"]
    scores = score_experts(model, processor, prompts, answers, batch_size=1)
    assert scores.shape == (2, 2)
    for row in range(2):
        batch = processor(prompts[row], answers[row])
        for expert in range(2):
            inputs = batch["expert_inputs"][expert]
            with torch.no_grad():
                logits = model.experts[expert](input_ids=inputs["input_ids"]).logits[0].log_softmax(-1)
            labels = inputs["labels"][0]
            nats = -sum(logits[t - 1, labels[t]].item() for t in range(1, len(labels)) if labels[t] != -100)
            bits = nats / 0.6931471805599453 / len(answers[row].encode())
            assert scores[row, expert] == pytest.approx(bits, rel=1e-4)


def test_no_prompts_are_refused():
    processor = MixtureOfThoughtsProcessor([tokenizer_of("llama")])
    for make in (processor, processor.apply_chat_template):
        with pytest.raises(ValueError, match="there are no prompts"):
            make([])


def test_answers_that_the_processor_would_cut_are_not_scored():
    model, processor = tiny_mixture(("llama", "gpt2"), num_active_experts=2)
    texts = ["One", "A prompt of several words"], [" two", " and an answer"]
    expected = score_experts(model, processor, *texts)
    processor.max_length = 64
    assert (score_experts(model, processor, *texts) == expected).all()
    processor.max_length = 8
    with pytest.raises(ValueError, match=r"row 1 has .* tokens for expert 0, and the processor's max_length=8"):
        score_experts(model, processor, *texts)
