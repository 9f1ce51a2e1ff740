"""`hf-mixture mix search`: runs a search recipe from domains to `mixture.json`, in parts that are journaled.

Parts, in order: clusters (where there are any), prepare, the search with its proxies, one training of the comparison
for each mixture and seed. A search that is killed continues at the part it was in: the proxies at the first one that
is not in their journal, a training at its last checkpoint.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hf_mixture.training.journal import Journal, begin
from hf_mixture.training.search.compare import Comparison, baseline_shares
from hf_mixture.training.search.data import SearchData, prepare
from hf_mixture.training.search.find import Found, find
from hf_mixture.training.search.methods import ONLINE
from hf_mixture.training.search.online import found_online
from hf_mixture.training.search.outcome import conclude
from hf_mixture.training.search.plan import describe, make_plan
from hf_mixture.training.search.recipe import SearchRecipe
from hf_mixture.training.search.searcher import bounds_of
from hf_mixture.training.search.texts import cluster_texts, load_texts, read_clusters, save_clusters


def search_recipe(
    recipe: SearchRecipe, *, resume: bool = False, dry_run: bool = False, command: str = ""
) -> dict[str, Any]:
    """Run a search recipe.

    Args:
        recipe: The recipe.
        resume: Continue the search in the recipe's output folder; without one there, begin it.
        dry_run: Only print the plan; nothing is written.
        command: The command, for the card.

    Returns:
        The content of `results.json`; empty for a dry run.

    Raises:
        ValueError: If the recipe cannot work or the output folder holds something else; nothing has been written.
    """
    domains, targets = load_texts(recipe)
    plan = make_plan(recipe, {**domains, **targets})
    print(describe(recipe, plan), flush=True)
    if dry_run:
        return {}
    journal = begin(recipe, resume=resume)
    facts = _prepare(recipe, journal, domains, targets)
    data = SearchData(journal.folder / "prepared", recipe.block_size)
    tokens = {name: entry["train_tokens"] for name, entry in facts["domains"].items()}
    prior = {name: count / sum(tokens.values()) for name, count in tokens.items()}
    budget = recipe.constraints.budget or plan.comparison.tokens
    bounds = bounds_of(recipe, tokens, budget)
    comparison = Comparison(recipe, data, journal)
    is_online = recipe.method.name in ONLINE
    found: Found | None = None
    if not is_online:
        found = find(recipe, data, plan, journal, prior=prior, bounds=bounds)
    shares = {} if found is None else {recipe.method.name: found.shares}
    runs: dict[str, list[dict[str, Any]]] = {}
    if is_online:
        runs[recipe.method.name] = comparison.run_online()
    shares |= baseline_shares(recipe, prior, bounds)
    for name, weights in shares.items():
        runs[name] = comparison.run(name, weights)
    if found is None:
        found = found_online(recipe, runs[recipe.method.name])
        shares = {recipe.method.name: found.shares, **shares}
    return conclude(
        recipe, plan, journal, facts, found=found, shares=shares, runs=runs, budget=budget, command=command
    )


def _prepare(
    recipe: SearchRecipe, journal: Journal, domains: Mapping[str, Any], targets: Mapping[str, Any]
) -> dict[str, Any]:
    """Make the clusters and the packs, once."""
    folder = journal.folder
    if recipe.clusters is not None:
        if "clusters" not in journal.finished:
            clusters, origins = cluster_texts(recipe.clusters, domains, seed=recipe.seed)
            save_clusters(clusters, folder / "domains")
            journal.finish("clusters", origins)
        domains = read_clusters(folder / "domains")
    if "prepare" not in journal.finished:
        print("\n== data", flush=True)
        journal.finish("prepare", prepare(recipe, domains, targets, folder / "prepared"))
    facts: dict[str, Any] = journal.finished["prepare"]
    return facts
