"""The registry of routers, and what all of its entries promise."""

from __future__ import annotations

import inspect

import pytest
import torch

from hf_mixture.moe.routers import LinearRouter, RouterShape, list_routers, register_router, registry, router_info


SHAPE = RouterShape(num_experts=8, hidden_size=16, top_k=2, layer=3)


@pytest.fixture
def scratch(monkeypatch):
    monkeypatch.setattr(registry, "_ROUTERS", dict(registry._ROUTERS))


def test_a_name_is_registered_once(scratch):
    make = register_router("again", causal=True, paper="https://example.org", summary="Twice.")

    @make
    class Again(LinearRouter):
        pass

    assert router_info("again").router_class is Again
    with pytest.raises(ValueError, match=r"name='again' is taken by .*Again; give the router another name"):
        make(type("Other", (LinearRouter,), {}))
    assert router_info("again").router_class is Again


def test_entries_are_listed_by_name_with_their_options():
    names = [info.name for info in list_routers()]
    assert names == sorted(names)
    assert {"cosine", "gaussian", "hash", "noisy_topk", "relu", "sigmoid_bias", "sinkhorn"} <= set(names)
    assert {"student_t", "switch", "top_p", "topk_softmax"} <= set(names)
    assert router_info("cosine").options == {"projection_dim": None, "temperature": 0.5, "normalise": True}
    assert router_info("hash").context == ("input_ids",)


def test_every_entry_says_where_it_comes_from():
    for info in list_routers():
        assert info.paper.startswith("https://")
        assert info.summary.endswith(".")
        assert len(info.summary) < 119
        assert info.router_class.__doc__
        for option in info.options:
            assert f"        {option}: " in info.router_class.__doc__


def test_options_are_completed_and_checked():
    info = router_info("top_p")
    assert info.resolve({"threshold": 0.5})["max_experts"] is None
    with pytest.raises(ValueError, match=r"'treshold' is not an option .*; did you mean 'threshold'\?"):
        info.resolve({"treshold": 0.5})

    class Needs(LinearRouter):
        def __init__(self, shape, *, table):
            super().__init__(shape)

    needs = registry.RouterInfo(name="needs", causal=True, context=(), paper="", summary="", router_class=Needs)
    assert needs.options["table"] is inspect.Parameter.empty
    with pytest.raises(ValueError, match="needs the option 'table'"):
        needs.resolve({})


def test_an_unknown_router_is_named_with_what_there_is():
    with pytest.raises(ValueError, match=r"name='topk' is no router of the registry; the routers are .*cosine"):
        router_info("topk")


@pytest.mark.parametrize(
    "name", ["cosine", "gaussian", "noisy_topk", "relu", "sinkhorn", "student_t", "switch", "top_p", "topk_softmax"]
)
def test_half_precision_does_not_change_what_the_logits_say(name):
    """Scores and sums are taken in float32: bfloat16 logits give the choice and the weights of their numbers."""
    router = router_info(name).router_class(SHAPE).eval()
    router.reset_parameters(0.5)
    hidden = torch.randn(64, 16, generator=torch.Generator().manual_seed(0)).bfloat16()
    router.to(torch.bfloat16)
    low = router.route(hidden)
    assert low.weights.dtype == torch.float32
    assert low.weights.shape == low.indices.shape == (64, router.top_k)
    if low.logits.dtype == torch.bfloat16:
        router.logits = lambda _: low.logits.double()
        high = router.route(hidden)
        assert torch.equal(low.indices, high.indices)
        torch.testing.assert_close(low.weights.double(), high.weights, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("name", ["gaussian", "student_t"])
@pytest.mark.parametrize("hidden_size", [16, 1024])
def test_density_routers_start_undecided_whatever_the_width(name, hidden_size):
    """With a variance of 1 the difference of the logits grows with the width, and one expert takes each token."""
    shape = RouterShape(num_experts=8, hidden_size=hidden_size, top_k=2)
    router = router_info(name).router_class(shape)
    torch.manual_seed(0)
    router.reset_parameters(0.02)
    logits = router.density_logits(torch.randn(256, hidden_size))
    assert 0.3 < float(logits.detach().std(-1).mean()) < 3


def test_the_selection_bias_stays_in_float32():
    router = router_info("sigmoid_bias").router_class(SHAPE)
    router.reset_parameters(0.02)
    router.e_score_correction_bias.copy_(torch.linspace(0.1, 0.8, 8))
    exact = router.e_score_correction_bias.clone()
    router.to(torch.bfloat16)
    assert router.weight.dtype == torch.bfloat16
    assert torch.equal(router.e_score_correction_bias, exact)
    assert "e_score_correction_bias" in router.state_dict()
    assert router.half().to("meta").e_score_correction_bias.dtype == torch.float32


def test_noise_and_jitter_are_for_training_only():
    hidden = torch.randn(32, 16, generator=torch.Generator().manual_seed(0))
    for name, options in (("noisy_topk", {}), ("switch", {"jitter": 0.3})):
        router = router_info(name).router_class(SHAPE, **options)
        router.reset_parameters(0.5)
        draws = [router.train().route(hidden).weights for _ in range(2)]
        assert not torch.equal(*draws)
        plain = [router.eval().route(hidden).weights for _ in range(2)]
        assert torch.equal(*plain)


def test_the_capacity_of_switch_follows_the_number_of_tokens():
    router = router_info("switch").router_class(SHAPE, capacity_factor=1.0)
    router.reset_parameters(0.5)
    assert router.pads
    indices = router.route(torch.ones(32, 16)).indices.flatten()
    assert indices[:4].tolist() == [int(indices[0])] * 4
    assert indices[4:].tolist() == [8] * 28


def test_the_capacity_of_switch_is_for_training_only():
    """Without it, no token takes a place from another of its batch."""
    router = router_info("switch").router_class(SHAPE, capacity_factor=0.1).eval()
    router.reset_parameters(0.5)
    tokens = torch.randn(32, 16)
    alone = [router.route(token[None]).indices.item() for token in tokens]
    assert router.route(tokens).indices.flatten().tolist() == alone


def test_the_temperature_of_cosine_has_a_lower_bound():
    router = router_info("cosine").router_class(SHAPE)
    router.reset_parameters(0.5)
    torch.nn.init.constant_(router.log_temperature, -50.0)
    logits = router.route(torch.randn(8, 16)).logits
    assert bool(logits.isfinite().all())
    assert float(logits.abs().max()) <= 100.001
