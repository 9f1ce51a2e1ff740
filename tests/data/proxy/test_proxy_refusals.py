"""Bad input is refused with one clear error before anything is trained."""

from __future__ import annotations

import dataclasses
import json

import proxy_setup
import pytest
import torch
from proxy_setup import GPT2, LLAMA, SHARES

from hf_mixture import Mixture
from hf_mixture.data.proxy import ProxyFailed, ProxyRunner, ProxySpec, ProxySwarm
from hf_mixture.data.search import Trial


@pytest.fixture(scope="module")
def data():
    return proxy_setup.data()


@pytest.fixture(scope="module")
def swarm(data):
    return ProxySwarm(proxy_setup.spec(num_steps=1), *data)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"model": {"hidden_size": 8}}, "model_type"),
        ({"num_steps": 0}, "num_steps=0"),
        ({"num_steps": 2.5}, "num_steps=2.5"),
        ({"batch_size": True}, "batch_size=True"),
        ({"eval_samples": 0}, "eval_samples=0"),
        ({"learning_rate": float("nan")}, "learning_rate=nan"),
        ({"max_grad_norm": 0.0}, "max_grad_norm=0.0"),
        ({"weight_decay": -1.0}, "weight_decay=-1.0"),
        ({"warmup_fraction": 1.5}, "warmup_fraction=1.5"),
        ({"lr_scheduler_type": "cosin"}, "cosin.*choose one"),
        ({"adam_betas": (0.9, 1.0)}, "adam_betas"),
        ({"seed": -1}, "seed=-1"),
    ],
)
def test_spec(fields, message):
    with pytest.raises(ValueError, match=message):
        ProxySpec(**fields)


def test_spec_round_trip():
    spec = proxy_setup.spec(adam_betas=(0.8, 0.95), eval_samples=3)
    assert ProxySpec.from_dict(json.loads(json.dumps(spec.to_dict()))) == spec
    with pytest.raises(ValueError, match=r"no fields .'steps'"):
        ProxySpec.from_dict({"steps": 3})


@pytest.mark.parametrize(
    ("tokens", "length", "batch", "steps"), [(1, 8, 4, 1), (32, 8, 4, 1), (33, 8, 4, 2), (10**6, 64, 16, 977)]
)
def test_tokens_are_rounded_up_to_steps(tokens, length, batch, steps):
    assert ProxySpec.for_tokens(tokens, length, batch_size=batch).num_steps == steps


def test_fidelity_is_a_fraction_of_the_steps():
    spec = ProxySpec(num_steps=30, warmup_fraction=0.1)
    assert [spec.steps(fidelity) for fidelity in (1.0, 0.5, 0.1, 0.001)] == [30, 15, 3, 1]
    assert [spec.warmup_steps(steps) for steps in (30, 31, 3, 1)] == [3, 4, 1, 1]


@pytest.mark.parametrize("kind", [ProxyRunner, ProxySwarm])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda train, validation: ({}, validation), "train has no domain"),
        (lambda train, validation: (train, {}), "validation has no domain"),
        (lambda train, validation: ({**train, "mail": train["mail"][:0]}, validation), r"train\['mail'\] is empty"),
        (lambda train, validation: (train, {**validation, "mail": []}), r"validation\['mail'\] is empty"),
        (lambda train, validation: ({**train, "mail": train["mail"][:, :9]}, validation), "different lengths"),
        (lambda train, validation: ({**train, "mail": train["mail"].float()}, validation), "whole numbers"),
        (lambda train, validation: ({**train, "mail": [{"text": "a"}]}, validation), "no column 'input_ids'"),
        (lambda train, validation: ({"mail": torch.zeros(5, 1, dtype=torch.long)}, validation), "at least 2"),
    ],
)
def test_data(kind, data, change, message):
    with pytest.raises(ValueError, match=message):
        kind(proxy_setup.spec(), *change(*data))


def test_streams_are_refused(data):
    with pytest.raises(TypeError, match=r"generator.*pack it first"):
        ProxyRunner(proxy_setup.spec(), {"mail": (row for row in [])}, data[1])


def test_rows_of_different_lengths_are_refused(data):
    ragged = [{"input_ids": [1] * 32}, {"input_ids": [1] * 31}]
    with pytest.raises(ValueError, match=r"31, 32.*equally long"):
        ProxyRunner(proxy_setup.spec(), {"mail": ragged}, data[1])


@pytest.mark.parametrize(
    ("trial", "message"),
    [
        (Trial("a", ("mail", "codecs"), (0.5, 0.5)), r"missing \['tests'\]"),
        (Trial("a", ("mail", "codecs", "tests", "more"), (0.5, 0.5, 0.0, 0.0)), r"unknown \['more'\]"),
        (proxy_setup.trials((0.5, 0.5, 0.5))[0], "sum 1.5"),
        (proxy_setup.trials((1.5, -0.5, 0.0))[0], ">= 0"),
        (proxy_setup.trials((float("nan"), 0.5, 0.5))[0], ">= 0"),
        (proxy_setup.trials(SHARES[0], fidelity=0.0)[0], "fidelity"),
        (proxy_setup.trials(SHARES[0], fidelity=1.01)[0], "fidelity"),
        (Mixture({"mail": 0.5, "codecs": 0.3, "tests": 0.2}, unit="tokens"), "no name"),
        (Mixture({"mail": 0.5, "codecs": 0.3, "tests": 0.2}, unit="bytes", name="a"), "bytes"),
    ],
)
def test_trials(swarm, trial, message):
    with pytest.raises(ValueError, match=message):
        swarm.run([trial])


def test_repeated_ids_are_refused(swarm):
    with pytest.raises(ValueError, match=r"\['run-0'\] repeat"):
        swarm.run([*proxy_setup.trials(SHARES[0]), *proxy_setup.trials(SHARES[1])])


def test_another_mixture_under_a_known_id_is_refused(data, tmp_path):
    for folder in (None, tmp_path):
        swarm = ProxySwarm(proxy_setup.spec(num_steps=1), *data, folder=folder)
        swarm.run(proxy_setup.trials(SHARES[0]))
        with pytest.raises(ValueError, match=r"'run-0' was run with weights .* another id"):
            swarm.run(proxy_setup.trials(SHARES[1]))
        with pytest.raises(ValueError, match="another id"):
            swarm.run(proxy_setup.trials(SHARES[0], fidelity=0.5))


@pytest.mark.parametrize("kind", [ProxyRunner, ProxySwarm])
def test_tokens_outside_the_vocabulary_are_refused(kind, data):
    train, validation = data
    spec = proxy_setup.spec(num_steps=1)
    big = {name: ids + 200 for name, ids in train.items()}
    with pytest.raises((ValueError, IndexError), match=r"vocab_size|index out of range"):
        kind(spec, big, validation).run(proxy_setup.trials(SHARES[0]))
    with pytest.raises(ValueError, match=r"validation\['mail'\].*vocab_size"):
        kind(spec, train, {"mail": validation["mail"] + 200}).run(proxy_setup.trials(SHARES[0]))


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ({**LLAMA, "model_type": "bert_"}, "no causal language model"),
        ({**LLAMA, "num_attention_heads": 5}, "cannot be built|refused"),
        ({**LLAMA, "max_position_embeddings": 31}, "32 tokens.*max_position_embeddings=31"),
    ],
)
def test_models(data, model, message):
    with pytest.raises(ValueError, match=message):
        ProxyRunner(proxy_setup.spec(model=model), *data).run(proxy_setup.trials(SHARES[0]))


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ({**GPT2, "attn_pdrop": 0.1}, "dropout.*attn_dropout.*to 0"),
        ({**LLAMA, "attention_dropout": 0.1}, "dropout.*attention_dropout"),
        ({"model_type": "mamba", "vocab_size": 256, "hidden_size": 16, "num_hidden_layers": 1}, "cannot be stacked"),
        # Its experts see how often a token was routed in the whole batch.
        ({**LLAMA, "model_type": "llama4_text"}, "cannot be stacked: the losses"),
    ],
)
def test_models_that_cannot_be_stacked_are_refused_with_the_reason(data, model, message):
    with pytest.raises(ValueError, match=f"{message}.*ProxyRunner"):
        ProxySwarm(proxy_setup.spec(model=model), *data)


@pytest.mark.parametrize("fields", [{"max_stack": 0}, {"max_stack": 1.5}, {"checkpoint_seconds": 0}])
def test_swarm_settings(data, fields):
    with pytest.raises(ValueError, match=next(iter(fields))):
        ProxySwarm(proxy_setup.spec(), *data, **fields)


@pytest.mark.parametrize("kind", [ProxyRunner, ProxySwarm])
def test_losses_that_are_not_finite_are_recorded_as_failed(kind, data, tmp_path):
    train, validation = data
    spec = proxy_setup.spec(num_steps=3, learning_rate=1e38, warmup_fraction=0.0)
    for attempt in range(2):
        experiments = kind(spec, train, validation, folder=tmp_path)
        with pytest.raises(ProxyFailed, match=r"2 of 2 proxy runs failed .*run-0: loss is .*learning_rate") as failure:
            experiments.run(proxy_setup.trials(*SHARES[:2]))
        assert failure.value.runs == []
        lines = (tmp_path / "runs-00000.jsonl").read_text().splitlines()
        assert len(lines) == 2, attempt
        assert [json.loads(line)["metrics"] for line in lines] == [None, None]


def test_one_proxy_that_diverges_does_not_disturb_the_others(data, monkeypatch):
    train, validation = data
    spec = proxy_setup.spec()
    good = ProxySwarm(spec, train, validation).run(proxy_setup.trials(*SHARES[:2]))
    swarm = ProxySwarm(spec, train, validation)
    measure = swarm._measure

    def spoilt(group, progress):
        from hf_mixture.data.proxy import swarm as module

        class Spoilt(module.StackedTraining):
            def __init__(self, *args):
                super().__init__(*args)
                with torch.no_grad():
                    next(iter(self.parameters.values()))[2] = float("inf")

        with monkeypatch.context() as patch:
            patch.setattr(module, "StackedTraining", Spoilt)
            return measure(group, progress)

    monkeypatch.setattr(swarm, "_measure", spoilt)
    with pytest.raises(ProxyFailed, match="run-2: loss is nan") as failure:
        swarm.run(proxy_setup.trials(*SHARES[:3]))
    assert failure.value.runs == good


def test_specs_are_told_apart(data):
    spec = proxy_setup.spec()
    trial = proxy_setup.trials(SHARES[0])[0]
    keys = {
        ProxyRunner(changed, *data).key(trial)
        for changed in (spec, dataclasses.replace(spec, seed=1), dataclasses.replace(spec, num_steps=13))
    }
    assert len(keys) == 3
