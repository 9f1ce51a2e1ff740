"""The recipe of `hf-mixture curate`: a curation, and how models are trained on what comes out."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from hf_mixture.training.commands import check_command
from hf_mixture.training.recipe import (
    AdaptSpec,
    EvaluationSpec,
    MixtureSpec,
    ModelSpec,
    PlainRecipe,
    Recipe,
    StageSpec,
    TokenizerSpec,
)
from hf_mixture.training.resolve import (
    OWNED_ARGUMENTS,
    check_least,
    check_model_config,
    check_seeds,
    check_training_arguments,
    recipe_values,
)
from hf_mixture.training.strict import build


if TYPE_CHECKING:
    from hf_mixture.data.curation.recipe import CurationRecipe

STRICT, ALL = "pretrain", "adapt"
"""The stages of the data recipe: text of the strictest tier, and of all tiers."""


@dataclass(frozen=True, kw_only=True)
class TrainingSpec:
    """Models that are trained from scratch on the strictest tier and on all tiers, with as many tokens.

    Args:
        model: `model_type` and fields of the configuration.
        arguments: Fields of `TrainingArguments`; `max_steps` is required.
        tokenizer: The tokenizer. Default: bytes.
        seeds: Seeds of the weights and of the order; one pair of models each. Default: 0.
        block_size: Tokens in one training example. Default: 128.
        document_bytes: Longest piece taken from one training document. Defaults to whole documents.
        held_out: Share of the documents for validation, and for test. Default: 0.1.
        evaluation: How much held-out text is scored.
    """

    model: dict[str, Any]
    arguments: dict[str, Any]
    tokenizer: TokenizerSpec
    seeds: list[int] = field(default_factory=lambda: [0])
    block_size: int = 128
    document_bytes: int | None = None
    held_out: float = 0.1
    evaluation: EvaluationSpec = field(default_factory=EvaluationSpec)


@dataclass(frozen=True, kw_only=True)
class CurateRecipe(PlainRecipe):
    """A run: a curation, and perhaps models trained on it.

    Args:
        name: Name of the run.
        output_dir: Where everything is written.
        curation: The recipe of the curation as plain data.
        training: How models are trained. Default: none are.
        description: One paragraph.
    """

    name: str
    output_dir: str
    curation: dict[str, Any]
    training: TrainingSpec | None = None
    description: str = ""

    @property
    def recipe(self) -> CurationRecipe:
        """The recipe of the curation."""
        from hf_mixture.data.curation.recipe import CurationRecipe

        return CurationRecipe.from_dict(self.curation)

    def data_recipe(self, strict: Mapping[str, float], everything: Mapping[str, float]) -> Recipe:
        """The recipe of the data alone, which `hf_mixture.training.prepare` writes.

        Args:
            strict: Share of each domain in the text of the strictest tier.
            everything: The same for all tiers.

        Returns:
            A recipe with one stage for each of the two.
        """
        training = self.training
        assert training is not None  # noqa: S101 - only asked for when there is training
        return Recipe(
            name=self.name,
            output_dir=self.output_dir,
            model=ModelSpec(from_config=training.model),
            # The texts are passed to `prepare`; what stands here is not read.
            domains=dict.fromkeys(everything, "curated"),
            pretrain=StageSpec(mixture=_mixture(strict), training_arguments=training.arguments),
            adapt=AdaptSpec(mixture=_mixture(everything), training_arguments=training.arguments, learning_rates=[]),
            adapters={},
            seed=training.seeds[0],
            block_size=training.block_size,
            document_bytes=training.document_bytes,
            tokenizer=training.tokenizer,
            evaluation=training.evaluation,
        )


def resolve_curate(text: str, *, overrides: Sequence[tuple[str, Any]] = (), smoke: bool = False) -> CurateRecipe:
    """Read the recipe of a curation; what is given later wins: the file, its `smoke` section, `overrides`.

    Args:
        text: The YAML text: a curation recipe, with an optional section `training`.
        overrides: Pairs of key path and value.
        smoke: Whether to apply the `smoke` section.

    Returns:
        The checked recipe.

    Raises:
        ValueError: If a key is unknown, a value has the wrong type or breaks a rule.
    """
    from hf_mixture.data.curation.recipe import CurationRecipe

    values = recipe_values(text, overrides=overrides, smoke=smoke)
    check_command(values, "curate")
    given = values.pop("training", None)
    curation = CurationRecipe.from_dict(values)
    if curation.output_dir is None:
        raise ValueError("the recipe has no output_dir; add it, or give --output_dir")
    training = None if given is None else build(TrainingSpec, given, "training")
    if training is not None:
        _check(training)
    return CurateRecipe(
        name=curation.name,
        output_dir=curation.output_dir,
        curation=curation.to_dict() | {"output_dir": None},
        training=training,
        description=curation.description,
    )


def _check(training: TrainingSpec) -> None:
    check_model_config(training.model, "training.model")
    check_training_arguments(training.arguments, "training.arguments", OWNED_ARGUMENTS | {"seed", "data_seed"})
    check_seeds(training.seeds)
    if (training.tokenizer.from_pretrained is None) == (training.tokenizer.train_bpe is None):
        raise ValueError("training.tokenizer needs exactly one of from_pretrained and train_bpe")
    check_least({"training.block_size": (training.block_size, 2)})
    check_least(
        {f"training.evaluation.{name}": (value, 1) for name, value in dataclasses.asdict(training.evaluation).items()}
    )
    if not 0 < training.held_out < 0.5:
        raise ValueError(f"training.held_out is {training.held_out}; it must lie in (0, 0.5)")


def _mixture(weights: Mapping[str, float]) -> MixtureSpec:
    # Blocks have one length, so that shares of blocks are shares of tokens.
    return MixtureSpec(weights=dict(weights), unit="examples")
