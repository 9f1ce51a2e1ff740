"""The recipe of a run of expert edits: what `hf-mixture mote run` reads, resolves, checks and saves."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from hf_mixture.training.recipe import PlainRecipe


AFFINITIES = ("count", "gate")


@dataclass(frozen=True, kw_only=True)
class QuestionsSpec:
    """Questions about a made-up world: each fact is asked for in a public and in a private prompt.

    Args:
        num_entities: Entities. Default: 40.
        num_relations: Relations; there is one fact for each entity and relation. Default: 6.
        num_answers: Different answers, which a seed gives to the facts. Default: 24.
        num_scanned: Facts whose prompts the experts are found with; the others measure what the edits do.
            Default: 120.
        finetune_public: Whether `finetune` has the public prompts too, answered as before. Default: true.
    """

    num_entities: int = 40
    num_relations: int = 6
    num_answers: int = 24
    num_scanned: int = 120
    finetune_public: bool = True


@dataclass(frozen=True, kw_only=True)
class ScanSpec:
    """How experts are found.

    Args:
        statistic: As in `FtriCollector`. Default: `count`.
        scorer: As in `rank_experts`. Default: `difference`.
        normalise: Divide the counts of a prompt by its tokens; all prompts are equally long. Default: false.
        last_tokens: Count the last n tokens of each prompt alone, at least 1. Default: all of them.
    """

    statistic: str = "count"
    scorer: str = "difference"
    normalise: bool = False
    last_tokens: int | None = None


@dataclass(frozen=True, kw_only=True)
class ChosenSpec:
    """The experts that the behaviour is trained into: those with the highest affinity (ESFT, arXiv 2407.01906).

    The affinity is measured before any prompt is refused, on the private prompts and at the tokens that are scanned.

    Args:
        num_experts: Largest number of experts over all layers, at least 1. Default: 1.
        coverage: Share of the private prompts that shall choose one of them, in (0, 1]; once it is reached no more
            are taken. Default: 1.
        affinity: `count`, the share of tokens that choose the expert, or `gate`, the mean of its weight.
            Default: `count`.
    """

    num_experts: int = 1
    coverage: float = 1.0
    affinity: str = "count"


@dataclass(frozen=True, kw_only=True)
class EditsSpec:
    """Which edits are compared.

    Args:
        num_off: Numbers of experts to switch off. Default: 1, 2, 3, 4, 10.
        modes: What to do with a token that had chosen one of them. Default: `reroute`, `zero_renorm`.
        num_on: Numbers of experts to force on. Default: 1, 2.
        force_weight: As in `ExpertEdits`. Default: `max`.
        num_draws: Random sets of experts that each is compared with, at least 20. Default: 20.
        baked: Number of experts that are baked into weights, in mode `zero`; one of `num_off`. Default: 4.
    """

    num_off: list[int] = field(default_factory=lambda: [1, 2, 3, 4, 10])
    modes: list[str] = field(default_factory=lambda: ["reroute", "zero_renorm"])
    num_on: list[int] = field(default_factory=lambda: [1, 2])
    force_weight: str = "max"
    num_draws: int = 20
    baked: int = 4


@dataclass(frozen=True, kw_only=True)
class MoteRecipe(PlainRecipe):
    """One run: a sparse model learns facts, then to refuse private prompts, and its experts are found and switched.

    Args:
        name: Name of the run.
        output_dir: Where everything is written.
        model: `model_type` and fields of the configuration of the sparse model.
        pretrain: Fields of `TrainingArguments` for the facts, all of them answered; `max_steps` is required.
        finetune: The same for what follows: private prompts are refused.
        trained: Parts of the names of the parameters that `finetune` trains; all others are frozen.
        chosen: Which experts learn in `finetune`, of those in `trained`. Defaults to all.
        losses: Arguments of `RouterLoss` in both trainings. Defaults to none.
        questions: The facts.
        scan: How experts are found.
        edits: Which edits are compared.
        description: One paragraph for report and card.
        seeds: Seeds of facts, weights and order of the prompts; one run each. Default: 0.
        batch_size: Prompts at once where the model answers. Default: 256.
    """

    name: str
    output_dir: str
    model: dict[str, Any]
    pretrain: dict[str, Any]
    finetune: dict[str, Any]
    trained: list[str]
    chosen: ChosenSpec | None = None
    losses: dict[str, Any] = field(default_factory=dict)
    questions: QuestionsSpec = field(default_factory=QuestionsSpec)
    scan: ScanSpec = field(default_factory=ScanSpec)
    edits: EditsSpec = field(default_factory=EditsSpec)
    description: str = ""
    seeds: list[int] = field(default_factory=lambda: [0])
    batch_size: int = 256
