from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from moe_families import build_tiny_moe

from hf_mixture.moe.routers.transforms.residual import (
    from_residual,
    load_residuals,
    residual_of,
    save_residuals,
    to_residual,
)


def logits(moe: Any) -> torch.Tensor:
    with torch.no_grad():
        result: torch.Tensor = moe.model(**moe.inputs).logits
    return result


def test_a_rank_is_the_best_of_its_kind_and_the_full_one_exact() -> None:
    weight = torch.randn(5, 7, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    values = torch.linalg.svdvals(weight - weight.mean(dim=0))
    for rank in range(7):
        part = residual_of(weight, rank)
        error = (part.rebuild() - weight).pow(2).sum()
        torch.testing.assert_close(error, values[:, rank:].pow(2).sum())
        assert part.num_parameters == 7 * 6 + 5 * rank * (7 + 6)
        assert part.left.numel() + part.right.numel() + part.core.numel() == part.num_parameters
    torch.testing.assert_close(residual_of(weight, 6).rebuild(), weight, rtol=0, atol=1e-12)
    for rank in (-1, 7):
        with pytest.raises(ValueError, match=f"rank={rank}; it must be from 0 to 6"):
            residual_of(weight, rank)


@pytest.mark.parametrize("family", ["mixtral", "gpt_oss", "llama4_text"])
def test_experts_of_a_low_rank_come_back_from_a_file(family: str, tmp_path: Path) -> None:
    moe = build_tiny_moe(family)
    before = logits(moe)
    residuals = to_residual(moe.model, 2)
    assert torch.equal(logits(moe), before)
    save_residuals(residuals, tmp_path / "residuals.safetensors")
    from_residual(moe.model, residuals)
    low = logits(moe)
    assert not torch.allclose(low, before, atol=1e-2)
    other = build_tiny_moe(family)
    from_residual(other.model, load_residuals(tmp_path / "residuals.safetensors"))
    assert torch.equal(logits(other), low)
    from_residual(other.model, to_residual(build_tiny_moe(family).model, 1000))
    torch.testing.assert_close(logits(other), before, rtol=1e-4, atol=1e-4)


def test_what_does_not_fit(tmp_path: Path) -> None:
    moe, other = build_tiny_moe("mixtral"), build_tiny_moe("gpt_oss")
    before = logits(moe)
    with pytest.raises(ValueError, match="does not fit the model"):
        from_residual(moe.model, to_residual(other.model, 1))
    assert torch.equal(logits(moe), before)
    moe.model.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="'hf_mixture_expert_residuals' is read here; write it with save_residuals"):
        load_residuals(tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match="are not stacked weights of three dimensions"):
        to_residual(build_tiny_moe("switch_transformers").model, 1)
