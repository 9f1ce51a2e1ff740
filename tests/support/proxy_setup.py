"""Proxies so small that a run takes a second, on real text: sources of Python's standard library as bytes."""

from __future__ import annotations

import sysconfig
from pathlib import Path
from typing import Any

import torch

from hf_mixture.data.proxy import ProxySpec
from hf_mixture.data.search import Trial


LENGTH = 32
DOMAINS = {"mail": "email", "codecs": "encodings", "tests": "unittest"}

LLAMA = {
    "model_type": "llama",
    "vocab_size": 256,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
GPT2 = {
    "model_type": "gpt2",
    "vocab_size": 256,
    "n_embd": 32,
    "n_layer": 2,
    "n_head": 4,
    "n_positions": 64,
    "resid_pdrop": 0.0,
    "embd_pdrop": 0.0,
    "attn_pdrop": 0.0,
    "bos_token_id": None,
    "eos_token_id": None,
}


def blocks(package: str) -> torch.Tensor:
    """Sources of a package of the standard library as blocks of bytes, int64 [n, LENGTH]."""
    files = sorted(Path(sysconfig.get_path("stdlib"), package).glob("*.py"))
    text = b"".join(file.read_bytes() for file in files)[:20_000]
    return torch.tensor(list(text[: len(text) // LENGTH * LENGTH])).view(-1, LENGTH)


def data() -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """Training and validation samples by domain."""
    everything = {name: blocks(package) for name, package in DOMAINS.items()}
    held_out = torch.arange(len(everything["mail"])) % 30 == 0
    return (
        {name: ids[~held_out[: len(ids)]] for name, ids in everything.items()},
        {name: ids[held_out[: len(ids)]] for name, ids in everything.items()},
    )


def trials(*shares: tuple[float, ...], fidelity: float = 1.0, prefix: str = "run") -> list[Trial]:
    """Trials over the domains."""
    return [Trial(f"{prefix}-{number}", tuple(DOMAINS), share, fidelity) for number, share in enumerate(shares)]


SHARES = [(0.5, 0.3, 0.2), (1.0, 0.0, 0.0), (0.0, 0.25, 0.75), (1 / 3, 1 / 3, 1 / 3)]


def spec(**fields: Any) -> ProxySpec:
    """A run of 12 steps."""
    return ProxySpec(**{"model": LLAMA, "num_steps": 12, "batch_size": 4, "learning_rate": 5e-3, **fields})
