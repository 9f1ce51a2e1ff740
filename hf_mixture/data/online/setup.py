"""Checks of an online method against the run, the data and the domains, before anything is changed."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from hf_mixture.data.online.schedule import Rounds
from hf_mixture.data.online.validation import ValidationSets
from hf_mixture.data.search.ranks import FloatArray


MOST_LEARNING = 0.3


def read_validation(given: Mapping[str, Any], names: Sequence[str]) -> ValidationSets:
    """The validation sets: first those of the training domains, in their order.

    Args:
        given: Held-out rows by domain.
        names: The training domains.

    Raises:
        ValueError: It is no map, or a domain has no rows of tokens that can be read by number.
    """
    if not isinstance(given, Mapping):
        raise ValueError(
            f"validation is a {type(given).__name__}; it must map domains to held-out rows: write {{domain: rows}}"
        )
    for name, rows in given.items():
        if not (hasattr(rows, "__len__") and hasattr(rows, "__getitem__")):
            raise ValueError(
                f"validation[{name!r}] is a {type(rows).__name__}, which is read in order only; give rows with a "
                "length, for example list(rows.take(64))"
            )
        if len(rows) and not (isinstance(rows[0], Mapping) and "input_ids" in rows[0]):
            has = list(rows[0]) if isinstance(rows[0], Mapping) else type(rows[0]).__name__
            raise ValueError(f"validation[{name!r}] has rows of {has}; each must have 'input_ids': tokenise them")
    known = [name for name in names if name in given]
    return ValidationSets({name: given[name] for name in [*known, *(name for name in given if name not in known)]})


def read_prior(prior: Mapping[str, float], names: Sequence[str]) -> FloatArray:
    """Weights from a prior; a domain that it does not name gets 0.

    Args:
        prior: Weight by domain.
        names: The training domains.

    Returns:
        Weights of shape (m,), sum 1.

    Raises:
        ValueError: It names another domain, or its weights cannot be scaled to sum 1.
    """
    shares = np.array([prior.get(name, 0.0) for name in names], dtype=np.float64)
    if not set(prior) <= set(names) or not (shares >= 0).all() or not 0 < shares.sum() < np.inf:
        raise ValueError(
            f"prior={dict(prior)!r} must give weights >= 0, one of them > 0, to domains of {list(names)}: correct it"
        )
    return np.asarray(shares / shares.sum(), dtype=np.float64)


def check_rounds(rounds: Rounds, lag: float) -> None:
    """Refuse rounds of which nothing is trained on the chosen weights; warn where it is little.

    Args:
        rounds: The rounds.
        lag: Optimizer steps from a decision to its effect.

    Raises:
        ValueError: New weights would begin to hold when the round is over.
    """
    length = rounds.num_blocks * rounds.block_steps
    if length and length + lag >= rounds.period:
        raise ValueError(
            f"LearnParams takes {length} of the {rounds.period} steps of a round, and new weights hold {lag:g} steps "
            "later: no step would be trained on them; raise update_steps, or lower lp_rounds, lp_steps, lag or the "
            "number of batches fetched ahead"
        )
    if rounds.share > MOST_LEARNING:
        warnings.warn(
            f"LearnParams takes delta={rounds.share:.2f} of each round, above {MOST_LEARNING}: little is trained on "
            "the chosen weights; raise update_steps, or lower lp_rounds or lp_steps",
            stacklevel=2,
        )


def check_blocks(blocks: FloatArray, num_samples: int) -> None:
    """Refuse blocks of so few samples that rounding hides which domain they favour.

    Args:
        blocks: Mixtures of the blocks, of shape (m, m).
        num_samples: Samples of a block.

    Raises:
        ValueError: The smallest singular value of the mixtures is below one sample.
    """
    favoured = num_samples * float(np.linalg.svd(blocks, compute_uv=False)[-1])
    if favoured < 1:
        raise ValueError(
            f"the mixtures of LearnParams differ by {favoured:.2g} of the {num_samples} samples of a block, and "
            "samples come whole: raise one_hot_factor, lp_steps or the batch, or lower the min_weight of the sources"
        )
