"""When an online method measures, when it decides, and what that costs, in optimizer steps."""

from __future__ import annotations

import math
from dataclasses import dataclass


MOST_BY_DEFAULT = 0.1


@dataclass(frozen=True)
class Cost:
    """What measuring costs in one round.

    Args:
        evaluations: Evaluations of all validation sets.
        backward_passes: Extra forward and backward passes of one batch.
        models: Extra models in memory.
        gradients: Extra gradients in memory, each the size of the model.
        training_share: Share of the round's steps whose weights are set by the measurement (delta), in [0, 1].
    """

    evaluations: int = 0
    backward_passes: int = 0
    models: int = 0
    gradients: int = 0
    training_share: float = 0.0


@dataclass(frozen=True)
class Rounds:
    """The rounds of a run: `prior`, then rounds of `period` steps that begin with `num_blocks` blocks of LearnParams.

    Args:
        prior: Steps before the first round.
        period: Steps of a round.
        count: Number of rounds; what is left of the run belongs to the last.
        num_blocks: Blocks of LearnParams at the start of a round. Default: 0.
        block_steps: Steps of a block. Default: 0.
        first_only: Whether only the first round has blocks. Default: False.

    Example:
        ```python
        >>> from hf_mixture.data.online.schedule import Rounds
        >>> rounds = Rounds(prior=0, period=50, count=4, num_blocks=6, block_steps=2)
        >>> rounds.locate(62), rounds.share
        ((1, 12), 0.24)

        ```
    """

    prior: int
    period: int
    count: int
    num_blocks: int = 0
    block_steps: int = 0
    first_only: bool = False

    @classmethod
    def fit(
        cls,
        max_steps: int,
        prior: int,
        period: int | None,
        *,
        num_blocks: int = 0,
        block_steps: int = 0,
        first_only: bool = False,
        num_updates: int = 20,
    ) -> Rounds:
        """Lay rounds into a run.

        Args:
            max_steps: Steps of the run.
            prior: Steps before the first round; 0 without LearnParams means one period.
            period: Steps of a round. None: `num_updates` rounds, or with LearnParams the shortest rounds of equal
                length of which it takes a tenth at most.
            num_blocks: Blocks of LearnParams of a round.
            block_steps: Steps of a block.
            first_only: Whether only the first round has blocks.
            num_updates: Used for `period=None`.

        Raises:
            ValueError: The rounds do not fill the run evenly, or LearnParams does not fit into a round.
        """
        left, blocks = max_steps - prior, num_blocks * block_steps
        if prior < 0 or left < 1:
            raise ValueError(f"{prior} steps before the first round leave {left} of max_steps={max_steps}: lower them")
        if period is not None and blocks and left % period:
            raise ValueError(
                f"update_steps={period} does not divide the {left} steps after the prior (max_steps={max_steps} - "
                f"prior_steps={prior}) into whole rounds; choose a divisor"
            )
        if period is None:
            period = max(left // num_updates, 1)
            if blocks and first_only:
                period = min(max(period, 4 * blocks), left)
            elif blocks:
                period = left // max(math.floor(left * MOST_BY_DEFAULT / blocks), 1)
        if period < 1 or period > left:
            raise ValueError(f"update_steps={period} is not in [1, {left}], the steps after the prior: change it")
        if not blocks:
            start = prior or period
            return cls(start, period, -(-(max_steps - start) // period))
        if blocks >= period:
            raise ValueError(
                f"LearnParams takes {num_blocks} blocks of {block_steps} steps = {blocks} of the {period} steps of a "
                "round; some must be left: lower lp_rounds or lp_steps, or raise update_steps or max_steps"
            )
        return cls(prior, period, left // period, num_blocks, block_steps, first_only)

    @property
    def share(self) -> float:
        """Share of a round that LearnParams takes (delta)."""
        return self.num_blocks * self.block_steps / self.period

    def blocks(self, turn: int) -> int:
        """Number of blocks of a round."""
        return self.num_blocks if turn == 0 or not self.first_only else 0

    def start(self, turn: int) -> int:
        """First step of a round: as many steps are done when it begins."""
        return self.prior + turn * self.period

    def decision(self, turn: int) -> int:
        """Steps done when the weights of a round are decided."""
        return self.start(turn) + self.blocks(turn) * self.block_steps

    def locate(self, step: int) -> tuple[int, int]:
        """The round after `step` steps, and the steps done in it; before the first round, (-1, 0)."""
        if step < self.prior:
            return -1, 0
        turn = min((step - self.prior) // self.period, self.count - 1)
        return turn, step - self.start(turn)
