"""`hf-mixture spread run`: trains one model by several systems from a recipe, in parts that are journaled.

Parts, in order: prepare, the model before training, each system on its processes and its quality, the comparison. A
run that is killed continues at the part it was in, and a training at its last checkpoint.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hf_mixture.hub.reading import read_object
from hf_mixture.training.journal import Journal, begin
from hf_mixture.training.models import config_of
from hf_mixture.training.prepare import Prepared, blocks_for, prepare
from hf_mixture.training.report import processes_text
from hf_mixture.training.run import load_texts
from hf_mixture.training.scoring import mixture_scores
from hf_mixture.training.spread.outcome import conclude
from hf_mixture.training.spread.plan import SpreadPlan, describe, make_plan
from hf_mixture.training.spread.recipe import SpreadRecipe
from hf_mixture.training.spread.worker import RUN_PROCESS, START


@dataclass(frozen=True, kw_only=True)
class SpreadRun:
    """What every part of a run needs.

    Args:
        recipe: The recipe.
        plan: Its resolved plan.
        journal: Which parts are finished.
        folder: The run folder, absolute.
    """

    recipe: SpreadRecipe
    plan: SpreadPlan
    journal: Journal
    folder: Path

    @property
    def prepared(self) -> Prepared:
        """The data of the run."""
        return Prepared(self.folder / "prepared")


def spread_recipe(
    recipe: SpreadRecipe, *, resume: bool = False, dry_run: bool = False, command: str = ""
) -> dict[str, Any]:
    """Run a spread recipe.

    Args:
        recipe: The recipe.
        resume: Continue the run in the recipe's output folder; without one there, begin it.
        dry_run: Only print the plan; nothing is written.
        command: The command, for report and card.

    Returns:
        The content of `results.json`; empty for a dry run.

    Raises:
        ValueError: If the recipe cannot work or the output folder holds something else; nothing has been written.
        RuntimeError: If a process fails, a loss is not finite, or the losses of a system that drops nothing are not
            those of one process.
    """
    data = recipe.data_recipe()
    texts = load_texts(data)
    plan = make_plan(recipe, texts)
    print(describe(recipe, plan), flush=True)
    if dry_run:
        return {}
    journal = begin(recipe, resume=resume)
    run = SpreadRun(recipe=recipe, plan=plan, journal=journal, folder=journal.folder)
    if "prepare" not in journal.finished:
        print("\n== data", flush=True)
        needed = blocks_for(data, {"adapt": plan.num_examples})
        if recipe.online is not None:
            # Its shares are not known before.
            needed = dict.fromkeys(needed, plan.num_examples)
        journal.finish("prepare", prepare(data, texts, needed, run.folder / "prepared"))
    _make_model(run)
    for name in recipe.systems:
        _train(run, name)
    return conclude(run.recipe, run.plan, run.journal, run.folder, command)


def _make_model(run: SpreadRun) -> None:
    """Draw the weights with which all systems begin."""
    from transformers import AutoModelForCausalLM, set_seed

    from hf_mixture.data.encoding import separator_id

    if START in run.journal.finished:
        return
    recipe, tokenizer = run.recipe, run.prepared.tokenizer()
    set_seed(recipe.seed)
    config = config_of(
        recipe.model, vocab_size=len(tokenizer), separator=separator_id(tokenizer), block_size=recipe.block_size
    )
    AutoModelForCausalLM.from_config(config).save_pretrained(run.folder / "models" / START)
    run.journal.finish(START, {})


def _train(run: SpreadRun, name: str) -> None:
    """Train one system on its processes, and score its model on this one."""
    from transformers import AutoModelForCausalLM

    if name in run.journal.finished:
        return
    recipe, folder, num_processes = run.recipe, run.folder, run.recipe.systems[name].num_processes
    print(f"\n== {name}: {run.plan.steps:,} steps on {processes_text(num_processes)}", flush=True)
    (folder / "logs").mkdir(exist_ok=True)
    _remove_torn(folder / "checkpoints" / name, num_processes)
    # A Trainer that resumes at its last step, and not at the end of an epoch, takes one step more.
    shutil.rmtree(folder / "checkpoints" / name / f"checkpoint-{run.plan.steps}", ignore_errors=True)
    shutil.rmtree(folder / "models" / f".{name}", ignore_errors=True)
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(num_processes)]
    words = [*(launcher if num_processes > 1 else []), "-m", "hf_mixture.training.spread.worker", str(folder), name]
    threads = str(max(1, (os.cpu_count() or 1) // num_processes))
    code = subprocess.run(
        [sys.executable, *words],
        env={"OMP_NUM_THREADS": threads, **os.environ, RUN_PROCESS: str(os.getpid())},
        check=False,
    ).returncode
    if code:
        raise RuntimeError(
            f"system {name} ended with exit code {code}, its reason is above; the same command with --resume goes on"
        )
    made = folder / "models" / name
    shutil.rmtree(made, ignore_errors=True)
    (folder / "models" / f".{name}").rename(made)
    run.prepared.tokenizer().save_pretrained(made)
    model = AutoModelForCausalLM.from_pretrained(made).eval()
    windows = run.prepared.windows("test", recipe.block_size)
    scores = mixture_scores(
        model, windows, recipe.mixture.weights, batch_size=recipe.evaluation.batch_size, label=name
    )
    measured = read_object(folder / "logs" / f"{name}.json")
    run.journal.finish(name, {**measured, "bits_per_byte": scores})
    shutil.rmtree(folder / "checkpoints" / name, ignore_errors=True)


def _remove_torn(checkpoints: Path, num_processes: int) -> None:
    """Remove checkpoints that were being written when the run was killed."""
    from hf_mixture.moe.parallel.sharded_checkpoint import FOLDER
    from hf_mixture.training.stage import remove_torn_checkpoints

    if num_processes == 1:
        remove_torn_checkpoints(checkpoints, 1)
        return
    for checkpoint in checkpoints.glob("checkpoint-*"):
        if not (checkpoint / FOLDER).is_dir():
            shutil.rmtree(checkpoint)
