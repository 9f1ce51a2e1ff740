"""Mixed documents: segments of files of several domains in turn, so that no single expert suits a whole document."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any, TypedDict

from hf_mixture.training.thoughts.recipe import DocumentsSpec


class Document(TypedDict):
    """One document.

    Args:
        kind: Its kind in the recipe.
        prompt: What the router reads.
        answer: What is predicted.
    """

    kind: str
    prompt: str
    answer: str


def mixed_documents(spec: DocumentsSpec, texts: Mapping[str, Any], split: str, *, seed: int) -> list[Document]:
    """Compose the documents of a split.

    Args:
        spec: What to compose.
        texts: For each domain its splits: datasets with a column `text`.
        split: `train`, `validation` or `test`.
        seed: Seed of the choice of the files and of the places in them.

    Returns:
        The documents, kind by kind. Training documents may share files; held-out documents of a kind have different
        host files, so that they say something new, and there may be fewer of them than the recipe asks for.

    Raises:
        ValueError: If no file of a domain is long enough.
    """
    number = {"train": spec.num_train, "validation": spec.num_validation, "test": spec.num_test}[split]
    found: list[Document] = []
    for kind, domains in spec.kinds.items():
        draw = random.Random(f"{seed} {split} {kind}")  # noqa: S311 - a reproducible choice
        files = {name: list(texts[name][split]["text"]) for name in dict.fromkeys(domains)}
        found += _of_kind(spec, kind, files, number, draw, again=split == "train")
    return found


def _of_kind(
    spec: DocumentsSpec,
    kind: str,
    files: Mapping[str, Sequence[str]],
    number: int,
    draw: random.Random,
    *,
    again: bool,
) -> list[Document]:
    domains = spec.kinds[kind]
    turns = [domains[place % len(domains)] for place in range(spec.num_segments)]
    host, *guests = dict.fromkeys(turns)
    long = {
        name: [cut for cut in (segments(text, spec.segment_characters) for text in texts) if len(cut) >= least]
        for name, texts, least in ((name, files[name], turns.count(name)) for name in dict.fromkeys(turns))
    }
    for name, cuts in long.items():
        if not cuts:
            raise ValueError(
                f"no file of domain {name!r} has {turns.count(name)} segments "
                f"for documents.kinds.{kind}; lower documents.segment_characters"
            )
        draw.shuffle(cuts)
    documents: list[Document] = []
    for place in range(number if again else min(number, len(long[host]))):
        runs = {}
        for name in (host, *guests):
            file = long[name][place % len(long[name])]
            start = draw.randrange(len(file) - turns.count(name) + 1)
            runs[name] = iter(file[start:])
        parts = [next(runs[name]) for name in turns]
        prompt, answer = parts[: spec.prompt_segments], parts[spec.prompt_segments :]
        documents.append({"kind": kind, "prompt": "".join(prompt), "answer": "".join(answer)})
    return documents


def segments(text: str, num_characters: int) -> list[str]:
    """Cut a text into segments of whole lines; a line longer than a segment is cut.

    Args:
        text: The text.
        num_characters: Most characters of a segment, at least 1.

    Returns:
        Consecutive segments, each as long as the lines allow.

    Example:
        >>> from hf_mixture.training.thoughts.documents import segments
        >>> segments("one\\ntwo\\nthree\\nfour\\n", 8)
        ['one\\ntwo\\n', 'three\\n', 'four\\n']
    """
    found, current = [], ""
    for line in text.splitlines(keepends=True):
        for start in range(0, len(line), num_characters):
            piece = line[start : start + num_characters]
            if len(current) + len(piece) > num_characters:
                found.append(current)
                current = ""
            current += piece
    return [*found, current] if current else found
