"""Optional libraries of the searchers, imported on first use."""

from __future__ import annotations

import importlib
from typing import Any


def require(module: str, *, used_for: str) -> Any:
    """Import an optional module, or say how to install it.

    Args:
        module: Name of the module, for example `"lightgbm"`.
        used_for: What needs it, for the message.

    Returns:
        The module.

    Raises:
        ImportError: The module is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(
            f"{used_for} needs the package that provides {module!r}, which is not installed; "
            'install it with: pip install "hf-mixture[search]"'
        ) from error
