"""What `extend_logs` relies on in the Trainer, and what it leaves alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainerCallback, TrainingArguments

from hf_mixture._compat.transformers import extend_logs


class Reporter(TrainerCallback):
    def __init__(self) -> None:
        self.logs: list[dict[str, Any]] = []

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        self.logs.append(dict(logs))


class Extender(TrainerCallback):
    def extend_logs(self, args: TrainingArguments, state: Any, logs: dict[str, Any]) -> dict[str, Any]:
        return {"more": logs["loss"] + 1}


def trainer(output: Path, *callbacks: TrainerCallback) -> Trainer:
    model = LlamaForCausalLM(
        LlamaConfig(vocab_size=8, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1)
    )
    return Trainer(
        model=model,
        args=TrainingArguments(output_dir=str(output), use_cpu=True, report_to=[]),
        callbacks=list(callbacks),
    )


def test_callbacks_add_to_an_entry_before_reporters_see_it(tmp_path: Path) -> None:
    extend_logs()
    extend_logs()
    reporter = Reporter()
    run = trainer(tmp_path, reporter, Extender())
    run.log({"loss": 1.0})
    assert reporter.logs == [{"loss": 1.0, "epoch": 0, "more": 2.0}]
    assert run.state.log_history == [{"loss": 1.0, "epoch": 0, "step": 0, "more": 2.0}]


def test_other_callbacks_notice_nothing(tmp_path: Path) -> None:
    extend_logs()
    reporter = Reporter()
    run = trainer(tmp_path, reporter)
    run.log({"loss": 1.0})
    assert reporter.logs == [{"loss": 1.0, "epoch": 0}]
    assert run.state.log_history == [{"loss": 1.0, "epoch": 0, "step": 0}]
