"""The recipe of a D2MoE run: what `hf-mixture mwq run` reads, resolves, checks and saves next to its output."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from hf_mixture.training.recipe import (
    AdaptSpec,
    EvaluationSpec,
    MixtureSpec,
    ModelSpec,
    PlainRecipe,
    Recipe,
    TokenizerSpec,
)


@dataclass(frozen=True, kw_only=True)
class PlanesSpec:
    """How the experts are quantised.

    Args:
        widths: Bits of each level, ascending by one.
        group_size: Inputs that share a scale. Default: 128.
    """

    widths: list[int]
    group_size: int = 128


@dataclass(frozen=True, kw_only=True)
class RoutersSpec:
    """How bit routers are trained, and what they may spend.

    Args:
        alphas: Prices of a bit; one training each. The model of the first is published.
        average_bits: Bits for a weight that the comparison allows, on average over tokens.
        training_arguments: Fields of `TrainingArguments`; `max_steps` is required.
    """

    alphas: list[float]
    average_bits: float
    training_arguments: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class SpeedSpec:
    """How tokens per second are measured.

    Args:
        prompt_tokens: Tokens of the prompt.
        new_tokens: Tokens that are generated, each by itself.
        rounds: Rounds in which every system generates once.
        budget: Most bytes of experts in memory, as a part of all experts at 8 bits. Default: 0.5.
        tight_budget: The same where loading cannot be avoided, to compare orders. Default: 0.15.
    """

    prompt_tokens: int
    new_tokens: int
    rounds: int
    budget: float = 0.5
    tight_budget: float = 0.15


@dataclass(frozen=True, kw_only=True)
class MwqRecipe(PlainRecipe):
    """One run: a sparse model is trained, quantised, given bit routers, and compared at all widths.

    Args:
        name: Name of the run.
        output_dir: Where everything is written.
        domains: Name to source: the fields of `hf_mixture.data.Source`, or its `path` alone.
        mixture: Share of each domain in all training.
        tokenizer: The tokenizer. With `train_bpe: {vocab_size: 257}` a token is a byte.
        model: `model_type` and fields of the configuration of the sparse model.
        pretrain: Fields of `TrainingArguments` for it; `max_steps` is required.
        planes: How its experts are quantised.
        bit_routers: How bit routers are trained.
        speed: How tokens per second are measured.
        load_balance: Coefficient of the balance loss in `pretrain`. Default: 0.01.
        description: One paragraph for report and cards.
        seed: Seed of model, data and routers. Default: 0.
        block_size: Tokens in one training example. Default: 128.
        document_bytes: Longest piece taken from one training document. Defaults to whole documents.
        evaluation: How much held-out text is scored.
    """

    name: str
    output_dir: str
    domains: dict[str, Any]
    mixture: MixtureSpec
    tokenizer: TokenizerSpec
    model: dict[str, Any]
    pretrain: dict[str, Any]
    planes: PlanesSpec
    bit_routers: RoutersSpec
    speed: SpeedSpec
    load_balance: float = 0.01
    description: str = ""
    seed: int = 0
    block_size: int = 128
    document_bytes: int | None = None
    evaluation: EvaluationSpec = field(default_factory=EvaluationSpec)

    def data_recipe(self) -> Recipe:
        """The recipe of the data alone, which `hf_mixture.training.prepare` writes: all text as one stage."""
        return Recipe(
            name=self.name,
            output_dir=self.output_dir,
            model=ModelSpec(from_config=self.model),
            domains=self.domains,
            adapt=AdaptSpec(mixture=self.mixture, training_arguments=self.pretrain, learning_rates=[]),
            adapters={},
            seed=self.seed,
            block_size=self.block_size,
            document_bytes=self.document_bytes,
            tokenizer=self.tokenizer,
            evaluation=self.evaluation,
        )
