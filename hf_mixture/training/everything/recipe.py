"""The recipe of a run through all rooms: what `hf-mixture everything` reads, resolves, checks and saves."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from hf_mixture.training.recipe import EvaluationSpec, PlainRecipe


@dataclass(frozen=True, kw_only=True)
class ClustersSpec:
    """How the curated documents become domains: embedded, grouped by PPP, each group a domain.

    Args:
        configuration: Configuration of the curated data set, for example `tier1`. Default: the widest.
        size: Embedding size. Default: 16.
        max_chars: Characters of a document that are embedded. Default: 4000.
        min_rows: Clusters of fewer documents become one domain, `cluster_rest`, or are left out where they have fewer
            together too. Default: 100.
        min_share: Least share of a domain in the mixture. Default: 0.05.
        partition: Arguments of `ProbabilisticPartition`. Default: none.
    """

    configuration: str | None = None
    size: int = 16
    max_chars: int = 4000
    min_rows: int = 100
    min_share: float = 0.05
    partition: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class EditsSpec:
    """Which experts are switched off: those that one domain uses most, compared with the others.

    Args:
        domain: The domain. Default: `cluster_0`, the largest.
        num_off: Experts that are switched off. Default: 2.
        mode: As in `ExpertEdits`. Default: `reroute`.
        num_prompts: Validation documents of each domain that are scanned. Default: 20.
        prompt_chars: Characters of a document. Default: 200.
    """

    domain: str = "cluster_0"
    num_off: int = 2
    mode: str = "reroute"
    num_prompts: int = 20
    prompt_chars: int = 200


@dataclass(frozen=True, kw_only=True)
class EverythingRecipe(PlainRecipe):
    """One run through all rooms; what one part makes, the next one takes.

    `curate`, `search`, `spread` and `train` are recipes of the commands of these names, without what the run decides
    itself: names, folders, domains and their shares, the seed, and the models that parts hand on.

    Args:
        name: Name of the run.
        output_dir: Where everything is written.
        curate: Sources, and stages where they differ from the defaults.
        search: How RegMix, or another method with proxies, finds the first mixture of the clusters.
        spread: The sparse model, the systems that train it, and `online`, the method that goes on with the mixture.
        quantise: Arguments of `MwqConfig`.
        train: `adapt` without its mixture, and `adapters` with one entry.
        clusters: How documents become domains.
        edits: Which experts are switched off.
        hub: Name of the repositories on the Hub, as `OWNER/NAME`: the adapter with its edits, and beside it
            `NAME-base`, `NAME-mixture`, `NAME-trace` and `NAME-data`. Default: nothing is pushed.
        description: One paragraph for report and cards.
        seed: Seed of all parts. Default: 0.
        block_size: Tokens in one training example. Default: 128.
        document_bytes: Longest piece taken from one training document. Defaults to whole documents.
        evaluation: How much held-out text is scored.
    """

    name: str
    output_dir: str
    curate: dict[str, Any]
    search: dict[str, Any]
    spread: dict[str, Any]
    quantise: dict[str, Any]
    train: dict[str, Any]
    clusters: ClustersSpec = field(default_factory=ClustersSpec)
    edits: EditsSpec = field(default_factory=EditsSpec)
    hub: str | None = None
    description: str = ""
    seed: int = 0
    block_size: int = 128
    document_bytes: int | None = None
    evaluation: EvaluationSpec = field(default_factory=EvaluationSpec)
