"""Wording of exam papers that says nothing about a question: windows with it are left out of a decontamination index.

The published tool has 26 such expressions and applies them to n-grams whose stop words and punctuation are gone, so
that those which need either can never match. These here are this package's own; `mode="repaired"` applies them to the
window of the text, and each has an example of what it is meant for.
"""

from __future__ import annotations

import re
from typing import NamedTuple


class Scaffold(NamedTuple):
    """One expression.

    Args:
        pattern: Matched in lower-case text.
        example: A piece of text that it is meant for.
    """

    pattern: re.Pattern[str]
    example: str


def _scaffold(pattern: str, example: str) -> Scaffold:
    return Scaffold(re.compile(pattern), example)


SCAFFOLDS: dict[str, Scaffold] = {
    "which_of_following": _scaffold(r"\bwhich (?:one )?of the following\b", "Which of the following is a prime?"),
    "all_of_above": _scaffold(r"\b(?:all|none|both|neither) of the (?:above|below)\b", "D. All of the above"),
    "both_a_and_b": _scaffold(r"\b(?:both|only|neither) (?:\(?[a-d]\)? (?:and|nor) \(?[a-d]\)?)", "Both A and B"),
    "correct_answer_is": _scaffold(
        r"\b(?:correct|best|right) (?:answer|option|choice)(?: choice)? is\b", "The correct answer is B."
    ),
    "answer_label": _scaffold(r"\banswers?\s*:", "Answer: 42"),
    "question_label": _scaffold(r"\bquestions?\s*(?:no\.?\s*)?\d*\s*:", "Question 3: name it."),
    "option_letter": _scaffold(r"(?:^|[\s(])\(?[a-e]\)\s", "a) a cat  b) a dog"),
    "option_numerals": _scaffold(r"\((?:i|ii|iii|iv|v)\) (?:and|or) \((?:i|ii|iii|iv|v)\)", "(i) and (ii)"),
    "numerals_only": _scaffold(r"\b(?:i|ii|iii|iv)(?:,| and/or| and| or) (?:i|ii|iii|iv) only\b", "I and II only"),
    "and_or_numerals": _scaffold(r"\b(?:i|ii|iii) and/or (?:ii|iii|iv)\b", "I and/or II"),
    "which_statements": _scaffold(
        r"\bwhich (?:of (?:the|these) )?statements?\b", "Which of these statements is correct?"
    ),
    "statement_pair": _scaffold(r"\bstatement 1\b.*\bstatement 2\b", "Statement 1 | A field. Statement 2 | A ring."),
    "true_or_false": _scaffold(r"\btrue or false\b|\btrue/false\b", "True or false: the sky is blue."),
    "true_false_pair": _scaffold(r"\b(?:true|false)\s*,\s*(?:true|false)\b", "True, False"),
    "what_is_probability": _scaffold(r"\bwhat is the probability\b", "What is the probability of two heads?"),
    "if_and_only_if": _scaffold(r"\bif and only if\b", "if and only if n is even"),
    "find_value_of": _scaffold(r"\b(?:find|determine|calculate|compute) the value of\b", "Find the value of x."),
    "how_many_of": _scaffold(r"\bhow many of the (?:following|above)\b", "How many of the following are odd?"),
    "fill_in_blank": _scaffold(r"\bfill in the blanks?\b|_{3,}", "Fill in the blank: the ___ barks."),
    "choose_the": _scaffold(
        r"\b(?:choose|select|pick|mark) the (?:\w+ )?(?:answer|option|choice|alternative)\b", "Choose the best answer."
    ),
    "following_passage": _scaffold(
        r"\b(?:read|based on|according to) the (?:following )?(?:passage|text|paragraph)\b", "According to the passage"
    ),
    "explain_your": _scaffold(
        r"\b(?:explain|show|justify) your (?:answer|work|reasoning)\b", "Explain your reasoning."
    ),
    "except_not": _scaffold(r"\ball of the following\b.*\bexcept\b", "All of the following are fish except"),
    "most_likely": _scaffold(
        r"\bwhich (?:of the \w+ )?(?:is|are|would be) (?:the )?(?:most|least) likely\b",
        "Which is most likely to melt?",
    ),
    "round_to": _scaffold(r"\bround(?:ed)? (?:off )?(?:your answer )?to the nearest\b", "Round to the nearest cent."),
    "test_function": _scaffold(
        r"\byour code should (?:pass|satisfy) (?:these|the) tests?\b", "Your code should pass these tests:"
    ),
}


def is_scaffolding(text: str) -> bool:
    """Whether any of the expressions matches.

    Args:
        text: Lower-case text: the window of an n-gram, or, as the published tool does, the n-gram.

    Returns:
        Whether it has the wording of an exam paper.

    Example:
        ```python
        >>> is_scaffolding("which of the following is a fish"), is_scaffolding("following fish")
        (True, False)

        ```
    """
    return any(scaffold.pattern.search(text) for scaffold in SCAFFOLDS.values())
