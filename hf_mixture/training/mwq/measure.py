"""What a D2MoE run compares: quality, bytes and speed of one model at all widths, and of its alternatives.

Rows are named by how the experts are held and at which width they run.
"""

from __future__ import annotations

import functools
import statistics
import time
from collections.abc import Callable
from typing import Any

from hf_mixture._extras import is_installed
from hf_mixture.moe.mwq.cache import Eviction
from hf_mixture.moe.mwq.schedule import Order
from hf_mixture.training.mwq.parts import FULL, NESTED, MwqRun, load, routed, scores, separate


# Alternatives that are named in the table whether they are there or not.
_PEERS = ("bitsandbytes", "hqq", "torchao")


def systems(run: MwqRun) -> dict[str, Callable[[], Any]]:
    """The models whose quality is measured, by row, and how each is loaded."""
    import torch

    from hf_mixture.moe.mwq.budget import set_bit_budget

    def nested_at(width: int) -> Any:
        model = load(run, NESTED)
        set_bit_budget(model, width)
        return model

    found: dict[str, Callable[[], Any]] = {
        "float32": lambda: load(run, FULL, dtype=torch.float32),
        "bfloat16": lambda: load(run, FULL, dtype=torch.bfloat16),
    }
    # On CPUs bitsandbytes needs whole blocks of 64 inputs.
    if is_installed("bitsandbytes") and run.recipe.model.get("hidden_size", 0) % 64 == 0:
        found["bitsandbytes nf4"] = lambda: load(run, FULL, quantization_config=_nf4())
    for width in run.recipe.planes.widths:
        found[f"only {width} bits"] = functools.partial(load, run, separate(width))
    for width in run.recipe.planes.widths:
        found[f"nested at {width} bits"] = functools.partial(nested_at, width)
    found["nested, by gate and error"] = lambda: _by_gate_and_error(run)
    for alpha in run.recipe.bit_routers.alphas:
        found[f"nested, bit routers, alpha {alpha:g}"] = functools.partial(load, run, routed(alpha))
    return found


def measure_quality(run: MwqRun) -> None:
    """Score every system, one part of the run each."""
    from hf_mixture.moe.mwq.budget import average_bits
    from hf_mixture.moe.mwq.targets import nested_modules

    for name, build in systems(run).items():
        part = f"quality/{name}"
        if part in run.journal.finished:
            continue
        print(f"\n== quality: {name}", flush=True)
        model = build()
        nested = bool(nested_modules(model))
        if nested:
            average_bits(model)
        found = {"bits_per_byte": scores(run, model, name)}
        run.finish(
            part, found | {"bits": average_bits(model) if nested else None, "expert_bytes": expert_bytes(model)}
        )


def expert_bytes(model: Any) -> int:
    """Bytes of the experts of a model in memory: weights, or planes with their scales."""
    from hf_mixture.moe.anatomy import find_routers

    total = 0
    for router in find_routers(model):
        assert router.experts is not None  # noqa: S101 - the plan has found them
        own = router.experts.parameters(recurse=False)
        total += sum(parameter.numel() * parameter.element_size() for parameter in own)
    return total


def offloaded(run: MwqRun) -> dict[str, tuple[int, Order, Eviction]]:
    """The systems on disk, by row: bytes of the budget, and the rules of the cache."""
    speed, eight_bits = run.recipe.speed, run.plan.expert_parameters
    roomy, tight = (int(part * eight_bits) for part in (speed.budget, speed.tight_budget))
    label = f"on disk, {speed.tight_budget:.0%}"
    return {
        f"on disk, {speed.budget:.0%} of 8 bits": (roomy, "hebf", "high_bits_first"),
        f"{label}, hebf, high_bits_first": (tight, "hebf", "high_bits_first"),
        f"{label}, expert_id, high_bits_first": (tight, "expert_id", "high_bits_first"),
        f"{label}, hebf, lru": (tight, "hebf", "lru"),
        f"{label}, hebf, static": (tight, "hebf", "static"),
    }


def measure_speed(run: MwqRun) -> None:
    """Let all systems generate in turn, and note tokens per second: a part by itself, since ratios need one run."""
    import torch
    from tqdm.auto import tqdm

    from hf_mixture.moe.mwq.cache import ExpertCache
    from hf_mixture.moe.mwq.offload import set_expert_cache

    if "speed" in run.journal.finished:
        return
    print("\n== tokens per second, all systems in turn", flush=True)
    spec = run.recipe.speed
    windows = next(iter(run.prepared.windows("test", run.recipe.block_size).values()))
    prompt = windows.input_ids.flatten()[None, : spec.prompt_tokens]
    models = {name: build() for name, build in systems(run).items()}
    alpha = run.recipe.bit_routers.alphas[0]
    caches: dict[str, ExpertCache] = {}
    for name, (budget, order, eviction) in offloaded(run).items():
        models[name] = load(run, routed(alpha), experts_implementation="mwq_offload")
        # The page cache is left out: what is not in the budget comes from the disk.
        caches[name] = ExpertCache(budget, order=order, eviction=eviction, keep_page_cache=False)
        set_expert_cache(models[name], caches[name])
    options = {"max_new_tokens": spec.new_tokens, "min_new_tokens": spec.new_tokens, "do_sample": False}
    seconds: dict[str, list[float]] = {name: [] for name in models}
    names = list(models)
    answers: dict[str, Any] = {}
    for turn in tqdm(range(-1, spec.rounds), desc="rounds"):
        shift = turn % len(names)
        for name in names[shift:] + names[:shift]:
            start = time.perf_counter()
            with torch.no_grad():
                answers[name] = models[name].generate(prompt, **options)
            if turn >= 0:
                seconds[name].append(time.perf_counter() - start)
            elif name in caches:
                caches[name].reset()
    expected = answers[f"nested, bit routers, alpha {alpha:g}"]
    rows: dict[str, Any] = {}
    for name, samples in seconds.items():
        rates = [spec.new_tokens / sample for sample in samples]
        ratios = [base / sample for base, sample in zip(seconds["bfloat16"], samples, strict=True)]
        rows[name] = {"tokens_per_second": statistics.median(rates), "of_bfloat16": statistics.median(ratios)}
        if name in caches:
            if not torch.equal(answers[name], expected):
                raise RuntimeError(f"{name}: experts on disk answered differently from the same experts in memory")
            memory = seconds[f"nested, bit routers, alpha {alpha:g}"]
            statistic = vars(caches[name].statistics)
            rows[name] |= {"cache": statistic, "of_memory": _median_ratio(memory, samples)}
            rows[name]["expert_bytes"] = statistic["peak_bytes"]
    first, second = (name for name in offloaded(run) if "hebf, high" in name or "expert_id" in name)
    rows["hebf over expert_id"] = {"ratio": _median_ratio(seconds[second], seconds[first])}
    run.finish("speed", rows)


def peers() -> dict[str, str]:
    """What other quantisation libraries can do here, by name."""
    said = {name: "not installed" for name in _PEERS if not is_installed(name)}
    if is_installed("bitsandbytes"):
        said["bitsandbytes"] = "quantises dense linear layers and leaves experts of three dimensions as they are"
    return said


def _median_ratio(slower: list[float], faster: list[float]) -> float:
    return statistics.median(a / b for a, b in zip(slower, faster, strict=True))


def _nf4() -> Any:
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4")


def _by_gate_and_error(run: MwqRun) -> Any:
    """The nested model with the policy without training, calibrated on training text."""
    import torch

    from hf_mixture.moe.mwq.budget import calibrate_bits, set_bit_budget
    from hf_mixture.training.prepare import training_rows

    rows = training_rows(run.recipe.data_recipe(), run.prepared, "adapt", 16)
    model = load(run, NESTED)
    calibrate_bits(model, [{"input_ids": torch.tensor([row["input_ids"]])} for row in rows])
    set_bit_budget(model, run.recipe.bit_routers.average_bits)
    return model
