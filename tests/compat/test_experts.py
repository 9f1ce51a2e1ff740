"""The index E in the experts modules of transformers."""

from __future__ import annotations

import pytest
import torch
from transformers import GptOssConfig, MixtralConfig
from transformers.models.gpt_oss.modeling_gpt_oss import GptOssExperts
from transformers.models.mixtral.modeling_mixtral import MixtralExperts

from hf_mixture._compat.experts import padding_problem, skip_padding


def mixtral_experts(implementation):
    config = MixtralConfig(hidden_size=8, intermediate_size=8, num_local_experts=4)
    config._experts_implementation = implementation
    experts = MixtralExperts(config)
    torch.manual_seed(0)
    for parameter in experts.parameters():
        torch.nn.init.normal_(parameter)
    return experts


@pytest.mark.parametrize("implementation", ["eager", "batched_mm", "grouped_mm"])
def test_a_place_with_index_e_adds_nothing(implementation):
    experts = mixtral_experts(implementation)
    hidden = torch.randn(6, 8)
    weights = torch.tensor([[0.5, 0.3, 0.0]]).expand(6, -1)
    indices = torch.tensor([[2, 0, 4]]).expand(6, -1)
    plain = experts(hidden, indices[:, :2], weights[:, :2])
    assert padding_problem(experts) is None
    assert skip_padding(experts) is False
    torch.testing.assert_close(experts(hidden, indices, weights), plain)
    # Also where nobody is chosen, and with gradients that stay finite.
    nobody = experts(hidden.requires_grad_(), torch.full((6, 2), 4), torch.zeros(6, 2))
    assert bool((nobody == 0).all())
    (nobody + 0 * hidden).sum().backward()
    assert bool((hidden.grad == 0).all())
    assert skip_padding(experts, False) is True
    torch.testing.assert_close(experts(hidden, indices[:, :2], weights[:, :2]), plain)


def test_without_the_mark_the_index_e_is_an_error_or_garbage():
    """What makes `skip_padding` necessary; if this fails, transformers has learned to skip by itself."""
    experts = mixtral_experts("batched_mm")
    with pytest.raises(IndexError):
        experts(torch.randn(2, 8), torch.tensor([[0, 4], [1, 4]]), torch.tensor([[1.0, 0.0], [1.0, 0.0]]))


def test_experts_that_cannot_skip_are_told_apart():
    assert "experts interface" in padding_problem(torch.nn.Linear(2, 2))
    assert "experts interface" in padding_problem(None)
    config = GptOssConfig(hidden_size=8, intermediate_size=8, num_local_experts=4)
    config._experts_implementation = "eager"
    experts = GptOssExperts(config)
    assert "set_experts_implementation('grouped_mm')" in padding_problem(experts)
    config._experts_implementation = "grouped_mm"
    assert padding_problem(experts) is None
