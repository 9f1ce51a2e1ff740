"""Routers: a registry to replace the gate of a model by name, losses, and transforms of the experts.

Each file that defines a router of the registry is imported here, which registers it.
"""

from hf_mixture.moe.routers import topk as topk
from hf_mixture.moe.routers.base import LinearRouter as LinearRouter
from hf_mixture.moe.routers.base import RegistryRouter as RegistryRouter
from hf_mixture.moe.routers.base import RouterShape as RouterShape
from hf_mixture.moe.routers.context import RouterContext as RouterContext
from hf_mixture.moe.routers.context import routing_context as routing_context
from hf_mixture.moe.routers.registry import RouterInfo as RouterInfo
from hf_mixture.moe.routers.registry import list_routers as list_routers
from hf_mixture.moe.routers.registry import register_router as register_router
