"""The twenty published methods: paper, plug point in the stack, and status."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


Status = Literal["available", "planned"]


@dataclass(frozen=True, kw_only=True)
class MethodInfo:
    """One published mixture method and where it plugs into the stack.

    Args:
        name: Short name of the method, as in its paper.
        kind: What is mixed: `"parameters"`, `"experts"`, `"models"` or `"data"`.
        paper: Where the method was published.
        plug_point: What a user of the stack writes to get it.
        status: `"available"` when the method can be used today, `"planned"` otherwise.

    Example:
        >>> import hf_mixture
        >>> hf_mixture.list_methods()[0].plug_point
        'get_peft_model(model, MosConfig(...))'
    """

    name: str
    kind: str
    paper: str
    plug_point: str
    status: Status = "planned"


_METHODS: tuple[MethodInfo, ...] = (
    MethodInfo(
        name="MoS",
        kind="parameters",
        paper="Mixture of Shards, arXiv 2410.00938 (ICLR 2025)",
        plug_point="get_peft_model(model, MosConfig(...))",
        status="available",
    ),
    MethodInfo(
        name="MoTE",
        kind="experts",
        paper="Mixture of Tunable Experts, arXiv 2502.11096",
        plug_point="tune_experts(model, ExpertEdits.from_pretrained(...))",
        status="available",
    ),
    MethodInfo(
        name="Mixture of Thoughts",
        kind="models",
        paper="Mixture of Thoughts, arXiv 2509.21164",
        plug_point='AutoModelForCausalLM, model_type "mixture_of_thoughts"',
        status="available",
    ),
    MethodInfo(
        name="D2MoE",
        kind="experts",
        paper="D2MoE, arXiv 2504.15299",
        plug_point="from_pretrained(..., quantization_config=MwqConfig(...))",
        status="available",
    ),
    MethodInfo(
        name="Hecate",
        kind="experts",
        paper="Hecate: fully sharded sparse data parallelism, arXiv 2502.02581",
        plug_point='DistributedConfig(ep_implementation="fssdp")',
        status="available",
    ),
    MethodInfo(
        name="MoE Parallel Folding",
        kind="experts",
        paper="MoE Parallel Folding, arXiv 2504.14960",
        plug_point="FoldingPlan(world=64, tp=2, ep=8).to_distributed_config()",
        status="available",
    ),
    MethodInfo(
        name="MoE router registry",
        kind="experts",
        paper="A survey of mixture of experts, arXiv 2503.07137",
        plug_point='replace_routers(model, "expert_choice")',
        status="available",
    ),
    MethodInfo(
        name="RegMix",
        kind="data",
        paper="RegMix, arXiv 2407.01492",
        plug_point='search_mixture("regmix", domains, ...)',
        status="available",
    ),
    MethodInfo(
        name="CLIMB",
        kind="data",
        paper="CLIMB, arXiv 2504.13161",
        plug_point='search_mixture("climb", domains, ...)',
        status="available",
    ),
    MethodInfo(
        name="Aioli",
        kind="data",
        paper="Aioli, arXiv 2411.05735",
        plug_point="Trainer(callbacks=[AioliCallback(...)])",
        status="available",
    ),
    MethodInfo(
        name="ADMIRE-BayesOpt",
        kind="data",
        paper="ADMIRE-BayesOpt, arXiv 2508.11551",
        plug_point='search_mixture("admire", domains, ...)',
        status="available",
    ),
    MethodInfo(
        name="MixtureVitae",
        kind="data",
        paper="MixtureVitae, arXiv 2509.25531",
        plug_point="hf-mixture curate RECIPE.yaml",
        status="available",
    ),
    MethodInfo(
        name="PPP",
        kind="data",
        paper="PPP, arXiv 2003.04372",
        plug_point="ProbabilisticPartition().fit(X)",
        status="available",
    ),
    MethodInfo(
        name="kNN-Embed",
        kind="models",
        paper="kNN-Embed, arXiv 2205.06205",
        plug_point="KnnEmbedModel.from_pretrained(...)",
        status="available",
    ),
    MethodInfo(
        name="MMRecUn",
        kind="models",
        paper="MMRecUn, arXiv 2405.15328",
        plug_point="MultiModalRecommender.from_pretrained(...); unlearn(model, interactions, request)",
        status="available",
    ),
    MethodInfo(
        name="TaskExpert",
        kind="models",
        paper="TaskExpert, arXiv 2307.15324 (ICCV 2023)",
        plug_point="TaskExpertForMultiTaskVision.from_pretrained(...)",
        status="available",
    ),
    MethodInfo(
        name="Balanced Mixture of SuperNets",
        kind="models",
        paper="Balanced Mixture of SuperNets, arXiv 2306.11982",
        plug_point="Trainer(BalancedSuperNetMixture(...), callbacks=[SuperNetSearchCallback(...)])",
        status="available",
    ),
    MethodInfo(
        name="MatSim",
        kind="models",
        paper="MatSim, arXiv 2212.00648",
        plug_point='AutoModel, AutoImageProcessor, model_type "matsim"; load_metric("one_shot_retrieval")',
        status="available",
    ),
    MethodInfo(
        name="MixER",
        kind="models",
        paper="MixER, arXiv 2502.05335",
        plug_point="MixerForTrajectoryReconstruction.from_pretrained(...)",
        status="available",
    ),
    MethodInfo(
        name="Trajectory mixture of experts",
        kind="models",
        paper="Trajectory mixture of experts, arXiv 2007.02432",
        plug_point='AutoModel, model_type "trajectory_moe"; TrajectoryMoEModel(config).fit(dataset)',
        status="available",
    ),
)


def list_methods() -> tuple[MethodInfo, ...]:
    """List the twenty methods of the package with paper, plug point and status.

    Returns:
        One `MethodInfo` for each method, in the order of the documentation.

    Example:
        >>> import hf_mixture
        >>> [method.name for method in hf_mixture.list_methods() if method.kind == "parameters"]
        ['MoS']
    """
    return _METHODS
