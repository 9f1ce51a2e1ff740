"""Runs of the comparison: one model, one mixture, one seed, by the stock Trainer; continued after a kill."""

from __future__ import annotations

import functools
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hf_mixture.training.journal import Journal
from hf_mixture.training.models import config_of
from hf_mixture.training.search.data import SearchData
from hf_mixture.training.search.methods import online_callback
from hf_mixture.training.search.online import online_facts
from hf_mixture.training.search.recipe import SearchRecipe
from hf_mixture.training.stage import train_on


if TYPE_CHECKING:
    from hf_mixture.data.mixture import Mixture

CHECKPOINTS = 5


class Comparison:
    """Runs every mixture with every seed; finished runs are in the journal.

    Args:
        recipe: The recipe.
        data: The data of the search.
        journal: The journal of the run.
    """

    def __init__(self, recipe: SearchRecipe, data: SearchData, journal: Journal) -> None:
        self.recipe = recipe
        self.data = data
        self.journal = journal

    def run(self, name: str, shares: Mapping[str, float]) -> list[dict[str, Any]]:
        """Train a fixed mixture with every seed; one entry a seed, with `seed` and `losses`."""
        from hf_mixture.data.trainer import MixtureCallback

        return [
            self._run(name, shares, seed, MixtureCallback, lambda callback: {})
            for seed in self.recipe.comparison.seeds
        ]

    def run_online(self) -> list[dict[str, Any]]:
        """Train with the method that changes the mixture, from equal shares; an entry also has what it reports."""
        recipe = self.recipe
        build = online_callback(recipe.method.name)
        names = recipe.domain_names
        validation = self.data.blocks("validation", names)
        equal = dict.fromkeys(names, 1 / len(names))
        entries = []
        for seed in recipe.comparison.seeds:
            make = functools.partial(build, validation, **recipe.method.settings, seed=seed)
            entries.append(self._run(recipe.method.name, equal, seed, make, online_facts))
        return entries

    def _run(
        self,
        name: str,
        shares: Mapping[str, float],
        seed: int,
        make_callback: Callable[[], Any],
        report: Callable[[Any], dict[str, Any]],
    ) -> dict[str, Any]:
        from hf_mixture.data.mixture import Mixture
        from hf_mixture.data.schedule import SourcePolicy

        part = f"comparison/{name}/{seed}"
        if part not in self.journal.finished:
            print(f"\n== compare {name}, seed {seed}", flush=True)
            folder = self.journal.folder / "checkpoints" / part
            drawn = {domain: share for domain, share in shares.items() if share > 0}
            floors = {name: SourcePolicy(min_weight=floor) for name, floor in self.recipe.constraints.floors.items()}
            mixture = Mixture(drawn, unit="tokens", seed=seed, normalise=True, policies=floors)
            losses, callback = train_and_score(
                self.recipe, self.data, mixture, folder, seed=seed, make_callback=make_callback
            )
            self.journal.finish(part, {"seed": seed, "losses": losses, **report(callback)})
            # Not before: a run killed in between would have to train again.
            shutil.rmtree(folder, ignore_errors=True)
        entry: dict[str, Any] = self.journal.finished[part]
        return entry


def train_and_score(
    recipe: SearchRecipe,
    data: SearchData,
    mixture: Mixture,
    folder: Path,
    *,
    seed: int,
    make_callback: Callable[[], Any],
) -> tuple[dict[str, float], Any]:
    """Train a new model on a mixture and score it on the test text; continue from a checkpoint in `folder`.

    Args:
        recipe: The recipe; its `comparison` says what to train and for how long.
        data: The data of the search.
        mixture: What to train on; its own seed orders the data.
        folder: Where the Trainer keeps its checkpoints; removed at the end by the caller.
        seed: Seed of the weights and of dropout.
        make_callback: Makes the callback that feeds the mixture.

    Returns:
        Losses by metric name, in nats per token, and the callback after the last step.
    """
    from transformers import AutoModelForCausalLM, Trainer, TrainingArguments, set_seed

    from hf_mixture.data.mixture_dataset import MixtureDataset
    from hf_mixture.data.packed_rows import collate_packed

    arguments = TrainingArguments(output_dir=str(folder), **training_values(recipe, seed))
    batch = arguments.train_batch_size * arguments.gradient_accumulation_steps * arguments.world_size
    tokenizer = data.tokenizer()
    set_seed(seed)
    model = AutoModelForCausalLM.from_config(
        config_of(
            recipe.comparison.model,
            vocab_size=len(tokenizer),
            separator=data.separator,
            block_size=recipe.block_size,
        )
    )
    trainer = Trainer(
        model=model,
        args=arguments,
        # Shares are exact at the end of every optimizer step, for fixed mixtures as for those that change.
        train_dataset=MixtureDataset(
            data.blocks("train", mixture.names),
            mixture,
            num_examples=arguments.max_steps * batch,
            block_size=batch,
        ),
        data_collator=collate_packed,
        callbacks=[make_callback()],
    )
    train_on(trainer, folder)
    losses = score(model, data, recipe)
    kind = type(make_callback())
    # The Trainer makes a callback anew when it restores one, so the one that was given need not be the one that ran.
    (callback,) = [item for item in trainer.callback_handler.callbacks if isinstance(item, kind)]
    return losses, callback


def training_values(recipe: SearchRecipe, seed: int) -> dict[str, Any]:
    """Return the training arguments of one run of the comparison, without the output folder."""
    import torch

    given = recipe.comparison.training_arguments
    steps = given["max_steps"]
    return {
        "report_to": "none",
        "dataloader_pin_memory": torch.cuda.is_available(),
        "logging_steps": max(1, steps // 20),
        "save_steps": max(1, steps // CHECKPOINTS),
        "save_total_limit": 2,
        **given,
        "seed": seed,
        "train_sampling_strategy": "sequential",
        "restore_callback_states_from_checkpoint": True,
    }


def score(model: Any, data: SearchData, recipe: SearchRecipe) -> dict[str, float]:
    """Mean loss of a model on the test text of every domain and target, in nats per token, and the domains' mean."""
    from hf_mixture.data.online.validation import ValidationSets

    names = (*recipe.domain_names, *recipe.targets)
    sets = ValidationSets(data.blocks("test", names))
    values = sets.losses(model, batch_size=recipe.evaluation.batch_size)
    losses = {f"loss/{name}": float(value) for name, value in zip(names, values, strict=True)}
    return losses | {"loss/mean": float(np.mean(values[: len(recipe.domain_names)]))}


def baseline_shares(recipe: SearchRecipe, prior: Mapping[str, float], bounds: Any) -> dict[str, dict[str, float]]:
    """Shares of every baseline, scaled into the bounds that the mixture obeys too.

    Args:
        recipe: The recipe.
        prior: Natural share of each domain.
        bounds: `Constraints` on the shares.

    Returns:
        Share by domain, by name of the baseline.
    """
    from hf_mixture.data.search.baselines import natural, stratified
    from hf_mixture.data.search.proposal import Space

    space = Space.build(recipe.domain_names, prior, bounds)
    shares = {"natural": natural(space), "stratified": stratified(space)}
    return {
        name: dict(zip(recipe.domain_names, map(float, shares[name]), strict=True))
        for name in recipe.comparison.baselines
    }
