"""K = 32 adapters resident on one base: memory, and the time to switch between two of them."""

from __future__ import annotations

import itertools

from common import MIB, compare, print_table, summarise, time_interleaved, write
from mos_models import EQUIVALENT_RANK, MOS, RANK, adapt, adapter_bytes, adapter_configs, base_model
from tqdm import tqdm


K = 32
METHODS = (MOS, f"LoRA r={RANK}", f"LoRA r={EQUIVALENT_RANK}")


def make_switch(model):
    names = itertools.cycle(model.peft_config)
    return lambda: model.set_adapter(next(names))


def main() -> None:
    base, configs = base_model(), adapter_configs()
    models = {name: adapt(base, configs[name]) for name in METHODS}
    for index in tqdm(range(1, K), desc="adapters"):
        for name, model in models.items():
            model.add_adapter(f"adapter_{index}", configs[name])
    sizes = {name: adapter_bytes(model, base) for name, model in models.items()}
    times = time_interleaved({name: make_switch(model) for name, model in models.items()}, title="switches").wall
    methods = {
        name: {
            "resident_bytes": sizes[name],
            "bytes_per_adapter": sizes[name] / K,
            "switch_seconds": summarise(times[name]),
        }
        for name in METHODS
    }
    print_table(
        ["method", f"MiB of {K} adapters", "KiB per adapter", "ms per switch"],
        [
            [
                name,
                f"{row['resident_bytes'] / MIB:.1f}",
                f"{row['bytes_per_adapter'] / 1024:.0f}",
                f"{1e3 * row['switch_seconds']['median']:.1f}",
            ]
            for name, row in methods.items()
        ],
    )
    write(
        "mos_resident",
        {
            "setting": {"layers": 12, "hidden": 512, "adapters": K},
            "methods": methods,
            "memory_ratios": {f"{MOS} / {name}": sizes[MOS] / sizes[name] for name in METHODS[1:]},
            "switch_time_ratios": compare(times, MOS),
        },
    )


if __name__ == "__main__":
    main()
