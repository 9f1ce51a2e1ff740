"""The model against its slow twin, its surface on the stack, and what it refuses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import slow_taskexpert
import tiny_taskexpert as tiny
import torch
from transformers import AutoConfig, AutoModel, ConvNextConfig

from hf_mixture import TaskExpertConfig, TaskExpertForMultiTaskVision, read_gates
from hf_mixture.models.taskexpert.mixture import MemorialMixture, assemble


@pytest.mark.parametrize("backbone", [tiny.resnet, tiny.dinov2])
@pytest.mark.parametrize(("init", "update"), [("feature", "residual"), ("learned", "replace")])
def test_a_batch_is_its_images_and_tasks_one_by_one(backbone: Any, init: str, update: str) -> None:
    model = tiny.model(backbone_config=backbone(), memory_init=init, memory_update=update).double()
    images = tiny.images().double()
    # Running statistics that are not those of a new model.
    model.train()(images)
    out = model.eval()(images)
    for row, image in enumerate(images):
        logits, gates = slow_taskexpert.forward(model, image)
        for place, task in enumerate(model.config.tasks):
            torch.testing.assert_close(out.logits[task][row], logits[task], rtol=1e-6, atol=1e-6)
            for level, found in enumerate(gates):
                torch.testing.assert_close(
                    out.gate_scores[level, row, place].double(), found[task].double(), rtol=1e-5, atol=1e-6
                )


def test_gates_sum_to_one_over_experts_and_memory() -> None:
    model = tiny.model().eval()
    out = model(tiny.images(), output_router_logits=True)
    assert out.gate_scores.shape == (2, 3, 6, 4)
    torch.testing.assert_close(out.gate_scores.sum(dim=-1), torch.ones(2, 3, 6), rtol=0, atol=1e-6)
    torch.testing.assert_close(out.router_logits.softmax(dim=-1), out.gate_scores)
    # Gates look at the image and at the task.
    assert out.gate_scores.std(dim=1).max() > 1e-3
    assert out.gate_scores.std(dim=2).max() > 1e-3


@pytest.mark.parametrize("slot", range(4))
def test_a_gate_that_is_forced_takes_one_expert_or_the_memory(slot: int) -> None:
    level = tiny.model().eval().levels[0]
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(2, 8, 4, 4, generator=generator)
    memory = {task: torch.randn(2, 8, 4, 4, generator=generator) for task in tiny.TASKS}
    for gate in level.gates.values():
        torch.nn.init.zeros_(gate.classifier.weight)
        torch.nn.init.zeros_(gate.classifier.bias)
        gate.classifier.bias.data[slot] = 1e4
    out = level(features, memory)
    for task in tiny.TASKS:
        wanted = memory[task] if slot == 3 else level.expert_maps(features)[:, slot]
        torch.testing.assert_close(out.assembled[task], wanted, rtol=0, atol=1e-5)


def test_gates_see_features_and_memory() -> None:
    level: MemorialMixture = tiny.model().eval().levels[0]
    features = torch.zeros(1, 8, 4, 4)
    memory = {task: torch.zeros(1, 8, 4, 4) for task in tiny.TASKS}
    before = level(features, memory).gate_scores
    assert not torch.equal(level(features + 1, memory).gate_scores, before)
    changed = level(features, memory | {"depth": torch.ones(1, 8, 4, 4)}).gate_scores
    # Memory is a task's own.
    assert (changed != before).any(dim=-1)[0].tolist() == [False] * 5 + [True]


def test_assembling_is_a_sum() -> None:
    generator = torch.Generator().manual_seed(0)
    experts, memory = torch.randn(2, 3, 4, 5, 6, generator=generator), torch.randn(2, 2, 4, 5, 6, generator=generator)
    scores = torch.rand(2, 2, 4, generator=generator)
    mixed = assemble(experts, memory, scores)
    for image in range(2):
        for task in range(2):
            slow = scores[image, task, 3] * memory[image, task]
            for expert in range(3):
                slow = slow + scores[image, task, expert] * experts[image, expert]
            torch.testing.assert_close(mixed[image, task], slow)


@pytest.mark.parametrize("fields", [{}, {"norm": "group"}, {"gate": "batch_mean"}, {"memory_init": "learned"}])
def test_images_of_a_batch_do_not_matter_in_evaluation_and_nothing_is_kept(fields: dict[str, Any]) -> None:
    model = tiny.model(**fields)
    model.train()(tiny.images(seed=5))
    model.eval()
    images = tiny.images()
    whole, alone = model(images), model(images[:1])
    again = model(images)
    for task in tiny.TASKS:
        torch.testing.assert_close(alone.logits[task], whole.logits[task][:1], rtol=1e-5, atol=1e-5)
        assert torch.equal(again.logits[task], whole.logits[task])


def test_constant_gates_are_the_mean_of_the_batch_and_then_a_running_mean() -> None:
    dynamic, constant = tiny.model(gate_momentum=0.5), tiny.model(gate="batch_mean", gate_momentum=0.5)
    constant.load_state_dict(dynamic.state_dict(), strict=False)
    assert dynamic.num_parameters() == constant.num_parameters()
    images = tiny.images()
    # The first level sees the same in both.
    mean = dynamic.train()(images).gate_scores[0].mean(dim=0)
    found = constant.train()(images).gate_scores[0]
    torch.testing.assert_close(found, mean.expand_as(found))
    evaluated = constant.eval()(images).gate_scores[0]
    torch.testing.assert_close(evaluated, (0.5 * mean + 0.5 * 0.25).expand_as(evaluated))
    assert read_gates(constant(images).gate_scores, tiny.TASKS).spread.max() == 0


def test_a_learned_pool_differs_by_position_and_fits_one_size() -> None:
    model = tiny.model(gate_pool="spatial_linear", gate_grid=[8, 8]).eval()
    images = tiny.images()
    assert not torch.equal(model(images).gate_scores[0], model(images.flip(3)).gate_scores[0])
    with pytest.raises(ValueError, match=r"map is \(4, 4\) and gate_grid=\[8, 8\]"):
        model(images[..., :16, :16])
    # A mean fits all sizes.
    assert tiny.model().eval()(images[..., :16, :16]).logits["depth"].shape == (3, 1, 16, 16)


def test_the_order_of_tasks_does_not_matter() -> None:
    model = tiny.model()
    other = TaskExpertForMultiTaskVision(tiny.config(tasks=tiny.TASKS[::-1]))
    other.load_state_dict(model.state_dict())
    images, labels = tiny.images(), tiny.labels()
    mine, theirs = model.eval()(images, labels=labels), other.eval()(images, labels=labels)
    torch.testing.assert_close(mine.loss, theirs.loss)
    for task in tiny.TASKS:
        torch.testing.assert_close(mine.logits[task], theirs.logits[task])
    torch.testing.assert_close(mine.gate_scores.flip(2), theirs.gate_scores)


@pytest.mark.parametrize(
    "backbone",
    [
        tiny.resnet,
        tiny.dinov2,
        lambda: ConvNextConfig(hidden_sizes=[8, 12], depths=[1, 1], num_stages=2, out_indices=[1, 2]),
    ],
)
def test_saved_models_come_back_bit_by_bit_with_any_backbone(backbone: Any, tmp_path: Path) -> None:
    model = tiny.model(backbone_config=backbone(), gate="batch_mean")
    model.train()(tiny.images())
    model.save_pretrained(tmp_path)
    assert isinstance(AutoConfig.from_pretrained(tmp_path), TaskExpertConfig)
    again = AutoModel.from_pretrained(tmp_path)
    assert isinstance(again, TaskExpertForMultiTaskVision)
    for name, value in model.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name
    images = tiny.images()
    mine, theirs = model.eval()(images), again(images)
    assert all(torch.equal(mine.logits[task], theirs.logits[task]) for task in tiny.TASKS)


def test_gradient_checkpointing_changes_no_gradient() -> None:
    images, labels = tiny.images(), tiny.labels()
    found = []
    for checkpointing in (False, True):
        model = tiny.model(backbone_config=tiny.dinov2())
        if checkpointing:
            model.gradient_checkpointing_enable()
        model.train()(images, labels=labels).loss.backward()
        found.append({name: parameter.grad for name, parameter in model.named_parameters()})
    for name, gradient in found[0].items():
        if gradient is not None:
            torch.testing.assert_close(gradient, found[1][name], rtol=1e-4, atol=1e-6, msg=name)


def test_every_parameter_of_the_decoder_learns_even_without_labels_of_a_task() -> None:
    model = tiny.model()
    labels = tiny.labels()
    del labels["depth"]
    model(tiny.images(), labels=labels).loss.backward()
    for name, parameter in model.named_parameters():
        if not name.startswith("backbone"):
            assert parameter.grad is not None, name
    assert model.heads["depth"].classifier.weight.grad.abs().max() == 0
    assert model.heads["edges"].classifier.weight.grad.abs().max() > 0


def test_half_precision_trains_with_losses_and_gates_in_full() -> None:
    model = tiny.model().bfloat16()
    out = model(tiny.images().bfloat16(), labels=tiny.labels())
    assert out.logits["depth"].dtype == torch.bfloat16
    assert out.loss.dtype == out.gate_scores.dtype == torch.float32
    torch.testing.assert_close(out.gate_scores.sum(dim=-1), torch.ones(2, 3, 6), rtol=0, atol=1e-6)
    torch.testing.assert_close(out.loss, tiny.model()(tiny.images(), labels=tiny.labels()).loss, rtol=0.05, atol=0)
    out.loss.backward()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


def test_outputs_as_a_tuple_and_hidden_memory() -> None:
    model = tiny.model().eval()
    out = model(tiny.images(), output_hidden_states=True)
    assert out.loss is None
    assert {task: tuple(memory.shape) for task, memory in out.memory.items()} == dict.fromkeys(
        tiny.TASKS, (3, 8, 8, 8)
    )
    logits, scores = model(tiny.images(), return_dict=False)
    assert logits.keys() == set(tiny.TASKS)
    assert torch.equal(scores, out.gate_scores)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"tasks": []}, "tasks=.* must name at least one"),
        ({"tasks": ["depth", "depth"]}, "each once"),
        ({"tasks": ["dept"]}, "tasks has 'dept'"),
        ({"tasks": ["depth"], "task_weights": {"edges": 1.0}}, "task_weights has 'edges'"),
        ({"task_weights": {"edges": -1.0}}, "at least 0"),
        ({"num_experts": 0}, "num_experts=0 must be at least 1"),
        ({"kernel_size": 2}, "must be odd"),
        ({"gate_momentum": 0.0}, "gate_momentum=0.0"),
        ({"edge_positive_weight": 1.0}, "edge_positive_weight=1.0"),
        ({"ignore_value": 6}, "ignore_value=6"),
        ({"gate_pool": "spatial_linear"}, "gate_grid=None"),
        ({"gate_grid": [8, 8]}, "only for gate_pool"),
    ],
)
def test_configurations_that_cannot_work_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TaskExpertForMultiTaskVision(tiny.config(**fields))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda b: {"pixel_values": b["pixel_values"][:, :2]}, r"\[images, 3, height, width\]"),
        (lambda b: {"labels": {"dept": b["labels"]["depth"]}}, "labels has 'dept'"),
        (
            lambda b: {"labels": {"depth": b["labels"]["depth"][:, :9]}},
            r"labels\['depth'\] has the shape \(3, 9, 32\)",
        ),
        (lambda b: {"labels": {"normals": b["labels"]["depth"]}}, r"must be \(3, 3, 32, 32\)"),
        (lambda b: {"labels": {"semseg": b["labels"]["parts"]}}, r"row \d: labels\['semseg'\] has the class"),
        (lambda b: {"task_masks": {"depth": torch.ones(3)}}, "give 3 booleans"),
    ],
)
def test_batches_that_do_not_fit_are_refused(change: Any, message: str) -> None:
    batch = {"pixel_values": tiny.images(), "labels": tiny.labels()}
    with pytest.raises(ValueError, match=message):
        tiny.model()(**batch | change(batch))


def test_images_that_are_no_multiple_of_a_patch_are_refused() -> None:
    with pytest.raises(ValueError, match=r"no multiples of the backbone's patches of \(8, 8\)"):
        tiny.model(backbone_config=tiny.dinov2())(torch.zeros(1, 3, 32, 30))


def test_gates_are_read_by_task() -> None:
    model = tiny.model().eval()
    scores = model(tiny.images(5)).gate_scores
    readout = read_gates(scores, model.config.tasks)
    depth = readout.to_dict()["depth"]
    torch.testing.assert_close(torch.tensor(depth["occupancy"]), scores[:, :, 5].mean(dim=1))
    torch.testing.assert_close(torch.tensor(depth["spread"]), scores[:, :, 5].std(dim=1, correction=0))
    assert readout.occupancy.sum(dim=-1).allclose(torch.ones(2, 6))
    even = read_gates(torch.full((1, 2, 1, 4), 0.25), ["depth"])
    assert even.entropy.item() == pytest.approx(1)
    one = read_gates(torch.tensor([[[[1.0, 0.0]]]]), ["depth"])
    assert one.entropy.item() == 0
    with pytest.raises(ValueError, match="2 tasks"):
        read_gates(scores, ["depth", "edges"])
