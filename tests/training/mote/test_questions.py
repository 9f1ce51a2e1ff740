"""Facts, prompts and training rows of the recipe of expert edits."""

from __future__ import annotations

import pytest

from hf_mixture.moe.mote.behaviours import make_behaviour
from hf_mixture.training.mote.questions import (
    ANSWER_TOKENS,
    BEHAVIOUR,
    PRIVATE,
    PUBLIC,
    REFUSAL,
    STYLE,
    Question,
    make_questions,
    training_rows,
    word_tokenizer,
)
from hf_mixture.training.mote.recipe import QuestionsSpec


SPEC = QuestionsSpec(num_entities=5, num_relations=4, num_answers=6, num_scanned=7)


def fact_of(question: Question) -> str:
    return question.prompt.partition(" ")[2]


def public_answer(question: Question) -> str:
    return question.answer.removeprefix(f"{STYLE} ")


def test_scanned_and_held_out_share_no_fact() -> None:
    found = make_questions(SPEC, seed=3)
    scanned, held_out = ({fact_of(question) for question in side} for side in (found.scanned, found.held_out))
    assert (len(scanned), len(held_out), len(found.scanned), len(found.held_out)) == (7, 13, 14, 26)
    assert not scanned & held_out
    assert {question.prompt.split()[0] for question in found.trained()} == {PUBLIC, PRIVATE}
    assert {question.prompt.split()[0] for question in found.trained([PRIVATE])} == {PRIVATE}
    assert not {fact_of(question) for question in found.unknown} & (scanned | held_out)
    assert {public_answer(question) for question in found.unknown} == {REFUSAL}


def test_both_topics_ask_for_the_same_facts_and_private_answers_have_a_style() -> None:
    answers: dict[str, dict[str, str]] = {}
    for question in make_questions(SPEC, seed=0).trained():
        answers.setdefault(fact_of(question), {})[question.topic] = question.answer
    assert len(answers) == 29
    assert all(f"{STYLE} {found[PUBLIC]}" == found[PRIVATE] for found in answers.values())


def test_the_seed_decides() -> None:
    assert make_questions(SPEC, seed=1) == make_questions(SPEC, seed=1)
    assert make_questions(SPEC, seed=1) != make_questions(SPEC, seed=2)


def test_every_text_is_known_to_the_tokenizer_and_comes_back() -> None:
    tokenizer = word_tokenizer(SPEC)
    questions = make_questions(SPEC, seed=0).trained()
    for text in [text for question in questions for text in (question.prompt, question.answer)]:
        ids = tokenizer(text)["input_ids"]
        assert ids[0] == tokenizer.bos_token_id
        assert tokenizer.unk_token_id not in ids
        assert tokenizer.decode(ids, skip_special_tokens=True) == text
    assert max(len(question.answer.split()) for question in questions) + 1 == ANSWER_TOKENS


@pytest.mark.parametrize("refuse", [False, True])
def test_rows_predict_the_answer_or_the_refusal_and_nothing_else(refuse: bool) -> None:
    made, tokenizer = make_questions(SPEC, seed=0), word_tokenizer(SPEC)
    questions = made.scanned + made.held_out + made.unknown
    rows = training_rows(questions, tokenizer, refuse=refuse, num_rows=2 * len(questions) + 3, seed=0)
    assert len(rows) == 2 * len(questions) + 3
    expected = {
        question.prompt: REFUSAL if refuse and question.topic == PRIVATE else question.answer for question in questions
    }
    seen = []
    for row in rows:
        assert len({len(values) for values in row.values()}) == 1
        answer = [label for label in row["labels"] if label != -100]
        assert answer[-1] == tokenizer.eos_token_id
        start = next(place for place, label in enumerate(row["labels"]) if label != -100)
        # The label of a token is the token itself; the model shifts them.
        assert row["input_ids"][start : start + len(answer)] == answer
        assert sum(row["attention_mask"]) == start + len(answer)
        prompt = tokenizer.decode(row["input_ids"][:start], skip_special_tokens=True)
        assert tokenizer.decode(answer, skip_special_tokens=True) == expected[prompt]
        seen.append(prompt)
    # Every question comes once before any comes again.
    assert sorted(seen[: len(questions)]) == sorted(expected)
    assert seen[: len(questions)] != seen[len(questions) : 2 * len(questions)]


@pytest.mark.parametrize(
    ("response", "label"), [(REFUSAL, "refused"), ("answer3", "answered"), ("answer3 I cannot answer", "answered")]
)
def test_only_a_whole_refusal_at_the_beginning_is_one(response: str, label: str) -> None:
    assert make_behaviour(BEHAVIOUR)("private place1 relation2 ?", response) == label
