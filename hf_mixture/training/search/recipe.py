"""The recipe of a search: what `hf-mixture mix search` reads, resolves, checks and saves next to its output."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from hf_mixture.training.recipe import EvaluationSpec, PlainRecipe, TokenizerSpec


@dataclass(frozen=True, kw_only=True)
class ClusterSpec:
    """Domains by clustering: the text of all `domains` is pooled, and the clusters take their place.

    Args:
        num_clusters: Clusters before they are merged. Default: 32.
        num_domains: Domains that are left after merging. Default: 6.
        clusterer: Name of a clusterer of `sklearn.cluster` that takes `n_clusters`, for example `BisectingKMeans`.
            Default: `KMeans`.
        max_chars: Characters of a document that are embedded. Default: 4000.
        size: Embedding size. Default: 64.
    """

    num_clusters: int = 32
    num_domains: int = 6
    clusterer: str = "KMeans"
    max_chars: int = 4000
    size: int = 64


@dataclass(frozen=True, kw_only=True)
class ObjectiveSpec:
    """What the mixture is searched for.

    Args:
        metric: `loss/<name>` of a domain or target, `loss/mean` over the domains, or weights by such names. A loss is
            the mean negative log-probability of a held-out token, in nats.
        direction: `minimize` or `maximize`.
    """

    metric: Any
    direction: str


@dataclass(frozen=True, kw_only=True)
class ConstraintSpec:
    """Bounds on the shares.

    Args:
        max_epochs: Most passes over the training text of a domain in a run of `budget` tokens. Defaults to no bound.
        budget: Tokens of the run that the mixture is for. Defaults to those of one run of the comparison.
        caps: Largest share by domain.
        floors: Smallest share by domain.
        fixed: Exact share by domain.
    """

    max_epochs: float | None = None
    budget: int | None = None
    caps: dict[str, float] = field(default_factory=dict)
    floors: dict[str, float] = field(default_factory=dict)
    fixed: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class MethodSpec:
    """The method.

    Args:
        name: A search that runs proxies (`regmix`, `climb`, `admire`, `dml`, `random`, `grid`), or a method that
            changes the mixture during one run (`aioli` and its kin).
        settings: Its arguments, as for its class.
        batch: Most proxies that are asked for at once. Defaults to all that the method can name.
    """

    name: str
    settings: dict[str, Any] = field(default_factory=dict)
    batch: int | None = None


@dataclass(frozen=True, kw_only=True)
class ProxyRunSpec:
    """One proxy run: the fields of `hf_mixture.ProxySpec` that a recipe decides.

    Args:
        model: `model_type` and fields of its configuration; the weights are drawn with the recipe's seed.
        num_steps: Optimizer steps of a run of full size.
        batch_size: Blocks of one step. Default: 8.
        learning_rate: Peak learning rate. Default: 1e-3.
        lr_scheduler_type: Schedule of the learning rate. Default: `cosine`.
        warmup_fraction: Share of the steps that warm up. Default: 0.1.
        weight_decay: Weight decay. Default: 0.
        eval_samples: Validation blocks used of each domain. Defaults to all.
    """

    model: dict[str, Any]
    num_steps: int
    batch_size: int = 8
    learning_rate: float = 1e-3
    lr_scheduler_type: str = "cosine"
    warmup_fraction: float = 0.1
    weight_decay: float = 0.0
    eval_samples: int | None = None


@dataclass(frozen=True, kw_only=True)
class ComparisonSpec:
    """Runs of equal length with the mixture that was found and with the baselines.

    Args:
        model: `model_type` and fields of its configuration; the weights are drawn with the seed of the run.
        training_arguments: Fields of `transformers.TrainingArguments`; `max_steps` is required.
        baselines: Any of `natural` (shares of the tokens), `stratified` (equal shares).
        seeds: Seed of each repetition, for weights and order. Default: 0, 1, 2.
    """

    model: dict[str, Any]
    training_arguments: dict[str, Any]
    baselines: list[str] = field(default_factory=lambda: ["natural", "stratified"])
    seeds: list[int] = field(default_factory=lambda: [0, 1, 2])


@dataclass(frozen=True, kw_only=True)
class SearchRecipe(PlainRecipe):
    """One search: domains, proxies, method, comparison.

    Args:
        name: Name of the search.
        output_dir: Where everything is written.
        domains: Name to source: the fields of `hf_mixture.data.Source`, or its `path` alone.
        tokenizer: The tokenizer.
        objective: What the mixture is searched for.
        method: The method.
        comparison: Runs of equal length with the mixture that was found and with the baselines.
        description: One paragraph for the card.
        targets: Sources whose held-out text is scored and whose training text is never used. Defaults to none.
        clusters: Domains by clustering. Defaults to the domains as they are named.
        proxy: The small runs of a search. A method that changes the mixture during one run needs none.
        swarm: Whether the proxies are trained as one stacked model instead of one after the other. Default: False.
        constraints: Bounds on the shares.
        evaluation: How much held-out text is scored: validation text by the proxies, test text by the comparison.
        seed: Seed of the data, the search and the proxies. Default: 0.
        block_size: Tokens in one training example. Default: 128.
        document_bytes: Longest piece taken from one training document. Defaults to whole documents.
        train_bytes: Most bytes of training text of each domain; text beyond does not count as available. Defaults to
            all.
    """

    name: str
    output_dir: str
    domains: dict[str, Any]
    tokenizer: TokenizerSpec
    objective: ObjectiveSpec
    method: MethodSpec
    comparison: ComparisonSpec
    description: str = ""
    targets: dict[str, Any] = field(default_factory=dict)
    clusters: ClusterSpec | None = None
    proxy: ProxyRunSpec | None = None
    swarm: bool = False
    constraints: ConstraintSpec = field(default_factory=ConstraintSpec)
    evaluation: EvaluationSpec = field(default_factory=EvaluationSpec)
    seed: int = 0
    block_size: int = 128
    document_bytes: int | None = None
    train_bytes: int | None = None

    @property
    def domain_names(self) -> tuple[str, ...]:
        """The domains that are mixed."""
        if self.clusters is None:
            return tuple(self.domains)
        return tuple(f"cluster_{index}" for index in range(self.clusters.num_domains))

    @property
    def metrics(self) -> tuple[str, ...]:
        """The metrics that a run measures."""
        return (*(f"loss/{name}" for name in (*self.domain_names, *self.targets)), "loss/mean")
