"""The recipe of an upcycling run: what `hf-mixture upcycle` reads, resolves, checks and saves next to its output."""

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
class UpcycleSpec:
    """How the dense model becomes a mixture of experts.

    Args:
        num_experts: Copies of the MLP. Default: 8.
        top_k: Experts for each token. Default: 2.
        granularity: Shards that each copy is cut into; above 1 there are `num_experts * granularity` experts, and
            `top_k` counts shards. Default: 1.
        router_init: `random` or `orthogonal`; with shards also `grouped`. Default: `random`.
        noise: Noise on the weights of each expert, relative to their standard deviation. Default: 0.
    """

    num_experts: int = 8
    top_k: int = 2
    granularity: int = 1
    router_init: str = "random"
    noise: float = 0.0


@dataclass(frozen=True, kw_only=True)
class RouterSpec:
    """One router to compare, and what balances its load.

    Args:
        router: Name in the registry of routers.
        options: Options of the router.
        losses: Arguments of `RouterLoss`, for example `{load_balance: 0.01}`. Defaults to none.
        bias: Arguments of `LossFreeBalanceCallback`, for a router with a selection bias. Defaults to none.
    """

    router: str
    options: dict[str, Any] = field(default_factory=dict)
    losses: dict[str, Any] = field(default_factory=dict)
    bias: dict[str, Any] | None = None


@dataclass(frozen=True, kw_only=True)
class UpcycleRecipe(PlainRecipe):
    """One run: a dense model is trained, upcycled, and trained on beside its mixtures of experts.

    Args:
        name: Name of the run.
        output_dir: Where everything is written.
        domains: Name to source: the fields of `hf_mixture.data.Source`, or its `path` alone.
        mixture: Share of each domain in all training.
        tokenizer: The tokenizer. With `train_bpe: {vocab_size: 257}` a token is a byte.
        dense: `model_type` and fields of the configuration of the dense model.
        pretrain: Fields of `TrainingArguments` for the dense model; `max_steps` is required.
        continued: The same for what follows, with the dense model and with every router, on the same text.
        routers: Name to router.
        upcycle: How the dense model becomes a mixture of experts.
        description: One paragraph for report and cards.
        seed: Seed of the dense model and of the data. Default: 0.
        seeds: Seeds of the new routers and of the order of the text in `continued`; one run each. Default: 0.
        block_size: Tokens in one training example. Default: 128.
        document_bytes: Longest piece taken from one training document. Defaults to whole documents.
        evaluation: How much held-out text is scored.
    """

    name: str
    output_dir: str
    domains: dict[str, Any]
    mixture: MixtureSpec
    tokenizer: TokenizerSpec
    dense: dict[str, Any]
    pretrain: dict[str, Any]
    continued: dict[str, Any]
    routers: dict[str, RouterSpec]
    upcycle: UpcycleSpec = field(default_factory=UpcycleSpec)
    description: str = ""
    seed: int = 0
    seeds: list[int] = field(default_factory=lambda: [0])
    block_size: int = 128
    document_bytes: int | None = None
    evaluation: EvaluationSpec = field(default_factory=EvaluationSpec)

    def data_recipe(self) -> Recipe:
        """The recipe of the data alone, which `hf_mixture.training.prepare` writes: all text as one stage."""
        return Recipe(
            name=self.name,
            output_dir=self.output_dir,
            model=ModelSpec(from_config=self.dense),
            domains=self.domains,
            adapt=AdaptSpec(mixture=self.mixture, training_arguments=self.continued, learning_rates=[]),
            adapters={},
            seed=self.seed,
            block_size=self.block_size,
            document_bytes=self.document_bytes,
            tokenizer=self.tokenizer,
            evaluation=self.evaluation,
        )
