from __future__ import annotations

from typing import Any

import pytest
import torch
from moe_families import build_tiny_moe

from hf_mixture.moe.anatomy import RouterOutput, find_routers
from hf_mixture.moe.routers.transforms.prune import least_used, prune_experts


def logits(moe: Any) -> torch.Tensor:
    with torch.no_grad():
        result: torch.Tensor = moe.model(**moe.inputs).logits
    return result


@pytest.mark.parametrize("family", ["mixtral", "gpt_oss", "granitemoe", "minimax_m2", "deepseek_v3"])
def test_pruned_is_rerouted(family: str) -> None:
    overrides = {"n_group": 2, "topk_group": 1} if family == "deepseek_v3" else {}
    moe = build_tiny_moe(family, **overrides)
    drop = {router.path: [router.ordinal, 7 - router.ordinal] for router in find_routers(moe.model)}
    before = logits(moe)
    handles = []
    for router in find_routers(moe.model):
        off = torch.zeros(router.num_experts, dtype=torch.bool)
        off[drop[router.path]] = True

        def reroute(_: Any, __: Any, output: Any, router: Any = router, off: Any = off) -> Any:
            new: RouterOutput = router.select(router.read(output).logits, off=off)
            return router.replace(output, weights=new.weights, indices=new.indices)

        handles.append(router.module.register_forward_hook(reroute))
    expected = logits(moe)
    for handle in handles:
        handle.remove()
    prune_experts(moe.model, drop)
    assert not torch.allclose(before, expected, atol=1e-2)
    torch.testing.assert_close(logits(moe), expected, rtol=1e-4, atol=1e-5)


def test_wrong_experts_and_routers() -> None:
    model = build_tiny_moe("mixtral").model
    paths = [router.path for router in find_routers(model)]
    with pytest.raises(ValueError, match="drop names 'gate', which is no router"):
        prune_experts(model, {"gate": [0]})
    with pytest.raises(ValueError, match="has expert 8; the experts are 0 to 7"):
        prune_experts(model, {path: [8] for path in paths})
    with pytest.raises(ValueError, match="leaves 1 experts and a token takes 2"):
        prune_experts(model, {path: list(range(7)) for path in paths})


def test_the_least_used_leave() -> None:
    counts = {"a": torch.tensor([3, 1, 1, 9]), "b": torch.tensor([0.5, 0.1, 0.2, 0.3])}
    assert least_used(counts, 2) == {"a": [1, 2], "b": [1, 2]}
    assert least_used(counts, 1) == {"a": [2], "b": [1]}
    assert least_used(counts, 2, num_groups=2) == {"a": [1, 2], "b": [1, 2]}
    assert least_used({"a": torch.tensor([0, 1, 8, 9])}, 2, num_groups=2) == {"a": [0, 2]}
    for num_dropped, num_groups in ((4, 1), (-1, 1), (1, 2), (3, 3)):
        with pytest.raises(ValueError, match=f"num_dropped={num_dropped} of the 4 experts of 'a'"):
            least_used(counts, num_dropped, num_groups=num_groups)
