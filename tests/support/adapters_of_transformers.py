"""What the adapter methods of transformers itself, such as `model.add_adapter`, ask of peft."""

from importlib.metadata import version

import pytest
from packaging.version import Version
from transformers.integrations.peft import MIN_PEFT_VERSION


def needs_adapter_methods(raises: type[Exception] = ValueError) -> pytest.MarkDecorator:
    """Mark of a test that uses them: the tested pair has them, and transformers 5.24 refuses every peft below 0.22.

    Args:
        raises: What the test then fails with: the refusal, or what `pytest.raises` makes of it.
    """
    return pytest.mark.xfail(
        Version(version("peft")) < Version(MIN_PEFT_VERSION),
        reason=f"add_adapter of this transformers needs peft {MIN_PEFT_VERSION}",
        raises=raises,
        strict=True,
    )
