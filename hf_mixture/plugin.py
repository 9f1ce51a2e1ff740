"""Every registration this package makes with the stack, in one place.

The host libraries read no entry points, so `import hf_mixture` is what registers. Each function below is
idempotent: importing twice, or reloading, changes nothing.
"""

from __future__ import annotations

from typing import Any


def register_peft_types() -> None:
    """Register `MOS` (Mixture of Shards) as a PEFT adapter type."""
    from hf_mixture._compat.loading import check_loading
    from hf_mixture._compat.peft import extend_adapter_key_prefixes, register_adapter
    from hf_mixture.adapters.mos.bank import bank_prefixes
    from hf_mixture.adapters.mos.checkpoint import check_before_loading, check_loaded
    from hf_mixture.adapters.mos.config import MosConfig
    from hf_mixture.adapters.mos.model import MosModel

    register_adapter("mos", config_cls=MosConfig, model_cls=MosModel)
    extend_adapter_key_prefixes(bank_prefixes)
    check_loading(check_before_loading, check_loaded)


def register_model_types() -> None:
    """Register the model types of the package with the Auto classes of transformers."""
    from transformers import (
        AutoBackbone,
        AutoConfig,
        AutoImageProcessor,
        AutoModel,
        AutoModelForCausalLM,
        AutoModelForImageClassification,
    )

    from hf_mixture.models.knn_embed.configuration_knn_embed import KnnEmbedConfig
    from hf_mixture.models.knn_embed.modeling_knn_embed import KnnEmbedModel
    from hf_mixture.models.matsim.configuration_matsim import MatSimConfig
    from hf_mixture.models.matsim.image_processing_matsim import MatSimImageProcessor
    from hf_mixture.models.matsim.modeling_matsim import MatSimModel
    from hf_mixture.models.mixer.configuration_mixer import MixerConfig
    from hf_mixture.models.mixer.modeling_mixer import MixerForTrajectoryReconstruction
    from hf_mixture.models.mixture_of_thoughts.configuration_mixture_of_thoughts import MixtureOfThoughtsConfig
    from hf_mixture.models.mixture_of_thoughts.modeling_mixture_of_thoughts import MixtureOfThoughtsForCausalLM
    from hf_mixture.models.mm_recommender.configuration_mm_recommender import MultiModalRecommenderConfig
    from hf_mixture.models.mm_recommender.modeling_mm_recommender import MultiModalRecommender
    from hf_mixture.models.pooling_supernet.configuration_balanced_supernet import BalancedSuperNetConfig
    from hf_mixture.models.pooling_supernet.configuration_pooling_resnet import PoolingResNetConfig
    from hf_mixture.models.pooling_supernet.modeling_balanced_supernet import BalancedSuperNetMixture
    from hf_mixture.models.pooling_supernet.modeling_pooling_resnet import (
        PoolingResNetBackbone,
        PoolingResNetForImageClassification,
    )
    from hf_mixture.models.taskexpert.configuration_taskexpert import TaskExpertConfig
    from hf_mixture.models.taskexpert.image_processing_taskexpert import TaskExpertImageProcessor
    from hf_mixture.models.taskexpert.mobilenet_v2_backbone import MobileNetV2Backbone, MobileNetV2BackboneConfig
    from hf_mixture.models.taskexpert.modeling_taskexpert import TaskExpertForMultiTaskVision
    from hf_mixture.models.trajectory_moe.configuration_trajectory_moe import TrajectoryMoEConfig
    from hf_mixture.models.trajectory_moe.modeling_trajectory_moe import TrajectoryMoEModel

    AutoConfig.register("matsim", MatSimConfig, exist_ok=True)
    AutoModel.register(MatSimConfig, MatSimModel, exist_ok=True)
    AutoImageProcessor.register(MatSimConfig, image_processor_classes={"pil": MatSimImageProcessor}, exist_ok=True)
    AutoConfig.register("knn_embed", KnnEmbedConfig, exist_ok=True)
    AutoModel.register(KnnEmbedConfig, KnnEmbedModel, exist_ok=True)
    AutoConfig.register("mixer", MixerConfig, exist_ok=True)
    AutoModel.register(MixerConfig, MixerForTrajectoryReconstruction, exist_ok=True)
    AutoConfig.register("mixture_of_thoughts", MixtureOfThoughtsConfig, exist_ok=True)
    AutoModelForCausalLM.register(MixtureOfThoughtsConfig, MixtureOfThoughtsForCausalLM, exist_ok=True)
    AutoConfig.register("balanced_supernets", BalancedSuperNetConfig, exist_ok=True)
    AutoModelForImageClassification.register(BalancedSuperNetConfig, BalancedSuperNetMixture, exist_ok=True)
    AutoConfig.register("pooling_resnet", PoolingResNetConfig, exist_ok=True)
    AutoBackbone.register(PoolingResNetConfig, PoolingResNetBackbone, exist_ok=True)
    AutoModelForImageClassification.register(PoolingResNetConfig, PoolingResNetForImageClassification, exist_ok=True)
    AutoConfig.register("mm_recommender", MultiModalRecommenderConfig, exist_ok=True)
    AutoModel.register(MultiModalRecommenderConfig, MultiModalRecommender, exist_ok=True)
    AutoConfig.register("mobilenet_v2_backbone", MobileNetV2BackboneConfig, exist_ok=True)
    AutoBackbone.register(MobileNetV2BackboneConfig, MobileNetV2Backbone, exist_ok=True)
    AutoConfig.register("taskexpert", TaskExpertConfig, exist_ok=True)
    AutoImageProcessor.register(
        TaskExpertConfig, image_processor_classes={"pil": TaskExpertImageProcessor}, exist_ok=True
    )
    AutoModel.register(TaskExpertConfig, TaskExpertForMultiTaskVision, exist_ok=True)
    AutoConfig.register("trajectory_moe", TrajectoryMoEConfig, exist_ok=True)
    AutoModel.register(TrajectoryMoEConfig, TrajectoryMoEModel, exist_ok=True)


def register_routers() -> None:
    """Let models that were saved with other routers get them back when they are loaded."""
    from hf_mixture.moe.router_loading import register_router_loading

    register_router_loading()


def register_quantisation() -> None:
    """Register `mwq` (D2MoE's nested experts) as a quantisation method, and `mwq_offload` as a way to run them."""
    from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS

    from hf_mixture._compat.quantizers import register_quantisation
    from hf_mixture.moe.mwq.config import MwqConfig
    from hf_mixture.moe.mwq.quantizer import MwqHfQuantizer, mwq_offload

    register_quantisation("mwq", MwqConfig, MwqHfQuantizer)
    ALL_EXPERTS_FUNCTIONS.register("mwq_offload", mwq_offload)


def register_expert_parallelism() -> None:
    """Register ways in which expert parallelism of transformers dispatches tokens.

    `fssdp` (Hecate); `folded` and `capacity` (MoE Parallel Folding), with a number of ranks that share an expert.
    """
    import functools

    from transformers.distributed.expert_parallel import EPImplementationInterface

    from hf_mixture.moe.parallel.engines import SPLITS, implementation_of

    def fssdp(experts: Any, ep_mesh: Any, tp_mesh: Any) -> Any:
        from hf_mixture.moe.parallel.fssdp import FssdpEP

        return FssdpEP(experts, ep_mesh, tp_mesh)

    def folded(experts: Any, ep_mesh: Any, tp_mesh: Any, *, etp: int) -> Any:
        from hf_mixture.moe.parallel.folded import FoldedEP

        return FoldedEP(experts, ep_mesh, tp_mesh, etp=etp)

    def capacity(experts: Any, ep_mesh: Any, tp_mesh: Any, *, etp: int) -> Any:
        from hf_mixture.moe.parallel.capacity import CapacityEP

        return CapacityEP(experts, ep_mesh, tp_mesh, etp=etp)

    EPImplementationInterface.register("fssdp", fssdp)
    for etp in SPLITS:
        for name, build in (("folded", folded), ("capacity", capacity)):
            EPImplementationInterface.register(implementation_of(name, etp), functools.partial(build, etp=etp))


def register_all() -> None:
    """Register everything; called once by `import hf_mixture`."""
    register_peft_types()
    register_model_types()
    register_routers()
    register_quantisation()
    register_expert_parallelism()
