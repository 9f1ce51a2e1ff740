"""`mwq_offload`: experts whose planes stay on disk, and are loaded while others compute.

The planes of a call are put into the order of the cache's rule; one thread reads them, and tokens are computed as soon
as the planes of their width are there. Where the planes of one layer do not fit into the budget, experts are done one
after the other and each plane is dropped once it is part of the matrix at hand.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from hf_mixture.moe.mwq.cache import CacheStatistics, ExpertCache
from hf_mixture.moe.mwq.compute import Group, Step, choose, run_steps, sort_places
from hf_mixture.moe.mwq.experts import matrix_names
from hf_mixture.moe.mwq.module import level_names
from hf_mixture.moe.mwq.plane_cache import PlaneCache
from hf_mixture.moe.mwq.schedule import ORDERS, Item, needed_items
from hf_mixture.moe.mwq.store import Plane, PlaneKey, PlaneStore
from hf_mixture.moe.mwq.targets import nested_experts


if TYPE_CHECKING:
    from transformers import PreTrainedModel


class OffloadRuntime:
    """The store, the cache and the loader of one model.

    Args:
        store: The planes on disk.
        cache: What is kept of them in memory.
        num_layers: Number of experts modules.
    """

    def __init__(self, store: PlaneStore, cache: ExpertCache, num_layers: int) -> None:
        self.store = store
        self.num_layers = num_layers
        self._loader = ThreadPoolExecutor(max_workers=1, thread_name_prefix="mwq-loader")
        self._streams: dict[torch.device, Any] = {}
        self._disk_is_slower = False
        self.use_cache(cache)

    def __deepcopy__(self, memo: dict[int, Any]) -> OffloadRuntime:
        # Files, memory and the loader are shared by copies of a model, as the planes on disk are.
        return self

    def __reduce_ex__(self, protocol: Any) -> Any:
        raise TypeError(
            "a model with experts on disk cannot be pickled, because its files are open in this process; load its "
            'folder with experts_implementation="mwq_offload" in the other one'
        )

    def use_cache(self, cache: ExpertCache) -> None:
        """Replace the cache.

        Raises:
            ValueError: If its budget is smaller than the largest plane.
        """
        least = self.store.largest_plane()
        if cache.budget_bytes is not None and cache.budget_bytes < least:
            raise ValueError(
                f"budget_bytes={cache.budget_bytes} is less than the largest plane of an expert, {least} bytes, which "
                f"must be in memory to be used; give at least {least}"
            )
        self.rules = cache
        self.cache = PlaneCache(cache, self.num_layers)
        self.store.keep_page_cache = cache.keep_page_cache
        self.store.close()

    def run(self, experts: Any, hidden: Tensor, top_k_index: Tensor, top_k_weights: Tensor) -> Tensor:
        """Run the experts of a layer; as `run_experts`, with the same bits.

        Raises:
            RuntimeError: If gradients are wanted.
            OSError: If the disk fails.
            ValueError: If planes on disk are damaged.
        """
        if torch.is_grad_enabled() and (hidden.requires_grad or top_k_weights.requires_grad):
            raise RuntimeError(
                "experts on disk have no backward pass; call the model under torch.no_grad(), or load it with another "
                "experts_implementation to train"
            )
        index, levels, weights = choose(experts, hidden, top_k_index, top_k_weights)
        places = sort_places(index, levels, experts.num_experts, len(experts.mwq_widths))
        counts = {(group.expert, group.level): group.stop - group.start for group in places.groups}
        layer = experts.mwq_layer
        keys = [PlaneKey(layer, *item) for item in needed_items(counts)]
        num_bytes = sum(self.store.num_bytes(key) for key in keys)
        fits = self.rules.budget_bytes is None or num_bytes <= self.rules.budget_bytes
        resident = self.cache.resident(layer)
        order = self._order(layer, counts, keys, resident, fits=fits)
        self.cache.start()
        begin, before = time.perf_counter(), replace(self.rules.statistics)
        job: Future[None] | None = None
        if all((key.expert, key.level) in resident for key in keys):
            # Nothing to wait for: a thread would only cost the time to wake it.
            self._load(order, hidden.device)
        else:
            job = self._loader.submit(self._load, order, hidden.device)
        groups = {(group.expert, group.level): group for group in places.groups}
        steps = self._as_they_arrive(order, groups) if fits else self._one_by_one(order, groups)
        try:
            result = run_steps(experts, hidden, weights, places, steps)
        except BaseException:
            self.cache.stop()
            if job is not None:
                job.exception()
            self.cache.release_all()
            raise
        if job is not None:
            job.result()
            self._compare(time.perf_counter() - begin, before)
        return result

    def _compare(self, seconds: float, before: CacheStatistics) -> None:
        """Note whether the disk or the computation took longer in a call."""
        now = self.rules.statistics
        reading = now.read_seconds - before.read_seconds
        computing = seconds - (now.bubble_seconds - before.bubble_seconds)
        # Planes of several experts in turn can double the computation, so that the disk has to take twice as long
        # for them to be worth it; once they are, the longer computation is the measure.
        self._disk_is_slower = reading > (1.0 if self._disk_is_slower else 2.0) * computing

    def _order(
        self, layer: int, counts: dict[Item, int], keys: list[PlaneKey], resident: set[Item], *, fits: bool
    ) -> list[PlaneKey]:
        """All planes of a call: those in memory first, then those to load in the order of the rule.

        Unless the disk takes much longer than the computation, the planes of an expert are loaded together, in the
        order of the experts' first planes: to begin a matrix again for its next bit costs more than the rule can gain.
        Where the planes of the call do not fit, that holds for those in memory too.
        """
        order = [PlaneKey(layer, *item) for item in ORDERS[self.rules.order](counts, resident)]
        first = [key for key in keys if (key.expert, key.level) in resident]
        if fits and self._disk_is_slower:
            return [*first, *order]
        rank: dict[int, int] = {}
        for key in [*first, *order]:
            rank.setdefault(key.expert, len(rank))

        def by_expert(some: list[PlaneKey]) -> list[PlaneKey]:
            return sorted(some, key=lambda key: (rank[key.expert], key.level))

        return [*first, *by_expert(order)] if fits else by_expert(keys)

    def _load(self, order: Sequence[PlaneKey], device: torch.device) -> None:
        try:
            for key in order:
                if not self.cache.acquire(key, self.store.num_bytes(key), lambda key: self._read(key, device)):
                    return
        except BaseException as error:
            self.cache.fail(error)
            raise

    def _read(self, key: PlaneKey, device: torch.device) -> Plane:
        plane = self.store.read(key)
        if device.type != "cuda":
            return plane
        stream = self._streams.setdefault(device, torch.cuda.Stream(device))
        with torch.cuda.stream(stream):
            up, down = (
                tuple(tensor.pin_memory().to(device, non_blocking=True) for tensor in matrix) for matrix in plane
            )
        for tensor in (*up, *down):
            # Memory that is dropped must not be given to the next plane while the computation still reads it.
            tensor.record_stream(torch.cuda.default_stream(device))
        stream.synchronize()
        return up, down

    def _as_they_arrive(self, order: Sequence[PlaneKey], groups: dict[Item, Group]) -> Iterator[Step]:
        """Groups of which the planes are there; an expert's planes stay until its last group.

        Of several, one that continues the matrices at hand comes first, since others begin theirs anew: while the
        disk is ahead, experts are done one after the other whatever the order of loading.
        """
        arrivals = _Arrivals(order, groups)
        at_hand: tuple[int, int] = (-1, -1)
        while arrivals.left:
            while (key := arrivals.next_key()) is not None and self.cache.arrived([key]):
                arrivals.add(key)
            item = arrivals.choose(at_hand)
            if item is None:
                key = arrivals.next_key()
                assert key is not None  # noqa: S101 - a group waits for a plane that has not arrived
                self.cache.wait_for(key)
                arrivals.add(key)
                continue
            expert, level = item
            first = at_hand[1] + 1 if at_hand[0] == expert and at_hand[1] < level else 0
            layer = order[0].layer
            planes = [self.cache.wait_for(PlaneKey(layer, expert, part)) for part in range(first, level + 1)]
            yield Step(expert, first, planes, groups[item])
            at_hand = item
            arrivals.finish(item)
            if not arrivals.waits(expert):
                for part in range(level + 1):
                    self.cache.release(PlaneKey(layer, expert, part))

    def _one_by_one(self, order: Sequence[PlaneKey], groups: dict[Item, Group]) -> Iterator[Step]:
        """Expert by expert, each plane dropped as soon as it is part of the matrix at hand."""
        for key in order:
            plane = self.cache.wait_for(key)
            yield Step(key.expert, key.level, [plane], groups.get((key.expert, key.level)))
            self.cache.release(key)


class _Arrivals:
    """Which groups of a call can be computed, as planes arrive in order."""

    def __init__(self, order: Sequence[PlaneKey], groups: dict[Item, Group]) -> None:
        self._order = iter(order)
        self._next = next(self._order, None)
        self._levels: dict[int, set[int]] = {}
        self.left: dict[int, list[int]] = {}
        for expert, level in sorted(groups):
            self.left.setdefault(expert, []).append(level)

    def next_key(self) -> PlaneKey | None:
        """The next plane to arrive."""
        return self._next

    def add(self, key: PlaneKey) -> None:
        """Note that the next plane has arrived."""
        self._levels.setdefault(key.expert, set()).add(key.level)
        self._next = next(self._order, None)

    def choose(self, at_hand: Item) -> Item | None:
        """The group to compute: of the expert at hand, else of the one with most levels that are ready."""
        ready = {expert: self._ready(expert) for expert in self.left}
        if ready.get(at_hand[0]):
            return at_hand[0], ready[at_hand[0]][0]
        best = max(ready, key=lambda expert: len(ready[expert]))
        return (best, ready[best][0]) if ready[best] else None

    def finish(self, item: Item) -> None:
        """Note that a group has been computed."""
        self.left[item[0]].remove(item[1])
        if not self.left[item[0]]:
            del self.left[item[0]]

    def waits(self, expert: int) -> bool:
        """Whether groups of an expert are left."""
        return expert in self.left

    def _ready(self, expert: int) -> list[int]:
        # Levels that were in memory may be there before the base of their expert.
        there = self._levels.get(expert, set())
        return [level for level in self.left[expert] if set(range(level + 1)) <= there]


def attach_runtime(model: PreTrainedModel, files: Sequence[Path], cache: ExpertCache) -> None:
    """Connect the experts of a model with their planes on disk."""
    layers: list[list[tuple[tuple[str, ...], tuple[str, ...]]]] = []
    modules = nested_experts(model)
    for path, module in modules.items():
        widths = module.mwq_widths
        up, down = (f"{path}.{name}" for name in matrix_names(module))
        levels = range(len(widths))
        layers.append([(level_names(up, widths, level), level_names(down, widths, level)) for level in levels])
    runtime = OffloadRuntime(PlaneStore(files, layers), cache, len(layers))
    for place, module in enumerate(modules.values()):
        module.mwq_runtime, module.mwq_layer = runtime, place


def set_expert_cache(model: PreTrainedModel, cache: ExpertCache) -> None:
    """Give the experts of a model on disk another cache: another budget, order or rule of eviction.

    Args:
        model: A model that was loaded with `experts_implementation="mwq_offload"`.
        cache: The cache; it begins empty.

    Raises:
        ValueError: If its budget is smaller than the largest plane, or the experts are not on disk.

    Example:
        >>> import tempfile, torch
        >>> from transformers import MixtralConfig, MixtralForCausalLM
        >>> from hf_mixture import ExpertCache, MwqConfig, cache_statistics, quantise_experts, set_expert_cache
        >>> model = MixtralForCausalLM(MixtralConfig(
        ...     vocab_size=32, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
        ...     num_key_value_heads=2, num_local_experts=4, num_experts_per_tok=2,
        ... ))
        >>> quantise_experts(model, MwqConfig(group_size=16))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     model.save_pretrained(folder)
        ...     on_disk = MixtralForCausalLM.from_pretrained(folder, experts_implementation="mwq_offload")
        ...     set_expert_cache(on_disk, ExpertCache(budget_bytes=1200))
        ...     with torch.no_grad():
        ...         _ = on_disk(torch.arange(32)[None])
        >>> cache_statistics(on_disk).peak_bytes <= 1200
        True
    """
    _runtime_of(model).use_cache(cache)


def cache_statistics(model: PreTrainedModel) -> CacheStatistics:
    """What the cache of a model with experts on disk has done.

    Args:
        model: A model that was loaded with `experts_implementation="mwq_offload"`.

    Returns:
        The live statistics of its cache.

    Example:
        ```python
        >>> from hf_mixture import ExpertCache
        >>> cache = ExpertCache(budget_bytes=2**26)  # cache_statistics(model) after set_expert_cache(model, cache)
        >>> cache.statistics.bytes_read
        0

        ```
    """
    return _runtime_of(model).rules.statistics


def _runtime_of(model: PreTrainedModel) -> OffloadRuntime:
    for module in nested_experts(model).values():
        runtime: OffloadRuntime | None = getattr(module, "mwq_runtime", None)
        if runtime is not None:
            return runtime
    raise ValueError(
        f"the experts of this {type(model).__name__} are not on disk; load a model that was saved with MwqConfig with "
        'from_pretrained(folder, experts_implementation="mwq_offload")'
    )
