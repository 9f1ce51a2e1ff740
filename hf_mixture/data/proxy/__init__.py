"""Proxy runs: from mixtures to losses, one by one with the stock Trainer, or many at once as one stacked model."""

from hf_mixture.data.proxy.experiments import ProxyFailed
from hf_mixture.data.proxy.results import load_table, runs_to_table, save_table
from hf_mixture.data.proxy.runner import ProxyRunner
from hf_mixture.data.proxy.spec import ProxySpec, tiny_llama
from hf_mixture.data.proxy.swarm import ProxySwarm


__all__ = [
    "ProxyFailed",
    "ProxyRunner",
    "ProxySpec",
    "ProxySwarm",
    "load_table",
    "runs_to_table",
    "save_table",
    "tiny_llama",
]
