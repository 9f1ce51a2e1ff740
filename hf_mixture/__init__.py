"""Mixtures of parameters, experts, models and data on the Hugging Face stack.

`import hf_mixture` registers every method with the registries of transformers and peft (see
`hf_mixture.plugin`) and resolves the public names below on first use, so that the import itself stays light.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from hf_mixture import plugin as _plugin
from hf_mixture._exports import EXPORTS as _EXPORTS


if TYPE_CHECKING:
    from hf_mixture.adapters.mos.config import MosConfig as MosConfig
    from hf_mixture.adapters.mos.export import export_lora as export_lora
    from hf_mixture.adapters.mos.hotswap import hotswap_adapter as hotswap_adapter
    from hf_mixture.adapters.mos.model import MosModel as MosModel
    from hf_mixture.data.domains import load_domain as load_domain
    from hf_mixture.data.domains import load_domains as load_domains
    from hf_mixture.data.domains import split_by_domain as split_by_domain
    from hf_mixture.data.installed import installed_packages as installed_packages
    from hf_mixture.data.interleave import interleave_datasets as interleave_datasets
    from hf_mixture.data.mixture import Mixture as Mixture
    from hf_mixture.data.source import Source as Source
    from hf_mixture.methods import list_methods as list_methods

__version__ = "0.1.0.dev0"

__all__ = ["__version__", *sorted(_EXPORTS)]  # noqa: PLE0604 - the names come from one table


def __getattr__(name: str) -> Any:
    module = _EXPORTS.get(name)
    if module is None:
        raise AttributeError(f"module 'hf_mixture' has no attribute {name!r}")
    value = getattr(importlib.import_module(module), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_EXPORTS})


_plugin.register_all()
