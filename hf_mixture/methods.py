"""The twenty published methods: paper, plug point in the stack, document, evidence and recipes."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class MethodInfo:
    """One published mixture method and where it plugs into the stack.

    Args:
        name: Short name of the method, as in its paper.
        kind: What is mixed: `"parameters"`, `"experts"`, `"models"` or `"data"`.
        paper: Where the method was published.
        plug_point: What a user of the stack writes to get it.
        document: The document of the repository that explains it.
        evidence: What was measured of it: names of files in `benchmarks/results/` of the repository.
        recipes: The packaged recipes that run it.

    Example:
        >>> import hf_mixture
        >>> hf_mixture.list_methods()[0].plug_point
        'get_peft_model(model, MosConfig(...))'
    """

    name: str
    kind: str
    paper: str
    plug_point: str
    document: str
    evidence: tuple[str, ...]
    recipes: tuple[str, ...] = ()


_METHODS: tuple[MethodInfo, ...] = (
    MethodInfo(
        name="MoS",
        kind="parameters",
        paper="Mixture of Shards, arXiv 2410.00938 (ICLR 2025)",
        plug_point="get_peft_model(model, MosConfig(...))",
        document="docs/mos.md",
        recipes=(
            "quickstart",
            "smollm2_mos",
            "my_text",
            "everything",
        ),
        evidence=("mos_step", "mos_adapter_bytes", "mos_resident", "mos_gather"),
    ),
    MethodInfo(
        name="MoTE",
        kind="experts",
        paper="Mixture of Tunable Experts, arXiv 2502.11096",
        plug_point="tune_experts(model, ExpertEdits.from_pretrained(...))",
        document="docs/mote.md",
        recipes=("mote_refusal",),
        evidence=("mote_patch", "mote_refusal"),
    ),
    MethodInfo(
        name="Mixture of Thoughts",
        kind="models",
        paper="Mixture of Thoughts, arXiv 2509.21164",
        plug_point='AutoModelForCausalLM, model_type "mixture_of_thoughts"',
        document="docs/mixture_of_thoughts.md",
        recipes=(
            "mot_domains",
            "mot_hub",
        ),
        evidence=("mot_latency", "mot_domains"),
    ),
    MethodInfo(
        name="D2MoE",
        kind="experts",
        paper="D2MoE, arXiv 2504.15299",
        plug_point="from_pretrained(..., quantization_config=MwqConfig(...))",
        document="docs/d2moe.md",
        recipes=("d2moe",),
        evidence=("mwq_experts", "mwq_offload", "d2moe"),
    ),
    MethodInfo(
        name="Hecate",
        kind="experts",
        paper="Hecate: fully sharded sparse data parallelism, arXiv 2502.02581",
        plug_point='DistributedConfig(ep_implementation="fssdp")',
        document="docs/hecate.md",
        recipes=("moe_fssdp",),
        evidence=("fssdp", "simulate_ep", "moe_fssdp"),
    ),
    MethodInfo(
        name="MoE Parallel Folding",
        kind="experts",
        paper="MoE Parallel Folding, arXiv 2504.14960",
        plug_point="FoldingPlan(world=64, tp=2, ep=8).to_distributed_config()",
        document="docs/parallel_folding.md",
        recipes=("plan_mixtral",),
        evidence=("folding_cost",),
    ),
    MethodInfo(
        name="MoE router registry",
        kind="experts",
        paper="A survey of mixture of experts, arXiv 2503.07137",
        plug_point='replace_routers(model, "expert_choice")',
        document="docs/sparse_models.md",
        recipes=("upcycle",),
        evidence=("upcycle", "router_trace"),
    ),
    MethodInfo(
        name="RegMix",
        kind="data",
        paper="RegMix, arXiv 2407.01492",
        plug_point='search_mixture("regmix", domains, ...)',
        document="docs/regmix.md",
        recipes=("regmix", "my_domains"),
        evidence=("search_replay", "end_to_end_regmix", "swarm"),
    ),
    MethodInfo(
        name="CLIMB",
        kind="data",
        paper="CLIMB, arXiv 2504.13161",
        plug_point='search_mixture("climb", domains, ...)',
        document="docs/climb.md",
        recipes=("climb",),
        evidence=("search_replay",),
    ),
    MethodInfo(
        name="Aioli",
        kind="data",
        paper="Aioli, arXiv 2411.05735",
        plug_point="Trainer(callbacks=[AioliCallback(...)])",
        document="docs/aioli.md",
        recipes=("aioli",),
        evidence=("end_to_end_aioli",),
    ),
    MethodInfo(
        name="ADMIRE-BayesOpt",
        kind="data",
        paper="ADMIRE-BayesOpt, arXiv 2508.11551",
        plug_point='search_mixture("admire", domains, ...)',
        document="docs/admire.md",
        recipes=("admire",),
        evidence=("search_replay",),
    ),
    MethodInfo(
        name="MixtureVitae",
        kind="data",
        paper="MixtureVitae, arXiv 2509.25531",
        plug_point="hf-mixture curate RECIPE.yaml",
        document="docs/curation.md",
        recipes=("curate_local", "my_documents"),
        evidence=("licences", "curation", "curate_local"),
    ),
    MethodInfo(
        name="PPP",
        kind="data",
        paper="PPP, arXiv 2003.04372",
        plug_point="ProbabilisticPartition().fit(X)",
        document="docs/ppp.md",
        evidence=("ppp",),
    ),
    MethodInfo(
        name="kNN-Embed",
        kind="models",
        paper="kNN-Embed, arXiv 2205.06205",
        plug_point="KnnEmbedModel.from_pretrained(...)",
        document="docs/knn_embed.md",
        recipes=(
            "knn_embed_citation",
            "knn_embed_movielens",
        ),
        evidence=("knn_embed_citation", "knn_embed_cited", "knn_embed_movielens", "knn_embed"),
    ),
    MethodInfo(
        name="MMRecUn",
        kind="models",
        paper="MMRecUn, arXiv 2405.15328",
        plug_point="MultiModalRecommender.from_pretrained(...); unlearn(model, interactions, request)",
        document="docs/mmrecun.md",
        recipes=(
            "unlearn_movielens",
            "unlearn_tiktok",
        ),
        evidence=("unlearn_movielens", "unlearn_tiktok"),
    ),
    MethodInfo(
        name="TaskExpert",
        kind="models",
        paper="TaskExpert, arXiv 2307.15324 (ICCV 2023)",
        plug_point="TaskExpertForMultiTaskVision.from_pretrained(...)",
        document="docs/taskexpert.md",
        recipes=("taskexpert_scenes",),
        evidence=("taskexpert_scenes", "taskexpert"),
    ),
    MethodInfo(
        name="Balanced Mixture of SuperNets",
        kind="models",
        paper="Balanced Mixture of SuperNets, arXiv 2306.11982",
        plug_point="Trainer(BalancedSuperNetMixture(...), callbacks=[SuperNetSearchCallback(...)])",
        document="docs/supernets.md",
        recipes=("supernets_digits",),
        evidence=("supernets_digits", "supernets"),
    ),
    MethodInfo(
        name="MatSim",
        kind="models",
        paper="MatSim, arXiv 2212.00648",
        plug_point='AutoModel, AutoImageProcessor, model_type "matsim"; load_metric("one_shot_retrieval")',
        document="docs/matsim.md",
        recipes=("matsim_materials",),
        evidence=("matsim_materials", "matsim"),
    ),
    MethodInfo(
        name="MixER",
        kind="models",
        paper="MixER, arXiv 2502.05335",
        plug_point="MixerForTrajectoryReconstruction.from_pretrained(...)",
        document="docs/mixer.md",
        recipes=("mixer_odebench",),
        evidence=("mixer_odebench", "mixer"),
    ),
    MethodInfo(
        name="Trajectory mixture of experts",
        kind="models",
        paper="Trajectory mixture of experts, arXiv 2007.02432",
        plug_point='AutoModel, model_type "trajectory_moe"; TrajectoryMoEModel(config).fit(dataset)',
        document="docs/trajectories.md",
        recipes=(
            "trajectory_growth",
            "training_curves",
        ),
        evidence=("trajectories",),
    ),
)


def list_methods() -> tuple[MethodInfo, ...]:
    """List the twenty methods of the package with paper, plug point, document, evidence and recipes.

    Returns:
        One `MethodInfo` for each method, in the order of the documentation.

    Example:
        >>> import hf_mixture
        >>> [method.name for method in hf_mixture.list_methods() if method.kind == "parameters"]
        ['MoS']
    """
    return _METHODS
