"""Routers, experts and selection rules of any mixture-of-experts model of transformers."""

from hf_mixture.moe.anatomy.changes import BoundToRouter as BoundToRouter
from hf_mixture.moe.anatomy.changes import check_not_bound as check_not_bound
from hf_mixture.moe.anatomy.changes import check_not_compiled as check_not_compiled
from hf_mixture.moe.anatomy.find import base_path as base_path
from hf_mixture.moe.anatomy.find import find_routers as find_routers
from hf_mixture.moe.anatomy.router import MoeRouter as MoeRouter
from hf_mixture.moe.anatomy.router import SelectionBias as SelectionBias
from hf_mixture.moe.anatomy.rule import GroupRule as GroupRule
from hf_mixture.moe.anatomy.rule import SelectionRule as SelectionRule
from hf_mixture.moe.anatomy.rule import UnsupportedRouterError as UnsupportedRouterError
from hf_mixture.moe.anatomy.selection import RouterOutput as RouterOutput
from hf_mixture.moe.anatomy.selection import select as select
from hf_mixture.moe.anatomy.selection import weigh as weigh
