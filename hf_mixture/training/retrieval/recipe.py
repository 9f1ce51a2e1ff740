"""The recipe of a retrieval run: what `hf-mixture retrieve` reads, checks and saves next to its output."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from hf_mixture.training.commands import check_command
from hf_mixture.training.recipe import PlainRecipe
from hf_mixture.training.resolve import (
    OWNED_ARGUMENTS,
    check_folder_names,
    check_least,
    check_seeds,
    check_training_arguments,
    recipe_values,
)
from hf_mixture.training.retrieval.data import DIRECTIONS, SOURCES
from hf_mixture.training.strict import build, check_names


METHODS = ("als", "lightgcn", "trained")
# Options of each method; those of "trained" are fields of `KnnEmbedConfig`.
_OPTIONS = {
    "als": {"embedding_size", "alpha", "regularisation", "num_rounds"},
    "lightgcn": {"embedding_size", "num_layers", "penalty"},
}
# What the data, or the choice of a mixture, decide.
_DECIDED = {"num_users", "num_items", "num_fitted_clusters", "num_mixture_entries", "num_history_entries"}


@dataclass(frozen=True, kw_only=True)
class InteractionSpec:
    """Who has what, and which of it is learned from.

    Args:
        source: `"graph"` (a citation graph), `"movielens"` (MovieLens-100K) or `"synthetic"`.
        path: The file of a graph.
        direction: Of a graph: `"as_given"`, given a paper find what it cites; or `"reversed"`.
        min_rating: Smallest rating of MovieLens that counts as liking a film. Default: 4.
        seed: Seed of the split. Default: 0.
        test_share: Share of the edges in the test. Default: 0.1.
        validation_share: Share of the others that settings are chosen on. Default: 0.1.
        min_history: Users with fewer training edges are not measured. Default: 5.
        max_users: Largest number of users who are measured. Default: 3,000.
    """

    source: str
    path: str | None = None
    direction: str = "as_given"
    min_rating: float = 4.0
    seed: int = 0
    test_share: float = 0.1
    validation_share: float = 0.1
    min_history: int = 5
    max_users: int = 3000


@dataclass(frozen=True, kw_only=True)
class EmbeddingSpec:
    """How embeddings are made.

    Args:
        method: `"trained"` (`KnnEmbedModel` by the stock Trainer), `"lightgcn"` or `"als"`.
        options: Fields of `KnnEmbedConfig`, or those of the other methods.
        candidates: Options that are tried in the place of these, the best of them chosen on validation. Default: none.
        num_negatives: Negatives of a batch, or with BPR of each edge. Default: 1.
        training: Fields of `TrainingArguments`; `max_steps` is the largest number of steps.
        eval_steps: Steps between two measurements on validation, which choose the number of steps. Default: 50.
    """

    method: str
    options: dict[str, Any] = field(default_factory=dict)
    candidates: list[dict[str, Any]] = field(default_factory=list)
    num_negatives: int = 1
    training: dict[str, Any] = field(default_factory=dict)
    eval_steps: int = 50

    @property
    def alternatives(self) -> list[EmbeddingSpec]:
        """The specifications to choose from."""
        return [
            dataclasses.replace(self, options=self.options | candidate, candidates=[])
            for candidate in self.candidates or [{}]
        ]


@dataclass(frozen=True, kw_only=True)
class MixtureSpec:
    """Which mixtures are tried on each of the embeddings; the best of each smoothing is chosen on validation.

    Args:
        num_clusters: m.
        num_neighbours: k.
        smoothing_weights: Lambda with `"knn"`; null is k / (k + 1). Default: null.
        global_weights: Lambda with `"global"`. Default: 0.5.
        max_components: Largest number of clusters of a user. Default: 10.
    """

    num_clusters: list[int]
    num_neighbours: list[int]
    smoothing_weights: list[Any] = field(default_factory=lambda: [None])
    global_weights: list[float] = field(default_factory=lambda: [0.5])
    max_components: int = 10


@dataclass(frozen=True, kw_only=True)
class RetrievalRecipe(PlainRecipe):
    """One run: mixtures on embeddings beside one vector and baselines, on one split, settings chosen on validation.

    Args:
        name: Name of the run.
        output_dir: Where everything is written.
        interactions: Who has what.
        embeddings: Embeddings, by name.
        mixtures: Which mixtures are tried.
        user_cf: Numbers of neighbours of user-CF that are tried.
        publish: The embeddings whose mixture, of the first seed, becomes the saved model.
        study: Embeddings on which all clusters, allocations and queries are compared. Default: none.
        study_partition: Whether the study has the clusters of `ProbabilisticPartition` too. Default: no.
        seeds: Seeds of the embeddings. Default: 0.
        description: One paragraph for report and card.
    """

    name: str
    output_dir: str
    interactions: InteractionSpec
    embeddings: dict[str, EmbeddingSpec]
    mixtures: MixtureSpec
    user_cf: list[int]
    publish: str
    study: list[str] = field(default_factory=list)
    study_partition: bool = False
    seeds: list[int] = field(default_factory=lambda: [0])
    description: str = ""


def resolve_retrieval(text: str, *, overrides: Sequence[tuple[str, Any]] = (), smoke: bool = False) -> RetrievalRecipe:
    """Read a recipe; what is given later wins: the file, its `smoke` section, `overrides`.

    Args:
        text: The YAML text.
        overrides: Pairs of key path and value.
        smoke: Whether to apply the `smoke` section.

    Returns:
        The checked recipe.

    Raises:
        ValueError: If a key is unknown, a value has the wrong type or breaks a rule.
    """
    values = recipe_values(text, overrides=overrides, smoke=smoke)
    check_command(values, "retrieve")
    recipe = build(RetrievalRecipe, values, "")
    check_folder_names("embeddings", recipe.embeddings)
    check_names([recipe.publish], recipe.embeddings, "the embeddings (publish)")
    check_names(recipe.study, recipe.embeddings, "the embeddings (study)")
    check_seeds(recipe.seeds)
    _check_interactions(recipe.interactions)
    for name, spec in recipe.embeddings.items():
        _check_embedding(f"embeddings.{name}", spec)
    _check_mixtures(recipe.mixtures)
    if not recipe.user_cf:
        raise ValueError("user_cf is empty; give at least one number of neighbours")
    check_least({f"user_cf[{place}]": (number, 1) for place, number in enumerate(recipe.user_cf)})
    return recipe


def _check_interactions(spec: InteractionSpec) -> None:
    check_names([spec.source], SOURCES, "the sources (interactions.source)")
    check_names([spec.direction], DIRECTIONS, "the directions (interactions.direction)")
    if (spec.path is None) != (spec.source != "graph"):
        raise ValueError(
            f"interactions.path is {spec.path!r} with the source {spec.source!r}; a graph has a path, nothing else has"
        )
    for name in ("test_share", "validation_share"):
        if not 0 < getattr(spec, name) < 1:
            raise ValueError(f"interactions.{name} is {getattr(spec, name)}; it must be between 0 and 1")
    check_least(
        {
            "interactions.seed": (spec.seed, 0),
            "interactions.min_history": (spec.min_history, 1),
            "interactions.max_users": (spec.max_users, 1),
        }
    )


def _check_embedding(where: str, spec: EmbeddingSpec) -> None:
    from hf_mixture.models.knn_embed.configuration_knn_embed import KnnEmbedConfig

    check_names([spec.method], METHODS, f"the methods ({where}.method)")
    known = _OPTIONS.get(spec.method) or {f.name for f in dataclasses.fields(KnnEmbedConfig)} - _DECIDED
    for options in (spec.options, *spec.candidates):
        check_names(options, known, f"{where}.options")
    for alternative in spec.alternatives:
        if spec.method == "trained":
            try:
                KnnEmbedConfig(**alternative.options).check_sizes()
            except (TypeError, ValueError) as error:
                raise ValueError(f"{where}: {error}") from None
        elif set(alternative.options) != known:
            raise ValueError(f"{where}.options has {sorted(alternative.options)}; give {', '.join(sorted(known))}")
    if spec.method == "als":
        if spec.training:
            raise ValueError(f"{where}.training is given, and als has no Trainer; remove it")
        return
    check_training_arguments(spec.training, f"{where}.training", OWNED_ARGUMENTS)
    check_least({f"{where}.num_negatives": (spec.num_negatives, 1), f"{where}.eval_steps": (spec.eval_steps, 1)})
    if spec.eval_steps > spec.training["max_steps"]:
        raise ValueError(
            f"{where}.eval_steps is {spec.eval_steps}, more than max_steps={spec.training['max_steps']}, so that "
            "nothing would be measured; lower it"
        )


def _check_mixtures(spec: MixtureSpec) -> None:
    for name in ("num_clusters", "num_neighbours", "smoothing_weights", "global_weights"):
        if not getattr(spec, name):
            raise ValueError(f"mixtures.{name} is empty; give at least one value")
    check_least({f"mixtures.{n}": (min(getattr(spec, n)), 1) for n in ("num_clusters", "num_neighbours")})
    check_least({"mixtures.max_components": (spec.max_components, 1)})
    for weight in (*spec.smoothing_weights, *spec.global_weights):
        if weight is not None and not (isinstance(weight, int | float) and 0 <= weight <= 1):
            raise ValueError(f"mixtures has the weight {weight!r}; weights are from 0 to 1, or null for k / (k + 1)")
