"""The gate of MixER as a router: one expert for a sequence, and an update by the losses under each expert."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from transformers import AutoModelForSequenceClassification, MixtralConfig, MixtralForSequenceClassification

from hf_mixture import replace_routers
from hf_mixture.moe.routers.kmeans import KMeansLeastSquaresRouter, update_kmeans_routers


def classifier() -> MixtralForSequenceClassification:
    torch.manual_seed(0)
    config = MixtralConfig(
        vocab_size=32,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        num_local_experts=3,
        pad_token_id=0,
    )
    model = MixtralForSequenceClassification(config).eval()
    replace_routers(model, "kmeans_least_squares", force=True)
    return model


def routers_of(model: torch.nn.Module) -> list[KMeansLeastSquaresRouter]:
    return [module for module in model.modules() if isinstance(module, KMeansLeastSquaresRouter)]


def test_all_tokens_of_a_sequence_go_to_the_best_expert_of_its_mean_state_with_weight_one() -> None:
    model = classifier()
    ids = torch.tensor([[5, 6, 7, 8], [9, 10, 0, 0]])
    mask = (ids > 0).long()
    seen = []
    router = routers_of(model)[0]
    router.register_forward_hook(lambda _, args, output: seen.append((args[0], output)))
    model(input_ids=ids, attention_mask=mask)
    hidden, (logits, weights, indices) = seen[0]
    hidden = hidden.view(2, 4, 16)
    for sequence in range(2):
        mean = hidden[sequence][mask[sequence].bool()].mean(dim=0)
        scores = torch.cat([mean, torch.ones(1)]) @ router.gate.weight
        rows = slice(4 * sequence, 4 * sequence + 4)
        torch.testing.assert_close(logits[rows], scores.expand(4, -1))
        assert indices[rows].tolist() == [[int(scores.argmax())]] * 4
    assert torch.equal(weights, torch.ones(8, 1))


def test_an_update_sends_clusters_of_sequences_to_the_experts_that_do_best_on_them(tmp_path: Path) -> None:
    model = classifier()
    # Three kinds of sequences, each of one token, so that their mean states form three clusters.
    kind = torch.arange(3).repeat(4)
    ids = (3 + 9 * kind).unsqueeze(1).expand(-1, 4)
    best = torch.tensor([2, 0, 1])[kind]

    def losses() -> torch.Tensor:
        model(input_ids=ids)
        forced = routers_of(model)[0].forced
        return torch.where(best == (-1 if forced is None else forced), 0.1, 1.0)

    for attempt in range(50):
        reports = update_kmeans_routers(model, losses, generator=torch.Generator().manual_seed(attempt))
        if all(report.converged for report in reports):
            break
    assert all(report.converged for report in reports)
    model(input_ids=ids)
    for router in routers_of(model):
        assert router.gate(router.pooled)[0].tolist() == best.tolist()
        assert router.forced is None

    model.save_pretrained(tmp_path)
    again = AutoModelForSequenceClassification.from_pretrained(tmp_path)
    assert torch.equal(again(input_ids=ids).logits, model(input_ids=ids).logits)


def test_gradients_do_not_reach_the_gate() -> None:
    model = classifier().train()
    loss = F.cross_entropy(model(input_ids=torch.arange(1, 13).view(3, 4)).logits, torch.tensor([0, 1, 0]))
    loss.backward()
    assert not any("gate.weight" in name for name, _ in model.named_parameters())
    assert any(parameter.grad is not None and parameter.grad.any() for parameter in model.parameters())


def test_a_model_without_the_router_is_refused() -> None:
    with pytest.raises(ValueError, match="call replace_routers"):
        update_kmeans_routers(torch.nn.Linear(2, 2), lambda: torch.zeros(2))
