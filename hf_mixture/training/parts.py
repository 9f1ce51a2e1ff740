"""The parts of a run that train and score: base model, adapters, the choice of the learning rate."""

from __future__ import annotations

import math
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hf_mixture.training import report
from hf_mixture.training.journal import Journal
from hf_mixture.training.models import load_gguf, load_model, loading_arguments, new_model, pretrained_place
from hf_mixture.training.plan import Plan
from hf_mixture.training.prepare import Prepared, training_rows
from hf_mixture.training.recipe import Recipe
from hf_mixture.training.reload import save_reference
from hf_mixture.training.resolve import peft_config, training_argument_values
from hf_mixture.training.scoring import bits_per_byte, finite, total_nats


@dataclass(frozen=True, kw_only=True)
class Run:
    """What every part of a run needs.

    Args:
        recipe: The recipe.
        plan: Its resolved plan.
        journal: Which parts are finished.
        folder: The run folder, absolute.
        process: `accelerate.PartialState`.
    """

    recipe: Recipe
    plan: Plan
    journal: Journal
    folder: Path
    process: Any

    @property
    def prepared(self) -> Prepared:
        """The data of the run."""
        return Prepared(self.folder / "prepared")

    def is_done(self, part: str) -> bool:
        """Whether a part is finished."""
        return part in self.journal.finished

    def finish(self, part: str, measured: Any) -> None:
        """Record a part on the first process; the others only remember that it is done."""
        if self.process.is_main_process:
            self.journal.finish(part, measured)
            # Not before: a run killed in between would have to train again.
            shutil.rmtree(self.checkpoints(part), ignore_errors=True)
        else:
            self.journal.finished[part] = None
        self.process.wait_for_everyone()

    def checkpoints(self, part: str) -> Path:
        """Where the Trainer keeps the checkpoints of a part."""
        return self.folder / "checkpoints" / part

    def announce(self, text: str) -> None:
        """Print on the first process."""
        if self.process.is_main_process:
            print(f"\n== {text}", flush=True)


def make_base(run: Run) -> None:
    """Train, convert or find the base model; score it, and what it was before training."""
    recipe = run.recipe
    made_here = (
        recipe.model.from_config is not None or recipe.model.gguf_file is not None or recipe.pretrain is not None
    )
    if not run.is_done("base"):
        if recipe.pretrain is not None:
            run.announce(f"pretrain: {run.plan.steps['pretrain']} steps")
            model = _starting_model(run)
            if not run.is_done("untrained"):
                run.finish("untrained", _scores(run, model, "untrained"))
            measured = _train(run, "base", model, None, run.folder / "base")
        else:
            if made_here and run.process.is_main_process:
                _starting_model(run).save_pretrained(str(_emptied(run.folder / "base")))
            measured = {}
        if made_here and run.process.is_main_process:
            run.prepared.tokenizer().save_pretrained(str(run.folder / "base"))
        place = str(run.folder / "base") if made_here else pretrained_place(recipe.model)
        run.finish("base", {**measured, "place": place})
    if not run.is_done("base scores"):
        run.announce("base model: held-out bits per byte")
        scores = _scores(run, _base_model(run), "base") if run.process.is_main_process else None
        run.finish("base scores", scores)


def adapter_part(name: str, index: int | None = None) -> str:
    """Return the journal's name for an adapter, or for its training with one learning rate."""
    return f"adapters/{name}" if index is None else f"adapters/{name}/{index}"


def train_adapter(run: Run, name: str, index: int, rate: float) -> None:
    """Train one adapter with one learning rate and score it on the validation split."""
    part = adapter_part(name, index)
    if run.is_done(part):
        return
    run.announce(f"adapt with {name}, learning rate {rate:g}: {run.plan.steps['adapt']} steps")
    from transformers import set_seed

    model = _base_model(run)
    config = peft_config(name, run.recipe.adapters[name])
    if config is not None:
        from peft import get_peft_model, prepare_model_for_kbit_training

        if run.recipe.model.quantization is not None:
            model = prepare_model_for_kbit_training(model)
        set_seed(run.recipe.seed)
        model = get_peft_model(model, config)
    folder = run.folder / "candidates" / name / str(index)
    measured = _train(run, part, model, rate, folder)
    run.finish(part, {**measured, "learning_rate": rate})


def choose_rate(run: Run, name: str) -> None:
    """Publish the adapter of the learning rate with the best validation score, and score it on the test split."""
    if run.is_done(adapter_part(name)):
        return
    if not run.process.is_main_process:
        run.finish(adapter_part(name), None)
        return
    mixture = run.recipe.mixture("adapt").weights
    tried = [run.journal.finished[adapter_part(name, index)] for index in range(len(run.recipe.adapt.learning_rates))]
    merits = [_merit(entry["validation_bits_per_byte"], mixture) for entry in tried]
    if all(merit is None for merit in merits):
        raise RuntimeError(f"no learning rate of adapter {name!r} gives a finite loss; lower adapt.learning_rates")
    best = min((merit, index) for index, merit in enumerate(merits) if merit is not None)[1]
    chosen = run.folder / "candidates" / name / str(best)
    folder = run.folder / "adapters" / name
    partial = _emptied(folder.with_name(f".{name}.partial"))
    shutil.copytree(chosen, partial, dirs_exist_ok=True)
    shutil.rmtree(folder, ignore_errors=True)
    partial.rename(folder)
    shutil.copy(f"{chosen}.reference.safetensors", run.folder / "candidates" / f"{name}.reference.safetensors")
    run.announce(f"{name}: held-out bits per byte with learning rate {tried[best]['learning_rate']:g}")
    scores = _scores(run, load_model(folder, loading_arguments(run.recipe.model)), name)
    grid = {f"{entry['learning_rate']:g}": merit for entry, merit in zip(tried, merits, strict=True)}
    run.finish(adapter_part(name), {**tried[best], "test_bits_per_byte": scores, "validation_by_learning_rate": grid})


def _starting_model(run: Run) -> Any:
    """The model that the recipe names, before any training."""
    model = run.recipe.model
    if model.from_config is not None:
        from hf_mixture.data.encoding import separator_id

        tokenizer = run.prepared.tokenizer()
        return new_model(run.recipe, vocab_size=len(tokenizer), separator=separator_id(tokenizer))
    if model.gguf_file is not None:
        return load_gguf(pretrained_place(model), model.gguf_file, loading_arguments(model))
    return load_model(pretrained_place(model), loading_arguments(model))


def base_place(run: Run) -> str:
    base = run.folder / "base"
    return str(base) if base.exists() else pretrained_place(run.recipe.model)


def _base_model(run: Run) -> Any:
    return load_model(base_place(run), loading_arguments(run.recipe.model))


def _train(run: Run, part: str, model: Any, rate: float | None, folder: Path) -> dict[str, Any]:
    """Train a model and save it, with a reference of its logits beside it."""
    from hf_mixture.training.stage import train_stage

    recipe = run.recipe
    stage = "pretrain" if part == "base" else "adapt"
    mixture = recipe.mixture(stage)
    validation = {
        domain: windows
        for domain, windows in run.prepared.windows("validation", recipe.block_size).items()
        if mixture.weights.get(domain)
    }
    arguments = training_argument_values(recipe, recipe.stages[stage], rate)
    rows = training_rows(recipe, run.prepared, stage, run.plan.num_examples[stage])
    result = train_stage(model, rows, validation, arguments, run.checkpoints(part))
    partial = _emptied(folder.with_name(f".{folder.name}.partial")) if run.process.is_main_process else folder
    run.process.wait_for_everyone()
    result.trainer.save_model(str(folder.with_name(f".{folder.name}.partial")))
    if not run.process.is_main_process:
        return {}
    (partial / "training_args.bin").unlink()
    if stage == "adapt":
        first = next(iter(validation.values()))
        save_reference(model, first.input_ids[:2], folder.with_name(f"{folder.name}.reference.safetensors"))
    report.write_log(result.log, partial / "trainer_log.jsonl")
    shutil.rmtree(folder, ignore_errors=True)
    partial.rename(folder)
    scores = {domain: _score(run, model, windows, domain) for domain, windows in validation.items()}
    return {
        "trainable_parameters": sum(weight.numel() for weight in model.parameters() if weight.requires_grad),
        "seconds_per_step": result.seconds_per_step,
        "final_loss": finite([entry["loss"] for entry in result.log if "loss" in entry][-1]),
        "validation_bits_per_byte": scores,
    }


def _merit(scores: Mapping[str, float | None], weights: Mapping[str, float]) -> float | None:
    """Mean validation bits per byte over the mixture; None when it is not finite."""
    found = [(score, weights[domain]) for domain, score in scores.items()]
    values = [score * weight for score, weight in found if score is not None]
    return math.fsum(values) / math.fsum(weight for _, weight in found) if len(values) == len(found) else None


def _scores(run: Run, model: Any, label: str) -> dict[str, float | None]:
    """Bits per byte of the test split of every domain."""
    windows = run.prepared.windows("test", run.recipe.block_size)
    if run.recipe.model.quantization is None:
        model.to(run.process.device)
    return {domain: _score(run, model, held_out, f"{label} on {domain}") for domain, held_out in windows.items()}


def _score(run: Run, model: Any, windows: Any, label: str) -> float | None:
    nats = total_nats(model, windows, batch_size=run.recipe.evaluation.batch_size, progress=f"scoring {label}")
    return finite(bits_per_byte(nats, windows.num_bytes))


def _emptied(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder
