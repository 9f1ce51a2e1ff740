"""The recipe of a Mixture of Thoughts: what `hf-mixture thoughts` reads, resolves, checks and saves."""

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
class ExpertSpec:
    """One expert: either a pretrained model, or a new one that is trained first.

    Args:
        from_pretrained: Hub id or folder.
        revision: Commit, branch or tag of the Hub id.
        from_config: `model_type` and fields of the configuration of a new model.
        tokenizer: The tokenizer of a new model.
        mixture: What a new model is trained on.
    """

    from_pretrained: str | None = None
    revision: str | None = None
    from_config: dict[str, Any] | None = None
    tokenizer: TokenizerSpec = field(default_factory=TokenizerSpec)
    mixture: MixtureSpec | None = None


@dataclass(frozen=True, kw_only=True)
class DocumentsSpec:
    """Mixed documents: segments of files of several domains in turn, the first ones as the prompt.

    Args:
        kinds: Name to the domains that take turns; the first is the host, and no two held-out documents of a kind have
            the same host file.
        num_segments: Segments of a document. Default: 6.
        prompt_segments: How many of them are the prompt, which the router reads; the rest is predicted. Default: 2.
        segment_characters: Most characters of a segment of whole lines; a line that is longer is cut. Default: 200.
        num_train: Training documents of each kind. Default: 200.
        num_validation: Most validation documents of each kind. Default: 30.
        num_test: Most test documents of each kind. Default: 100.
    """

    kinds: dict[str, list[str]]
    num_segments: int = 6
    prompt_segments: int = 2
    segment_characters: int = 200
    num_train: int = 200
    num_validation: int = 30
    num_test: int = 100


@dataclass(frozen=True, kw_only=True)
class ThoughtsRecipe(PlainRecipe):
    """One run: experts are trained or loaded, and a mixture of them is trained beside its controls.

    Args:
        name: Name of the run.
        output_dir: Where everything is written.
        domains: Name to source: the fields of `hf_mixture.data.Source`, or its `path` alone.
        experts: Name to expert, at least two.
        documents: The mixed documents.
        thoughts: Fields of `MixtureOfThoughtsConfig`.
        tune: Fields of `TrainingArguments` for the mixture and for every control; `max_steps` is required.
        learning_rates: The grid. The best one of each system is chosen with the first seed, by validation bits per
            byte.
        pretrain: Fields of `TrainingArguments` for the new experts; `max_steps` is required. Needed only with new
            experts.
        lora: Fields of `LoraConfig` for the control; its rank follows from the size of the mixture. Defaults to all
            linear layers.
        description: One paragraph for report and card.
        seed: Seed of the new experts and of the data. Default: 0.
        seeds: Seeds of the mixture, the controls and the order of the documents; one run each. Default: 0.
        block_size: Tokens in one training example of a new expert. Default: 512.
        document_bytes: Longest piece taken from one file for the training of an expert. Defaults to whole files.
        evaluation: How much held-out text is scored while an expert is trained, and how many documents at once.
    """

    name: str
    output_dir: str
    domains: dict[str, Any]
    experts: dict[str, ExpertSpec]
    documents: DocumentsSpec
    thoughts: dict[str, Any]
    tune: dict[str, Any]
    learning_rates: list[float]
    pretrain: dict[str, Any] | None = None
    lora: dict[str, Any] = field(default_factory=lambda: {"target_modules": "all-linear"})
    description: str = ""
    seed: int = 0
    seeds: list[int] = field(default_factory=lambda: [0])
    block_size: int = 512
    document_bytes: int | None = None
    evaluation: EvaluationSpec = field(default_factory=EvaluationSpec)

    @property
    def new_experts(self) -> list[str]:
        """Names of the experts that are trained first."""
        return [name for name, expert in self.experts.items() if expert.from_config is not None]

    def expert_recipe(self, name: str) -> Recipe:
        """The recipe of one new expert, as `hf_mixture.training.prepare` reads it: all its training as one stage."""
        expert = self.experts[name]
        mixture = expert.mixture or MixtureSpec(weights={})
        return Recipe(
            name=self.name,
            output_dir=self.output_dir,
            model=ModelSpec(from_config=expert.from_config),
            domains={domain: self.domains[domain] for domain in mixture.weights},
            adapt=AdaptSpec(mixture=mixture, training_arguments=self.pretrain or {}, learning_rates=[]),
            adapters={},
            seed=self.seed,
            block_size=self.block_size,
            document_bytes=self.document_bytes,
            tokenizer=expert.tokenizer,
            evaluation=self.evaluation,
        )
