"""A mixture under the stock Trainer: what is trained, what stays frozen, resume, two processes, 4-bit experts."""

from __future__ import annotations

import json
from pathlib import Path

import mot_training
import numpy as np
import pytest
import torch
from mot_training import build, losses, sentences, train, trained_expert, two_process_run
from tiny_experts import tiny_expert, tokenizer_of
from two_processes import run_on_two

from hf_mixture.models.mixture_of_thoughts.data_collator import score_experts
from hf_mixture.models.mixture_of_thoughts.modeling_mixture_of_thoughts import MixtureOfThoughtsForCausalLM
from hf_mixture.models.mixture_of_thoughts.processing_mixture_of_thoughts import MixtureOfThoughtsProcessor
from hf_mixture.models.mixture_of_thoughts.references import fingerprint


def mixed_rows(count, seed=0):
    return [row for pair in zip(sentences(0, count, seed), sentences(1, count, seed + 1), strict=True) for row in pair]


def test_training_changes_the_mixture_and_not_one_bit_of_its_experts(tmp_path):
    model, processor = build(expert_dropout=0.3)
    before = [fingerprint(expert) for expert in model.experts]
    start = {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}
    trainer = train(model, processor, mixed_rows(16), tmp_path, max_steps=12)
    assert [fingerprint(expert) for expert in model.experts] == before
    changed = [name for name, p in model.named_parameters() if p.requires_grad and not torch.equal(p, start[name])]
    assert len(changed) == len(start)
    assert np.mean(losses(trainer)[-3:]) < np.mean(losses(trainer)[:3])


def test_a_run_that_is_resumed_ends_as_one_that_was_not(tmp_path):
    for folder in ("gpt2", "llama"):
        tiny_expert(folder).save_pretrained(tmp_path / folder)

    def start():
        torch.manual_seed(0)
        experts = [tmp_path / family for family in mot_training.FAMILIES]
        model = MixtureOfThoughtsForCausalLM.from_experts(experts, num_levels=3, latent_size=16, num_heads=2)
        return model, MixtureOfThoughtsProcessor([tokenizer_of(family) for family in mot_training.FAMILIES])

    whole, processor = start()
    train(whole, processor, mixed_rows(16), tmp_path / "run", max_steps=6, save_strategy="steps", save_steps=3)
    checkpoint = tmp_path / "run" / "checkpoint-3"
    trained = sum(p.numel() * 4 for p in whole.parameters() if p.requires_grad)
    assert sum(path.stat().st_size for path in checkpoint.glob("model*.safetensors")) < 1.1 * trained
    again, _ = start()
    arguments = {"max_steps": 6, "resume_from_checkpoint": str(checkpoint)}
    train(again, processor, mixed_rows(16), tmp_path / "again", **arguments)
    for (name, first), second in zip(whole.named_parameters(), again.parameters(), strict=True):
        assert torch.equal(first, second), name


def test_the_trainer_reports_an_evaluation_loss(tmp_path):
    model, processor = build()
    rows = mixed_rows(2)
    trainer = train(model, processor, rows, tmp_path, max_steps=1)
    batch = trainer.data_collator(rows)
    with torch.no_grad():
        expected = model.eval()(**batch).loss.item()
        assert model(**batch, return_loss=False).loss is None
        assert model(**batch, return_dict=False)[0].item() == expected
    assert trainer.evaluate(rows)["eval_loss"] == pytest.approx(expected, rel=1e-5)


@pytest.fixture(scope="module")
def domain_experts():
    return [trained_expert(domain) for domain in range(2)]


def accuracy_of_router(model, processor):
    right = []
    for domain in range(2):
        prompts = [row["prompt"] for row in sentences(domain, 40, 99 + domain)]
        with torch.no_grad():
            scores = model.route_scores(processor(prompts)["encoder_inputs"])
        right += (scores.argmax(-1) == domain).tolist()
    return np.mean(right)


def test_the_router_learns_the_right_primary_from_the_losses_of_the_experts(domain_experts, tmp_path):
    torch.manual_seed(0)
    model = MixtureOfThoughtsForCausalLM.from_experts(
        domain_experts, num_levels=3, latent_size=16, num_heads=2, expert_nll_coefficient=1.0, router_dropout=0.0
    )
    processor = MixtureOfThoughtsProcessor([tokenizer_of(family) for family in mot_training.FAMILIES])
    rows = mixed_rows(32)
    nll = score_experts(model, processor, [r["prompt"] for r in rows], [r["answer"] for r in rows])
    rows = [{**row, "expert_nll": scores.tolist()} for row, scores in zip(rows, nll, strict=True)]
    train(model, processor, rows, tmp_path, max_steps=60, per_device_train_batch_size=8)
    assert accuracy_of_router(model, processor) >= 0.95


def test_two_processes_train_as_one_with_the_doubled_batch(tmp_path):
    run_on_two(Path(mot_training.__file__), tmp_path)
    two = json.loads((tmp_path / "losses.json").read_text())
    one = two_process_run(tmp_path, 8)
    state = [torch.load(tmp_path / f"trained_{size}.pt", weights_only=True) for size in (4, 8)]
    assert len(two) == len(one) == 4
    assert two == pytest.approx(one, abs=1e-5)
    for name, first in state[0].items():
        torch.testing.assert_close(first, state[1][name], atol=1e-4, rtol=0)
