"""Every registration this package makes with the stack, in one place.

The host libraries read no entry points, so `import hf_mixture` is what registers. Each function below is
idempotent: importing twice, or reloading, changes nothing.
"""

from __future__ import annotations


def register_peft_types() -> None:
    """Register `MOS` (Mixture of Shards) as a PEFT adapter type."""
    from hf_mixture._compat.peft import register_adapter
    from hf_mixture.adapters.mos.config import MosConfig
    from hf_mixture.adapters.mos.model import MosModel

    register_adapter("mos", config_cls=MosConfig, model_cls=MosModel)


def register_all() -> None:
    """Register everything; called once by `import hf_mixture`."""
    register_peft_types()
