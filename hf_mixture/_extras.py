"""Optional libraries, imported on first use."""

from __future__ import annotations

import importlib
import importlib.util
from typing import Any


def require(module: str, *, used_for: str, extra: str = "search") -> Any:
    """Import an optional module, or say how to install it.

    Args:
        module: Name of the module, for example `"lightgbm"`.
        used_for: What needs it, for the message.
        extra: The extra of this package that installs it. Default: `"search"`.

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
            f'install it with: pip install "hf-mixture[{extra}]"'
        ) from error


def is_installed(module: str) -> bool:
    """Whether an optional module can be imported.

    Args:
        module: Name of the module, for example `"hqq"`.
    """
    return importlib.util.find_spec(module) is not None
