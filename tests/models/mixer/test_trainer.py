"""Training: the order of steps, proximal gradients, the gate on one and on two processes, resuming, AdaBelief."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_mixer import arguments, rotations, tiny_mixer
from torch import Tensor, nn
from transformers import TrainerCallback
from two_processes import run_alone, run_on_two

from hf_mixture import MixerTrainer
from hf_mixture.models.mixer.adabelief import AdaBelief
from hf_mixture.models.mixer.trainer import STATE_FILE, MixerSchedule


def test_steps_of_adabelief_are_those_of_the_paper() -> None:
    torch.manual_seed(0)
    weights = nn.Parameter(torch.randn(5, dtype=torch.float64))
    optimizer = AdaBelief([weights], lr=0.01, betas=(0.8, 0.95), eps=1e-8)
    slow, m, s = weights.tolist(), [0.0] * 5, [0.0] * 5
    for step in range(1, 8):
        gradient = torch.randn(5, dtype=torch.float64)
        weights.grad = gradient.clone()
        optimizer.step()
        for place, g in enumerate(gradient.tolist()):
            m[place] = 0.8 * m[place] + 0.2 * g
            s[place] = 0.95 * s[place] + 0.05 * (g - m[place]) ** 2 + 1e-8
            corrected = m[place] / (1 - 0.8**step), s[place] / (1 - 0.95**step)
            slow[place] -= 0.01 * corrected[0] / (math.sqrt(corrected[1]) + 1e-8)
        torch.testing.assert_close(weights.detach(), torch.tensor(slow, dtype=torch.float64), rtol=1e-12, atol=1e-14)
    weights.grad = None
    before = weights.detach().clone()
    optimizer.step()
    assert torch.equal(weights.detach(), before)


class Watch(TrainerCallback):
    """Notes the parameters before training and after each step."""

    def __init__(self) -> None:
        self.after: list[dict[str, Tensor]] = []

    def on_train_begin(self, *args: Any, model: nn.Module, **kwargs: Any) -> None:
        self.note(model)

    def on_step_end(self, *args: Any, model: nn.Module, **kwargs: Any) -> None:
        self.note(model)

    def note(self, model: nn.Module) -> None:
        self.after.append({name: value.detach().clone() for name, value in model.state_dict().items()})


def test_contexts_and_experts_move_in_turns_with_proximal_gradients(tmp_path: Path) -> None:
    """Every step of the Trainer against its definition, the proximal term taken by autograd."""
    model, slow = tiny_mixer(), tiny_mixer()
    watch = Watch()
    schedule = MixerSchedule(
        context_steps=2, expert_steps=2, context_proximity=3.0, expert_proximity=5.0, gate_interval=1
    )
    trainer = MixerTrainer(
        model, arguments(tmp_path, max_grad_norm=0), schedule=schedule, train_dataset=rotations(), callbacks=[watch]
    )
    trainer.train()
    batch = trainer.data_collator(rotations())
    optimizer = AdaBelief(slow.parameters(), lr=1e-2)
    for step in range(8):
        for group in optimizer.param_groups:
            group["lr"] = 1e-2 * 0.4 ** min(2, 3 * step // 8)
        if step % 4 == 0:
            old = {name: value.detach().clone() for name, value in slow.named_parameters()}
        # The gate is a buffer, whose update other tests prove.
        for name, buffer in slow.gate.named_buffers():
            buffer.copy_(watch.after[step + 1][f"gate.{name}"])
        loss = slow(**batch).loss
        moving = {n: p for n, p in slow.named_parameters() if n.startswith("contexts.") == (step % 4 < 2)}
        weight = 3.0 if step % 4 < 2 else 5.0
        loss = loss + weight / 2 * sum((p - old[name]).square().sum() for name, p in moving.items())
        optimizer.zero_grad()
        gradients = torch.autograd.grad(loss, list(moving.values()))
        for parameter, gradient in zip(moving.values(), gradients, strict=True):
            parameter.grad = gradient
        optimizer.step()
        for name, parameter in slow.named_parameters():
            torch.testing.assert_close(
                watch.after[step + 1][name], parameter, rtol=2e-4, atol=2e-5, msg=f"{step} {name}"
            )
            moved = not torch.equal(watch.after[step][name], watch.after[step + 1][name])
            assert moved == (name in moving), (step, name)


def test_the_gate_is_updated_by_the_mean_losses_of_environments(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny_mixer()
    torch.nn.init.normal_(model.contexts.weight)
    seen = []
    update = type(model.gate).update

    def noted(gate: Any, contexts: Tensor, losses: Tensor, **kwargs: Any) -> Any:
        seen.append((contexts.detach().clone(), losses.clone()))
        return update(gate, contexts, losses, **kwargs)

    monkeypatch.setattr(type(model.gate), "update", noted)
    trainer = MixerTrainer(model, arguments(tmp_path, max_steps=1), train_dataset=rotations())
    batch = trainer.data_collator(rotations())
    before = model.contexts.weight.detach().clone()
    losses = model.expert_losses(**batch)
    trainer.train()
    assert torch.equal(seen[0][0], before)
    expected = torch.stack([losses[batch["env_ids"] == environment].mean(dim=0) for environment in range(4)])
    torch.testing.assert_close(seen[0][1], expected)


def test_the_gate_waits_until_every_environment_has_been_seen(tmp_path: Path) -> None:
    trainer = MixerTrainer(
        tiny_mixer(),
        arguments(tmp_path, max_steps=4, per_device_train_batch_size=2, train_sampling_strategy="sequential"),
        train_dataset=rotations(),
    )
    trainer.train()
    assert trainer.gate_reports["waiting"] == 3
    assert sum(trainer.gate_reports.values()) == 4


@pytest.mark.slow
@pytest.mark.parametrize("gate", ["least_squares", "gradient"])
def test_two_processes_train_the_model_of_one(gate: str, tmp_path: Path) -> None:
    worker = Path(__file__).parent / "mixer_worker.py"
    run_on_two(worker, tmp_path, 2, gate)
    run_alone(worker, tmp_path, 1, gate)
    first, second, alone = (
        torch.load(tmp_path / f"{gate}-{name}.pt", weights_only=True) for name in ("2-0", "2-1", "1-0")
    )
    for name, value in first["state"].items():
        assert torch.equal(value, second["state"][name]), name
        torch.testing.assert_close(value, alone["state"][name], rtol=1e-3, atol=1e-4, msg=name)
    assert first["reports"] == second["reports"] == alone["reports"]


def test_a_resumed_run_is_the_uninterrupted_one(tmp_path: Path) -> None:
    """Interrupted in the middle of a round, so that the anchors have to come back."""
    schedule = MixerSchedule(context_steps=3, expert_steps=2, gate_interval=2)
    whole = MixerTrainer(tiny_mixer(), arguments(tmp_path / "a"), schedule=schedule, train_dataset=rotations())
    whole.train()

    saving = {"save_strategy": "steps", "save_steps": 4}
    part = MixerTrainer(
        tiny_mixer(), arguments(tmp_path / "b", **saving), schedule=schedule, train_dataset=rotations()
    )
    part.train()
    assert (tmp_path / "b" / "checkpoint-4" / STATE_FILE).is_file()
    again = MixerTrainer(
        tiny_mixer(), arguments(tmp_path / "b", **saving), schedule=schedule, train_dataset=rotations()
    )
    again.train(resume_from_checkpoint=str(tmp_path / "b" / "checkpoint-4"))
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, again.model.state_dict()[name]), name
    assert again.gate_reports == whole.gate_reports

    (tmp_path / "b" / "checkpoint-4" / STATE_FILE).unlink()
    with pytest.raises(ValueError, match="resume from a checkpoint that MixerTrainer has written"):
        again.train(resume_from_checkpoint=str(tmp_path / "b" / "checkpoint-4"))


def test_what_cannot_be_trained_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="give a MixerForTrajectoryReconstruction"):
        MixerTrainer(nn.Linear(2, 2), arguments(tmp_path))
    with pytest.raises(ValueError, match="use larger batches"):
        MixerTrainer(tiny_mixer(), arguments(tmp_path, gradient_accumulation_steps=2))
    with pytest.raises(ValueError, match="context_steps=0"):
        MixerSchedule(context_steps=0)
    with pytest.raises(ValueError, match="expert_proximity=-1"):
        MixerSchedule(expert_proximity=-1)
