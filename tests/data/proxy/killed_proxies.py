"""Runs proxies one by one and stacked, to be killed."""

from __future__ import annotations

import sys
from pathlib import Path


sys.path.insert(0, str(Path(__file__).parents[2] / "support"))

import proxy_setup

from hf_mixture.data.proxy import ProxyRunner, ProxySwarm


def main(folder: Path) -> None:
    train, validation = proxy_setup.data()
    trials = proxy_setup.trials(*proxy_setup.SHARES)
    print("ready", flush=True)
    spec = proxy_setup.spec()
    # A checkpoint after every step, so that many kills hit the writing of one.
    ProxySwarm(spec, train, validation, folder=folder / "swarm", checkpoint_seconds=1e-9).run(trials)
    ProxyRunner(spec, train, validation, folder=folder / "runner").run(trials)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
