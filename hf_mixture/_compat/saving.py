"""How a single model is saved.

A quantiser of transformers chooses the tensors of a saved model, but neither their files nor the names of these. A
model whose quantisation has a layout of its own gets a `save_pretrained` of its own: on the instance, so that others
notice nothing, and as a method, so that copies of the model save themselves.
"""

from __future__ import annotations

import types
from collections.abc import Callable
from typing import Any


def replace_save_pretrained(model: Any, save: Callable[..., None]) -> None:
    """Let a model be saved by `save(model, stock_save_pretrained, folder, **kwargs)`.

    Args:
        model: A model of transformers.
        save: The function; `stock_save_pretrained` is the method of the class, bound to the model.
    """

    def save_pretrained(self: Any, save_directory: Any, **kwargs: Any) -> None:
        save(self, types.MethodType(type(self).save_pretrained, self), save_directory, **kwargs)

    model.save_pretrained = types.MethodType(save_pretrained, model)


def restore_save_pretrained(model: Any) -> None:
    """Let a model be saved as its class does."""
    vars(model).pop("save_pretrained", None)
