"""Ways to gather the factors of L modules from one pool: forward and backward of the gather alone.

(i) `index_select` in every module. (ii) One batched gather for all modules of the pool; it has to happen before the
first of them runs, and keeps all gathered rows alive. (iii) A backward that adds into `pool.grad` behind the back of
autograd, which hooks, DDP and `torch.autograd.grad` do not see. (v) `gather_rows`: one buffer per backward pass,
handed to autograd as the gradient of the pool.
"""

from __future__ import annotations

import torch
from common import MIB, compare, peak_bytes, print_table, summarise, time_interleaved, write
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from hf_mixture.adapters.mos.gather import gather_rows
from hf_mixture.adapters.mos.shards import draw_indices, num_shards_in_pool


SETTINGS = {
    "L=12 features=512 e=2": {"modules": 12, "features": 512, "equivalent_rank": 2},
    "L=32 features=4096 e=2": {"modules": 32, "features": 4096, "equivalent_rank": 2},
    "L=32 features=4096 e=8": {"modules": 32, "features": 4096, "equivalent_rank": 8},
}
RANK, NUM_SHARDS = 16, 4
REPEATS = 5  # passes per timed run: one alone takes less than a millisecond in the smallest setting
HANDLE = "(v) gather_rows"


class _IntoGrad(torch.autograd.Function):
    """Option (iii)."""

    @staticmethod
    def forward(ctx, pool, index):
        ctx.pool = pool
        ctx.save_for_backward(index)
        return pool.detach().index_select(0, index)

    @staticmethod
    def backward(ctx, grad):
        if ctx.pool.grad is None:
            ctx.pool.grad = torch.zeros_like(ctx.pool)
        ctx.pool.grad.index_add_(0, ctx.saved_tensors[0], grad)
        return None, None


def per_module(pool, indices):
    return [pool.index_select(0, index) for index in indices]


def batched(pool, indices):
    return pool.index_select(0, torch.cat(indices)).split(len(indices[0]))


def into_grad(pool, indices):
    return [_IntoGrad.apply(pool, index) for index in indices]


def handle(pool, indices):
    return [gather_rows(pool, index) for index in indices]


OPTIONS = {
    "(i) index_select per module": per_module,
    "(ii) one batched gather": batched,
    "(iii) into pool.grad": into_grad,
    HANDLE: handle,
}


class AllocatedBytes(TorchDispatchMode):
    """Bytes of gradients of the shape of the pool, and how many of them are made."""

    def __init__(self, shape):
        super().__init__()
        self.shape, self.count = shape, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        self.count += func is torch.ops.aten.new_zeros.default and result.shape == self.shape
        self.count += func is torch.ops.aten.zeros_like.default and result.shape == self.shape
        return result


def make_pass(option, pool, indices, grads):
    def run():
        pool.grad = None
        torch.autograd.backward(option(pool, indices), grads)

    return run


def measure(setting: str, modules: int, features: int, equivalent_rank: int) -> dict:
    pool = nn.Parameter(torch.randn(num_shards_in_pool(equivalent_rank, modules, NUM_SHARDS), features // NUM_SHARDS))
    indices = [
        draw_indices(
            group="q_proj",
            position=position,
            rank=RANK,
            equivalent_rank=equivalent_rank,
            private_rank=0,
            num_modules=modules,
            num_shards=NUM_SHARDS,
            seed=0,
        )[0].int()
        for position in range(modules)
    ]
    # One gradient per module, as the matrix products give them; their time is not part of the comparison.
    grads = [torch.randn(len(indices[0]), pool.shape[1]) for _ in indices]
    passes = {name: make_pass(option, pool, indices, grads) for name, option in OPTIONS.items()}
    gradients, counts, peaks = {}, {}, {}
    for name, run in passes.items():
        with AllocatedBytes(pool.shape) as allocated:
            run()
        gradients[name], counts[name], peaks[name] = pool.grad.clone(), allocated.count, peak_bytes(run)
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, gradients["(i) index_select per module"], msg=name)

    def repeat(run):
        return lambda: [run() for _ in range(REPEATS)]

    # Processor time: the passes are short, and other work on the machine would decide their wall-clock time.
    times = time_interleaved({name: repeat(run) for name, run in passes.items()}, rounds=40, title=setting).cpu
    times = {name: [t / REPEATS for t in samples] for name, samples in times.items()}
    ratios = compare(times, HANDLE)
    print_table(
        [setting, "cpu us per pass", "pool-sized zeros", "peak MiB", "(v) / option"],
        [
            [
                name,
                f"{1e6 * summarise(times[name])['median']:.0f}",
                counts[name],
                f"{peaks[name] / MIB:.2f}",
                f"{ratios[f'{HANDLE} / {name}']['median']:.2f}" if name != HANDLE else "",
            ]
            for name in times
        ],
    )
    return {
        "pool_bytes": pool.numel() * 4,
        "options": {
            name: {"cpu_seconds": summarise(times[name]), "pool_sized_zeros": counts[name], "peak_bytes": peaks[name]}
            for name in times
        },
        "cpu_time_ratios": ratios,
    }


def main() -> None:
    results = {name: measure(name, **setting) for name, setting in SETTINGS.items()}
    write("mos_gather", {"setting": {"rank": RANK, "num_shards": NUM_SHARDS}, "pools": results})


if __name__ == "__main__":
    main()
