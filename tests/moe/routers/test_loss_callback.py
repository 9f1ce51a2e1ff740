"""`RouterLoss` under the stock Trainer: one batch, accumulated batches and two processes give the same."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest
import torch
from transformers import Trainer, TrainingArguments
from transformers.models.mixtral.modeling_mixtral import load_balancing_loss_func
from two_processes import run_on_two

from hf_mixture.moe.routers import replace_routers
from hf_mixture.moe.routers.loss_callback import RouterLoss


WORKER = Path(__file__).parent / "loss_worker.py"
worker = runpy.run_path(str(WORKER))
train, build_model, CASES, COEFFICIENTS = (worker[name] for name in ("train", "build_model", "CASES", "COEFFICIENTS"))


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    folder = tmp_path_factory.mktemp("loss")
    run_on_two(WORKER, folder)
    return torch.load(folder / "results.pt", weights_only=True)


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    """One process with batches of 8."""
    return train(tmp_path_factory.mktemp("one"), 8, **COEFFICIENTS)


def worst(left, right):
    assert left.keys() == right.keys()
    return max((left[name] - right[name]).abs().max().item() for name in left)


def gradients_of(results, case, step):
    prefix = f"{case}/{step}/"
    return {name.removeprefix(prefix): value for name, value in results.items() if name.startswith(prefix)}


@pytest.mark.parametrize(("batch", "accumulation"), [(4, 2), (2, 4)])
def test_accumulation_equals_one_batch(one, tmp_path, batch, accumulation):
    names, logs, steps = one
    _, accumulated, other_steps = train(tmp_path, batch, accumulation, **COEFFICIENTS)
    # The Trainer keeps the loss itself in float32.
    assert (logs[:, 0] - accumulated[:, 0]).abs().max() < 2e-6
    assert (logs[:, 1:] - accumulated[:, 1:]).abs().max() < 1e-10
    assert names[1:] == [f"router/{name}" for name in COEFFICIENTS]
    assert all(worst(a, b) < 1e-10 for a, b in zip(steps, other_steps, strict=True))


def test_pooled_accumulation_equals_one_batch(tmp_path):
    loss = {"load_balance": 0.5, "importance": 0.5, "z": 0.5, "pooling": "pooled", "per": "choice"}
    _, logs, steps = train(tmp_path, 8, **loss)
    _, accumulated, other_steps = train(tmp_path, 4, 2, **loss)
    assert (logs[:, 1:] - accumulated[:, 1:]).abs().max() < 1e-10
    assert all(worst(a, b) < 1e-10 for a, b in zip(steps, other_steps, strict=True))


@pytest.mark.parametrize("case", ["exact", "exact_accumulated"])
def test_two_processes_equal_one(one, two, case):
    _, logs, steps = one
    assert (logs[:, 0] - two[f"{case}/logs"][:, 0]).abs().max() < 2e-6
    assert (logs[:, 1:] - two[f"{case}/logs"][:, 1:]).abs().max() < 1e-10
    for step, expected in enumerate(steps):
        assert worst(expected, gradients_of(two, case, step)) < 1e-10


@pytest.mark.parametrize("case", ["micro", "running"])
def test_other_ways_of_counting_do_differ(two, tmp_path, case):
    """What makes the tests above tests: losses by micro-batch, or by running counts, are not those of the batch."""
    whole = train(tmp_path, 8, **CASES[case])[2][0]
    assert worst(whole, train(tmp_path, 4, 2, **CASES[case])[2][0]) > 1e-3
    if case == "running":
        # Without accumulation there is nothing to run over.
        assert worst(whole, gradients_of(two, case, 0)) < 1e-10


def test_loss_free_balance_on_two_processes(two, tmp_path):
    """Counts of both processes move the bias: the same as in one process with all rows."""
    one = worker["train_balanced"](tmp_path, 8)
    assert torch.equal(one, two["biases"])
    assert one.abs().max() > 0
    assert not torch.equal(one, worker["train_balanced"](tmp_path, 4))


def test_loss_of_the_model_itself(two, tmp_path):
    """Without `compute_loss_func`, with the loss that transformers computes in float32."""
    _, logs, _ = train(tmp_path, 8, compute=None, **COEFFICIENTS)
    assert (logs - two["stock/logs"]).abs().max() < 1e-5
    _, plain, _ = train(tmp_path, 8, compute=None)
    added = sum(weight * value for weight, value in zip(COEFFICIENTS.values(), logs[0, 1:].tolist(), strict=True))
    assert logs[0, 0].item() == pytest.approx(plain[0, 0].item() + added, abs=1e-5)


def test_model_without_loss_kwargs_is_scaled_right(tmp_path):
    """A Trainer divides the loss of a model that does not take `num_items_in_batch` by the number of micro-batches."""

    def gradient(batch, accumulation, **loss):
        model = build_model()
        model.accepts_loss_kwargs = False
        _, _, steps = train(tmp_path, batch, accumulation, model=model, compute=None, **loss)
        return steps[0]["model.layers.1.mlp.gate.weight"]

    whole, accumulated = (gradient(*sizes, load_balance=0.5) - gradient(*sizes) for sizes in ((8, 1), (4, 2)))
    assert (whole - accumulated).abs().max() < 1e-6
    assert whole.abs().max() > 1e-3


def test_the_router_gets_a_gradient(tmp_path):
    """With a language model loss of zero, what moves the routers is the loss added here."""

    def nothing(outputs, labels, num_items_in_batch=None):
        return outputs.logits.sum() * 0.0

    for name in ("load_balance", "importance", "z", "orthogonality"):
        _, _, steps = train(tmp_path, 4, 2, compute=nothing, **{name: 1.0})
        for layer in (0, 1):
            gradient = steps[0][f"model.layers.{layer}.mlp.gate.weight"]
            assert gradient.abs().max() > 1e-4, name
    _, _, steps = train(tmp_path, 8, compute=nothing, expert_orthogonality=1.0)
    assert steps[0]["model.layers.0.mlp.experts.down_proj"].abs().max() > 1e-6


def test_training_lowers_the_loss(tmp_path):
    arguments = {"max_steps": 12, "learning_rate": 0.1}
    _, logs, _ = train(tmp_path, 8, arguments=arguments, load_balance=1.0)
    assert logs[-1, 1] < logs[0, 1] - 0.1


def test_pooled_equals_the_loss_of_transformers(tmp_path):
    """Same number as `output_router_logits` gives, in training with padding, times its coefficient."""
    _, logs, _ = train(tmp_path, 8, load_balance=0.5, pooling="pooled")
    model = build_model().train()
    batch = worker["collate"](worker["rows"]()[:8])
    outputs = model(**batch, output_router_logits=True)
    expected = load_balancing_loss_func(outputs.router_logits, 4, 2, batch["attention_mask"])
    assert logs[0, 1].item() == pytest.approx(expected.item(), abs=1e-5)
    assert outputs.aux_loss.item() == pytest.approx(expected.item(), abs=1e-6)


@pytest.mark.parametrize("checkpointing", [True, False])
def test_sequences_and_gradient_checkpointing(tmp_path, checkpointing):
    """Layers that run again in the backward are not counted again."""
    arguments = {"gradient_checkpointing": True, "gradient_checkpointing_kwargs": {"use_reentrant": False}}
    loss = {"load_balance": 0.5, "scope": "sequence"}
    _, logs, steps = train(tmp_path, 8, arguments=arguments if checkpointing else None, **loss)
    _, expected, other_steps = train(tmp_path, 4, 2, **loss)
    # Sequences do not mix, so that it makes no difference how they are batched.
    assert (logs[:, 1:] - expected[:, 1:]).abs().max() < 1e-10
    assert worst(steps[0], other_steps[0]) < 1e-10


def test_reentrant_checkpointing_is_refused(tmp_path):
    arguments = {"gradient_checkpointing": True, "gradient_checkpointing_kwargs": {"use_reentrant": True}}
    with pytest.raises(ValueError, match="use_reentrant"):
        train(tmp_path, 8, arguments=arguments, load_balance=0.5)


def test_load_of_noisy_routers(tmp_path):
    """The smooth load moves gates and spreads; noise falls the same way in the pass that counts."""

    def nothing(outputs, labels, num_items_in_batch=None):
        return outputs.logits.sum() * 0.0

    model = build_model()
    replace_routers(model, "noisy_topk")
    names, logs, steps = train(tmp_path, 4, 2, model=model, compute=nothing, load=1.0)
    assert names == ["loss", "router/load"]
    assert logs[0, 1] > 0
    assert logs[0, 0].item() == pytest.approx(logs[0, 1].item(), abs=1e-5)
    for kind in ("weight", "noise_weight"):
        assert steps[0][f"model.layers.1.mlp.gate.{kind}"].abs().max() > 1e-4
    gate = model.model.layers[0].mlp.gate
    assert not gate.keeps_load
    assert gate.load is None
    args = TrainingArguments(output_dir=str(tmp_path), report_to="none", use_cpu=True)
    with pytest.raises(ValueError, match=r"no noise.*replace_routers\(model, 'noisy_topk'\)"):
        RouterLoss(load=0.1).attach(Trainer(build_model(), args))


def test_dropout_falls_the_same_way_in_both_passes(tmp_path, recwarn):
    model = build_model(attention_dropout=0.5)
    train(tmp_path, 2, 4, model=model, load_balance=0.5)
    assert not [w for w in recwarn if "differ between the pass" in str(w.message)]


def test_choices_that_change_between_the_passes_are_told(tmp_path):
    model = build_model()
    calls = iter(range(10**6))
    model.model.layers[0].mlp.gate.register_forward_pre_hook(
        lambda module, args: (args[0] * (-1) ** (next(calls) // 2),)
    )
    with pytest.warns(UserWarning, match="differ between the pass that counts"):
        train(tmp_path, 4, 2, model=model, load_balance=0.5)


def test_evaluation_and_detaching_leave_everything_as_it_was(tmp_path):
    def trainer_of(model):
        args = TrainingArguments(
            output_dir=str(tmp_path),
            report_to="none",
            use_cpu=True,
            max_steps=1,
            save_strategy="no",
            disable_tqdm=True,
        )
        rows = worker["rows"]()
        return Trainer(model, args, train_dataset=rows, eval_dataset=rows, data_collator=worker["collate"])

    model = build_model()
    trainer = trainer_of(model)
    before = trainer.evaluate()["eval_loss"]
    hooks = [len(module._forward_hooks) for module in model.modules()]
    router_loss = RouterLoss(load_balance=10.0).attach(trainer)
    assert trainer.evaluate()["eval_loss"] == before
    trainer.train()
    assert [len(module._forward_hooks) for module in model.modules()] == hooks
    assert set(router_loss.last) == {"load_balance"}
    router_loss.detach()
    assert "compute_loss" not in vars(trainer)
    assert "get_batch_samples" not in vars(trainer)
    assert router_loss not in trainer.callback_handler.callbacks
    router_loss.attach(trainer_of(build_model())).detach()


def test_what_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"z=-1 is not a number >= 0"):
        RouterLoss(z=-1)
    with pytest.raises(ValueError, match="all coefficients are 0"):
        RouterLoss()
    with pytest.raises(ValueError, match=r"scope='batch'.*'global'"):
        RouterLoss(z=1.0, scope="batch")
    with pytest.raises(ValueError, match=r"counting='fast'.*'running'"):
        RouterLoss(z=1.0, counting="fast")
    args = TrainingArguments(output_dir=str(tmp_path), report_to="none", use_cpu=True, max_steps=1)
    model = build_model(output_router_logits=True)
    with pytest.raises(ValueError, match=r"router_aux_loss_coef.*count twice"):
        RouterLoss(load_balance=0.1).attach(Trainer(model, args))
    RouterLoss(z=0.1).attach(Trainer(model, args))
    trainer = Trainer(
        build_model(),
        args,
        train_dataset=worker["rows"](),
        data_collator=worker["collate"],
        callbacks=[RouterLoss(z=1)],
    )
    with pytest.raises(ValueError, match=r"attach\(trainer\)"):
        trainer.train()
    attached = RouterLoss(z=0.1).attach(Trainer(build_model(), args))
    with pytest.raises(ValueError, match="attached to a Trainer already"):
        attached.attach(Trainer(build_model(), args))
