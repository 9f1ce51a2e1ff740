"""Mixtures of parameters, experts, models and data on the Hugging Face stack.

`import hf_mixture` registers every method with the registries of transformers and peft (see
`hf_mixture.plugin`) and resolves the public names below on first use, so that the import itself stays light.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from hf_mixture import plugin as _plugin
from hf_mixture._exports import EXPORTS as _EXPORTS


if TYPE_CHECKING:
    from hf_mixture.adapters.mos.config import MosConfig as MosConfig
    from hf_mixture.adapters.mos.export import export_lora as export_lora
    from hf_mixture.adapters.mos.hotswap import hotswap_adapter as hotswap_adapter
    from hf_mixture.adapters.mos.model import MosModel as MosModel
    from hf_mixture.data.clustering.dataset import cluster_dataset as cluster_dataset
    from hf_mixture.data.clustering.ppp import ProbabilisticPartition as ProbabilisticPartition
    from hf_mixture.data.domains import domains_from_clusters as domains_from_clusters
    from hf_mixture.data.domains import load_domain as load_domain
    from hf_mixture.data.domains import load_domains as load_domains
    from hf_mixture.data.domains import split_by_domain as split_by_domain
    from hf_mixture.data.export import export_mixture as export_mixture
    from hf_mixture.data.importers import import_mixture as import_mixture
    from hf_mixture.data.installed import installed_packages as installed_packages
    from hf_mixture.data.interleave import interleave_datasets as interleave_datasets
    from hf_mixture.data.mixture import Mixture as Mixture
    from hf_mixture.data.mixture_dataset import MixtureDataset as MixtureDataset
    from hf_mixture.data.online.aioli import AioliCallback as AioliCallback
    from hf_mixture.data.online.callback import MixingLawCallback as MixingLawCallback
    from hf_mixture.data.online.doge import DoGECallback as DoGECallback
    from hf_mixture.data.online.doremi import DoReMiCallback as DoReMiCallback
    from hf_mixture.data.online.odm import ODMCallback as ODMCallback
    from hf_mixture.data.online.skillit import SkillItCallback as SkillItCallback
    from hf_mixture.data.pack import TokenPack as TokenPack
    from hf_mixture.data.packed_rows import collate_packed as collate_packed
    from hf_mixture.data.plan import MixturePlan as MixturePlan
    from hf_mixture.data.plan_report import plan_report as plan_report
    from hf_mixture.data.proxy.runner import ProxyRunner as ProxyRunner
    from hf_mixture.data.proxy.spec import ProxySpec as ProxySpec
    from hf_mixture.data.proxy.swarm import ProxySwarm as ProxySwarm
    from hf_mixture.data.schedule import Segment as Segment
    from hf_mixture.data.schedule import SourcePolicy as SourcePolicy
    from hf_mixture.data.search.admire import AdmireSearch as AdmireSearch
    from hf_mixture.data.search.climb import ClimbSearch as ClimbSearch
    from hf_mixture.data.search.constraints import Constraints as Constraints
    from hf_mixture.data.search.dml import DMLSearch as DMLSearch
    from hf_mixture.data.search.entry import search_mixture as search_mixture
    from hf_mixture.data.search.entry import search_result as search_result
    from hf_mixture.data.search.loop import run_search as run_search
    from hf_mixture.data.search.protocol import Objective as Objective
    from hf_mixture.data.search.regmix import RegMixSearch as RegMixSearch
    from hf_mixture.data.search.table import RunTable as RunTable
    from hf_mixture.data.source import Source as Source
    from hf_mixture.data.streaming import MixtureIterableDataset as MixtureIterableDataset
    from hf_mixture.data.streaming_trainer import MixtureStreamCallback as MixtureStreamCallback
    from hf_mixture.data.tokenise import pack_tokens as pack_tokens
    from hf_mixture.data.trainer import MixtureCallback as MixtureCallback
    from hf_mixture.methods import list_methods as list_methods
    from hf_mixture.metrics import load_metric as load_metric
    from hf_mixture.models.mixture_of_thoughts.configuration_mixture_of_thoughts import (
        MixtureOfThoughtsConfig as MixtureOfThoughtsConfig,
    )
    from hf_mixture.models.mixture_of_thoughts.data_collator import (
        MixtureOfThoughtsCollator as MixtureOfThoughtsCollator,
    )
    from hf_mixture.models.mixture_of_thoughts.data_collator import score_experts as score_experts
    from hf_mixture.models.mixture_of_thoughts.modeling_mixture_of_thoughts import (
        MixtureOfThoughtsForCausalLM as MixtureOfThoughtsForCausalLM,
    )
    from hf_mixture.models.mixture_of_thoughts.processing_mixture_of_thoughts import (
        MixtureOfThoughtsProcessor as MixtureOfThoughtsProcessor,
    )
    from hf_mixture.models.trajectory_moe.configuration_trajectory_moe import (
        TrajectoryMoEConfig as TrajectoryMoEConfig,
    )
    from hf_mixture.models.trajectory_moe.modeling_trajectory_moe import TrajectoryMoEModel as TrajectoryMoEModel
    from hf_mixture.models.trajectory_moe.screening import screen_covariates as screen_covariates
    from hf_mixture.models.trajectory_moe.selection import select_num_classes as select_num_classes
    from hf_mixture.models.trajectory_moe.training_curves import load_training_curves as load_training_curves
    from hf_mixture.moe.anatomy.describe import describe_moe as describe_moe
    from hf_mixture.moe.anatomy.find import find_routers as find_routers
    from hf_mixture.moe.mote.auto import AutoMoTE as AutoMoTE
    from hf_mixture.moe.mote.bake import bake as bake
    from hf_mixture.moe.mote.behaviours import make_behaviour as make_behaviour
    from hf_mixture.moe.mote.edit import ExpertEdit as ExpertEdit
    from hf_mixture.moe.mote.edits import ExpertEdits as ExpertEdits
    from hf_mixture.moe.mote.evaluation import EditEvaluator as EditEvaluator
    from hf_mixture.moe.mote.evaluation import PromptGroup as PromptGroup
    from hf_mixture.moe.mote.patch import tune_experts as tune_experts
    from hf_mixture.moe.mote.ranking import rank_experts as rank_experts
    from hf_mixture.moe.mote.resonance import FtriCollector as FtriCollector
    from hf_mixture.moe.mote.scan import scan_prompts as scan_prompts
    from hf_mixture.moe.mwq.bit_training import BitRouterTraining as BitRouterTraining
    from hf_mixture.moe.mwq.budget import add_bit_routers as add_bit_routers
    from hf_mixture.moe.mwq.budget import average_bits as average_bits
    from hf_mixture.moe.mwq.budget import calibrate_bits as calibrate_bits
    from hf_mixture.moe.mwq.budget import set_bit_budget as set_bit_budget
    from hf_mixture.moe.mwq.cache import ExpertCache as ExpertCache
    from hf_mixture.moe.mwq.config import MwqConfig as MwqConfig
    from hf_mixture.moe.mwq.offload import cache_statistics as cache_statistics
    from hf_mixture.moe.mwq.offload import set_expert_cache as set_expert_cache
    from hf_mixture.moe.mwq.quantise import quantise_experts as quantise_experts
    from hf_mixture.moe.parallel.capacity import CapacityOptions as CapacityOptions
    from hf_mixture.moe.parallel.capacity import dropped_share as dropped_share
    from hf_mixture.moe.parallel.capacity import set_capacity_options as set_capacity_options
    from hf_mixture.moe.parallel.folding import FoldingPlan as FoldingPlan
    from hf_mixture.moe.parallel.fssdp import FssdpOptions as FssdpOptions
    from hf_mixture.moe.parallel.fssdp_training import FssdpCallback as FssdpCallback
    from hf_mixture.moe.parallel.fssdp_training import fssdp_step as fssdp_step
    from hf_mixture.moe.parallel.fssdp_training import set_fssdp_options as set_fssdp_options
    from hf_mixture.moe.parallel.planner import plan_folding as plan_folding
    from hf_mixture.moe.parallel.reshard import reshard_experts as reshard_experts
    from hf_mixture.moe.parallel.reshard import restore_experts as restore_experts
    from hf_mixture.moe.parallel.sharded_checkpoint import ShardedCheckpointCallback as ShardedCheckpointCallback
    from hf_mixture.moe.routers.balance import LossFreeBalanceCallback as LossFreeBalanceCallback
    from hf_mixture.moe.routers.levels_collator import LevelDataCollator as LevelDataCollator
    from hf_mixture.moe.routers.loss_callback import RouterLoss as RouterLoss
    from hf_mixture.moe.routers.mask_moe import set_token_frequencies as set_token_frequencies
    from hf_mixture.moe.routers.registry import list_routers as list_routers
    from hf_mixture.moe.routers.registry import register_router as register_router
    from hf_mixture.moe.routers.replace import replace_routers as replace_routers
    from hf_mixture.moe.routers.transforms.granular import upcycle_granular as upcycle_granular
    from hf_mixture.moe.routers.transforms.merge import merge_experts as merge_experts
    from hf_mixture.moe.routers.transforms.prune import prune_experts as prune_experts
    from hf_mixture.moe.routers.upcycle import upcycle as upcycle
    from hf_mixture.moe.trace.callback import RouterTraceCallback as RouterTraceCallback
    from hf_mixture.moe.trace.trace import load_trace as load_trace

__version__ = "0.1.0.dev0"

__all__ = ["__version__", *sorted(_EXPORTS)]  # noqa: PLE0604 - the names come from one table


def __getattr__(name: str) -> Any:
    module = _EXPORTS.get(name)
    if module is None:
        raise AttributeError(f"module 'hf_mixture' has no attribute {name!r}")
    value = getattr(importlib.import_module(module), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_EXPORTS})


_plugin.register_all()
