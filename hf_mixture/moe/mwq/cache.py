"""`ExpertCache`: how much memory experts on disk may use, and what is kept in it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from hf_mixture.moe.mwq.schedule import ORDERS, Order


Eviction = Literal["high_bits_first", "lru", "static"]
_EVICTIONS = ("high_bits_first", "lru", "static")


@dataclass
class CacheStatistics:
    """What a cache has done since it was made, or since `reset`.

    Args:
        hits: Planes that were in memory when they were needed.
        misses: Planes that had to be read.
        bytes_read: Bytes read from disk.
        read_seconds: Time the loader spent reading and moving.
        bubble_seconds: Time the computation waited for planes.
        evictions: Planes that were dropped for others.
        peak_bytes: Most bytes of planes in memory at a time, those being read included.
    """

    hits: int = 0
    misses: int = 0
    bytes_read: int = 0
    read_seconds: float = 0.0
    bubble_seconds: float = 0.0
    evictions: int = 0
    peak_bytes: int = 0


class ExpertCache:
    """How much memory offloaded experts may use, and what is kept in it.

    Args:
        budget_bytes: Most bytes of planes in memory at a time; at least the largest plane. Default: all.
        order: Order in which the planes of a layer are loaded: `"hebf"`, the hottest bit first; `"expert_id"`; or
            `"johnson"`. Default: `"hebf"`.
        eviction: What makes room: `"high_bits_first"` drops the highest widths, of the least used experts, of the
            layers that are needed last; `"lru"` what has not been used for longest; `"static"` keeps the planes that
            came first and drops what came after them. Default: `"high_bits_first"`.
        keep_page_cache: Whether the system may keep what was read in memory that it has to spare. Default: True.

    Attributes:
        statistics (`CacheStatistics`): What the cache has done since it was made, or since `reset`.
        resident_bytes (`int`): Bytes of planes in memory now.

    Raises:
        ValueError: If a value is unknown or out of range.

    Example:
        >>> from hf_mixture import ExpertCache
        >>> ExpertCache(budget_bytes=64 * 2**20).order
        'hebf'
    """

    def __init__(
        self,
        budget_bytes: int | None = None,
        *,
        order: Order = "hebf",
        eviction: Eviction = "high_bits_first",
        keep_page_cache: bool = True,
    ) -> None:
        if budget_bytes is not None and (type(budget_bytes) is not int or budget_bytes < 1):
            raise ValueError(
                f"budget_bytes={budget_bytes!r} is not a positive whole number; give one, or None for all"
            )
        if order not in ORDERS:
            raise ValueError(f"order={order!r} is unknown; it is one of {', '.join(map(repr, ORDERS))}")
        if eviction not in _EVICTIONS:
            raise ValueError(f"eviction={eviction!r} is unknown; it is one of {', '.join(map(repr, _EVICTIONS))}")
        self.budget_bytes = budget_bytes
        self.order: Order = order
        self.eviction: Eviction = eviction
        self.keep_page_cache = keep_page_cache
        self.statistics = CacheStatistics()
        self.resident_bytes = 0

    def reset(self) -> None:
        """Set the statistics to zero; what is in memory stays."""
        vars(self.statistics).update(vars(CacheStatistics(peak_bytes=self.resident_bytes)))
