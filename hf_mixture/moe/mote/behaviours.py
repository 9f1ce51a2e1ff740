"""What a response does: classifiers of behaviour, by name and options, so that a file can say which one was meant."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, TypeAlias


Behaviour: TypeAlias = Callable[[str, str], str]
Part = Literal["answer", "reasoning", "all"]

_FACTORIES: dict[str, Callable[..., Behaviour]] = {}


def register_behaviour(name: str) -> Callable[[Callable[..., Behaviour]], Callable[..., Behaviour]]:
    """Register a factory of classifiers under a name.

    Args:
        name: The name.

    Returns:
        A decorator of the factory: options in, a function from prompt and response to a label out.

    Raises:
        ValueError: If the name is taken by another factory.

    Example:
        >>> from hf_mixture.moe.mote.behaviours import make_behaviour, register_behaviour
        >>> @register_behaviour("shouting")
        ... def shouting():
        ...     return lambda prompt, response: "loud" if response.isupper() else "calm"
        >>> make_behaviour("shouting")("Well?", "YES")
        'loud'
    """

    def register(factory: Callable[..., Behaviour]) -> Callable[..., Behaviour]:
        if _FACTORIES.setdefault(name, factory) is not factory:
            raise ValueError(f"a behaviour {name!r} is registered already; choose another name")
        return factory

    return register


def list_behaviours() -> list[str]:
    """List the names of the registered classifiers.

    Returns:
        Sorted names.
    """
    return sorted(_FACTORIES)


def make_behaviour(spec: str | Mapping[str, Any]) -> Behaviour:
    """Make a classifier from its name, or from `{"name": ..., option: ...}`.

    Args:
        spec: The name, or a mapping with the key `name` and the options.

    Returns:
        A function from prompt and response to a label.

    Raises:
        ValueError: If the name is unknown, or the options do not suit it.

    Example:
        >>> from hf_mixture.moe.mote.behaviours import make_behaviour
        >>> classify = make_behaviour({"name": "phrases", "classes": {"refused": ["I cannot"]}, "default": "answered"})
        >>> classify("What happened in 1905?", "<think>Hm.</think>I cannot say.")
        'refused'
    """
    options = {"name": spec} if isinstance(spec, str) else dict(spec)
    name = options.pop("name", None)
    if name not in _FACTORIES:
        raise ValueError(f"behaviour name={name!r} is unknown; there are {', '.join(list_behaviours())}")
    try:
        return _FACTORIES[name](**options)
    except TypeError as error:
        raise ValueError(f"behaviour {name!r}: {error}; remove or correct the option") from None


def response_part(response: str, part: Part, *, think_start: str = "<think>", think_end: str = "</think>") -> str:
    """Take the answer, or the reasoning before it, out of a response.

    Args:
        response: The response.
        part: Which part; a response that ends within its reasoning has no answer.
        think_start: Mark at the start of the reasoning. A chat template may write it into the prompt.
        think_end: Mark at its end.

    Returns:
        The part, without surrounding white space.
    """
    if part == "all":
        return response.strip()
    before, mark, after = response.rpartition(think_end)
    if mark:
        return (before.replace(think_start, "", 1) if part == "reasoning" else after).strip()
    unfinished = response.lstrip().startswith(think_start)
    if part == "reasoning":
        return response.replace(think_start, "", 1).strip() if unfinished else ""
    return "" if unfinished else response.strip()


@register_behaviour("phrases")
def phrases(
    *,
    classes: Mapping[str, Sequence[str]],
    default: str = "other",
    empty: str = "empty",
    part: Part = "answer",
    anywhere: bool = True,
) -> Behaviour:
    """Classify by the first class that has a phrase in the answer, whatever its case.

    Args:
        classes: Label to phrases; their order decides.
        default: Label without any of them. Default: `"other"`.
        empty: Label of a response without an answer, which is none. Default: `"empty"`.
        part: Where to look. Default: `"answer"`, behind the reasoning.
        anywhere: Whether a phrase may stand anywhere, or at the beginning alone. Default: True.

    Returns:
        The classifier.

    Raises:
        ValueError: If there are no classes, or one without phrases.
    """
    if not classes or not all(isinstance(found, list | tuple) and found and all(found) for found in classes.values()):
        raise ValueError(f"classes={classes!r} must give each label a list of phrases, none of them empty")
    folded = {label: [phrase.casefold() for phrase in found] for label, found in classes.items()}

    def classify(prompt: str, response: str) -> str:
        text = response_part(response, part).casefold()
        if not text:
            return empty
        for label, found in folded.items():
            if any(phrase in text if anywhere else text.startswith(phrase) for phrase in found):
                return label
        return default

    return classify


@register_behaviour("script")
def script(*, scripts: Mapping[str, str], part: Part = "reasoning", none: str = "none") -> Behaviour:
    """Classify by the script that most letters belong to, such as the language of the reasoning.

    Args:
        scripts: Label to the beginning of Unicode names: `{"en": "LATIN", "zh": "CJK"}`.
        part: Where to look. Default: `"reasoning"`.
        none: Label of a text without letters of these scripts. Default: `"none"`.

    Returns:
        The classifier.

    Raises:
        ValueError: If no script is given.
    """
    if not scripts:
        raise ValueError("scripts={} must give at least one label the beginning of Unicode names, such as 'LATIN'")

    def classify(prompt: str, response: str) -> str:
        names = [unicodedata.name(letter, "") for letter in response_part(response, part) if letter.isalpha()]
        counts = {label: sum(name.startswith(begin) for name in names) for label, begin in scripts.items()}
        best = max(counts, key=lambda label: counts[label])
        return best if counts[best] else none

    return classify
