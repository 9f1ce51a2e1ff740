"""Checks of an adapter that is loaded into a model, and cleaning up after an adapter that was refused.

PEFT and transformers put the layers of an adapter into the model before they read its weights, and tell no hook of
the method which file that is. A file that is truncated or belongs to another base model would thus be noticed in a
changed model. The functions that users call know the model and the folder first, so the checks are placed there. They
change neither their arguments nor their results.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from typing import Any

from peft import PeftModel
from transformers.integrations.peft import PeftAdapterMixin


# check(folder, base_model, adapter_config, prefix): the model is None where the adapter is in it already; the prefix
# is what the loader adds to names of modules, or takes from them, to make them fit the model.
FolderCheck = Callable[[str, Any, Any, str], None]
# check(model, adapter_name), after the weights were loaded.
ModelCheck = Callable[[Any, str], None]


def check_loading(check: FolderCheck, check_loaded: ModelCheck) -> None:
    """Call `check` at the start of every function that loads an adapter folder into a model.

    Args:
        check: Gets the folder as the user names it, the base model without wrappers (None where the model has the
            adapter and only its weights are loaded), the configuration the user passes, if any, and the prefix that
            transformers reconciles, so that an adapter of a model with a head fits the model without it (empty for
            PEFT, which does not); replaces the check given before.
        check_loaded: Gets the model and the name of the adapter after transformers has loaded it, maybe from a place
            that cannot be checked before, such as the Hub. PEFT lets the method itself see what is loaded.
    """
    original = _original(PeftModel.from_pretrained.__func__)

    @functools.wraps(original)
    def from_pretrained(cls: Any, model: Any, model_id: Any, *args: Any, **kwargs: Any) -> Any:
        check(_join(model_id, kwargs.get("subfolder")), model, kwargs.get("config"), "")
        return original(cls, model, model_id, *args, **kwargs)

    original_load = _original(PeftModel.load_adapter)

    @functools.wraps(original_load)
    def load_adapter(self: Any, model_id: Any, adapter_name: Any, *args: Any, **kwargs: Any) -> Any:
        base_model = None if adapter_name in self.peft_config else self.get_base_model()
        check(_join(model_id, kwargs.get("subfolder")), base_model, None, "")
        return original_load(self, model_id, adapter_name, *args, **kwargs)

    original_mixin_load = _original(PeftAdapterMixin.load_adapter)

    @functools.wraps(original_mixin_load)
    def mixin_load_adapter(self: Any, peft_model_id: Any = None, *args: Any, **kwargs: Any) -> Any:
        folder = _join(peft_model_id, (kwargs.get("adapter_kwargs") or {}).get("subfolder"))
        check(folder, self, None, self.base_model_prefix)
        info = original_mixin_load(self, peft_model_id, *args, **kwargs)
        check_loaded(self, (args[0] if args else kwargs.get("adapter_name")) or "default")
        return info

    for function in (from_pretrained, load_adapter, mixin_load_adapter):
        setattr(function, _MARK, True)
    PeftModel.from_pretrained = classmethod(from_pretrained)
    PeftModel.load_adapter = load_adapter
    PeftAdapterMixin.load_adapter = mixin_load_adapter


def forget_failed_adapter(model: Any, adapter_name: str) -> None:
    """Undo what transformers' `add_adapter` and `load_adapter` note on a model before PEFT can refuse an adapter.

    Without this, a second attempt with a corrected configuration fails on the notes of the first.

    Args:
        model: The base model.
        adapter_name: Name of the adapter that was refused.
    """
    configs = getattr(model, "peft_config", {})
    configs.pop(adapter_name, None)
    if not configs and getattr(model, "_hf_peft_config_loaded", False):
        model._hf_peft_config_loaded = False


_MARK = "_hf_mixture_check"


def _original(function: Any) -> Any:
    return function.__wrapped__ if hasattr(function, _MARK) else function


def _join(folder: Any, subfolder: str | None) -> Any:
    return os.path.join(folder, subfolder) if subfolder and folder is not None else folder
