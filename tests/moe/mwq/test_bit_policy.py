"""Policies of bits: what they choose, what they cost, and that they are saved with the model."""

from __future__ import annotations

import pytest
import torch
from tiny_planes import full_model, inputs, logits, nested_model

from hf_mixture.moe.mwq.bit_policy import BitRouter, GateErrorPolicy, cheapest_best, skip_beyond_capacity
from hf_mixture.moe.mwq.budget import add_bit_routers, average_bits, calibrate_bits, set_bit_budget
from hf_mixture.moe.mwq.targets import nested_experts


WIDTHS = (2, 3, 4)


def test_the_cheapest_of_the_best_is_chosen():
    scores = torch.tensor([[0.0, 0.0, 0.0], [0.0, 1.0, 1.0], [0.0, 0.5, 2.0]])
    assert cheapest_best(scores, 0.0).tolist() == [0, 1, 2]
    assert cheapest_best(scores, 0.9).tolist() == [0, 1, 2]
    assert cheapest_best(scores, 1.1).tolist() == [0, 0, 0]


def test_gate_and_error_pay_for_a_bit_while_it_is_worth_its_price():
    policy = GateErrorPolicy(WIDTHS, num_experts=2)
    policy.error.copy_(torch.tensor([[0.4, 0.2, 0.0], [0.1, 0.05, 0.0]]))
    index, gates = torch.tensor([[0, 1]] * 3), torch.tensor([[0.9, 0.1], [0.5, 0.5], [0.1, 0.9]])
    policy.price.fill_(0.05)
    choice = policy(torch.zeros(3, 8), index, gates)
    # A bit of expert 0 lowers the error by 0.2, one of expert 1 by 0.05: worth it at gates above 0.25, and never.
    expected = [[2, 0], [2, 0], [0, 0]]
    assert choice.levels.tolist() == expected
    assert torch.equal(choice.weights, gates)
    assert policy.take_counts() == [4, 0, 2]
    assert policy.take_counts() == [0, 0, 0]


def test_bit_routers_are_linear_in_each_expert():
    router = BitRouter(WIDTHS, num_experts=4, hidden_size=8)
    hidden, index = torch.randn(5, 8), torch.randint(0, 4, (5, 2))
    scores = router.scores(hidden, index, torch.ones(5, 2))
    for token in range(5):
        for place in range(2):
            expert = index[token, place]
            logits = router.weight[expert] @ hidden[token] + router.bias[expert]
            torch.testing.assert_close(scores[token, place], logits.log_softmax(-1))
    # The index E, of a place without an expert, must not fail.
    router(hidden, torch.full_like(index, 4), torch.ones(5, 2))


def test_capacity_lets_the_excess_skip_at_random():
    levels = torch.tensor([[0, 0], [0, 0], [1, 2], [0, 1], [0, 0]])
    torch.manual_seed(0)
    after = skip_beyond_capacity(levels, [0.3, 0.4, 0.3])
    assert int((after == 0).sum()) == 3
    assert torch.equal(after[levels != 0], levels[levels != 0])
    draws = torch.stack([skip_beyond_capacity(levels, [0.3, 0.4, 0.3]) == 0 for _ in range(200)]).float().mean(0)
    assert bool(((draws[levels == 0] > 0.25) & (draws[levels == 0] < 0.6)).all())


def test_straight_through_has_the_gradient_of_the_mean_over_widths():
    """Forward: the chosen width alone. Backward: as if all were added up with their probabilities."""
    router = BitRouter(WIDTHS, num_experts=2, hidden_size=8).train()
    router.capacity = dict.fromkeys(WIDTHS, 1.0)
    hidden, index, gates = torch.randn(6, 8), torch.randint(0, 2, (6, 2)), torch.rand(6, 2)
    value = torch.randn(6, 2, 3)
    choice = router(hidden, index, gates)
    assert choice.experts.shape == choice.levels.shape == (6, 6)
    ours = (choice.weights.view(6, 2, 3) * value).sum()
    chosen = router.scores(hidden, index, gates).argmax(-1, keepdim=True)
    torch.testing.assert_close(ours, (value.gather(-1, chosen).squeeze(-1) * gates).sum())
    ours.backward()
    gradient = router.weight.grad.clone()
    router.weight.grad = None
    (router.scores(hidden, index, gates).exp() * value * gates.unsqueeze(-1)).sum().backward()
    torch.testing.assert_close(gradient, router.weight.grad)
    expected = (router.scores(hidden, index, gates).exp() @ torch.tensor([2.0, 3.0, 4.0])).mean()
    torch.testing.assert_close(router.expected_bits, expected)


def test_scale_multiplies_by_the_probability_also_at_inference():
    router = BitRouter(WIDTHS, num_experts=2, hidden_size=8, gradient="scale")
    hidden, index, gates = torch.randn(6, 8), torch.randint(0, 2, (6, 2)), torch.rand(6, 2)
    best = router.scores(hidden, index, gates).amax(-1).exp()
    torch.testing.assert_close(router.eval()(hidden, index, gates).weights, gates * best)
    router.train().capacity = dict.fromkeys(WIDTHS, 1.0)
    choice = router(hidden, index, gates)
    torch.testing.assert_close(choice.weights.view(6, 2, 3).sum(-1), gates * best)
    assert BitRouter(WIDTHS, 2, 8).eval()(hidden, index, gates).weights is gates


def calibrated(**options):
    model = nested_model(**options)
    calibrate_bits(model, [inputs()])
    return model


@pytest.mark.parametrize("widths", [(2, 3, 4), (5, 6, 7, 8)])
def test_a_budget_is_kept_and_used(widths):
    model = calibrated(widths=widths)
    reference = logits(full_model())
    differences = []
    for bits in (widths[0], widths[0] + 0.4, widths[0] + 1.3, widths[-1]):
        spent = set_bit_budget(model, bits)
        # One place of the sample weighs as much as this.
        assert bits - 0.05 <= spent <= bits
        average_bits(model)
        differences.append(float((logits(model) - reference).square().mean()))
        assert average_bits(model) == pytest.approx(spent, abs=0.15)
    assert differences[0] > differences[-1]


def test_a_policy_is_saved_and_works_on_disk(tmp_path):
    model = calibrated()
    set_bit_budget(model, 2.7)
    expected = logits(model)
    model.save_pretrained(tmp_path)
    kinds = {"in memory": {}, "on disk": {"experts_implementation": "mwq_offload"}}
    for options in kinds.values():
        loaded = type(model).from_pretrained(tmp_path, **options).eval()
        assert torch.equal(logits(loaded), expected)
        assert set_bit_budget(loaded, 2.2) <= 2.2
        assert loaded.config.quantization_config.bit_policy == {"kind": "gate_error"}


def test_what_a_token_gets_does_not_depend_on_its_batch():
    model = calibrated()
    set_bit_budget(model, 2.6)
    together = logits(model)
    given = inputs()
    with torch.no_grad():
        alone = model(**{name: value[:1] for name, value in given.items()}).logits
    torch.testing.assert_close(alone, together[:1], rtol=1e-4, atol=1e-5)


def test_without_a_policy_the_widths_themselves_can_be_chosen():
    model = nested_model()
    for width in WIDTHS:
        assert set_bit_budget(model, width) == width
        assert average_bits(model) == width
    with pytest.raises(ValueError, match=r"average_bits=2.5 is none of the widths .* call calibrate_bits"):
        set_bit_budget(model, 2.5)
    assert {module.mwq_width for module in nested_experts(model).values()} == {4}


def test_what_cannot_be_budgeted():
    model = nested_model()
    for bits in (1.9, 4.1, float("nan")):
        with pytest.raises(ValueError, match="is not between 2 and 4, the widths of this model"):
            set_bit_budget(model, bits)
    with pytest.raises(ValueError, match="has no nested experts; load it with quantization_config=MwqConfig"):
        set_bit_budget(full_model(), 3)
    with pytest.raises(ValueError, match="batches is empty"):
        calibrate_bits(model, [])
    add_bit_routers(model)
    with pytest.raises(ValueError, match="has no sample of scores"):
        set_bit_budget(model, 3)
    with pytest.raises(ValueError, match="gradient='soft' is unknown"):
        add_bit_routers(model, gradient="soft")


def test_types_of_the_model_leave_policies_in_float32():
    model = nested_model()
    parameters = add_bit_routers(model)
    torch.nn.Module.to(model, torch.bfloat16)
    assert {parameter.dtype for parameter in parameters} == {torch.float32}
    assert {name for name, p in model.named_parameters() if p.requires_grad} == {
        f"{path}.mwq_policy.{name}" for path in nested_experts(model) for name in ("weight", "bias")
    }
    with torch.no_grad():
        assert model(**inputs()).logits.dtype == torch.bfloat16
