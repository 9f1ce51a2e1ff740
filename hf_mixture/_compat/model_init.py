"""Where transformers builds a model and draws its initial weights.

A saved configuration may ask for modules that the model class does not create itself. They must be in place when the
model is constructed, before its weights are initialised or loaded, and they must be initialised by their own rule and
not by that of the model family. transformers has no public hook for either, so the two methods that every model runs
through are extended here. Models without such a configuration, and modules of others, notice nothing.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from transformers import PreTrainedModel


def before_weights(prepare: Callable[[PreTrainedModel], None]) -> None:
    """Call `prepare` for every model that is constructed, inner models first, before its weights are initialised.

    Args:
        prepare: Gets the model with all its modules; replaces the function given before.
    """
    original = _original(PreTrainedModel.post_init)

    @functools.wraps(original)
    def post_init(self: Any) -> Any:
        prepare(self)
        return original(self)

    setattr(post_init, _MARK, True)
    PreTrainedModel.post_init = post_init


def initialise_own_modules() -> None:
    """Let modules whose class sets `initialises_itself` draw their own weights by `reset_parameters(std)`.

    A second call changes nothing.
    """
    original = _original(PreTrainedModel._initialize_weights)

    @functools.wraps(original)
    def _initialize_weights(self: Any, module: Any, *args: Any, **kwargs: Any) -> Any:
        if not getattr(type(module), "initialises_itself", False):
            return original(self, module, *args, **kwargs)
        if not getattr(module, "_is_hf_initialized", False):
            module.reset_parameters(initial_std(self))
            module._is_hf_initialized = True
        return None

    setattr(_initialize_weights, _MARK, True)
    PreTrainedModel._initialize_weights = _initialize_weights


def initial_std(model: PreTrainedModel) -> float:
    """Standard deviation of the initial weights of a model.

    Args:
        model: A model.

    Returns:
        What its configuration says, or 0.02, the default of transformers.
    """
    config = model.config
    std = getattr(config, "initializer_range", None) or getattr(config.get_text_config(), "initializer_range", None)
    return 0.02 if std is None else float(std)


def keep_float32(model: PreTrainedModel, names: tuple[str, ...]) -> None:
    """Let `from_pretrained` leave tensors in float32 when it loads a model in half precision.

    Args:
        model: A model whose construction is not over.
        names: Names of tensors, without the path.
    """
    model._keep_in_fp32_modules_strict = {*(model._keep_in_fp32_modules_strict or ()), *names}


_MARK = "_hf_mixture_before_weights"


def _original(function: Any) -> Any:
    return function.__wrapped__ if hasattr(function, _MARK) else function
