"""Routing baselines on published scores: which expert to ask a query, from its sentence embedding alone.

A router is a function from embeddings [queries, F] to a score for each expert [queries, M]; the expert with the
highest score answers. Nothing here runs a language model.
"""

from hf_mixture.models.mixture_of_thoughts.routing.clusters import ClusterRouter, fit_cluster_router
from hf_mixture.models.mixture_of_thoughts.routing.evaluation import cross_validate_router, evaluate_query_routers
from hf_mixture.models.mixture_of_thoughts.routing.linear import LinearRouter, fit_linear_router
from hf_mixture.models.mixture_of_thoughts.routing.perceptron import PerceptronRouter, fit_mlp_router
from hf_mixture.models.mixture_of_thoughts.routing.queries import equal_task_weights
from hf_mixture.models.mixture_of_thoughts.routing.single import SingleRouter, fit_best_single


__all__ = [
    "ClusterRouter",
    "LinearRouter",
    "PerceptronRouter",
    "SingleRouter",
    "cross_validate_router",
    "equal_task_weights",
    "evaluate_query_routers",
    "fit_best_single",
    "fit_cluster_router",
    "fit_linear_router",
    "fit_mlp_router",
]
