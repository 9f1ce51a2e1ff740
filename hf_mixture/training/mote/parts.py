"""The parts of a run for one seed that find experts: the two trainings and the scan."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from hf_mixture.hub.atomic import replaced_folder
from hf_mixture.moe.mote.ranking import RankedExpert
from hf_mixture.training import report
from hf_mixture.training.journal import Journal
from hf_mixture.training.mote.chosen import choose_experts, train_experts_alone
from hf_mixture.training.mote.model import freeze_all_but, new_model
from hf_mixture.training.mote.plan import MotePlan, stage_arguments
from hf_mixture.training.mote.questions import (
    ANSWER_TOKENS,
    BEHAVIOUR,
    PRIVATE,
    REFUSED,
    TOPICS,
    Questions,
    make_questions,
    training_rows,
    word_tokenizer,
)
from hf_mixture.training.mote.recipe import MoteRecipe


PRETRAIN, FINETUNE, SCAN, EVALUATE, BAKE = "pretrain", "finetune", "scan", "evaluate", "bake"


@dataclass(frozen=True, kw_only=True)
class MoteRun:
    """What every part of a run needs.

    Args:
        recipe: The recipe.
        plan: Its resolved plan.
        journal: Which parts are finished.
        folder: The run folder, absolute.
    """

    recipe: MoteRecipe
    plan: MotePlan
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

    def begins(self, stage: str, seed: int) -> bool:
        """Announce a part of a seed, unless it is finished."""
        if part_name(stage, seed) in self.journal.finished:
            return False
        print(f"\n== {stage}, seed {seed}", flush=True)
        return True


def part_name(stage: str, seed: int) -> str:
    """Name in the journal of one part of one seed."""
    return f"{stage}/{seed}"


def train(run: MoteRun, stage: str, seed: int) -> None:
    """Train one stage: all weights on facts, or the named ones on refusals."""
    from transformers import set_seed

    from hf_mixture.moe.routers.loss_callback import RouterLoss
    from hf_mixture.training.stage import train_stage

    if not run.begins(stage, seed):
        return
    recipe, tokenizer, part = run.recipe, run.tokenizer(), part_name(stage, seed)
    set_seed(seed)
    chosen: list[RankedExpert] | None = None
    topics = TOPICS if stage == PRETRAIN or recipe.questions.finetune_public else (PRIVATE,)
    if stage == PRETRAIN:
        model = new_model(recipe, tokenizer)
    else:
        model = run.load(PRETRAIN, seed)
        freeze_all_but(model, recipe.trained)
        if recipe.chosen is not None:
            chosen = choose_experts(
                model,
                tokenizer,
                run.questions(seed).scanned,
                recipe.chosen,
                last_tokens=recipe.scan.last_tokens,
                batch_size=recipe.batch_size,
            )
            train_experts_alone(model, chosen)
    rows = training_rows(
        run.questions(seed).trained(topics),
        tokenizer,
        refuse=stage == FINETUNE,
        num_rows=run.plan.num_rows[stage],
        seed=seed,
    )

    def attach(trainer: Any) -> None:
        if recipe.losses:
            RouterLoss(**recipe.losses).attach(trainer)

    checkpoints = run.folder / "checkpoints" / part
    result = train_stage(model, rows, {}, stage_arguments(recipe, stage, seed), checkpoints, attach=attach)
    (run.folder / "logs").mkdir(exist_ok=True)
    report.write_log(result.log, run.folder / "logs" / f"{stage}-{seed}.jsonl")
    with replaced_folder(run.model_folder(stage, seed)) as folder:
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    measured = {
        "seconds_per_step": result.seconds_per_step,
        "parameters": model.num_parameters(),
        "trained_parameters": run.plan.num_trained if stage == FINETUNE else model.num_parameters(),
        "chosen": None if chosen is None else [asdict(expert) for expert in chosen],
        "losses": [{"step": row["step"], "loss": row["loss"]} for row in result.log if "loss" in row],
    }
    run.journal.finish(part, measured)
    shutil.rmtree(checkpoints, ignore_errors=True)


def scan_experts(run: MoteRun, seed: int) -> None:
    """Rank the experts for the refusals, and for the topic before the model had learned to refuse."""
    from hf_mixture.moe.mote.behaviours import make_behaviour
    from hf_mixture.moe.mote.ranking import bootstrap_stability, rank_experts
    from hf_mixture.moe.mote.scan import scan_prompts

    if not run.begins(SCAN, seed):
        return
    spec, tokenizer = run.recipe.scan, run.tokenizer()
    scanned = run.questions(seed).scanned
    prompts, topics = [question.prompt for question in scanned], [question.topic for question in scanned]
    options: dict[str, Any] = {
        "statistic": spec.statistic,
        "tokens": spec.last_tokens or "prompt",
        "batch_size": run.recipe.batch_size,
    }
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
    chosen = run.journal.finished[part_name(FINETUNE, seed)]["chosen"] or []
    trained = {(expert["path"], expert["expert"]) for expert in chosen}
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
            "trained_in_first_4": len(trained & {(expert.path, expert.expert) for expert in ranked[:4]}),
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
