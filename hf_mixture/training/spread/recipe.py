"""The recipe of a spread run: what `hf-mixture spread run` reads, resolves, checks and saves next to its output."""

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
class SystemSpec:
    """One way to train the model.

    Args:
        num_processes: Processes, each with as many experts of each layer. One is the reference.
        ep_implementation: How tokens get to experts: `all_to_all` (the default), `fssdp`, `folded` or `capacity`.
        etp: Processes that share an expert, for `folded` and `capacity`. Default: 1.
        options: Fields of `FssdpOptions` or `CapacityOptions`. Default: none.
    """

    num_processes: int
    ep_implementation: str = "all_to_all"
    etp: int = 1
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class OnlineSpec:
    """A method that changes the mixture while a system trains.

    Args:
        name: Its name, for example `aioli`.
        settings: Its arguments. Default: none.
    """

    name: str
    settings: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class SpreadRecipe(PlainRecipe):
    """One run: the same sparse model is trained by several systems on the same text, and compared step by step.

    Args:
        name: Name of the run.
        output_dir: Where everything is written.
        domains: Name to source: the fields of `hf_mixture.data.Source`, or its `path` alone.
        mixture: Share of each domain.
        tokenizer: The tokenizer. With `train_bpe: {vocab_size: 257}` a token is a byte.
        model: `model_type` and fields of the configuration of the sparse model.
        pretrain: Fields of `TrainingArguments`, with the batch of one process; `max_steps` is required, and
            `save_steps`, after which a run can be gone on with.
        systems: Ways to train it; exactly one has one process.
        publish: The system whose model gets a card.
        online: What changes the mixture while a system trains, from held-out losses. Default: nothing.
        trace_every: Optimizer steps 1, 1 + n, 1 + 2n, ..., whose chosen experts are counted in `traces/`. Default:
            none.
        tolerance: Largest difference of a loss from that of one process. Default: 1e-3.
        description: One paragraph for report and card.
        seed: Seed of model and data. Default: 0.
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
    systems: dict[str, SystemSpec]
    publish: str
    online: OnlineSpec | None = None
    trace_every: int | None = None
    tolerance: float = 1e-3
    description: str = ""
    seed: int = 0
    block_size: int = 128
    document_bytes: int | None = None
    evaluation: EvaluationSpec = field(default_factory=EvaluationSpec)

    @property
    def reference(self) -> str:
        """The system of one process."""
        return next(name for name, system in self.systems.items() if system.num_processes == 1)

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
