"""What happens at the stack boundaries of an expert while it runs: peers are recorded, the primary is updated.

Hooks on the boundary layers stay installed; they do nothing unless a run of this thread is active, so that an expert
that is used on its own, or by another thread, computes what it always does.

Letters: B rows, T tokens of the primary, S with those in the cache, N tokens of all peers, D width, R latent size.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from hf_mixture.models.mixture_of_thoughts.cache import MotCache
from hf_mixture.models.mixture_of_thoughts.interaction import InteractionLevel
from hf_mixture.models.mixture_of_thoughts.peers import PeerLatents
from hf_mixture.models.mixture_of_thoughts.visibility import own_visible


class Run(Protocol):
    """One forward pass of one expert inside a mixture."""

    expert: int

    def at_boundary(self, level: int, hidden: Tensor) -> Tensor | None:
        """Look at the states after a stack; what is returned takes their place."""


class EndOfReading(Exception):
    """Ends the forward pass of an expert after the last boundary that anyone listens to."""


_ACTIVE: ContextVar[tuple[str, Run] | None] = ContextVar("mixture_of_thoughts_run", default=None)


@contextlib.contextmanager
def active(mixture: str, run: Run) -> Iterator[None]:
    """Let the boundary hooks of one mixture act for a run, in this thread, until the block ends."""
    token = _ACTIVE.set((mixture, run))
    try:
        yield
    finally:
        _ACTIVE.reset(token)


class BoundaryHook:
    """Forward hook of the last layer of a stack.

    Args:
        mixture: Identity of the mixture that the hook belongs to.
        expert: Index of the expert.
        level: Index of the stack.
    """

    def __init__(self, mixture: str, expert: int, level: int) -> None:
        self.mixture = mixture
        self.expert = expert
        self.level = level

    def __call__(self, _: nn.Module, __: Any, output: Any) -> Any:
        current = _ACTIVE.get()
        if current is None or current[0] != self.mixture or current[1].expert != self.expert:
            return None
        # Bloom's layers return a tuple, most others the states alone.
        hidden = output[0] if isinstance(output, tuple) else output
        changed = current[1].at_boundary(self.level, hidden)
        if changed is None:
            return None
        return (changed, *output[1:]) if isinstance(output, tuple) else changed


class InputHook:
    """Forward pre-hook of an expert that tells its run the mask and the ids of each step.

    Args:
        mixture: Identity of the mixture that the hook belongs to.
        expert: Index of the expert.
    """

    def __init__(self, mixture: str, expert: int) -> None:
        self.mixture = mixture
        self.expert = expert

    def __call__(self, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        current = _ACTIVE.get()
        if current is None or current[0] != self.mixture or not isinstance(current[1], PrimaryRun):
            return
        run = current[1]
        if run.expert == self.expert and run.before_step is not None:
            mask = kwargs.get("attention_mask")
            if mask is not None and mask.dim() != 2:
                raise ValueError("attention_mask must be [rows, tokens] for an expert of a mixture of thoughts")
            run.attention_mask = mask
            run.before_step(args[0] if args else kwargs["input_ids"])


@dataclass
class PeerRun:
    """Records the latents of a peer at each boundary.

    Args:
        expert: Index of the peer.
        levels: The interaction levels.
        with_grad: Whether the projections are being trained, while the peer itself runs without gradients.
        latents: For each level [B, N, R].
    """

    expert: int
    levels: Sequence[InteractionLevel]
    with_grad: bool
    latents: list[Tensor] = field(default_factory=list)

    def at_boundary(self, level: int, hidden: Tensor) -> None:
        """Keep the latents of a level.

        Raises:
            EndOfReading: After the last level.
        """
        with torch.set_grad_enabled(self.with_grad):
            self.latents.append(self.levels[level].latents(self.expert, hidden))
        if level == len(self.levels) - 1:
            raise EndOfReading


@dataclass
class FirstStackRun:
    """Takes the states after the first stack of an expert, for the router, and ends there.

    Args:
        expert: Index of the expert.
        states: The states [B, T, D]; None until they are there.
    """

    expert: int
    states: Tensor | None = None

    def at_boundary(self, _: int, hidden: Tensor) -> None:
        """Keep the states.

        Raises:
            EndOfReading: Always.
        """
        self.states = hidden
        raise EndOfReading


@dataclass
class PrimaryRun:
    """Updates the primary at each boundary from its own latents and those of its peers.

    Args:
        expert: Index of the primary.
        levels: The interaction levels.
        peers: What it sees of its peers.
        attention_mask: Mask of its tokens, those in the cache included [B, S].
        cache: Where its earlier latents are.
        before_step: Called with the ids of each step of a generation [B, T].
    """

    expert: int
    levels: Sequence[InteractionLevel]
    peers: PeerLatents
    attention_mask: Tensor | None = None
    cache: MotCache | None = None
    before_step: Callable[[Tensor], None] | None = None
    mask: Tensor | None = field(default=None, init=False)

    def at_boundary(self, level: int, hidden: Tensor) -> Tensor:
        """Return the updated states [B, T, D]."""
        rows, num_queries = hidden.shape[:2]
        self.peers.fit_rows(rows)
        interaction = self.levels[level]
        latents = interaction.latents(self.expert, hidden)
        keys, values = interaction.keys_values(latents)
        if self.cache is not None:
            keys, values = self.cache.update_latents(keys, values, level)
        else:
            keys = torch.cat([self.peers.keys[level], keys], dim=-2)
            values = torch.cat([self.peers.values[level], values], dim=-2)
        if self.mask is None or level == 0:
            self.mask = self._visible(keys.shape[-2] - self.peers.keys[level].shape[-2], num_queries, latents)
        update = interaction.update(self.expert, latents, keys, values, self.mask.to(latents.device))
        return hidden + update.to(hidden.device, hidden.dtype)

    def _visible(self, num_own: int, num_queries: int, latents: Tensor) -> Tensor:
        """Which of its peers' tokens and of its own each of the last tokens sees [B, T, N + S]."""
        tokens = latents.new_ones(len(latents), num_own) if self.attention_mask is None else self.attention_mask
        own = own_visible(tokens[:, :num_own].to(latents.device), num_queries)
        others = self.peers.mask(num_own - num_queries, num_own).to(latents.device)
        return torch.cat([others, own], dim=-1)
