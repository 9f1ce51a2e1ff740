"""What the edits of a seed do to the answers, and the baked model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from hf_mixture.hub.atomic import replaced_folder
from hf_mixture.moe.mote.edits import ExpertEdits
from hf_mixture.training.mote.parts import BAKE, EVALUATE, FINETUNE, MoteRun, part_name, rankings
from hf_mixture.training.mote.questions import ANSWER_TOKENS, BEHAVIOUR, REFUSED, TOPICS, Question
from hf_mixture.training.mote.stock import answer_in_stock_process


GREEDY = {"max_new_tokens": ANSWER_TOKENS, "do_sample": False}
UNEDITED, RANDOM, TOPIC = "unedited", ", random", ", topic"


def off_name(number: int, mode: str) -> str:
    """Name of the condition with experts off."""
    return f"top {number} off, {mode}"


def on_name(number: int) -> str:
    """Name of the condition with experts forced on."""
    return f"top {number} on"


def groups_of(questions: Sequence[Question]) -> list[Any]:
    """The prompts of each topic, with their right answers."""
    from hf_mixture.moe.mote.evaluation import PromptGroup

    groups = []
    for topic in TOPICS[::-1]:
        own = [question for question in questions if question.topic == topic]
        groups.append(PromptGroup(topic, [question.prompt for question in own], [question.answer for question in own]))
    return groups


def evaluate(run: MoteRun, seed: int) -> None:
    """Measure all edits of a seed on held-out prompts, each beside random ones and beside those of the topic."""
    from hf_mixture.moe.mote.behaviours import make_behaviour
    from hf_mixture.moe.mote.evaluation import EditEvaluator, MeasuredFile, summarise_draws

    if not run.begins(EVALUATE, seed):
        return
    spec, (ranked, control) = run.recipe.edits, rankings(run, seed)
    evaluator = EditEvaluator(
        run.load(FINETUNE, seed),
        run.tokenizer(),
        groups_of(run.questions(seed).held_out),
        make_behaviour(BEHAVIOUR),
        max_new_tokens=ANSWER_TOKENS,
        batch_size=run.recipe.batch_size,
        measured=MeasuredFile(run.folder / "measured" / f"seed-{seed}.json", {"seed": seed}),
    )
    conditions: dict[str, Any] = {UNEDITED: evaluator.measure(UNEDITED)}

    def compare(name: str, number: int, **options: Any) -> None:
        edits = ExpertEdits.from_ranking(ranked, top=number, **options)
        conditions[name] = evaluator.measure(name, edits)
        draws = evaluator.random(name, edits, num_draws=spec.num_draws, seed=seed)
        conditions[f"{name}{RANDOM}"] = summarise_draws(draws)
        topic = ExpertEdits.from_ranking(control, top=number, **options)
        conditions[f"{name}{TOPIC}"] = evaluator.measure(f"{name}{TOPIC}", topic)

    for mode in spec.modes:
        for number in spec.num_off:
            compare(off_name(number, mode), number, mode=mode)
    for number in spec.num_on:
        compare(on_name(number), number, op="on", mode="force", force_weight=spec.force_weight)
    run.journal.finish(part_name(EVALUATE, seed), conditions)


def bake_edits(run: MoteRun, seed: int) -> None:
    """Write edits into the weights, and let a process without this package answer the held-out prompts with them."""
    from hf_mixture.moe.mote.bake import bake
    from hf_mixture.moe.mote.behaviours import make_behaviour
    from hf_mixture.moe.mote.patch import tune_experts
    from hf_mixture.moe.mote.respond import encode

    if not run.begins(BAKE, seed):
        return
    number, model, tokenizer = run.recipe.edits.baked, run.load(FINETUNE, seed), run.tokenizer()
    edits = ExpertEdits.from_ranking(
        rankings(run, seed)[0],
        top=number,
        mode="zero",
        model=model,
        scores={"target": REFUSED, "scorer": run.recipe.scan.scorer},
    )
    edits.save_pretrained(run.edits_folder(seed))
    questions = run.questions(seed).held_out
    inputs = encode(tokenizer, [question.prompt for question in questions])
    with tune_experts(model, edits), torch.no_grad():
        expected = model(**inputs).logits
        generated = model.generate(**inputs, **GREEDY)
    done = bake(model, edits)
    with replaced_folder(run.model_folder("baked", seed)) as folder:
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    found = answer_in_stock_process(run.model_folder("baked", seed), inputs, GREEDY)
    width = inputs["input_ids"].shape[1]
    said = tokenizer.batch_decode(found["generated"][:, width:], skip_special_tokens=True)
    classify = make_behaviour(BEHAVIOUR)
    labels = [classify(question.prompt, text) for question, text in zip(questions, said, strict=True)]
    run.journal.finish(
        part_name(BAKE, seed),
        {
            "mode": edits.mode,
            "experts": number,
            "method": done.method,
            "exact": done.exact,
            "tensors": list(done.keys),
            "max_difference": float((found["logits"] - expected).abs().max()),
            "same_answers": bool(torch.equal(found["generated"], generated)),
            "shares": {topic: _share(labels, [question.topic == topic for question in questions]) for topic in TOPICS},
        },
    )


def _share(labels: Sequence[str], among: Sequence[bool]) -> float:
    own = [label == REFUSED for label, kept in zip(labels, among, strict=True) if kept]
    return sum(own) / len(own)
