"""How tensors of the batch reach routers: the hash router in whole models, and routers with keys of their own."""

from __future__ import annotations

import copy

import pytest
import torch
from moe_families import build_tiny_moe
from peft import LoraConfig, get_peft_model

from hf_mixture.moe.anatomy import find_routers
from hf_mixture.moe.router_loading import register_router_loading
from hf_mixture.moe.routers import (
    LinearRouter,
    RouterContext,
    register_router,
    registry,
    replace_routers,
    routing_context,
)
from hf_mixture.moe.routers.hashing import hash_experts
from hf_mixture.moe.routers.topk import route_topk_softmax


@pytest.fixture
def hashed():
    tiny = build_tiny_moe("qwen3_moe")
    replace_routers(tiny.model, "hash")
    return tiny


@pytest.fixture
def shifted(monkeypatch):
    """A model whose routers add to their logits what the batch has under "shift"."""
    monkeypatch.setattr(registry, "_ROUTERS", dict(registry._ROUTERS))

    @register_router("shifted", causal=True, context=("shift",), paper="https://example.org", summary="Shifted.")
    class Shifted(LinearRouter):
        def route(self, hidden):
            shift = self.context.per_token("shift", len(hidden), num_features=1)
            return route_topk_softmax(self.logits(hidden) + shift, self.top_k)

    tiny = build_tiny_moe("qwen3_moe")
    replace_routers(tiny.model, "shifted")
    return tiny


def chosen(model, call):
    """What the routers choose during a call."""
    seen = []
    handles = [handle for router in find_routers(model) for handle in router.observe(lambda o: seen.append(o.indices))]
    try:
        with torch.no_grad():
            call()
    finally:
        for handle in handles:
            handle.remove()
    return seen


def test_every_layer_chooses_by_the_token_id_alone(hashed):
    ids = hashed.inputs["input_ids"]
    for call in (
        lambda: hashed.model(ids),
        lambda: hashed.model(**hashed.inputs),
        lambda: hashed.model.model(input_ids=ids),
    ):
        layers = chosen(hashed.model, call)
        routers = find_routers(hashed.model)
        assert len(layers) == len(routers) > 1
        for indices, router in zip(layers, routers, strict=True):
            expected = hash_experts(ids.flatten(), router.num_experts, router.top_k, seed=router.module.layer_seed)
            assert torch.equal(indices, expected)
        assert not torch.equal(layers[0], layers[1])


def test_a_forward_without_ids_is_an_error_and_the_next_one_works(hashed):
    expected = hashed.model(**hashed.inputs).logits
    embeddings = hashed.model.get_input_embeddings()(hashed.inputs["input_ids"])
    with pytest.raises(ValueError, match="the routers need 'input_ids' in the batch"):
        hashed.model(inputs_embeds=embeddings)
    assert torch.equal(hashed.model(**hashed.inputs).logits, expected)
    with routing_context(hashed.model, input_ids=hashed.inputs["input_ids"]):
        out = hashed.model(inputs_embeds=embeddings, attention_mask=hashed.inputs["attention_mask"])
    assert torch.equal(out.logits, expected)


def test_generation_with_a_cache_equals_generation_without(hashed):
    prompt = hashed.inputs["input_ids"][:1]
    arguments = {"max_new_tokens": 5, "do_sample": False, "pad_token_id": 0}
    cached = hashed.model.generate(prompt, **arguments)
    assert torch.equal(hashed.model.generate(prompt, use_cache=False, **arguments), cached)


@pytest.mark.parametrize("reentrant", [False, True])
def test_gradient_checkpointing_sees_the_same_ids(hashed, reentrant):
    def gradients(model):
        model.train()
        model(**hashed.inputs, labels=hashed.inputs["input_ids"]).loss.backward()
        return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}

    plain = gradients(copy.deepcopy(hashed.model))
    hashed.model.activation_checkpointing_enable({"use_reentrant": reentrant})
    hashed.model.enable_input_require_grads()
    again = gradients(hashed.model)
    assert plain.keys() == again.keys()
    for name, gradient in plain.items():
        torch.testing.assert_close(again[name], gradient)


def test_checkpointed_layers_of_two_batches_are_not_mixed_up(hashed):
    """The backward of the first of two forwards would route its tokens by the ids of the second."""
    model = hashed.model.train()
    model.activation_checkpointing_enable({"use_reentrant": False})

    def loss(row):
        return model(input_ids=hashed.inputs["input_ids"][row : row + 1]).logits.sum()

    for row in (0, 1, 0):
        loss(row).backward()
    both = loss(0) + loss(1)
    with pytest.raises(ValueError, match="2 training forwards ran before this backward"):
        both.backward()
    model.activation_checkpointing_disable()
    (loss(0) + loss(1)).backward()


def test_a_copy_has_a_context_of_its_own(hashed):
    twin = copy.deepcopy(hashed.model)
    with routing_context(hashed.model, input_ids=hashed.inputs["input_ids"]):
        embeddings = hashed.model.get_input_embeddings()(hashed.inputs["input_ids"])
        hashed.model(inputs_embeds=embeddings)
        with pytest.raises(ValueError, match="input_ids"):
            twin(inputs_embeds=embeddings)
    assert torch.equal(twin(**hashed.inputs).logits, hashed.model(**hashed.inputs).logits)


def test_a_composite_model_tells_the_routers_inside_it():
    tiny = build_tiny_moe("qwen3_vl_moe")
    replaced = replace_routers(tiny.model, "hash")
    layers = chosen(tiny.model, lambda: tiny.model(**tiny.inputs))
    (router, *_) = find_routers(tiny.model)
    ids = tiny.inputs["input_ids"].flatten()
    expected = hash_experts(ids, router.num_experts, router.top_k, seed=router.module.layer_seed)
    assert torch.equal(layers[0], expected)
    register_router_loading()
    # So does one that is made from the configuration, in which only the text part names the router.
    assert not hasattr(tiny.model.config, "moe_router")
    again = type(tiny.model)(copy.deepcopy(tiny.model.config)).eval()
    assert torch.equal(chosen(again, lambda: again(**tiny.inputs))[0], expected)
    replaced.remove()
    assert not any(module._forward_pre_hooks for module in tiny.model.modules())


def test_adapters_around_the_model_change_nothing(hashed):
    expected = hashed.model(**hashed.inputs).logits
    adapted = get_peft_model(hashed.model, LoraConfig(target_modules=["q_proj"], task_type="CAUSAL_LM"))
    assert torch.equal(adapted(**hashed.inputs).logits, expected)


def test_compiled_models_read_their_context(hashed):
    expected = hashed.model(**hashed.inputs).logits
    compiled = torch.compile(hashed.model, backend="eager", fullgraph=True)
    with torch.no_grad():
        torch.testing.assert_close(compiled(**hashed.inputs).logits, expected)
        other = {**hashed.inputs, "input_ids": hashed.inputs["input_ids"].flip(0)}
        torch.testing.assert_close(compiled(**other).logits, hashed.model(**other).logits)
    torch.compiler.reset()


def test_keys_of_routers_are_taken_out_of_the_arguments(shifted):
    model, ids = shifted.model, shifted.inputs["input_ids"]
    by_sequence = torch.tensor([[9.0] + [0.0] * 7, [0.0] * 7 + [9.0]])
    layers = chosen(model, lambda: model(input_ids=ids, shift=by_sequence))
    assert [indices[:9].eq(0).any(-1).all() and indices[9:].eq(7).any(-1).all() for indices in layers]
    by_token = by_sequence.unsqueeze(1).expand(-1, 9, -1)
    for one, other in zip(layers, chosen(model, lambda: model(input_ids=ids, shift=by_token)), strict=True):
        assert torch.equal(one, other)
    with pytest.raises(ValueError, match="pass shift="):
        model(input_ids=ids)
    with pytest.raises(ValueError, match=r"'shift' has the shape \(5, 8\) and the routers see 18 tokens"):
        model(input_ids=ids, shift=torch.zeros(5, 8))


def test_generation_takes_the_context_from_outside(shifted):
    model, prompt = shifted.model, shifted.inputs["input_ids"][:1]
    shift = torch.tensor([[9.0] + [0.0] * 7])
    with routing_context(model, shift=shift):
        layers = chosen(model, lambda: model.generate(prompt, max_new_tokens=3, pad_token_id=0))
    assert len(layers) == 3 * model.config.num_hidden_layers
    assert all(indices.eq(0).any(-1).all() for indices in layers)
    nobody = routing_context(model, tasks=shift)
    with pytest.raises(ValueError, match=r"no router of the model reads 'tasks' \(keys: shift\)"):
        nobody.__enter__()


def test_tensors_are_not_kept_longer_than_they_are_needed(shifted):
    (context,) = {router.module.context for router in find_routers(shifted.model)}
    assert isinstance(context, RouterContext)
    with torch.no_grad():
        shifted.model(input_ids=shifted.inputs["input_ids"], shift=torch.zeros(2, 8))
    with pytest.raises(ValueError, match="has none"):
        context.get("shift")
