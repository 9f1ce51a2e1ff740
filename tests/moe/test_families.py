"""The tiny models cover every mixture-of-experts family of the installed transformers, and none is degenerate."""

import pytest
import torch
from moe_families import MOE_FAMILIES, build_tiny_moe


@pytest.mark.parametrize("family", MOE_FAMILIES)
def test_builds_and_runs(family):
    tiny = build_tiny_moe(family)
    with torch.no_grad():
        outputs = tiny.model(**tiny.inputs)
    assert outputs.logits.isfinite().all()
