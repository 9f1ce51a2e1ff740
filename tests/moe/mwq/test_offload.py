"""Experts on disk: the same bits as in memory whatever the budget, order and rule, and disks that fail."""

from __future__ import annotations

import copy
import errno
import os
import pickle
import random

import pytest
import torch
from tiny_planes import full_model, inputs, logits, mix_widths, nested_model

from hf_mixture.moe.mwq.cache import ExpertCache
from hf_mixture.moe.mwq.config import MwqConfig
from hf_mixture.moe.mwq.offload import cache_statistics, set_expert_cache
from hf_mixture.moe.mwq.plane_cache import PlaneCache
from hf_mixture.moe.mwq.store import PlaneKey
from hf_mixture.moe.mwq.targets import nested_experts


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("nested")
    nested_model().save_pretrained(path)
    return path


@pytest.fixture
def on_disk(folder):
    return mix_widths(load(folder))


@pytest.fixture(scope="module")
def expected():
    return logits(mix_widths(nested_model()))


def load(folder, **options):
    return type(full_model()).from_pretrained(folder, experts_implementation="mwq_offload", **options).eval()


def store_of(model):
    return next(iter(nested_experts(model).values())).mwq_runtime.store


def test_no_plane_is_in_memory_before_it_is_needed(folder):
    model = load(folder)
    names = {name for name, _ in model.named_parameters()}
    assert not any("_proj_" in name for name in names)
    assert cache_statistics(model).peak_bytes == 0
    assert torch.equal(logits(model), logits(nested_model()))
    assert store_of(model).total_bytes() == sum(
        tensor.numel() * tensor.element_size()
        for name, tensor in nested_model().state_dict().items()
        if "experts." in name
    )


@pytest.mark.parametrize("order", ["hebf", "expert_id", "johnson"])
@pytest.mark.parametrize("eviction", ["high_bits_first", "lru", "static"])
def test_the_same_bits_within_every_budget(on_disk, expected, order, eviction):
    """Acceptance check 3: bit by bit, and never more bytes than the budget by the cache's own count."""
    store = store_of(on_disk)
    least, everything = store.largest_plane(), store.total_bytes()
    for budget in (least, least + 1, 3 * least, everything // 3, everything // 2, everything, None):
        set_expert_cache(on_disk, ExpertCache(budget, order=order, eviction=eviction))
        for _ in range(2):
            assert torch.equal(logits(on_disk), expected)
        statistics = cache_statistics(on_disk)
        assert statistics.peak_bytes <= (everything if budget is None else budget)
        assert statistics.bytes_read >= statistics.peak_bytes > 0


def test_random_budgets_and_texts(folder):
    model, memory = mix_widths(load(folder)), mix_widths(nested_model())
    store, generator = store_of(model), random.Random(0)  # noqa: S311 - sampling
    for _ in range(20):
        budget = generator.randrange(store.largest_plane(), store.total_bytes())
        set_expert_cache(model, ExpertCache(budget, eviction=generator.choice(["high_bits_first", "lru"])))
        for length in (1, 7, 30):
            ids = torch.tensor([[generator.randrange(5, 60) for _ in range(length)]])
            with torch.no_grad():
                assert torch.equal(model(input_ids=ids).logits, memory(input_ids=ids).logits)
        assert cache_statistics(model).peak_bytes <= budget


def test_generation_evicts_and_goes_on(folder):
    model, memory = mix_widths(load(folder)), mix_widths(nested_model())
    set_expert_cache(model, ExpertCache(store_of(model).total_bytes() // 6))
    options = {"max_new_tokens": 12, "min_new_tokens": 12, "do_sample": False}
    assert torch.equal(model.generate(**inputs(), **options), memory.generate(**inputs(), **options))
    assert cache_statistics(model).evictions > 0


def test_statistics_count_what_was_read(on_disk, expected):
    everything = store_of(on_disk).total_bytes()
    set_expert_cache(on_disk, ExpertCache())
    logits(on_disk)
    first = copy.copy(cache_statistics(on_disk))
    assert first.hits == 0
    assert first.bytes_read == first.peak_bytes <= everything
    assert first.read_seconds > 0
    logits(on_disk)
    second = cache_statistics(on_disk)
    assert (second.hits, second.misses) == (first.misses, first.misses)
    assert second.bytes_read == first.bytes_read


def test_the_budget_may_be_given_while_loading(folder):
    with pytest.warns(UserWarning, match="expert_budget"):
        model = load(folder, quantization_config=MwqConfig(expert_budget=20_000))
    logits(model)
    assert 0 < cache_statistics(model).peak_bytes <= 20_000
    assert "expert_budget" not in model.config.to_dict()["quantization_config"]


def test_at_a_smaller_width_only_its_files_are_read(folder, tmp_path):
    for file in folder.iterdir():
        if not file.name.startswith(("mwq-3", "mwq-4")):
            (tmp_path / file.name).write_bytes(file.read_bytes())
    with pytest.warns(UserWarning, match="max_width"):
        model = load(tmp_path, quantization_config=MwqConfig(max_width=2))
    memory = nested_model()
    for module in nested_experts(memory).values():
        module.mwq_width = 2
    assert torch.equal(logits(model), logits(memory))


def test_copies_share_the_files(on_disk, expected):
    assert torch.equal(logits(copy.deepcopy(on_disk)), expected)
    with pytest.raises(TypeError, match="load its folder with experts_implementation"):
        pickle.dumps(on_disk)


def test_the_page_cache_may_be_left_out(on_disk, expected):
    set_expert_cache(on_disk, ExpertCache(keep_page_cache=False))
    assert torch.equal(logits(on_disk), expected)


def test_a_disk_that_fails_is_an_error_and_nothing_else(on_disk, expected, monkeypatch):
    """Also after some planes were read; and the next call works again."""
    store, calls = store_of(on_disk), []
    read = type(store)._read

    def fail(self, name, expert):
        calls.append(name)
        if len(calls) == 9:
            raise OSError(errno.EIO, os.strerror(errno.EIO), "mwq-3.safetensors")
        return read(self, name, expert)

    for budget in (None, store.largest_plane()):
        set_expert_cache(on_disk, ExpertCache(budget))
        calls.clear()
        with monkeypatch.context() as patched:
            patched.setattr(type(store), "_read", fail)
            with pytest.raises(OSError, match="Input/output error"):
                logits(on_disk)
        assert torch.equal(logits(on_disk), expected)


def test_a_file_that_was_cut_while_it_was_open(folder, tmp_path):
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    model = load(tmp_path)
    with (tmp_path / "mwq-3.safetensors").open("r+b") as file:
        file.truncate(file.seek(0, os.SEEK_END) - 400)
    with pytest.raises(OSError, match=r"mwq-3\.safetensors ends within the planes of expert"):
        logits(model)


def test_a_plane_that_was_changed_on_disk(folder, tmp_path):
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    model = load(tmp_path)
    path = tmp_path / "mwq-4.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(bytes(content))
    with pytest.raises(ValueError, match=r"planes of expert \d of .* damaged: their checksum"):
        logits(model)


def test_a_budget_below_one_plane_is_refused(on_disk, expected):
    least = store_of(on_disk).largest_plane()
    with pytest.raises(ValueError, match=rf"budget_bytes={least - 1} is less than the largest plane .* {least}"):
        set_expert_cache(on_disk, ExpertCache(least - 1))
    assert torch.equal(logits(on_disk), expected)


def test_an_error_in_the_computation_leaves_the_cache_usable(on_disk, expected, monkeypatch):
    from hf_mixture.moe.mwq import compute

    store, run = store_of(on_disk), compute._run_expert
    for budget in (None, store.largest_plane()):
        set_expert_cache(on_disk, ExpertCache(budget))
        calls = []

        def interrupt(*args, calls=calls):
            calls.append(args)
            if len(calls) == 3:
                raise KeyboardInterrupt
            return run(*args)

        with monkeypatch.context() as patched:
            patched.setattr(compute, "_run_expert", interrupt)
            with pytest.raises(KeyboardInterrupt):
                logits(on_disk)
        assert torch.equal(logits(on_disk), expected)


def test_what_experts_on_disk_cannot_do(on_disk, tmp_path):
    with pytest.raises(RuntimeError, match=r"no backward pass; call the model under torch.no_grad"):
        on_disk(**inputs())
    with pytest.raises(ValueError, match="are on disk and cannot be saved from it"):
        on_disk.save_pretrained(tmp_path / "again")
    with pytest.raises(ValueError, match="are on disk and cannot be turned into ordinary weights"):
        on_disk.dequantize()


def test_what_cannot_be_offloaded(tmp_path):
    full = full_model()
    full.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="this one is not; quantise it, save it, and load"):
        load(tmp_path, quantization_config=MwqConfig(group_size=16))
    for model in (load(tmp_path), nested_model()):
        model.set_experts_implementation("mwq_offload")
        with pytest.raises(TypeError, match="has no planes on disk; load a model that was saved with MwqConfig"):
            logits(model)
    with pytest.raises(ValueError, match="are not on disk; load a model"):
        set_expert_cache(full, ExpertCache())


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"budget_bytes": 0}, "budget_bytes=0 is not a positive whole number"),
        ({"budget_bytes": 1.5}, "budget_bytes=1.5 is not a positive whole number"),
        ({"order": "fast"}, "order='fast' is unknown; it is one of 'hebf'"),
        ({"eviction": "fifo"}, "eviction='fifo' is unknown; it is one of 'high_bits_first'"),
    ],
)
def test_caches_check_their_arguments(options, said):
    with pytest.raises(ValueError, match=said):
        ExpertCache(**options)


def evicted_first(eviction, uses, *, layer):
    """Which of four planes of 10 bytes goes when a fifth needs room."""
    cache = PlaneCache(ExpertCache(40, eviction=eviction), num_layers=3)
    for key in uses:
        assert cache.acquire(key, 10, lambda key: ((), ()))
        cache.release(key)
    before = {key for number in range(3) for key in [(number, *item) for item in cache.resident(number)]}
    cache.acquire(PlaneKey(layer, 9, 0), 10, lambda key: ((), ()))
    after = {key for number in range(3) for key in [(number, *item) for item in cache.resident(number)]}
    (gone,) = before - after
    return gone


def test_rules_of_eviction():
    a, b, c, d = PlaneKey(0, 0, 0), PlaneKey(0, 0, 1), PlaneKey(1, 1, 0), PlaneKey(1, 1, 1)
    # The highest bits go first; of these, those of the layer that is needed last: layer 1 comes after layer 0 ran.
    assert evicted_first("high_bits_first", [a, b, c, d], layer=0) == b
    assert evicted_first("high_bits_first", [a, b, c, d], layer=1) == d
    # Those that were used less go before.
    assert evicted_first("high_bits_first", [a, b, c, d, b], layer=0) == d
    assert evicted_first("lru", [a, b, c, d, a], layer=0) == b
    assert evicted_first("static", [a, b, c, d, a], layer=0) == d
