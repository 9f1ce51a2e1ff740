"""Routers: a registry to replace the gate of a model by name, losses, and transforms of the experts.

Each file that defines a router of the registry is imported here, which registers it.
"""

from hf_mixture.moe.routers import attribute as attribute
from hf_mixture.moe.routers import batch_prioritised as batch_prioritised
from hf_mixture.moe.routers import cosine as cosine
from hf_mixture.moe.routers import expert_choice as expert_choice
from hf_mixture.moe.routers import gaussian as gaussian
from hf_mixture.moe.routers import hashing as hashing
from hf_mixture.moe.routers import kmeans as kmeans
from hf_mixture.moe.routers import mask_moe as mask_moe
from hf_mixture.moe.routers import modality as modality
from hf_mixture.moe.routers import noisy as noisy
from hf_mixture.moe.routers import pooled as pooled
from hf_mixture.moe.routers import relu as relu
from hf_mixture.moe.routers import sigmoid_bias as sigmoid_bias
from hf_mixture.moe.routers import sinkhorn as sinkhorn
from hf_mixture.moe.routers import soft as soft
from hf_mixture.moe.routers import student_t as student_t
from hf_mixture.moe.routers import switch as switch
from hf_mixture.moe.routers import task as task
from hf_mixture.moe.routers import top_p as top_p
from hf_mixture.moe.routers import topk as topk
from hf_mixture.moe.routers.base import LinearRouter as LinearRouter
from hf_mixture.moe.routers.base import RegistryRouter as RegistryRouter
from hf_mixture.moe.routers.base import RouterShape as RouterShape
from hf_mixture.moe.routers.context import RouterContext as RouterContext
from hf_mixture.moe.routers.context import routing_context as routing_context
from hf_mixture.moe.routers.registry import RouterInfo as RouterInfo
from hf_mixture.moe.routers.registry import list_routers as list_routers
from hf_mixture.moe.routers.registry import register_router as register_router
from hf_mixture.moe.routers.registry import router_info as router_info
from hf_mixture.moe.routers.replace import ReplacedRouters as ReplacedRouters
from hf_mixture.moe.routers.replace import replace_routers as replace_routers
