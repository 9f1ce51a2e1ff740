"""Planes of experts in memory, never more bytes than the budget, shared by the loader and the computation."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from hf_mixture.moe.mwq.cache import ExpertCache
from hf_mixture.moe.mwq.store import Plane, PlaneKey


@dataclass
class _Entry:
    num_bytes: int
    arrival: int
    plane: Plane | None = None
    num_pins: int = 0
    num_uses: int = 0
    last_use: int = 0


class PlaneCache:
    """The planes that are in memory.

    Args:
        rules: The budget, and what makes room; its statistics are kept up to date.
        num_layers: Number of experts modules of the model.
    """

    def __init__(self, rules: ExpertCache, num_layers: int) -> None:
        self.rules = rules
        self.num_layers = num_layers
        self._entries: dict[PlaneKey, _Entry] = {}
        # Entries that may be dropped, by level, in the order in which they were last used.
        self._free: dict[int, dict[PlaneKey, _Entry]] = {}
        self._clock = 0
        self._changed = threading.Condition()
        self._error: BaseException | None = None
        self._stopped = False
        rules.resident_bytes = 0

    def resident(self, layer: int) -> set[tuple[int, int]]:
        """Experts and levels of a layer that are in memory."""
        with self._changed:
            return {
                (key.expert, key.level)
                for key, entry in self._entries.items()
                if key.layer == layer and entry.plane is not None
            }

    def acquire(self, key: PlaneKey, num_bytes: int, read: Callable[[PlaneKey], Plane]) -> bool:
        """Bring a plane into memory, and keep it there until `release`.

        Waits for others to be released where there is no room.

        Args:
            key: Which.
            num_bytes: Its size.
            read: Reads it.

        Returns:
            Whether it is there; False if `stop` was called while this waited.
        """
        with self._changed:
            entry = self._entries.get(key)
            if entry is not None:
                self._use(key, entry)
                self.rules.statistics.hits += 1
                self._changed.notify_all()
                return True
            while not self._make_room(num_bytes, key.layer):
                if self._stopped:
                    return False
                self._changed.wait()
            entry = self._entries[key] = _Entry(num_bytes, arrival=self._clock)
            self._use(key, entry)
            self.rules.resident_bytes += num_bytes
            self.rules.statistics.peak_bytes = max(self.rules.statistics.peak_bytes, self.rules.resident_bytes)
        start = time.perf_counter()
        try:
            plane = read(key)
        except BaseException:
            with self._changed:
                self._drop(key)
            raise
        with self._changed:
            entry.plane = plane
            self.rules.statistics.misses += 1
            self.rules.statistics.bytes_read += num_bytes
            self.rules.statistics.read_seconds += time.perf_counter() - start
            self._changed.notify_all()
        return True

    def wait_for(self, key: PlaneKey) -> Plane:
        """The tensors of a plane that is being acquired, when it is there.

        Raises:
            BaseException: What the loader failed with.
        """
        start = time.perf_counter()
        with self._changed:
            while (entry := self._entries.get(key)) is None or entry.plane is None or not entry.num_pins:
                if self._error is not None:
                    raise self._error
                self._changed.wait()
            self.rules.statistics.bubble_seconds += time.perf_counter() - start
            return entry.plane

    def arrived(self, keys: Iterable[PlaneKey]) -> bool:
        """Whether all of some planes are there and kept."""
        with self._changed:
            entries = [self._entries.get(key) for key in keys]
            return all(entry is not None and entry.plane is not None and entry.num_pins > 0 for entry in entries)

    def release(self, key: PlaneKey) -> None:
        """Let a plane be dropped when room is needed."""
        with self._changed:
            entry = self._entries[key]
            entry.num_pins -= 1
            self._free_if_unused(key, entry)
            self._changed.notify_all()

    def start(self) -> None:
        """Begin a call: forget an error, and a stop."""
        with self._changed:
            self._error, self._stopped = None, False

    def fail(self, error: BaseException) -> None:
        """Tell the computation that the loader failed."""
        with self._changed:
            self._error = error
            self._changed.notify_all()

    def stop(self) -> None:
        """Let the loader give up waiting for room."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()

    def release_all(self) -> None:
        """Release everything, after a call that failed."""
        with self._changed:
            for key, entry in self._entries.items():
                entry.num_pins = 0
                self._free_if_unused(key, entry)

    def _use(self, key: PlaneKey, entry: _Entry) -> None:
        self._free.get(key.level, {}).pop(key, None)
        self._clock += 1
        entry.num_pins += 1
        entry.num_uses += 1
        entry.last_use = self._clock

    def _free_if_unused(self, key: PlaneKey, entry: _Entry) -> None:
        if not entry.num_pins:
            level = self._free.setdefault(key.level, {})
            level.pop(key, None)
            level[key] = entry

    def _make_room(self, num_bytes: int, layer: int) -> bool:
        while self.rules.budget_bytes is not None and self.rules.resident_bytes + num_bytes > self.rules.budget_bytes:
            victim = self._victim(layer)
            if victim is None:
                return False
            self._drop(victim)
            self.rules.statistics.evictions += 1
        return True

    def _victim(self, layer: int) -> PlaneKey | None:
        levels = [level for level, entries in self._free.items() if entries]
        if not levels:
            return None
        if self.rules.eviction == "lru":
            oldest = [next(iter(self._free[level].items())) for level in levels]
            return min(oldest, key=lambda item: item[1].last_use)[0]
        if self.rules.eviction == "static":
            entries = [item for level in levels for item in self._free[level].items()]
            return max(entries, key=lambda item: item[1].arrival)[0]

        def worth(item: tuple[PlaneKey, _Entry]) -> tuple[int, int]:
            num_layers_until_needed = (item[0].layer - layer - 1) % self.num_layers
            return item[1].num_uses, -num_layers_until_needed

        return min(self._free[max(levels)].items(), key=worth)[0]

    def _drop(self, key: PlaneKey) -> None:
        self._free.get(key.level, {}).pop(key, None)
        self.rules.resident_bytes -= self._entries.pop(key).num_bytes
