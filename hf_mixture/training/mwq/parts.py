"""The parts of a D2MoE run that make models: training, quantising, bit routers."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hf_mixture.hub.atomic import replaced_folder
from hf_mixture.training import report
from hf_mixture.training.journal import Journal
from hf_mixture.training.models import config_of
from hf_mixture.training.mwq.plan import MwqPlan
from hf_mixture.training.mwq.recipe import MwqRecipe
from hf_mixture.training.prepare import Prepared, training_rows
from hf_mixture.training.recipe import StageSpec
from hf_mixture.training.reload import save_reference
from hf_mixture.training.resolve import training_argument_values
from hf_mixture.training.scoring import learning_curve, mixture_scores
from hf_mixture.training.stage import train_stage


FULL, NESTED = "full", "nested"


@dataclass(frozen=True, kw_only=True)
class MwqRun:
    """What every part of a run needs.

    Args:
        recipe: The recipe.
        plan: Its resolved plan.
        journal: Which parts are finished.
        folder: The run folder, absolute.
    """

    recipe: MwqRecipe
    plan: MwqPlan
    journal: Journal
    folder: Path

    @property
    def prepared(self) -> Prepared:
        """The data of the run."""
        return Prepared(self.folder / "prepared")

    def model_folder(self, name: str) -> Path:
        """Where a model is kept."""
        return self.folder / "models" / name

    def reference(self, name: str) -> Path:
        """Where the logits of a published model are kept until the reload check."""
        return self.folder / "checkpoints" / f"{name}.reference.safetensors"

    def finish(self, part: str, measured: Any) -> None:
        """Record a part, then remove its checkpoints: a run killed in between would have to train again."""
        self.journal.finish(part, measured)
        shutil.rmtree(self.folder / "checkpoints" / part, ignore_errors=True)


def separate(width: int) -> str:
    """Name of the model that is quantised to one width by itself."""
    return f"only-{width}"


def routed(alpha: float) -> str:
    """Name of the model whose bit routers were trained at a price."""
    return f"routed-{alpha:g}"


def pretrain(run: MwqRun) -> None:
    """Train the sparse model, from weights that the recipe's seed draws."""
    from transformers import AutoModelForCausalLM, set_seed

    from hf_mixture.data.encoding import separator_id
    from hf_mixture.moe.routers.loss_callback import RouterLoss

    if FULL in run.journal.finished:
        return
    print(f"\n== training the sparse model: {run.plan.steps['pretrain']:,} steps", flush=True)
    recipe, tokenizer = run.recipe, run.prepared.tokenizer()
    set_seed(recipe.seed)
    config = config_of(
        recipe.model, vocab_size=len(tokenizer), separator=separator_id(tokenizer), block_size=recipe.block_size
    )
    model = AutoModelForCausalLM.from_config(config)

    def attach(trainer: Any) -> None:
        if recipe.load_balance:
            RouterLoss(load_balance=recipe.load_balance).attach(trainer)

    measured = _train(run, FULL, model, recipe.pretrain, attach)
    _publish(run, FULL, model)
    run.finish(FULL, measured | {"bits_per_byte": scores(run, model, FULL)})


def quantise(run: MwqRun) -> None:
    """Quantise the model to nested planes, and to each width by itself."""
    from hf_mixture.moe.mwq.config import MwqConfig

    if NESTED in run.journal.finished:
        return
    print("\n== quantising", flush=True)
    widths, group_size = tuple(run.recipe.planes.widths), run.recipe.planes.group_size
    wanted = {NESTED: MwqConfig(widths, group_size, parts=str(run.folder / "checkpoints" / "parts"))}
    # Alone, a width has the base that is best for itself.
    wanted |= {separate(width): MwqConfig((width,), group_size, level_weights={width: 1.0}) for width in widths}
    for name, config in wanted.items():
        model = load(run, FULL, quantization_config=config)
        _publish(run, name, model)
    shutil.rmtree(run.folder / "checkpoints" / "parts", ignore_errors=True)
    run.finish(NESTED, {name: file_sizes(run.model_folder(name)) for name in wanted})


def train_routers(run: MwqRun, alpha: float) -> None:
    """Train bit routers at one price of a bit."""
    from transformers import set_seed

    from hf_mixture.moe.mwq.bit_training import BitRouterTraining
    from hf_mixture.moe.mwq.budget import add_bit_routers, set_bit_budget

    part = routed(alpha)
    if part in run.journal.finished:
        return
    print(f"\n== bit routers, alpha {alpha:g}: {run.plan.steps['bit_routers']:,} steps", flush=True)
    spec = run.recipe.bit_routers
    model, teacher = load(run, NESTED), load(run, FULL)
    set_seed(run.recipe.seed)
    add_bit_routers(model)

    def attach(trainer: Any) -> None:
        BitRouterTraining(alpha, teacher=teacher).attach(trainer)

    measured = _train(run, part, model, spec.training_arguments, attach)
    set_bit_budget(model, spec.average_bits)
    _publish(run, part, model)
    shares = {name: value for name, value in measured.pop("log")[-1].items() if name.startswith("bits/")}
    run.finish(part, measured | {"last_step": shares})


def load(run: MwqRun, name: str, **options: Any) -> Any:
    """Load a model of the run, in eval mode."""
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(run.model_folder(name), **options).eval()


def scores(run: MwqRun, model: Any, label: str) -> dict[str, float]:
    """Test bits per byte of every domain, and their mean by the shares of the mixture as `mean`."""
    recipe = run.recipe
    windows = run.prepared.windows("test", recipe.block_size)
    return mixture_scores(model, windows, recipe.mixture.weights, batch_size=recipe.evaluation.batch_size, label=label)


def file_sizes(folder: Path) -> dict[str, int]:
    """Bytes of the weight files of a model, by name."""
    return {path.name: path.stat().st_size for path in sorted(folder.glob("*.safetensors"))}


def _train(run: MwqRun, part: str, model: Any, given: dict[str, Any], attach: Any) -> dict[str, Any]:
    recipe = run.recipe
    stage = StageSpec(mixture=recipe.mixture, training_arguments=given)
    arguments = training_argument_values(recipe.data_recipe(), stage) | {"seed": recipe.seed}
    validation = run.prepared.windows("validation", recipe.block_size)
    first = run.plan.num_examples["pretrain"]
    number = first if part == FULL else run.plan.num_examples["bit_routers"]
    rows = training_rows(recipe.data_recipe(), run.prepared, "adapt", sum(run.plan.num_examples.values()))
    rows = rows.select(range(first)) if part == FULL else rows.select(range(first, first + number))
    result = train_stage(model, rows, validation, arguments, run.folder / "checkpoints" / part, attach=attach)
    logs = run.folder / "logs"
    logs.mkdir(exist_ok=True)
    report.write_log(result.log, logs / f"{part}.jsonl")
    measured = {"seconds_per_step": result.seconds_per_step, "curve": learning_curve(result.log, validation)}
    return measured if part == FULL else measured | {"log": [entry for entry in result.log if "loss" in entry]}


def _publish(run: MwqRun, name: str, model: Any) -> None:
    model.eval()
    with replaced_folder(run.model_folder(name)) as folder:
        model.save_pretrained(folder)
        run.prepared.tokenizer().save_pretrained(folder)
        windows = run.prepared.windows("validation", run.recipe.block_size)
        save_reference(model, next(iter(windows.values())).input_ids[:2], run.reference(name))
