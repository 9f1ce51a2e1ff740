"""The parts of a run for one seed: the two trainings, the scan, what the edits do, and the baked model."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from hf_mixture.hub.atomic import replaced_folder
from hf_mixture.moe.mote.edits import ExpertEdits
from hf_mixture.moe.mote.ranking import RankedExpert
from hf_mixture.training import report
from hf_mixture.training.journal import Journal
from hf_mixture.training.mote.questions import (
    ANSWER_TOKENS,
    BEHAVIOUR,
    PRIVATE,
    REFUSED,
    TOPICS,
    Question,
    Questions,
    make_questions,
    training_rows,
    word_tokenizer,
)
from hf_mixture.training.mote.recipe import MoteRecipe
from hf_mixture.training.mote.stock import answer_in_stock_process
from hf_mixture.training.resolve import filled_arguments


PRETRAIN, FINETUNE, SCAN, EVALUATE, BAKE = "pretrain", "finetune", "scan", "evaluate", "bake"
GREEDY = {"max_new_tokens": ANSWER_TOKENS, "do_sample": False}
UNEDITED, RANDOM, TOPIC = "unedited", ", random", ", topic"


@dataclass(frozen=True, kw_only=True)
class MoteRun:
    """What every part of a run needs.

    Args:
        recipe: The recipe.
        journal: Which parts are finished.
        folder: The run folder, absolute.
    """

    recipe: MoteRecipe
    journal: Journal
    folder: Path

    def tokenizer(self) -> Any:
        """The tokenizer of all seeds."""
        return word_tokenizer(self.recipe.questions)

    def questions(self, seed: int) -> Questions:
        """The facts of a seed."""
        return make_questions(self.recipe.questions, seed)

    def model_folder(self, stage: str, seed: int) -> Path:
        """Where the model of a stage is."""
        return self.folder / "models" / f"{stage}-{seed}"

    def edits_folder(self, seed: int) -> Path:
        """Where the edits of a seed are that were baked."""
        return self.folder / "edits" / f"seed-{seed}"

    def load(self, stage: str, seed: int) -> Any:
        """Load the model of a stage, in evaluation mode."""
        from transformers import AutoModelForCausalLM

        return AutoModelForCausalLM.from_pretrained(self.model_folder(stage, seed)).eval()

    def is_finished(self, stage: str, seed: int) -> bool:
        """Whether a part of a seed is finished; if not, it is announced."""
        if part_name(stage, seed) in self.journal.finished:
            return True
        print(f"\n== {stage}, seed {seed}", flush=True)
        return False


def part_name(stage: str, seed: int) -> str:
    """Name in the journal of one part of one seed."""
    return f"{stage}/{seed}"


def off_name(number: int, mode: str) -> str:
    """Name of the condition with experts off."""
    return f"top {number} off, {mode}"


def on_name(number: int) -> str:
    """Name of the condition with experts forced on."""
    return f"top {number} on"


def new_model(recipe: MoteRecipe, tokenizer: Any) -> Any:
    """The sparse model with new weights."""
    from transformers import CONFIG_MAPPING, AutoModelForCausalLM

    fields = dict(recipe.model)
    config_cls = CONFIG_MAPPING[fields.pop("model_type")]
    ids = {name: getattr(tokenizer, name) for name in ("pad_token_id", "bos_token_id", "eos_token_id")}
    return AutoModelForCausalLM.from_config(config_cls(vocab_size=len(tokenizer), **ids, **fields))


def train(run: MoteRun, stage: str, seed: int) -> None:
    """Train one stage: all weights on facts, or the named ones on refusals."""
    from transformers import set_seed

    from hf_mixture.moe.routers.loss_callback import RouterLoss
    from hf_mixture.training.stage import train_stage

    if run.is_finished(stage, seed):
        return
    recipe, tokenizer, part = run.recipe, run.tokenizer(), part_name(stage, seed)
    set_seed(seed)
    if stage == PRETRAIN:
        given, losses = recipe.pretrain, recipe.losses
        model = new_model(recipe, tokenizer)
    else:
        given = recipe.finetune
        losses = recipe.losses if recipe.finetune_losses is None else recipe.finetune_losses
        model = run.load(PRETRAIN, seed)
    if stage == FINETUNE:
        freeze_all_but(model, recipe.trained)
    arguments = filled_arguments(given, seed) | {"eval_strategy": "no"}
    rows = training_rows(
        run.questions(seed).all,
        tokenizer,
        refuse=stage == FINETUNE,
        num_rows=arguments["max_steps"] * _step_size(arguments),
        seed=seed,
    )

    def attach(trainer: Any) -> None:
        if losses:
            RouterLoss(**losses).attach(trainer)

    checkpoints = run.folder / "checkpoints" / part
    result = train_stage(model, rows, {}, arguments, checkpoints, attach=attach)
    (run.folder / "logs").mkdir(exist_ok=True)
    report.write_log(result.log, run.folder / "logs" / f"{stage}-{seed}.jsonl")
    with replaced_folder(run.model_folder(stage, seed)) as folder:
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    measured = {
        "seconds_per_step": result.seconds_per_step,
        "parameters": model.num_parameters(),
        "trained_parameters": model.num_parameters(only_trainable=True),
        "losses": [{"step": row["step"], "loss": row["loss"]} for row in result.log if "loss" in row],
    }
    run.journal.finish(part, measured)
    shutil.rmtree(checkpoints, ignore_errors=True)


def freeze_all_but(model: Any, parts: Sequence[str]) -> None:
    """Freeze all parameters but those with one of the parts in their names.

    Raises:
        ValueError: If a part is in no name.
    """
    names = [name for name, _ in model.named_parameters()]
    for part in parts:
        if not any(part in name for name in names):
            raise ValueError(f"trained has {part!r}, which is in no name of a parameter, such as {names[-2]!r}")
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(any(part in name for part in parts))


def scan_experts(run: MoteRun, seed: int) -> None:
    """Rank the experts for the refusals, and for the topic before the model had learned to refuse."""
    from hf_mixture.moe.mote.behaviours import make_behaviour
    from hf_mixture.moe.mote.ranking import bootstrap_stability, rank_experts
    from hf_mixture.moe.mote.scan import scan_prompts

    if run.is_finished(SCAN, seed):
        return
    spec, tokenizer = run.recipe.scan, run.tokenizer()
    scanned = run.questions(seed).scanned
    prompts, topics = [question.prompt for question in scanned], [question.topic for question in scanned]
    options: dict[str, Any] = {"statistic": spec.statistic, "batch_size": run.recipe.batch_size}
    found = scan_prompts(
        run.load(FINETUNE, seed),
        tokenizer,
        prompts,
        behaviour=make_behaviour(BEHAVIOUR),
        max_new_tokens=ANSWER_TOKENS,
        **options,
    )
    before = scan_prompts(run.load(PRETRAIN, seed), tokenizer, prompts, labels=topics, **options)
    if len(set(found.labels)) == 1:
        raise RuntimeError(
            f"seed {seed}: the model answers all scanned prompts alike ({found.labels[0]}); train longer in 'finetune'"
        )
    summary = found.maps.summarise(found.labels, normalise=spec.normalise)
    ranked = rank_experts(summary, REFUSED, scorer=spec.scorer)
    control = rank_experts(before.maps.summarise(topics, normalise=spec.normalise), PRIVATE, scorer=spec.scorer)
    most = max(run.recipe.edits.num_off + run.recipe.edits.num_on)
    firm = bootstrap_stability(found.maps, found.labels, REFUSED, top=min(4, most), normalise=spec.normalise)
    folder = run.edits_folder(seed)
    summary.save(folder)
    draw_map(folder / "experts.png", summary, ranked[: run.recipe.edits.baked])
    run.journal.finish(
        part_name(SCAN, seed),
        {
            "labels": {label: found.labels.count(label) for label in sorted(set(found.labels))},
            "ranking": [asdict(expert) for expert in ranked[:most]],
            "control": [asdict(expert) for expert in control[:most]],
            "overlap_of_first_4": firm.overlap,
        },
    )


def draw_map(path: Path, summary: Any, edited: Sequence[RankedExpert]) -> None:
    """Draw the differential map, with the baked experts marked."""
    from hf_mixture.moe.mote.heatmap import save_expert_map

    save_expert_map(
        path,
        summary.facts.grid(summary.differential(REFUSED)),
        layers=[router.ordinal if router.layer is None else router.layer for router in summary.facts.routers],
        edited=[(expert.ordinal, expert.expert) for expert in edited],
        title="Experts of refusals",
        label="difference of rates" if summary.normalise else "difference of counts",
    )


def rankings(run: MoteRun, seed: int) -> tuple[list[RankedExpert], list[RankedExpert]]:
    """The first experts for the refusals, and for the topic alone."""
    found = run.journal.finished[part_name(SCAN, seed)]
    ranked, control = ([RankedExpert(**expert) for expert in found[name]] for name in ("ranking", "control"))
    return ranked, control


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

    if run.is_finished(EVALUATE, seed):
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

    if run.is_finished(BAKE, seed):
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


def _step_size(arguments: dict[str, Any]) -> int:
    from transformers import TrainingArguments

    return arguments.get("per_device_train_batch_size", TrainingArguments.per_device_train_batch_size) * arguments.get(
        "gradient_accumulation_steps", 1
    )
