"""One step of each online method: new weights from old weights and column scores. Pure functions.

Letters: m training domains, p weights, s scores (column sums of A).
"""

from __future__ import annotations

import numpy as np

from hf_mixture.data.search.constraints import project
from hf_mixture.data.search.ranks import FloatArray


def exponentiated(weights: FloatArray, scores: FloatArray, eta: float) -> FloatArray:
    """Exponentiated gradient descent: `p_j exp(eta s_j)`, scaled to sum 1.

    Args:
        weights: p of shape (m,), >= 0. A domain of weight 0 stays at 0.
        scores: s of shape (m,): the column sums of A.
        eta: Step size, > 0.

    Returns:
        Weights of shape (m,).

    Example:
        ```python
        >>> import numpy as np
        >>> from hf_mixture.data.online.effects import normalise
        >>> from hf_mixture.data.online.updates import exponentiated
        >>> effects = normalise(np.array([[0.3, 0.05], [-0.02, 0.2]]))
        >>> exponentiated(np.array([0.5, 0.5]), effects.sum(axis=0), 0.2).round(6).tolist()
        [0.502459, 0.497541]

        ```
    """
    # The largest exponent is taken out, so that no score overflows.
    raw = weights * np.exp(eta * (scores - scores.max()))
    return np.asarray(raw / raw.sum(), dtype=np.float64)


def blend(weights: FloatArray, smoothing: float) -> FloatArray:
    """Mix with equal weights: `(1 - smoothing) p + smoothing / m`.

    Args:
        weights: p of shape (m,).
        smoothing: Share of the equal mixture, in [0, 1].

    Returns:
        Weights of shape (m,).
    """
    return (1 - smoothing) * weights + smoothing / len(weights)


def with_floors(weights: FloatArray, floors: FloatArray) -> FloatArray:
    """Raise weights to their floors; the others keep their ratios.

    Args:
        weights: p of shape (m,), sum 1.
        floors: Smallest weights of shape (m,), sum at most 1.

    Returns:
        Weights of shape (m,), sum 1.
    """
    return project(weights[None], floors, np.ones(len(weights)))[0]


def excess(losses: FloatArray, reference: FloatArray, previous: FloatArray) -> FloatArray:
    """The excess losses of DoReMi (arXiv 2305.10429): `max(loss - reference loss, 0)` by domain.

    Args:
        losses: Losses of shape (m,); NaN where a domain was not seen.
        reference: Losses of the reference model, of shape (m,).
        previous: Last excess, of shape (m,); kept where a domain was not seen.

    Returns:
        Excess losses of shape (m,).
    """
    return np.where(np.isnan(losses), previous, np.maximum(losses - reference, 0.0))


def exploration(num_domains: int, step: int) -> float:
    """The exploration rate of EXP3 (Online Data Mixing, arXiv 2312.02406): `min(1/m, sqrt(ln m / (m t)))`.

    Args:
        num_domains: m, at least 2.
        step: Training step t, >= 1.

    Returns:
        A rate in (0, 1/m].
    """
    return min(1 / num_domains, float(np.sqrt(np.log(num_domains) / (num_domains * step))))


def importance_rewards(losses: FloatArray, drawn: FloatArray, probabilities: FloatArray) -> FloatArray:
    """The rewards of EXP3: a tenth of the training loss, weighted by `drawn share / probability`.

    With one domain drawn at a time this is the published `(loss / 10) / probability` for that domain and 0 for the
    others; with mixed batches it has the same expectation and less variance.

    Args:
        losses: Mean training loss by domain, of shape (m,); ignored where `drawn` is 0.
        drawn: Share of the samples that each domain had, of shape (m,).
        probabilities: Weights under which they were drawn, of shape (m,).

    Returns:
        Rewards of shape (m,).

    Example:
        ```python
        >>> import numpy as np
        >>> from hf_mixture.data.online.updates import importance_rewards
        >>> importance_rewards(np.array([3.0, np.nan]), np.array([1.0, 0.0]), np.array([0.5, 0.5])).round(6).tolist()
        [0.6, 0.0]

        ```
    """
    seen = drawn > 0
    rewards = np.zeros(len(losses))
    rewards[seen] = losses[seen] / 10 * drawn[seen] / probabilities[seen]
    return rewards


def exp3(rewards: FloatArray, rate: float, previous_rate: float) -> FloatArray:
    """The weights of EXP3: `(1 - m rate) softmax(previous_rate * rewards) + rate`.

    Args:
        rewards: Summed rewards of shape (m,).
        rate: `exploration` at this step.
        previous_rate: `exploration` at the last update; 1/m at the first.

    Returns:
        Weights of shape (m,), each at least `rate`.
    """
    equal = np.full(len(rewards), 1 / len(rewards))
    return (1 - len(rewards) * rate) * exponentiated(equal, rewards, previous_rate) + rate
