"""The search with the stock Trainer: its steps by their definition, resuming, two processes, and what it refuses."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from tiny_supernets import arguments, stripes, tiny_mixture, tiny_network
from transformers import Trainer, default_data_collator
from two_processes import run_alone, run_on_two

from hf_mixture import BalancedSuperNetMixture, PoolingResNetForImageClassification, SuperNetSearchCallback
from hf_mixture.models.pooling_supernet.balance import assignment, balance
from hf_mixture.models.pooling_supernet.sampling import choose_model, draw_path, validation_rows


def searching(model: BalancedSuperNetMixture, folder: Path, **fields: object) -> Trainer:
    search = SuperNetSearchCallback(stripes(24, seed=1), interval=4)
    return Trainer(model, arguments(folder, **fields), train_dataset=stripes(), callbacks=[search])


def test_every_step_trains_one_path_in_one_model_as_published(tmp_path: Path) -> None:
    """The stock Trainer beside a loop that writes the algorithm out."""
    mixture, slow = tiny_mixture(), tiny_mixture()
    validation, train = stripes(24, seed=1), stripes()
    settings = arguments(
        tmp_path,
        train_sampling_strategy="sequential",
        max_grad_norm=0,
        lr_scheduler_type="constant",
        optim_args="momentum=0.9",
    )
    search = SuperNetSearchCallback(validation, seed=7, interval=4)
    Trainer(mixture, settings, train_dataset=train, callbacks=[search]).train()

    # Each network has its own optimizer, whose momentum rests while others train.
    optimizers = [torch.optim.SGD(network.parameters(), lr=0.05, momentum=0.9) for network in slow.networks]
    scores = torch.ones(6, 3)
    trained = []
    for step in range(12):
        if step % 4 == 0:
            temperature = 1 + 99 * step / 12
            marginals = balance(temperature * scores.double()).log_marginals.float()
        path, number = draw_path(6, seed=7, step=step)
        model = choose_model(assignment(temperature * scores[path].double(), marginals), number)
        trained.append((path, model))
        network = slow.networks[model]

        def logits(x: torch.Tensor, network=network, path=path) -> torch.Tensor:  # type: ignore[no-untyped-def]
            return network.classify(network.backbone.hidden_states(x, slow.paths[path])[-1])

        first = step % 6 * 8
        loss = F.cross_entropy(logits(train.images[first : first + 8]), train.labels[first : first + 8])
        optimizers[model].zero_grad()
        loss.backward()
        optimizers[model].step()
        rows = validation_rows(24, 8, seed=7, step=step)
        right = logits(validation.images[rows]).argmax(dim=1) == validation.labels[rows]
        scores[path, model] = 0.9 * scores[path, model] + 0.1 * right.float().mean()

    for name, value in slow.networks.state_dict().items():
        torch.testing.assert_close(mixture.networks.state_dict()[name], value, rtol=1e-4, atol=1e-5, msg=name)
    torch.testing.assert_close(mixture.scores, scores)
    torch.testing.assert_close(mixture.log_marginals, marginals)
    assert float(mixture.temperature) == pytest.approx(1 + 99 * 8 / 12)
    visits = torch.zeros(6, 3, dtype=torch.int64)
    for entry in trained:
        visits[entry] += 1
    assert torch.equal(mixture.visits, visits)


def test_a_resumed_search_is_the_uninterrupted_one(tmp_path: Path) -> None:
    """Interrupted between two balancings, so that the marginals have to come back."""
    whole = searching(tiny_mixture(), tmp_path / "a", optim_args="momentum=0.9")
    whole.train()
    saving = {"save_strategy": "steps", "save_steps": 6, "optim_args": "momentum=0.9"}
    searching(tiny_mixture(), tmp_path / "b", **saving).train()
    torch.manual_seed(5)
    again = searching(tiny_mixture(), tmp_path / "b", **saving)
    again.train(resume_from_checkpoint=str(tmp_path / "b" / "checkpoint-6"))
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, again.model.state_dict()[name]), name

    def logged(trainer: Trainer) -> list[tuple[float, float, float]]:
        entries = [entry for entry in trainer.state.log_history if "loss" in entry]
        return [(entry["step"], entry["temperature"], entry["load"]) for entry in entries]

    assert logged(again) == logged(whole)
    assert logged(whole)[-1][:2] == (12, pytest.approx(1 + 99 * 8 / 12))


def test_an_epoch_is_the_default_interval(tmp_path: Path) -> None:
    mixture = tiny_mixture()
    settings = arguments(tmp_path, max_steps=-1, num_train_epochs=3, logging_steps=1)
    trainer = Trainer(
        mixture, settings, train_dataset=stripes(), callbacks=[SuperNetSearchCallback(stripes(24, seed=1))]
    )
    trainer.train()
    found = [entry["temperature"] for entry in trainer.state.log_history if "loss" in entry]
    assert found == pytest.approx([1.0] * 6 + [34.0] * 6 + [67.0] * 6)


def test_weights_in_channels_last_order_are_saved_and_resumed(tmp_path: Path) -> None:
    saving = {"save_strategy": "steps", "save_steps": 6}
    model = tiny_mixture().to(memory_format=torch.channels_last)
    searching(model, tmp_path, **saving).train()
    again = tiny_mixture().to(memory_format=torch.channels_last)
    searching(again, tmp_path, **saving).train(resume_from_checkpoint=str(tmp_path / "checkpoint-6"))
    for name, value in model.state_dict().items():
        torch.testing.assert_close(again.state_dict()[name], value, rtol=1e-5, atol=1e-6, msg=name)


def test_accumulated_gradients_belong_to_one_path(tmp_path: Path) -> None:
    mixture = tiny_mixture()
    searching(mixture, tmp_path, gradient_accumulation_steps=2, max_steps=4).train()
    assert int(mixture.visits.sum()) == 4


def test_accuracies_of_the_end_do_not_outlive_further_training(tmp_path: Path) -> None:
    mixture = tiny_mixture()
    mixture.evaluate_paths(stripes(8), progress=False)
    searching(mixture, tmp_path, max_steps=2).train()
    assert bool((mixture.accuracies < 0).all())
    tried = mixture.visits > 0
    assert bool(tried[mixture.best()])


def test_evaluation_during_the_search_is_that_of_the_best_path(tmp_path: Path) -> None:
    mixture = tiny_mixture()
    settings = arguments(tmp_path, eval_strategy="steps", eval_steps=6)
    data = stripes(24, seed=1)
    search = SuperNetSearchCallback(data, interval=4)
    trainer = Trainer(mixture, settings, train_dataset=stripes(), eval_dataset=data, callbacks=[search])
    trainer.train()
    batch = default_data_collator([data[row] for row in range(8)])
    best = mixture.best()
    expected = mixture.eval()(**batch, path=best.path, model_index=best.model).loss
    assert torch.equal(mixture(**batch).loss, expected)
    assert trainer.evaluate()["eval_loss"] > 0


@pytest.mark.slow
def test_two_processes_search_as_one(tmp_path: Path) -> None:
    """The draws are the same; statistics of batches are those of half a batch, so that weights may differ."""
    worker = Path(__file__).parent / "supernet_worker.py"
    run_on_two(worker, tmp_path, 2)
    run_alone(worker, tmp_path, 1)
    first, second, alone = (torch.load(tmp_path / f"{name}.pt", weights_only=True) for name in ("2-0", "2-1", "1-0"))
    for name, value in first.items():
        assert torch.equal(value, second[name]), name
    assert int(first["visits"].sum()) == 10
    # Before the first accuracies matter, the draws of one process are those of two.
    assert torch.equal(first["visits"].sum(dim=1), alone["visits"].sum(dim=1))
    assert not torch.equal(first["scores"], torch.ones_like(first["scores"]))


def test_what_cannot_be_searched_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="has no rows"):
        SuperNetSearchCallback([])
    for name, value in (("seed", -1), ("batch_size", 0), ("interval", 0)):
        with pytest.raises(ValueError, match=f"{name}={value} must be at least"):
            SuperNetSearchCallback(stripes(4), **{name: value})
    network = PoolingResNetForImageClassification(tiny_network())
    trainer = Trainer(
        network, arguments(tmp_path), train_dataset=stripes(), callbacks=[SuperNetSearchCallback(stripes(4))]
    )
    with pytest.raises(TypeError, match="give a BalancedSuperNetMixture"):
        trainer.train()
    with pytest.raises(ValueError, match="no path is chosen to train"):
        Trainer(tiny_mixture(), arguments(tmp_path), train_dataset=stripes()).train()


def test_a_search_finds_where_fine_stripes_must_not_be_pooled(tmp_path: Path) -> None:
    """Loads are even within three standard deviations, and accuracy rises above chance."""
    mixture = tiny_mixture(num_models=2)
    searching(mixture, tmp_path, max_steps=150, per_device_train_batch_size=24).train()
    loads = mixture.visits.sum(dim=0).double() / 150
    assert float((loads - 0.5).abs().max()) <= 3 * (0.25 / 150) ** 0.5
    accuracies = mixture.evaluate_paths(stripes(60, seed=2), batch_size=60, progress=False)
    assert float(accuracies.max()) > 0.9
