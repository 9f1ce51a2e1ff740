"""One loss, three ways: a plain training loop, the stock Trainer, and the stacked swarm."""

from __future__ import annotations

import math

import numpy as np
import proxy_setup
import pytest
import torch
from proxy_setup import GPT2, LLAMA, SHARES

from hf_mixture import Mixture
from hf_mixture.data.plan import MixturePlan
from hf_mixture.data.proxy import ProxyRunner, ProxySwarm
from hf_mixture.data.search import Trial


TOLERANCE = 2e-5


def plain_loop(spec, trial, train, validation):
    """The experiment as it would be written by hand, for a Llama and the cosine schedule."""
    from transformers import LlamaConfig, LlamaForCausalLM

    num_steps = max(1, round(trial.fidelity * spec.num_steps))
    warmup = math.ceil(spec.warmup_fraction * num_steps)
    torch.manual_seed(spec.seed)
    model = LlamaForCausalLM(LlamaConfig(**{k: v for k, v in spec.model.items() if k != "model_type"}))
    matrices = [p for name, p in model.named_parameters() if "norm" not in name]
    vectors = [p for name, p in model.named_parameters() if "norm" in name]
    optimizer = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": spec.weight_decay}, {"params": vectors, "weight_decay": 0.0}],
        betas=spec.adam_betas,
        eps=spec.adam_epsilon,
    )
    names = list(train)
    plan = MixturePlan.build(
        [dict(zip(trial.domains, trial.weights, strict=True))[name] for name in names],
        [len(train[name]) for name in names],
        num_examples=num_steps * spec.batch_size,
        seed=spec.seed,
    )
    for step in range(num_steps):
        rows = []
        for position in range(step * spec.batch_size, (step + 1) * spec.batch_size):
            source, row = plan.locate([position])
            rows.append(train[names[source[0]]][row[0]])
        ids = torch.stack(rows)
        logits = model(input_ids=ids).logits
        loss = torch.nn.functional.cross_entropy(logits[:, :-1].reshape(-1, 256), ids[:, 1:].reshape(-1))
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), spec.max_grad_norm)
        progress = (step - warmup) / max(1, num_steps - warmup)
        factor = step / warmup if step < warmup else (1 + math.cos(math.pi * progress)) / 2
        for group in optimizer.param_groups:
            group["lr"] = spec.learning_rate * factor
        optimizer.step()
    losses = {}
    with torch.no_grad():
        for name, ids in validation.items():
            nats = []
            for sample in ids:
                logits = model(input_ids=sample[None]).logits[0, :-1].double()
                nats += torch.nn.functional.cross_entropy(logits, sample[1:], reduction="none").tolist()
            losses[f"loss/{name}"] = sum(nats) / len(nats)
    return {**losses, "loss/mean": sum(losses.values()) / len(losses)}


def largest_difference(first, second):
    assert [run.trial_id for run in first] == [run.trial_id for run in second]
    assert all(one.metrics.keys() == two.metrics.keys() for one, two in zip(first, second, strict=True))
    return max(
        abs(one.metrics[name] - two.metrics[name])
        for one, two in zip(first, second, strict=True)
        for name in one.metrics
    )


@pytest.mark.parametrize("fields", [{}, {"weight_decay": 0.3, "max_grad_norm": 0.1, "seed": 7}])
def test_trainer_and_swarm_equal_a_plain_loop(fields):
    train, validation = proxy_setup.data()
    spec = proxy_setup.spec(**fields)
    (trial,) = proxy_setup.trials((0.5, 0.5, 0.0))
    expected = plain_loop(spec, trial, train, validation)
    for experiments in (ProxyRunner(spec, train, validation), ProxySwarm(spec, train, validation)):
        metrics = experiments(trial)
        assert metrics == pytest.approx(expected, abs=TOLERANCE, rel=0)
        # The losses have moved by far more than that from ln 256, and differ by domain.
        assert metrics["loss/mean"] < math.log(256) - 0.5
        assert len({round(loss, 2) for loss in metrics.values()}) > 2


FAMILIES = {
    "llama": LLAMA,
    "gpt2": GPT2,
    "gemma": {**LLAMA, "model_type": "gemma", "head_dim": 8},
    "mixtral": {**LLAMA, "model_type": "mixtral"},
    "opt": {
        "model_type": "opt",
        "vocab_size": 256,
        "hidden_size": 32,
        "ffn_dim": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "word_embed_proj_dim": 32,
        "dropout": 0.0,
    },
}


@pytest.mark.parametrize("family", ["llama", "gpt2", *[pytest.param(n, marks=pytest.mark.slow) for n in FAMILIES][2:]])
def test_swarm_equals_trainer(family):
    train, validation = proxy_setup.data()
    # Domains in another order than that of the data, a domain of weight 0, and runs of two lengths.
    trials = [
        *proxy_setup.trials(*SHARES[:3]),
        Trial("reordered", ("tests", "mail", "codecs"), (0.6, 0.4, 0.0)),
        *proxy_setup.trials(SHARES[3], fidelity=0.5, prefix="short"),
    ]
    spec = proxy_setup.spec(model=FAMILIES[family], weight_decay=0.1, eval_samples=13, eval_batch_size=5)
    runner, swarm = ProxyRunner(spec, train, validation), ProxySwarm(spec, train, validation, max_stack=3)
    one_by_one, stacked = runner.run(trials), swarm.run(trials)
    assert largest_difference(one_by_one, stacked) <= TOLERANCE
    assert len({run.metrics["loss/mean"] for run in one_by_one}) == len(trials)


def test_the_domain_that_is_trained_on_is_learnt():
    train, validation = proxy_setup.data()
    swarm = ProxySwarm(proxy_setup.spec(num_steps=40), train, validation)
    names = list(train)
    runs = swarm.run(proxy_setup.trials(*np.eye(3).tolist()))
    for number, name in enumerate(names):
        losses = [run.metrics[f"loss/{name}"] for run in runs]
        assert int(np.argmin(losses)) == number


def test_runs_are_repeated_bit_by_bit_and_leave_randomness_alone():
    train, validation = proxy_setup.data()
    trials = proxy_setup.trials(*SHARES[:2])
    for kind in (ProxyRunner, ProxySwarm):
        torch.manual_seed(1)
        np.random.seed(1)
        before = torch.get_rng_state(), np.random.get_state()[1].tolist()
        first = kind(proxy_setup.spec(), train, validation).run(trials)
        assert torch.equal(torch.get_rng_state(), before[0])
        assert np.random.get_state()[1].tolist() == before[1]
        torch.manual_seed(2)
        again = kind(proxy_setup.spec(), train, validation)
        assert again.run(trials) == first
        # Alone, a proxy is multiplied by another kernel than in a stack, which may round in another way.
        alone = kind(proxy_setup.spec(), train, validation)(trials[1])
        assert alone == pytest.approx(dict(first[1].metrics), abs=0 if kind is ProxyRunner else 1e-6, rel=0)


def test_chunks_of_any_size_give_the_same():
    train, validation = proxy_setup.data()
    trials = proxy_setup.trials(*SHARES, *SHARES[1:])  # stacks of 7, of 3 and 2, of 1
    runs = {size: ProxySwarm(proxy_setup.spec(), train, validation, max_stack=size).run(trials) for size in (1, 3, 7)}
    assert largest_difference(runs[1], runs[7]) <= 1e-6
    assert largest_difference(runs[3], runs[7]) <= 1e-6


def test_mixtures_are_trials():
    train, validation = proxy_setup.data()
    swarm = ProxySwarm(proxy_setup.spec(), train, validation)
    mixture = Mixture(dict(zip(train, SHARES[0], strict=True)), unit="tokens", name="run-0")
    assert swarm.run([mixture]) == swarm.run(proxy_setup.trials(SHARES[0]))


def test_sources_of_every_kind_give_the_same(tmp_path):
    from datasets import Dataset

    train, validation = proxy_setup.data()

    class Rows(torch.utils.data.Dataset):
        def __init__(self, ids):
            self.ids = ids

        def __len__(self):
            return len(self.ids)

        def __getitem__(self, row):
            return {"input_ids": self.ids[row]}

    expected = ProxySwarm(proxy_setup.spec(), train, validation)(proxy_setup.trials(SHARES[0])[0])
    makers = (Rows, lambda ids: ids.to(torch.int32), lambda ids: Dataset.from_dict({"input_ids": ids.tolist()}))
    for make in makers:
        for kind in (ProxySwarm, ProxyRunner):
            kinds = {name: make(ids) for name, ids in train.items()}
            found = kind(proxy_setup.spec(), kinds, validation)(proxy_setup.trials(SHARES[0])[0])
            assert found == pytest.approx(expected, abs=0 if kind is ProxySwarm else TOLERANCE, rel=0)
