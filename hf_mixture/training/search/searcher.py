"""The searcher of a recipe, and the bounds that it obeys."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from hf_mixture.training.search.recipe import SearchRecipe


if TYPE_CHECKING:
    from hf_mixture.data.search import Constraints
    from hf_mixture.data.search.session import SearchSession


def make_search(
    recipe: SearchRecipe, *, prior: Mapping[str, float] | None, constraints: Constraints | None
) -> SearchSession:
    """Build the searcher of a recipe.

    Args:
        recipe: The recipe, whose method runs proxies.
        prior: Natural share of each domain. None: equal.
        constraints: Bounds on the shares. None: none.

    Returns:
        The searcher.

    Raises:
        ValueError: If a setting breaks a rule of the method.
        TypeError: If a setting has the wrong type.
    """
    from hf_mixture.data.search import Objective
    from hf_mixture.data.search.entry import SEARCHES

    build = SEARCHES[recipe.method.name]
    settings = dict(recipe.method.settings)
    if recipe.method.name != "grid":
        settings["seed"] = recipe.seed
    goal = Objective(recipe.objective.metric, recipe.objective.direction)  # type: ignore[arg-type]
    return build(recipe.domain_names, goal, prior=prior, constraints=constraints, **settings)


def planned_runs(search: SearchSession) -> str:
    """How many runs a search will ask for, as text."""
    if hasattr(search, "rounds"):
        return " + ".join(map(str, search.rounds)) + " runs"
    if hasattr(search, "budget"):
        return f"runs that cost {search.budget:g} together"
    return f"{search.num_runs} runs"  # type: ignore[attr-defined]


def bounds_of(recipe: SearchRecipe, tokens: Mapping[str, int], budget: int) -> Constraints:
    """Turn the constraints of a recipe into bounds on the shares.

    Args:
        recipe: The recipe.
        tokens: Available training tokens of each domain.
        budget: Tokens of the run that the mixture is for.

    Returns:
        The bounds: the smaller of the cap that is given and of the cap that `max_epochs` implies.

    Raises:
        ValueError: If no mixture obeys them.
    """
    from hf_mixture.data.search import Constraints

    spec = recipe.constraints
    caps = dict(spec.caps)
    if spec.max_epochs is not None:
        available = Constraints.from_sizes(tokens, budget=budget, max_epochs=spec.max_epochs).caps
        for name, cap in available.items():
            if cap < 1:
                caps[name] = min(cap, caps.get(name, 1.0))
    bounds = Constraints(spec.floors, caps, spec.fixed)
    bounds.bounds(recipe.domain_names)
    return bounds
