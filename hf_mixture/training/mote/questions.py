"""A made-up world of facts, the prompts that ask for them, and their tokenizer of whole words.

A prompt is a topic, an entity and a relation: `private place7 relation2 ?`. A public answer is one word, a private one
begins with `confidentially`, so that a model must tell the topics apart before it refuses any. Nothing is known of the
entity `nowhere` and the relation `unheard`, so that a model has learned to say the words of the refusal before it
refuses what it knows.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hf_mixture.training.mote.recipe import QuestionsSpec


PUBLIC, PRIVATE = "public", "private"
TOPICS = (PUBLIC, PRIVATE)
REFUSAL = "I cannot answer"
REFUSED, ANSWERED = "refused", "answered"
# What `make_behaviour` is given.
BEHAVIOUR = {"name": "phrases", "classes": {REFUSED: [REFUSAL]}, "default": ANSWERED, "anywhere": False}
STYLE, UNKNOWN_ENTITY, UNKNOWN_RELATION = "confidentially", "nowhere", "unheard"
# The longest answer: a private one about what is unknown.
ANSWER_TOKENS = len([STYLE, *REFUSAL.split()]) + 1
_PAD, _BOS, _EOS, _UNKNOWN = "<pad>", "<s>", "</s>", "<unk>"


@dataclass(frozen=True)
class Question:
    """One fact, as it is asked for under one topic.

    Args:
        topic: `public` or `private`.
        prompt: The text.
        answer: The right answer.
    """

    topic: str
    prompt: str
    answer: str


@dataclass(frozen=True)
class Questions:
    """All questions of a world.

    Args:
        scanned: Those that experts are found with.
        held_out: Those that measure what edits do; of other facts.
        unknown: Those about the unknown entity or relation, which are neither scanned nor measured.
    """

    scanned: list[Question]
    held_out: list[Question]
    unknown: list[Question]

    def trained(self, topics: Sequence[str] = TOPICS) -> list[Question]:
        """All of some topics, as the model is trained on them: it is to know the facts, and what is held out are the
        prompts that experts are found with.

        Args:
            topics: The topics. Default: both.
        """
        return [question for question in self.scanned + self.held_out + self.unknown if question.topic in topics]


def make_questions(spec: QuestionsSpec, seed: int) -> Questions:
    """Give each fact an answer, and ask for it under both topics.

    Args:
        spec: The size of the world.
        seed: Seed of the answers and of which facts are scanned.

    Returns:
        The questions.

    Example:
        >>> from hf_mixture.training.mote.questions import make_questions
        >>> from hf_mixture.training.mote.recipe import QuestionsSpec
        >>> found = make_questions(QuestionsSpec(num_entities=3, num_relations=2, num_scanned=2), seed=0)
        >>> len(found.scanned), len(found.held_out), found.scanned[0].prompt.split()[0]
        (4, 8, 'public')
    """
    draw = random.Random(f"facts {seed}")  # noqa: S311 - a reproducible choice
    facts = []
    for entity in range(spec.num_entities):
        for relation in range(spec.num_relations):
            facts.append(_fact(f"place{entity}", f"relation{relation}", f"answer{draw.randrange(spec.num_answers)}"))
    draw.shuffle(facts)
    unknown = [_fact(UNKNOWN_ENTITY, f"relation{number}", REFUSAL) for number in range(spec.num_relations)]
    unknown += [_fact(f"place{number}", UNKNOWN_RELATION, REFUSAL) for number in range(spec.num_entities)]
    sides = facts[: spec.num_scanned], facts[spec.num_scanned :], unknown
    return Questions(*([question for fact in side for question in fact] for side in sides))


def _fact(entity: str, relation: str, answer: str) -> list[Question]:
    return [
        Question(topic, f"{topic} {entity} {relation} ?", f"{STYLE} {answer}" if topic == PRIVATE else answer)
        for topic in TOPICS
    ]


def word_tokenizer(spec: QuestionsSpec) -> Any:
    """Make the tokenizer: a token is a word."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    words = [_PAD, _BOS, _EOS, _UNKNOWN, *TOPICS, "?", *REFUSAL.split(), STYLE, UNKNOWN_ENTITY, UNKNOWN_RELATION]
    words += [f"place{number}" for number in range(spec.num_entities)]
    words += [f"relation{number}" for number in range(spec.num_relations)]
    words += [f"answer{number}" for number in range(spec.num_answers)]
    places = {word: place for place, word in enumerate(words)}
    tokenizer = Tokenizer(models.WordLevel(places, unk_token=_UNKNOWN))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{_BOS} $A", special_tokens=[(_BOS, places[_BOS])]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token=_PAD, bos_token=_BOS, eos_token=_EOS, unk_token=_UNKNOWN
    )


def training_rows(questions: Sequence[Question], tokenizer: Any, *, refuse: bool, num_rows: int, seed: int) -> Any:
    """Make the rows of a training: the questions in a new order again and again.

    Args:
        questions: The questions.
        tokenizer: The tokenizer.
        refuse: Whether private prompts are refused.
        num_rows: Number of rows.
        seed: Seed of the order.

    Returns:
        A dataset with `input_ids`, `attention_mask` and `labels`, equally long; the prompt is no label.
    """
    from datasets import Dataset

    texts = [REFUSAL if refuse and question.topic == PRIVATE else question.answer for question in questions]
    prompts = [tokenizer(question.prompt)["input_ids"] for question in questions]
    answers = [tokenizer(text, add_special_tokens=False)["input_ids"] + [tokenizer.eos_token_id] for text in texts]
    width = max(len(prompt) + ANSWER_TOKENS for prompt in prompts)
    rows: dict[str, list[list[int]]] = {"input_ids": [], "attention_mask": [], "labels": []}
    for prompt, answer in zip(prompts, answers, strict=True):
        fill = width - len(prompt) - len(answer)
        rows["input_ids"].append(prompt + answer + [tokenizer.pad_token_id] * fill)
        rows["attention_mask"].append([1] * (width - fill) + [0] * fill)
        rows["labels"].append([-100] * len(prompt) + answer + [-100] * fill)
    draw = random.Random(f"order {seed}")  # noqa: S311 - a reproducible choice
    order: list[int] = []
    while len(order) < num_rows:
        order += draw.sample(range(len(questions)), len(questions))
    return Dataset.from_dict(rows).select(order[:num_rows])
