"""Information criteria and entropy: how many classes data ask for, and how sure classes are.

Letters: N people, K classes, V parameters.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np


def information_criteria(log_likelihood: float, num_parameters: int, posterior: Any) -> dict[str, float]:
    """AIC, BIC, the BIC adjusted for sample size, ICL and relative entropy.

    ICL is BIC plus twice the entropy of the classes; relative entropy is 1 where every class is certain and 0 where
    nothing is known of any.

    Args:
        log_likelihood: Of the data.
        num_parameters: V.
        posterior: Class probabilities [N, K].

    Returns:
        By name: `aic`, `bic`, `adjusted_bic`, `icl`, `entropy`. Lower is better but for the last.

    Example:
        >>> import numpy as np
        >>> from hf_mixture.models.trajectory_moe.criteria import information_criteria
        >>> information_criteria(-10.0, 3, np.eye(2))["aic"]
        26.0
    """
    num_people, num_classes = posterior.shape
    uncertain = -float((posterior * np.log(np.maximum(posterior, 1e-300))).sum())
    bic = -2 * log_likelihood + num_parameters * math.log(num_people)
    return {
        "aic": -2 * log_likelihood + 2 * num_parameters,
        "bic": bic,
        "adjusted_bic": -2 * log_likelihood + num_parameters * math.log((num_people + 2) / 24),
        "icl": bic + 2 * uncertain,
        "entropy": 1.0 if num_classes == 1 else 1 - uncertain / (num_people * math.log(num_classes)),
    }
