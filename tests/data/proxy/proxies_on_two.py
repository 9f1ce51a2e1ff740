"""Runs proxies on the processes that torchrun started."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path


sys.path.insert(0, str(Path(__file__).parents[2] / "support"))

import proxy_setup
import torch
from accelerate import Accelerator
from torch import distributed

from hf_mixture.data.proxy import ProxyRunner, ProxySwarm


def main(folder: Path) -> None:
    train, validation = proxy_setup.data()
    trials = proxy_setup.trials(*proxy_setup.SHARES)
    result = {}
    for name, kind in (("runner", ProxyRunner), ("swarm", ProxySwarm)):
        experiments = kind(proxy_setup.spec(), train, validation, folder=folder / name)
        # What was finished before is not shared out again.
        experiments.run(trials[:1])
        runs = experiments.run(trials)
        result[name] = [[run.trial_id, dict(run.metrics)] for run in runs]
        result[f"{name} without a folder"] = [
            dict(run.metrics) for run in kind(proxy_setup.spec(), train, validation).run(trials[:3])
        ]
    # The processes still find each other afterwards.
    accelerator = Accelerator(cpu=True)
    ranks = accelerator.gather(torch.tensor([accelerator.process_index])).tolist()
    result.update(world_size=distributed.get_world_size(), backend=distributed.get_backend(), ranks=ranks)
    (folder / f"result-{os.environ['RANK']}.json").write_text(json.dumps(result))
    distributed.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
