"""The parts of an upcycling run: the dense model, and each system that is trained on from it."""

from __future__ import annotations

import math
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hf_mixture.hub.atomic import replaced_folder
from hf_mixture.training import report
from hf_mixture.training.journal import Journal
from hf_mixture.training.models import config_of
from hf_mixture.training.prepare import Prepared, training_rows
from hf_mixture.training.recipe import StageSpec
from hf_mixture.training.reload import save_reference
from hf_mixture.training.resolve import training_argument_values
from hf_mixture.training.scoring import bits_per_byte, learning_curve, total_nats
from hf_mixture.training.stage import train_stage
from hf_mixture.training.upcycle.load import balance_of, expert_counts
from hf_mixture.training.upcycle.plan import UpcyclePlan
from hf_mixture.training.upcycle.recipe import RouterSpec, UpcycleRecipe
from hf_mixture.training.upcycle.resolve import DENSE


PRETRAIN = "pretrain"


@dataclass(frozen=True, kw_only=True)
class UpcycleRun:
    """What every part of a run needs.

    Args:
        recipe: The recipe.
        plan: Its resolved plan.
        journal: Which parts are finished.
        folder: The run folder, absolute.
    """

    recipe: UpcycleRecipe
    plan: UpcyclePlan
    journal: Journal
    folder: Path

    @property
    def prepared(self) -> Prepared:
        """The data of the run."""
        return Prepared(self.folder / "prepared")

    def model_folder(self, system: str) -> Path:
        """Where the trained model of a system is published: that of the first seed."""
        return self.folder / "models" / system

    def reference(self, system: str) -> Path:
        """Where the logits of a published model are kept until the reload check."""
        return self.folder / "checkpoints" / f"{system}.reference.safetensors"

    def finish(self, part: str, measured: Any) -> None:
        """Record a part, then remove its checkpoints: a run killed in between would have to train again."""
        self.journal.finish(part, measured)
        shutil.rmtree(self.folder / "checkpoints" / part, ignore_errors=True)


def part_name(system: str, seed: int) -> str:
    """Name in the journal of one system with one seed."""
    return f"{system}/{seed}"


def pretrain(run: UpcycleRun) -> None:
    """Train the dense model, from weights that the recipe's seed draws."""
    from transformers import AutoModelForCausalLM, set_seed

    from hf_mixture.data.encoding import separator_id

    if PRETRAIN in run.journal.finished:
        return
    print(f"\n== {PRETRAIN}: {run.plan.steps[PRETRAIN]:,} steps", flush=True)
    recipe, tokenizer = run.recipe, run.prepared.tokenizer()
    set_seed(recipe.seed)
    model = AutoModelForCausalLM.from_config(
        config_of(
            recipe.dense,
            vocab_size=len(tokenizer),
            separator=separator_id(tokenizer),
            block_size=recipe.block_size,
        )
    )
    rows = _rows(run).select(range(run.plan.num_examples[PRETRAIN]))
    measured = _train(run, PRETRAIN, model, rows, seed=recipe.seed)
    publish(run, PRETRAIN, model)
    run.finish(PRETRAIN, measured)


def continue_system(run: UpcycleRun, system: str, seed: int) -> None:
    """Train one system on from the dense model, and score it before and after."""
    part = part_name(system, seed)
    if part in run.journal.finished:
        return
    print(f"\n== {system}, seed {seed}: {run.plan.steps['continued']:,} steps", flush=True)
    recipe = run.recipe
    model = starting_model(run, system, seed)
    start = _scores(run, model, "validation", f"{system} before training")
    first, number = run.plan.num_examples[PRETRAIN], run.plan.num_examples["continued"]
    rows = _rows(run).select(range(first, first + number)).shuffle(seed=seed)
    measured = _train(run, part, model, rows, seed=seed, spec=recipe.routers.get(system))
    if seed == recipe.seeds[0]:
        publish(run, system, model)
    run.finish(part, {"seed": seed, "start_bits_per_byte": start, **measured})


def starting_model(run: UpcycleRun, system: str, seed: int) -> Any:
    """The pretrained dense model, or the mixture of experts that a router begins with."""
    from transformers import AutoModelForCausalLM, set_seed

    from hf_mixture.moe.routers.replace import replace_routers

    # What a router has besides the weight of the upcycled one is drawn from here.
    set_seed(seed)
    model = AutoModelForCausalLM.from_pretrained(run.model_folder(PRETRAIN))
    if system == DENSE:
        return model
    spec = run.recipe.routers[system]
    model = upcycled(run.recipe, model, seed)
    replace_routers(model, spec.router, **spec.options)
    return model


def upcycled(recipe: UpcycleRecipe, dense: Any, seed: int) -> Any:
    """The mixture of experts that a recipe makes of a dense model, with the router of its family."""
    from hf_mixture.moe.routers.upcycle import build_moe

    spec = recipe.upcycle
    return build_moe(
        dense,
        None,
        num_copies=spec.num_experts,
        top_k=spec.top_k,
        num_shards=spec.granularity,
        router_init=spec.router_init,  # type: ignore[arg-type]
        noise=spec.noise,
        seed=seed,
    )


def publish(run: UpcycleRun, system: str, model: Any) -> None:
    """Save a trained model with its tokenizer and log, and a reference of its logits for the reload check."""
    with replaced_folder(run.model_folder(system)) as folder:
        model.save_pretrained(folder)
        run.prepared.tokenizer().save_pretrained(folder)
        windows = run.prepared.windows("validation", run.recipe.block_size)
        save_reference(model, next(iter(windows.values())).input_ids[:2], run.reference(system))


def _rows(run: UpcycleRun) -> Any:
    """All training blocks in one fixed order: first those of `pretrain`, then those of `continued`."""
    return training_rows(run.recipe.data_recipe(), run.prepared, "adapt", sum(run.plan.num_examples.values()))


def _train(
    run: UpcycleRun, part: str, model: Any, rows: Any, *, seed: int, spec: RouterSpec | None = None
) -> dict[str, Any]:
    """Train a model and score it."""
    recipe = run.recipe
    given = recipe.pretrain if part == PRETRAIN else recipe.continued
    stage = StageSpec(mixture=recipe.mixture, training_arguments=given)
    arguments = training_argument_values(recipe.data_recipe(), stage) | {"seed": seed}
    validation = run.prepared.windows("validation", recipe.block_size)

    def attach(trainer: Any) -> None:
        if spec is not None:
            attach_balance(trainer, spec)

    result = train_stage(model, rows, validation, arguments, run.folder / "checkpoints" / part, attach=attach)
    logs = run.folder / "logs"
    logs.mkdir(exist_ok=True)
    report.write_log(result.log, logs / f"{part.replace('/', '-')}.jsonl")
    measured = {
        "parameters": model.num_parameters(),
        "seconds_per_step": result.seconds_per_step,
        "curve": learning_curve(result.log, validation),
        "test_bits_per_byte": _scores(run, model, "test", part),
    }
    return measured if spec is None else measured | {"load": _load(run, model)}


def attach_balance(trainer: Any, spec: RouterSpec) -> None:
    """Give a Trainer the losses and the bias update of a router."""
    if spec.losses:
        from hf_mixture.moe.routers.loss_callback import RouterLoss

        RouterLoss(**spec.losses).attach(trainer)
    if spec.bias is not None:
        from hf_mixture.moe.routers.balance import LossFreeBalanceCallback

        trainer.add_callback(LossFreeBalanceCallback(**spec.bias))


def _scores(run: UpcycleRun, model: Any, split: str, label: str) -> dict[str, float]:
    """Bits per byte of every domain, and their mean by the shares of the mixture as `mean`."""
    found = {}
    for domain, windows in run.prepared.windows(split, run.recipe.block_size).items():
        nats = total_nats(
            model, windows, batch_size=run.recipe.evaluation.batch_size, progress=f"scoring {label} on {domain}"
        )
        found[domain] = bits_per_byte(nats, windows.num_bytes)
    if not all(math.isfinite(value) for value in found.values()):
        raise RuntimeError(f"{label}: the loss is not finite; lower the learning rate of the recipe")
    return found | {"mean": mean_of(found, run.recipe.mixture.weights)}


def mean_of(scores: dict[str, float], weights: dict[str, float]) -> float:
    """Mean of the domains that are drawn, by their shares."""
    total = math.fsum(weights.values())
    return math.fsum(scores[domain] * share for domain, share in weights.items()) / total


def _load(run: UpcycleRun, model: Any) -> dict[str, Any]:
    """Use of the experts on the test text: over all drawn domains, and the counts of each."""
    import numpy as np

    counts, tokens = {}, 0
    for domain, windows in run.prepared.windows("test", run.recipe.block_size).items():
        if run.recipe.mixture.weights.get(domain):
            counts[domain], number = expert_counts(model, windows, batch_size=run.recipe.evaluation.batch_size)
            tokens += number
    total = np.sum([np.array(table) for table in counts.values()], axis=0)
    return {**balance_of(total.tolist(), tokens), "counts": counts}
