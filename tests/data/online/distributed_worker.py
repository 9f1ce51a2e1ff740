"""Runs the online methods in the processes that `torchrun` starts, or in one; see test_distributed.py."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch


sys.path.insert(0, str(Path(__file__).parents[2] / "support"))

from online_run import Recorder, domains, losses, make, tiny_model

from hf_mixture.data.online import AioliCallback, DoGECallback, DoReMiCallback, ODMCallback


METHODS = {
    "aioli": lambda held_out: AioliCallback(held_out, lp_rounds=1, lp_steps=1, update_steps=8, eta=5.0),
    "doremi": lambda held_out: DoReMiCallback(held_out, tiny_model(0.0), update_steps=4),
    "doge": lambda held_out: DoGECallback(held_out, update_steps=4, num_rows=2),
    "odm": lambda held_out: ODMCallback(update_steps=3),
}


def run(folder: Path, batch_size: int) -> dict[str, Any]:
    """Reports and losses of all methods; 5 held-out rows a domain, so that the processes have unequal parts."""
    results = {}
    for name, build in METHODS.items():
        callback, recorder = build(domains(5)[1]), Recorder()
        trainer = make(
            folder / name,
            callback,
            recorder,
            steps=16,
            dropout=0.0,
            per_device_train_batch_size=batch_size,
            per_device_eval_batch_size=2,
        )
        trainer.train()
        weights = [p.double().sum().item() for p in trainer.model.parameters()]
        results[name] = {
            "world_size": trainer.args.world_size,
            "report": callback.report(),
            "losses": losses(trainer),
            "digests": recorder.digests,
            "plan": trainer.train_dataset.plan.state_dict(),
            "parameters": weights,
        }
    return results


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    results = run(folder, 2)
    (folder / f"rank-{torch.distributed.get_rank()}.json").write_text(json.dumps(results))
    torch.distributed.destroy_process_group()
