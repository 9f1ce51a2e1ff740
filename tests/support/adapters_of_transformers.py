"""What the adapter methods of transformers itself, such as `model.add_adapter`, ask of peft."""

from importlib.metadata import version

import pytest
from packaging.version import Version
from transformers.integrations.peft import MIN_PEFT_VERSION


# The pair that is tested first has them; transformers 5.24 refuses every peft below 0.22.
needs_adapter_methods = pytest.mark.xfail(
    Version(version("peft")) < Version(MIN_PEFT_VERSION),
    reason=f"add_adapter of this transformers needs peft {MIN_PEFT_VERSION}",
    strict=True,
)
