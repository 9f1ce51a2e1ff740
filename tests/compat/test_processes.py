from __future__ import annotations

import os

from accelerate import Accelerator, PartialState
from accelerate.state import AcceleratorState, GradientState
from transformers import TrainingArguments

from hf_mixture._compat.processes import alone


def test_a_trainer_inside_sees_one_process_and_the_state_outside_comes_back(tmp_path, monkeypatch):
    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=3)
    states = (PartialState, AcceleratorState, GradientState)
    before = [dict(state._shared_state) for state in states]
    assert all(before)
    launcher = {"RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "4", "MASTER_ADDR": "nowhere", "MASTER_PORT": "1"}
    for name, value in launcher.items():
        monkeypatch.setenv(name, value)
    with alone():
        # Without the guard this would wait for a process group of 4.
        assert TrainingArguments(output_dir=str(tmp_path), use_cpu=True).world_size == 1
        assert PartialState().num_processes == 1
        assert Accelerator(cpu=True).gradient_accumulation_steps == 1
    assert {name: os.environ[name] for name in launcher} == launcher
    assert [dict(state._shared_state) for state in states] == before
    assert accelerator.gradient_accumulation_steps == 3
    assert accelerator.state.num_processes == 1
