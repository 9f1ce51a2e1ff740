from __future__ import annotations

import pytest

from hf_mixture.moe.mote.behaviours import list_behaviours, make_behaviour, register_behaviour, response_part


@pytest.mark.parametrize(
    ("response", "answer", "reasoning"),
    [
        ("  Paris. ", "Paris.", ""),
        ("<think>Hm, France.</think> Paris.", "Paris.", "Hm, France."),
        # The template wrote the first mark.
        ("Hm, France.</think>Paris.", "Paris.", "Hm, France."),
        # It did not come to an answer.
        ("<think>Hm, I cannot", "", "Hm, I cannot"),
        ("<think>a</think><think>b</think>c", "c", "a</think><think>b"),
        ("", "", ""),
    ],
)
def test_answer_and_reasoning(response: str, answer: str, reasoning: str) -> None:
    assert response_part(response, "answer") == answer
    assert response_part(response, "reasoning") == reasoning
    assert response_part(response, "all") == response.strip()


def test_phrases_are_looked_for_in_the_answer() -> None:
    spec = {
        "name": "phrases",
        "classes": {"refused": ["I cannot", "unable"], "polite": ["please"]},
        "default": "plain",
    }
    classify = make_behaviour(spec)
    assert classify("", "I CANNOT say, please.") == "refused"
    assert classify("", "<think>I cannot say.</think>Please wait.") == "polite"
    assert classify("", "Paris.") == "plain"
    assert classify("", "<think>I cannot") == "empty"
    at_start = make_behaviour({**spec, "anywhere": False})
    assert at_start("", "I am unable.") == "plain"
    assert at_start("", "Unable to say.") == "refused"
    assert make_behaviour({**spec, "part": "all"})("", "<think>I cannot say.</think>Paris") == "refused"


def test_script_of_the_reasoning() -> None:
    classify = make_behaviour({"name": "script", "scripts": {"en": "LATIN", "zh": "CJK"}})
    assert classify("", "<think>First, 2 + 2 = 四.</think>四四四") == "en"
    assert classify("", "<think>先看 x。</think>Four.") == "zh"
    assert classify("", "Four.") == "none"
    assert make_behaviour({"name": "script", "scripts": {"en": "LATIN"}, "part": "answer"})("", "Four.") == "en"


def test_a_behaviour_of_ones_own() -> None:
    @register_behaviour("length-of-test")
    def by_length(*, longest: int):
        return lambda prompt, response: "long" if len(response) > longest else "short"

    assert make_behaviour({"name": "length-of-test", "longest": 3})("", "four") == "long"
    assert "length-of-test" in list_behaviours()
    with pytest.raises(ValueError, match="'length-of-test' is registered already"):
        register_behaviour("length-of-test")(lambda: None)


def test_wrong_specifications_are_refused() -> None:
    for spec, message in (
        ("polite", "behaviour name='polite' is unknown; there are .*phrases, script"),
        ({"classes": {}}, "behaviour name=None is unknown"),
        ({"name": "phrases"}, "behaviour 'phrases': .*classes.*; remove or correct the option"),
        ({"name": "phrases", "classes": {"a": ["b"]}, "words": 1}, "behaviour 'phrases': .*words"),
        ({"name": "phrases", "classes": {"a": []}}, "must give each label a list of phrases"),
        ({"name": "phrases", "classes": {"a": "no"}}, "must give each label a list of phrases"),
        ({"name": "script", "scripts": {}}, "must give at least one label"),
    ):
        with pytest.raises(ValueError, match=message):
            make_behaviour(spec)
