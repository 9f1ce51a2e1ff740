"""`hf-mixture unlearn`: recommenders are trained, asked to forget in every way, and compared with retrained ones.

Parts, in order, for each backbone and seed: the original and the sharded models; for each request the retrained model,
every setting with the first seed, the choice, the chosen settings with the other seeds, and the retrained shards; in
the end the requests one after another, and the card. A run that is killed continues at the part it was in.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np

from hf_mixture.training.journal import Journal, begin
from hf_mixture.training.unlearn.arms import Arm, arms_of, chosen_arm
from hf_mixture.training.unlearn.data import draw_request, load_data
from hf_mixture.training.unlearn.measure import Case, choose, measure, measure_model, reference_levels
from hf_mixture.training.unlearn.outcome import conclude
from hf_mixture.training.unlearn.recipe import UnlearnRecipe


def unlearn_recipe(
    recipe: UnlearnRecipe, *, resume: bool = False, dry_run: bool = False, command: str = ""
) -> dict[str, Any]:
    """Run a recipe.

    Args:
        recipe: The recipe.
        resume: Continue the run in the recipe's output folder; without one there, begin it.
        dry_run: Only print the plan; nothing is written.
        command: The command, for report and card.

    Returns:
        The content of `results.json`; empty for a dry run.

    Raises:
        ValueError: If the recipe cannot work or the output folder holds something else; nothing has been written.
        RuntimeError: If the saved model does not reload.
    """
    from transformers.utils import logging

    data = load_data(recipe)
    if recipe.k >= data.train.num_items:
        raise ValueError(
            f"k={recipe.k} is not below the {data.train.num_items} items, so that every list would hold all of them; "
            "lower it"
        )
    print(describe(recipe, data), flush=True)
    if dry_run:
        return {}
    run = Run(recipe, begin(recipe, resume=resume), data)
    # A run saves and loads many small models; its own lines show how far it is.
    logging.disable_progress_bar()
    try:
        for backbone, request in recipe.cases:
            for seed in recipe.seeds_of(request):
                run.case(backbone, request, seed)
        run.sequence()
        return conclude(recipe, run.journal, data, command)
    finally:
        logging.enable_progress_bar()


def describe(recipe: UnlearnRecipe, data: Any) -> str:
    """Format a plan for people.

    Args:
        recipe: The recipe.
        data: What `load_data` gives.

    Returns:
        The text.
    """
    lines = [f"{recipe.name}: {recipe.description.strip()}".rstrip(" :"), "", f"output folder  {recipe.output_dir}"]
    train = data.train
    lines.append(
        f"data           {len(train):,} interactions of {train.num_users:,} users and {train.num_items:,} items"
    )
    for backbone, request in recipe.cases:
        spec = recipe.requests[request]
        seeds = ", ".join(map(str, recipe.seeds_of(request)))
        lines.append(f"{backbone:14} forgets {100 * spec.share:g} % of {spec.kind}; seeds {seeds}")
    tried = len(arms_of(recipe, next(iter(recipe.backbones)), gold_steps=100, seed=0))
    lines += [
        "",
        f"train          one original and one retrained model of each, and {tried} settings with the first seed",
    ]
    return "\n".join(lines)


class Run:
    """A run in progress.

    Args:
        recipe: The recipe.
        journal: What is finished.
        data: The data.
    """

    def __init__(self, recipe: UnlearnRecipe, journal: Journal, data: Any) -> None:
        self.recipe, self.journal, self.data = recipe, journal, data

    def part(self, name: str, work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """Do a part, unless it is finished.

        Args:
            name: Its name.
            work: Returns what it measured.

        Returns:
            What it measured.
        """
        if name not in self.journal.finished:
            began = time.process_time()
            measured = work()
            self.journal.finish(name, measured | {"cpu_seconds": time.process_time() - began})
            print(f"{name:56} {_shown(self.journal.finished[name])}", flush=True)
        found: dict[str, Any] = self.journal.finished[name]
        return found

    def model(self, name: str, backbone: str, seed: int, interactions: Any, case: Case | None = None) -> Any:
        """Train a model, or load it where that is done.

        Args:
            name: Name of the part and of its folder.
            backbone: Name of the backbone.
            seed: Seed.
            interactions: What it learns from.
            case: The request after which it is trained.

        Returns:
            The model.
        """
        import torch

        from hf_mixture.models.mm_recommender.modeling_mm_recommender import MultiModalRecommender
        from hf_mixture.models.mm_recommender.training import fit

        folder, spec = self.journal.folder / "models" / name, self.recipe.backbones[backbone]

        def train() -> dict[str, Any]:
            model = new_model(self.recipe, self.data, backbone, seed)
            never = case.split.forgotten_items if case is not None else None
            if never is not None and len(never):
                model.remove_modalities(torch.from_numpy(never), list(model.config.modality_sizes))
            # As many passes over its interactions as the original has.
            steps = max(1, round(spec.num_steps * len(interactions) / len(self.data.train)))
            fit(
                model,
                interactions,
                num_steps=steps,
                batch_size=spec.batch_size,
                learning_rate=spec.learning_rate,
                avoided=case.split.forget if case is not None else None,
                never=never,
                seed=seed,
                output_dir=self.journal.folder / "trainer",
                use_cpu=True,
            )
            model.save_pretrained(folder)
            return {"num_steps": steps, "num_pairs": steps * spec.batch_size}

        self.part(name, train)
        return MultiModalRecommender.from_pretrained(folder).eval()

    def case(self, backbone: str, request: str, seed: int) -> None:
        """Everything about one request with one seed.

        Args:
            backbone: Name of the backbone.
            request: Name of the request.
            seed: Seed.
        """
        recipe, prefix = self.recipe, f"{backbone}-{request}-{seed}"
        original = self.model(f"{backbone}-original-{seed}", backbone, seed, self.data.train)
        case = self._case(request, seed)
        self._measured(f"{prefix}/original", original, case)
        self.part(f"{prefix}/reference", lambda: reference_levels(original, case, seed=seed))
        gold = self.model(f"{prefix}-gold", backbone, seed + 500, case.split.retain, case)
        tables = gold.tables()
        steps = self.journal.finished[f"{prefix}-gold"]["num_steps"]
        self._measured(f"{prefix}/gold", gold, case)
        self._measured(f"{prefix}/original", original, case, gold=tables, again="distance")
        first = seed == recipe.seeds_of(request)[0]
        arms = arms_of(recipe, backbone, gold_steps=steps, seed=seed)
        if first:
            floor = self.model(f"{prefix}-gold_again", backbone, seed + 600, case.split.retain, case)
            self._measured(f"{prefix}/gold_again", floor, case, gold=tables)
        else:
            chosen = self.journal.finished[f"{backbone}-{request}/choice"]["by_family"].values()
            arms = [arm for arm in arms if arm.name in chosen]
        for arm in arms:
            self.part(f"{prefix}/{arm.name}", lambda arm=arm: self._forget(original, case, arm, tables))  # type: ignore[misc]
        if first:
            self.part(f"{backbone}-{request}/choice", lambda: self._choose(prefix, arms))
        if len(case.split.forgotten_items):
            self.part(f"{prefix}/block_list", lambda: self._block(original, case))
        for number in recipe.num_shards:
            self._shards(backbone, seed, prefix, number=number, case=case, gold=tables)

    def sequence(self) -> None:
        """Ask the first backbone for the first request in parts, one after another, beside a retrained model each."""
        from hf_mixture.models.mm_recommender.options import UnlearningOptions
        from hf_mixture.models.mm_recommender.requests import UnlearningRequest
        from hf_mixture.models.mm_recommender.training import unlearn

        (backbone, request), count = self.recipe.cases[0], self.recipe.num_sequential
        if not count:
            return
        seed = self.recipe.seeds_of(request)[0]
        parts = parts_of(self._case(request, seed).request, count)
        names = [f"{backbone}-{request}-{seed}/sequence-{number}" for number in range(1, len(parts) + 1)]
        if all(name in self.journal.finished for name in names):
            return
        model = self.model(f"{backbone}-original-{seed}", backbone, seed, self.data.train)
        options = UnlearningOptions(**chosen_arm(self.recipe, self.journal.finished, backbone, request, seed).options)
        retained, so_far = self.data.train, UnlearningRequest()
        for number, (name, part) in enumerate(zip(names, parts, strict=True), start=1):
            outcome = unlearn(
                model,
                retained,
                part,
                options,
                never=np.asarray(so_far.items, dtype=np.int64),
                output_dir=self.journal.folder / "trainer",
                use_cpu=True,
            )
            retained, so_far = outcome.split.retain, so_far + part
            case = self._case_of(so_far)
            gold = self.model(f"{backbone}-{request}-{seed}-gold_part_{number}", backbone, seed + 500, retained, case)
            measured = {"gold": measure_model(gold, case), "num_steps": outcome.num_steps}
            measured |= measure_model(model, case, gold=gold.tables())
            self.part(name, lambda measured=measured: measured)  # type: ignore[misc]

    def _case(self, request: str, seed: int) -> Case:
        spec = self.recipe.requests[request]
        return self._case_of(draw_request(self.data, spec.kind, spec.share, seed))

    def _case_of(self, request: Any) -> Case:
        from hf_mixture.models.mm_recommender.requests import split_interactions

        split = split_interactions(self.data.train, request, modality_names=list(self.data.features))
        return Case(data=self.data, request=request, split=split, k=self.recipe.k)

    def _measured(self, name: str, model: Any, case: Case, *, gold: Any = None, again: str = "") -> None:
        # The original is measured before Gold exists, and its distance afterwards.
        if again and again not in self.journal.finished[name]:
            del self.journal.finished[name]
        self.part(name, lambda: measure_model(model, case, gold=gold))

    def _forget(self, original: Any, case: Case, arm: Arm, gold: Any) -> dict[str, Any]:
        from hf_mixture.models.mm_recommender.options import UnlearningOptions
        from hf_mixture.models.mm_recommender.training import unlearn

        model, began = copy.deepcopy(original), time.process_time()
        outcome = unlearn(
            model,
            self.data.train,
            case.request,
            UnlearningOptions(**arm.options),
            validation=self.data.validation,
            output_dir=self.journal.folder / "trainer",
            use_cpu=True,
        )
        seconds = time.process_time() - began
        measured = measure_model(model, case, gold=gold)
        counts = {"num_steps": outcome.num_steps, "num_pairs": outcome.num_pairs, "unlearning_seconds": seconds}
        return measured | counts | {"history": outcome.history}

    def _choose(self, prefix: str, arms: list[Arm]) -> dict[str, Any]:
        done = self.journal.finished
        original, reference = done[f"{prefix}/original"], done[f"{prefix}/reference"]

        def best(chosen: list[Arm]) -> str:
            tried = [(arm.name, done[f"{prefix}/{arm.name}"]) for arm in chosen]
            return choose(tried, original, reference, utility_kept=self.recipe.grid.utility_kept)

        families = list(dict.fromkeys(arm.family for arm in arms))
        by_family = {family: best([arm for arm in arms if arm.family == family]) for family in families}
        return {"by_family": by_family, "ours": best([arm for arm in arms if arm.family in self.recipe.grid.weights])}

    def _block(self, original: Any, case: Case) -> dict[str, Any]:
        from hf_mixture.models.mm_recommender.ranking import quality_of

        tables, split = original.tables(), case.split
        served = quality_of(
            tables.users, tables.items, split.forget, k=case.k, masked=split.retain, left_out=split.forgotten_items
        )
        return measure_model(original, case) | {"forget_recall": served.recall, "num_steps": 0, "num_pairs": 0}

    def _shards(self, backbone: str, seed: int, prefix: str, *, number: int, case: Case, gold: Any) -> None:
        from hf_mixture.models.mm_recommender.shards import ensemble_tables, shards_of_interactions, touched_shards

        name, done = f"{prefix}/sharded-{number}", self.journal.finished
        if name in done:
            return
        before = shards_of_interactions(self.data.train, number)
        models = [
            self.model(f"{backbone}-shard_{shard}_of_{number}-{seed}", backbone, seed + 700 + shard, pairs)
            for shard, pairs in enumerate(before)
        ]
        old = [model.tables() for model in models]
        self.part(f"{name}-before", lambda: measure(ensemble_tables(old, before), case, gold=gold))
        touched = touched_shards(case.split.forget, number)
        after = shards_of_interactions(case.split.retain, number)
        parts, steps = list(old), 0
        for shard in touched:
            part = f"{prefix}-shard_{shard}_of_{number}"
            parts[shard] = self.model(part, backbone, seed + 800 + shard, after[shard], case).tables()
            steps += done[part]["num_steps"]
        self.part(
            name,
            lambda: (
                measure(ensemble_tables(parts, after), case, gold=gold)
                | {"num_steps": steps, "num_pairs": steps * self.recipe.backbones[backbone].batch_size}
                | {"touched_share": len(touched) / number}
            ),
        )


def new_model(recipe: UnlearnRecipe, data: Any, backbone: str, seed: int) -> Any:
    """A recommender that is not trained.

    Args:
        recipe: The recipe.
        data: The data.
        backbone: Name of the backbone.
        seed: Seed of the weights.

    Returns:
        The model, with features.
    """
    import torch

    from hf_mixture.models.mm_recommender.configuration_mm_recommender import MultiModalRecommenderConfig
    from hf_mixture.models.mm_recommender.modeling_mm_recommender import MultiModalRecommender

    torch.manual_seed(seed)
    model = MultiModalRecommender(
        MultiModalRecommenderConfig(
            **recipe.backbones[backbone].model,
            num_users=data.train.num_users,
            num_items=data.train.num_items,
            modality_sizes={name: vectors.shape[1] for name, vectors in data.features.items()},
        )
    )
    model.set_features(data.features)
    return model


def parts_of(request: Any, count: int) -> list[Any]:
    """Cut a request into parts of equal size.

    Args:
        request: A request of one kind.
        count: Number of parts.

    Returns:
        The parts.
    """
    from hf_mixture.models.mm_recommender.requests import UnlearningRequest

    (kind,) = request.kinds
    things = getattr(request, kind)
    cuts = np.linspace(0, len(things), count + 1).astype(int)
    parts = [things[first:last] for first, last in pairwise(cuts) if last > first]
    return [UnlearningRequest(**{kind: part}) for part in parts]


def _shown(measured: dict[str, Any]) -> str:
    names = ("forget_recall", "membership_auc", "validation_recall", "num_steps")
    return "  ".join(f"{name} {measured[name]:.4g}" for name in names if name in measured)
