"""Scanning prompts and measuring edits, against a model that is run prompt by prompt."""

from __future__ import annotations

from collections.abc import MutableMapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_facts import by_first_word, prompts, tiny_model, word_tokenizer

from hf_mixture.moe.anatomy import find_routers
from hf_mixture.moe.mote.baselines import draw_random_edits, topic_ranking
from hf_mixture.moe.mote.edits import ExpertEdit, ExpertEdits
from hf_mixture.moe.mote.evaluation import EditEvaluator, PromptGroup, result_row, summarise_draws
from hf_mixture.moe.mote.patch import tune_experts
from hf_mixture.moe.mote.ranking import rank_experts
from hf_mixture.moe.mote.resonance import FtriCollector
from hf_mixture.moe.mote.respond import encode, respond
from hf_mixture.moe.mote.scan import scan_prompts


TOKENIZER = word_tokenizer()


def said_alone(model: Any, prompt: str, num: int) -> str:
    """Greedy decoding by hand, without cache, batch or padding."""
    ids = TOKENIZER(prompt)["input_ids"]
    new: list[int] = []
    for _ in range(num):
        with torch.no_grad():
            token = int(model(torch.tensor([ids + new]), use_cache=False).logits[0, -1].argmax())
        new.append(token)
        if token == TOKENIZER.eos_token_id:
            break
    return str(TOKENIZER.decode(new, skip_special_tokens=True))


def test_a_scan_is_what_each_prompt_says_alone(tmp_path: Path) -> None:
    model, texts = tiny_model(), prompts(11)
    found = scan_prompts(
        model,
        TOKENIZER,
        texts,
        behaviour=by_first_word,
        max_new_tokens=5,
        batch_size=4,
        progress=False,
        folder=tmp_path,
    )
    assert list(found.responses) == [said_alone(model, text, 5) for text in texts]
    assert list(found.labels) == [by_first_word("", text) for text in found.responses]
    assert set(found.labels) == {"low", "high"}
    for place, text in enumerate(texts):
        with FtriCollector(model) as collector, torch.no_grad():
            model(torch.tensor([TOKENIZER(text)["input_ids"]]))
        assert np.array_equal(collector.maps().counts[0], found.maps.counts[place])
    # Known labels need no generation, and give the same maps.
    known = scan_prompts(model, TOKENIZER, texts, labels=found.labels, batch_size=3, progress=False)
    assert np.array_equal(known.maps.counts, found.maps.counts)
    assert list(known.responses) == [""] * 11


def test_a_scan_that_was_stopped_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import hf_mixture.moe.mote.scan as module

    model, texts, calls = tiny_model(), prompts(10), []

    def stopping(*args: Any, **kwargs: Any) -> list[str]:
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return respond(*args, **kwargs)

    options: dict[str, Any] = {"behaviour": by_first_word, "max_new_tokens": 3, "batch_size": 3, "progress": False}
    whole = scan_prompts(model, TOKENIZER, texts, **options)
    monkeypatch.setattr(module, "respond", stopping)
    with pytest.raises(KeyboardInterrupt):
        scan_prompts(model, TOKENIZER, texts, folder=tmp_path, **options)
    calls.extend([1, 1])
    resumed = scan_prompts(model, TOKENIZER, texts, folder=tmp_path, **options)
    assert len(calls) == 7, "two batches of four were done"
    assert np.array_equal(resumed.maps.counts, whole.maps.counts)
    assert (resumed.responses, resumed.labels) == (whole.responses, whole.labels)
    with pytest.raises(ValueError, match="is of a scan with another model, other prompts or other settings"):
        scan_prompts(model, TOKENIZER, texts, folder=tmp_path, **{**options, "max_new_tokens": 4})


def test_chats_go_through_the_template() -> None:
    tokenizer = word_tokenizer()
    turns = "{% for turn in messages %}w1 {{ turn['content'] }} {% endfor %}"
    tokenizer.chat_template = turns + "{% if add_generation_prompt %}w2{% endif %}"
    batch = encode(tokenizer, [[{"role": "user", "content": "w3 w4"}], "w3"])
    chat = tokenizer("w1 w3 w4 w2", add_special_tokens=False)["input_ids"]
    assert batch["input_ids"].tolist() == [chat, [0, 0, *tokenizer("w3")["input_ids"]]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 1], [0, 0, 1, 1]]


def test_the_generation_configuration_does_not_matter() -> None:
    model, texts = tiny_model(), prompts(6)
    arguments: dict[str, Any] = {"behaviour": by_first_word, "max_new_tokens": 3, "progress": False}
    found = scan_prompts(model, TOKENIZER, texts, **arguments)
    model.generation_config.update(
        cache_implementation="static", do_sample=True, num_return_sequences=2, return_dict_in_generate=True
    )
    again = scan_prompts(model, TOKENIZER, texts, **arguments)
    assert list(again.responses) == list(found.responses)
    assert np.array_equal(again.maps.counts, found.maps.counts)


def test_wrong_arguments_are_refused() -> None:
    model, texts = tiny_model(), prompts(3)
    for arguments, message in (
        ({}, "give either behaviour"),
        ({"behaviour": by_first_word, "labels": ["a"] * 3}, "give either behaviour"),
        ({"labels": ["a"]}, "there are 1 labels for 3 prompts"),
        ({"behaviour": by_first_word, "max_new_tokens": 0}, "max_new_tokens=0 must be >= 1"),
        ({"behaviour": by_first_word, "batch_size": 0}, "batch_size=0 must be >= 1"),
    ):
        with pytest.raises(ValueError, match=message):
            scan_prompts(model, TOKENIZER, texts, **arguments)
    for wrong, error, message in (
        ([], ValueError, "prompts is empty"),
        (["w1", ""], ValueError, r"prompts\[1\] is empty"),
        ([3], TypeError, r"prompts\[0\] is 3; it must be a text"),
        ([["w1"]], TypeError, r"it must be a text, or a list of chat messages"),
    ):
        with pytest.raises(error, match=message):
            scan_prompts(model, TOKENIZER, wrong, behaviour=by_first_word)


def test_edits_are_measured_beside_random_ones() -> None:
    model, texts = tiny_model(), prompts(12)
    paths = [router.path for router in find_routers(model)]
    edits = ExpertEdits([ExpertEdit(paths[1], expert, "off") for expert in range(4)]).signed(model)
    answers = [said_alone(model, text, 2) for text in texts]
    groups = [PromptGroup("known", texts[:8], answers[:8]), PromptGroup("open", texts[8:])]
    options: dict[str, Any] = {"max_new_tokens": 2, "batch_size": 5, "progress": False}
    evaluator = EditEvaluator(model, TOKENIZER, groups, by_first_word, **options)
    base = evaluator.measure("base")
    assert base["known"]["accuracy"] == 1.0
    assert base["open"]["accuracy"] is None
    with tune_experts(model, edits):
        changed = [said_alone(model, text, 2) for text in texts]
    found = evaluator.measure("edits", edits)
    assert found["known"]["accuracy"] == np.mean([a == b for a, b in zip(changed[:8], answers[:8], strict=True)]) < 1
    labels = [by_first_word("", text) for text in changed[8:]]
    assert found["open"]["shares"] == {label: labels.count(label) / 4 for label in set(labels)}
    assert evaluator.measure("base") is base

    draws = evaluator.random("edits", edits, num_draws=20, seed=3)
    assert len({str(draw) for draw in draws}) > 1
    summary = summarise_draws(draws)
    accuracies = [draw["known"]["accuracy"] for draw in draws]
    assert summary["known"]["accuracy"] == pytest.approx(np.mean(accuracies))
    assert summary["known"]["sd"]["accuracy"] == pytest.approx(np.std(accuracies, ddof=1))
    again = EditEvaluator(
        model,
        TOKENIZER,
        groups,
        by_first_word,
        max_new_tokens=2,
        batch_size=5,
        progress=False,
        measured=_Frozen(evaluator),
    )
    assert again.random("edits", edits, num_draws=20, seed=3) == draws
    row = result_row("edits", found, "low")
    assert list(row) == ["condition", "known: low", "known: correct", "open: low"]
    assert result_row("random", summary, "low")["known: correct"] == (
        f"{np.mean(accuracies):.3f} ± {np.std(accuracies, ddof=1):.3f}"
    )
    with pytest.raises(ValueError, match="num_draws=19 must be at least 20"):
        evaluator.random("edits", edits, num_draws=19)
    for wrong, message in (
        ([], "must be at least one"),
        ([groups[0], groups[0]], "each with a name of its own"),
        ([PromptGroup("known", texts, answers[:3])], "has 12 prompts and 3 expected answers"),
    ):
        with pytest.raises(ValueError, match=message):
            EditEvaluator(model, TOKENIZER, wrong, by_first_word)


class _Frozen(dict[str, Any]):
    """What was measured before; a new measurement fails."""

    def __init__(self, evaluator: EditEvaluator) -> None:
        measured: MutableMapping[str, Any] = evaluator.measured
        super().__init__(measured)

    def __setitem__(self, name: str, value: Any) -> None:
        raise AssertionError(f"{name} was measured again")


def test_random_edits_keep_to_what_routers_allow() -> None:
    model = tiny_model()
    routers = find_routers(model)
    like = ExpertEdits([ExpertEdit(routers[0].path, expert, "off") for expert in range(6)])
    rng = np.random.default_rng(0)
    for _ in range(50):
        drawn = draw_random_edits(routers, like, rng)
        assert len({(edit.module, edit.expert) for edit in drawn.edits}) == 6
        assert all(edit.op == "off" and edit.layer is not None for edit in drawn.edits)
        with tune_experts(model, drawn):
            pass
    # 12 of 16 are the most: 2 experts stay in each layer.
    most = ExpertEdits([ExpertEdit(routers[place // 6].path, place % 6, "off") for place in range(12)])
    drawn = draw_random_edits(routers, most, rng)
    assert [len(edits) for edits in drawn.by_module().values()] == [6, 6]
    too_many = ExpertEdits([ExpertEdit(routers[place // 8].path, place % 8, "off") for place in range(13)])
    with pytest.raises(ValueError, match="random sets of 13 experts are all refused by the routers"):
        draw_random_edits(routers, too_many, rng)


def test_the_control_of_the_topic_leaves_the_behaviour_out() -> None:
    model, texts = tiny_model(), prompts(12)
    found = scan_prompts(model, TOKENIZER, texts, labels=["refused"] * 4 + ["answered"] * 8, progress=False)
    topics = ["a", "a", "a", "b", "a", "a", "b", "b", "b", "a", "b", "a"]
    topic, ranked = topic_ranking(found.maps, found.labels, topics, "refused")
    assert topic == "a"
    rates = found.maps.counts / found.maps.tokens[:, None]
    expected = rates[[4, 5, 9, 11]].mean(axis=0) - rates[[6, 7, 8, 10]].mean(axis=0)
    assert ranked[0].score == pytest.approx(expected.max())
    assert ranked != rank_experts(found.maps.summarise(found.labels), "refused")
    with pytest.raises(ValueError, match="0 are of the topic 'a' and 8 of others; the control of the topic needs"):
        topic_ranking(found.maps, found.labels, ["a"] * 4 + ["b"] * 8, "refused")
    with pytest.raises(ValueError, match="no prompt has the label 'silent'"):
        topic_ranking(found.maps, found.labels, topics, "silent")
    with pytest.raises(ValueError, match="12 labels and 2 topics for 12 prompts"):
        topic_ranking(found.maps, found.labels, ["a", "b"], "refused")
