"""The gather against its dense oracle (a one-hot matrix product) in every situation autograd can put it in."""

from __future__ import annotations

import copy
import gc
import pickle
import threading
import weakref

import pytest
import torch
from torch import nn
from torch._dynamo import compiled_autograd
from torch.func import functional_call
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint

from hf_mixture.adapters.mos import gather
from hf_mixture.adapters.mos.gather import gather_rows


NUM_ROWS, WIDTH, NUM_READ, NUM_MODULES = 11, 6, 8, 4


def dense_rows(pool, index):
    return nn.functional.one_hot(index.long(), len(pool)).to(pool.dtype) @ pool


def plain_rows(pool, index):
    return pool.index_select(0, index)


class Reader(nn.Module):
    """Reads a pool that it does not own, as an adapter layer does."""

    def __init__(self, bank, read):
        super().__init__()
        self.bank, self.read = (bank,), read
        self.register_buffer("index", torch.randperm(NUM_ROWS)[:NUM_READ].int())
        self.register_buffer("weight", torch.randn(NUM_READ, WIDTH))

    def forward(self, x):
        factor = self.read(self.bank[0]["pool"], self.index).to(x.dtype)
        return torch.tanh(x @ factor.T) @ self.weight.to(x.dtype)


class Model(nn.Module):
    """A chain of readers of one pool; `checkpointing` is None or the value of `use_reentrant`."""

    def __init__(self, read, checkpointing=None):
        super().__init__()
        self.bank = nn.ParameterDict({"pool": nn.Parameter(torch.randn(NUM_ROWS, WIDTH))})
        self.readers = nn.ModuleList(Reader(self.bank, read) for _ in range(NUM_MODULES))
        self.checkpointing = checkpointing

    def forward(self, x):
        for reader in self.readers:
            if self.checkpointing is None:
                x = x + reader(x)
            else:
                x = x + checkpoint(reader, x, use_reentrant=self.checkpointing)
        return x


def pair(checkpointing=None, dtype=torch.float64):
    """The model under test and its oracle, and an input."""
    models = []
    for read in (gather_rows, dense_rows):
        torch.manual_seed(0)
        models.append(Model(read, checkpointing if read is gather_rows else None).to(dtype))
    # Reentrant checkpointing wants an input that needs a gradient.
    return *models, torch.randn(3, WIDTH, dtype=dtype, requires_grad=True)


def grads(model, loss=None, x=None):
    model.zero_grad()
    loss = model(x).sum() if loss is None else loss
    loss.backward()
    return model.bank["pool"].grad


class PoolAllocations(TorchDispatchMode):
    """Operators that return a new tensor of the shape of the pool."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        # In-place operators return an input, and `detach` returns an alias.
        is_new = not func._schema.is_mutable and func is not torch.ops.aten.detach.default
        if is_new and isinstance(result, torch.Tensor) and result.shape == (NUM_ROWS, WIDTH):
            self.names.append(str(func))
        return result


@pytest.mark.parametrize("checkpointing", [None, False, True])
def test_gradients_equal_dense_form(checkpointing):
    model, oracle, x = pair(checkpointing)
    expected = grads(oracle, x=x)
    assert expected.abs().min() > 0
    assert torch.equal(model(x), oracle(x)) or torch.allclose(model(x), oracle(x), rtol=0, atol=1e-12)
    for _ in range(2):
        torch.testing.assert_close(grads(model, x=x), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("checkpointing", [None, False])
@pytest.mark.parametrize("read", [gather_rows, plain_rows])
def test_one_pool_sized_allocation_per_backward(checkpointing, read):
    torch.manual_seed(0)
    model = Model(read, checkpointing)
    for _ in range(2):
        loss = model(torch.randn(3, WIDTH)).sum()
        model.zero_grad()
        with PoolAllocations() as allocations:
            loss.backward()
        if read is gather_rows:
            assert allocations.names == ["aten.new_zeros.default"]
        else:
            assert allocations.names.count("aten.new_zeros.default") == NUM_MODULES


def test_accumulation_and_two_forwards_before_one_backward():
    model, oracle, x = pair()
    expected = grads(oracle, oracle(x).sum() + oracle(2 * x).sum())
    torch.testing.assert_close(grads(model, model(x).sum() + model(2 * x).sum()), expected)
    model.zero_grad()
    for scale in (1, 2):
        model(scale * x).sum().backward()
    torch.testing.assert_close(model.bank["pool"].grad, expected)
    first, second = model(x).sum(), model(2 * x).sum()
    model.zero_grad()
    first.backward()
    second.backward()
    torch.testing.assert_close(model.bank["pool"].grad, expected)


def test_second_backward_of_a_retained_graph():
    model, oracle, x = pair()
    expected = grads(oracle, x=x).clone()
    model.zero_grad()
    loss = model(x).sum()
    loss.backward(retain_graph=True)
    loss.backward()
    torch.testing.assert_close(model.bank["pool"].grad, 2 * expected)


@pytest.mark.parametrize("checkpointing", [None, False, True])
def test_aborted_backward_leaves_nothing_behind(checkpointing):
    model, oracle, x = pair(checkpointing)
    expected = grads(oracle, x=x)
    loss = model(x).sum()

    def fail(grad):
        raise RuntimeError("out of memory, say")

    hook = model.readers[0].weight.requires_grad_().register_hook(fail)
    failing = model(x).sum()
    with pytest.raises(RuntimeError, match="out of memory"):
        failing.backward()
    hook.remove()
    model.zero_grad()
    loss.backward()
    torch.testing.assert_close(model.bank["pool"].grad, expected)
    del loss, failing
    gc.collect()
    assert len(gather._collectors) == 0


def test_reentrant_backward_inside_a_backward():
    """The outer pass has a half-filled buffer of the same pool while the inner one runs."""
    model, oracle, x = pair()

    class Chain(nn.Module):
        def __init__(self, model, reentrant):
            super().__init__()
            self.model, self.reentrant = model, reentrant

        def forward(self, x):
            first, second, third, fourth = self.model.readers
            x = x + first(x)
            x = x + (checkpoint(second, x, use_reentrant=True) if self.reentrant else second(x))
            return third(x) + fourth(x) * first(x)

    Chain(oracle, reentrant=False)(x).sum().backward()
    Chain(model, reentrant=True)(x).sum().backward()
    torch.testing.assert_close(model.bank["pool"].grad, oracle.bank["pool"].grad)


def test_hooks_see_the_complete_gradient_once():
    model, oracle, x = pair()
    expected = grads(oracle, x=x)
    seen, accumulated = [], []
    pool = model.bank["pool"]
    pool.register_hook(lambda grad: seen.append(grad.clone()))
    pool.register_post_accumulate_grad_hook(lambda pool: accumulated.append(pool.grad.clone()))
    grads(model, x=x)
    for calls in (seen, accumulated):
        assert len(calls) == 1
        torch.testing.assert_close(calls[0], expected)


def test_autograd_grad_and_partial_backward():
    model, oracle, x = pair()
    expected = grads(oracle, x=x)
    pool = model.bank["pool"]
    loss = model(x).sum()
    (grad_x,) = torch.autograd.grad(loss, x, retain_graph=True)
    (grad_pool,) = torch.autograd.grad(loss, pool, retain_graph=True)
    loss.backward(inputs=[x], retain_graph=True)
    assert pool.grad is None
    loss.backward(inputs=[pool])
    torch.testing.assert_close(grad_pool, expected)
    torch.testing.assert_close(pool.grad, expected)
    torch.testing.assert_close(grad_x, torch.autograd.grad(oracle(x).sum(), x)[0])


def test_pool_with_another_use():
    model, oracle, x = pair()
    loss, expected_loss = (m(x).sum() + m.bank["pool"].pow(2).sum() for m in (model, oracle))
    torch.testing.assert_close(grads(model, loss), grads(oracle, expected_loss))


def test_unused_factor():
    pool = nn.Parameter(torch.randn(NUM_ROWS, WIDTH))
    index = torch.arange(3, dtype=torch.int32)
    used, _ = gather_rows(pool, index), gather_rows(pool, index + 1)
    used.sum().backward()
    assert pool.grad.sum() == 3 * WIDTH


def test_duplicate_rows_add_up():
    pool = nn.Parameter(torch.zeros(4, 2))
    gather_rows(pool, torch.tensor([1, 1, 3])).sum().backward()
    assert pool.grad[:, 0].tolist() == [0, 2, 0, 1]


def test_higher_derivatives():
    results = []
    for model, x in zip(pair()[:2], [pair()[2]] * 2, strict=True):
        pool = model.bank["pool"]
        (first,) = torch.autograd.grad(model(x).sum(), pool, create_graph=True)
        (second,) = torch.autograd.grad(first.pow(2).sum(), pool)
        results.append(second)
    torch.testing.assert_close(*results)


def test_batched_backward():
    results = []
    x = pair()[2]
    for model in pair()[:2]:
        output = model(x)
        basis = torch.eye(output.numel(), dtype=output.dtype).reshape(-1, *output.shape)
        pool = model.bank["pool"]
        results.append(torch.autograd.grad(output, pool, basis, is_grads_batched=True)[0])
    torch.testing.assert_close(*results)


@pytest.mark.parametrize("transform", ["functional_call", "grad", "vmap", "jvp"])
def test_functional_forms(transform):
    results = []
    x = pair()[2].detach()
    for model in pair()[:2]:
        parameters = {name: nn.Parameter(2 * value) for name, value in model.named_parameters()}
        pool = parameters["bank.pool"]

        def loss(parameters, x, model=model):
            return functional_call(model, parameters, (x,)).pow(2).sum()

        if transform == "functional_call":
            loss(parameters, x).backward()
            results.append(pool.grad)
        elif transform == "grad":
            results.append(torch.func.grad(loss)(parameters, x)["bank.pool"])
        elif transform == "vmap":
            results.append(torch.func.vmap(model)(x[:, None]))
        else:
            results.append(torch.func.jvp(lambda x, model=model: model(x), (x,), (torch.ones_like(x),))[1])
    torch.testing.assert_close(*results)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_modes_without_gradient(mode):
    model, oracle, x = pair()
    with mode():
        result = model(x)
    assert not result.requires_grad
    assert len(gather._collectors) == 0
    torch.testing.assert_close(result, oracle(x).detach())


def test_frozen_pool_records_nothing():
    model, _, x = pair()
    model.requires_grad_(False)
    assert not model(x.detach()).requires_grad


def test_compile_without_graph_break():
    model, oracle, x = pair(dtype=torch.float32)
    expected = grads(oracle, x=x)
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    compiled(x).sum().backward()
    torch.testing.assert_close(model.bank["pool"].grad, expected)


def test_compiled_autograd():
    model, oracle, x = pair(dtype=torch.float32)
    expected = grads(oracle, x=x)
    for _ in range(2):
        loss = model(x).sum()
        model.zero_grad()
        with compiled_autograd._enable(lambda graph: graph):
            loss.backward()
        torch.testing.assert_close(model.bank["pool"].grad, expected)


def test_low_precision_forward_keeps_a_full_precision_gradient():
    results = []
    for read in (gather_rows, plain_rows):
        torch.manual_seed(0)
        model = Model(read)
        x = torch.randn(3, WIDTH)
        low = grads(model, x=x.bfloat16())
        with torch.autocast("cpu", torch.bfloat16):
            autocast = grads(model, x=x)
        assert low.dtype == autocast.dtype == torch.float32
        results.append((low, autocast))
    torch.testing.assert_close(*results)


def test_replaced_parameter():
    """Casts, assign-loads and FSDP2 put another Parameter into the bank, even between forward and backward."""
    model, oracle, x = pair()
    expected = grads(oracle, x=x)
    loss = model(x).sum()
    old = model.bank["pool"]
    model.bank["pool"] = nn.Parameter(old.detach().clone())
    grads(model, x=x)
    loss.backward()
    torch.testing.assert_close(model.bank["pool"].grad, expected)
    torch.testing.assert_close(old.grad, expected)


def test_copies_are_independent():
    model, oracle, x = pair()
    expected = grads(oracle, x=x)
    loss = model(x).sum()
    pool = model.bank["pool"]
    for twin in (copy.deepcopy(pool), pickle.loads(pickle.dumps(pool))):  # noqa: S301 - made on this line
        assert twin is not pool
        gather_rows(twin, model.readers[0].index).sum().backward()
        assert twin.grad.sum() == NUM_READ * WIDTH
    loss.backward()
    torch.testing.assert_close(pool.grad, expected)


def test_nothing_keeps_a_pool_alive():
    model, _, x = pair()
    grads(model, x=x)
    model(x)
    pool = weakref.ref(model.bank["pool"])
    del model
    gc.collect()
    assert pool() is None
    assert len(gather._collectors) == 0


def test_backward_passes_of_several_threads():
    model, oracle, x = pair()
    expected = grads(oracle, x=x)
    pool = model.bank["pool"]
    results = [None] * 4
    losses = [(i + 1) * model(x).sum() for i in range(4)]
    barrier = threading.Barrier(4)

    def work(i):
        barrier.wait()
        (results[i],) = torch.autograd.grad(losses[i], pool)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for i, result in enumerate(results):
        torch.testing.assert_close(result, (i + 1) * expected)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_streams_do_not_share_a_buffer():
    pool = nn.Parameter(torch.randn(64, 256, device="cuda"))
    index = torch.arange(64, dtype=torch.int32, device="cuda")
    streams = [torch.cuda.Stream() for _ in range(3)]
    parts = []
    for scale, stream in enumerate(streams, start=1):
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            parts.append(scale * gather_rows(pool, index).sum())
    for stream in streams:
        torch.cuda.current_stream().wait_stream(stream)
    sum(parts).backward()
    assert torch.equal(pool.grad, torch.full_like(pool, 6.0))
