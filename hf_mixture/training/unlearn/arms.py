"""The ways of forgetting that a run compares, by name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hf_mixture.training.unlearn.recipe import UnlearnRecipe


# The arms that are no run of `unlearn`, and what each is.
FIXED = {
    "original": "not asked to forget",
    "gold": "retrained from nothing on what is retained",
    "block_list": "the original, with forgotten items masked when it is served",
}
# The simpler ways that ours must be better than.
SIMPLER = ("fine_tune", "ascent", "ascent_retain", "reset_fine_tune")


@dataclass(frozen=True, kw_only=True)
class Arm:
    """One run of `unlearn`.

    Args:
        family: What it belongs to: a schedule, or one of `SIMPLER`.
        weight: Retain weight; the forget weight is the rest to 1.
        options: Fields of `UnlearningOptions`.
    """

    family: str
    weight: float
    options: dict[str, Any]

    @property
    def name(self) -> str:
        """Family and weight."""
        return f"{self.family}@{self.weight:g}"


def arms_of(recipe: UnlearnRecipe, backbone: str, *, gold_steps: int, seed: int) -> list[Arm]:
    """Every setting that a case tries.

    Args:
        recipe: The recipe.
        backbone: Name of the backbone.
        gold_steps: Optimizer steps of the retrained model.
        seed: Seed.

    Returns:
        The arms: simpler ways first. These leave the modality vectors where they are, as they are defined.
    """
    grid = recipe.grid
    common = {
        "num_steps": max(1, int(grid.steps_share * gold_steps)),
        "learning_rate": grid.learning_rate,
        "retain_batch": recipe.backbones[backbone].batch_size,
        "forget_batch": grid.forget_batch,
        "seed": seed,
    }

    def arm(family: str, weight: float, **fields: Any) -> Arm:
        weights = {"retain_weight": weight, "forget_weight": round(1 - weight, 6)}
        return Arm(family=family, weight=weight, options={**common, **weights, **fields})

    ascent = {"schedule": "sum", "forget_loss": "gradient_ascent", "modality": "keep"}
    found = [
        arm("fine_tune", 1.0, schedule="sum", modality="keep"),
        arm("ascent", 0.0, **ascent),
        *(arm("ascent_retain", weight, **ascent) for weight in grid.ascent_weights),
        arm("reset_fine_tune", 1.0, schedule="reset"),
    ]
    for schedule, weights in grid.weights.items():
        looks = {"check_steps": grid.check_steps} if schedule == "two_phase" else {}
        found += [arm(schedule, weight, schedule=schedule, **looks) for weight in weights]
    return found


def chosen_arm(recipe: UnlearnRecipe, finished: Mapping[str, Any], backbone: str, request: str, seed: int) -> Arm:
    """The setting of our schedules that validation chose for a case.

    Args:
        recipe: The recipe.
        finished: What the journal holds.
        backbone: Name of the backbone.
        request: Name of the request.
        seed: Seed.

    Returns:
        The setting, with that seed.
    """
    steps = finished[f"{backbone}-{request}-{seed}-gold"]["num_steps"]
    name = finished[f"{backbone}-{request}/choice"]["ours"]
    return next(arm for arm in arms_of(recipe, backbone, gold_steps=steps, seed=seed) if arm.name == name)
