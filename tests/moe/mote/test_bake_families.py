"""Baked equals patched, bit for bit, after a round trip through disk, in a process that does not know hf_mixture."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from moe_families import MOE_FAMILIES, build_tiny_moe
from safetensors.torch import load_file, save_file

from hf_mixture.moe.anatomy import UnsupportedRouterError, find_routers
from hf_mixture.moe.mote.bake import bake
from hf_mixture.moe.mote.edit import ExpertEdit
from hf_mixture.moe.mote.edits import ExpertEdits
from hf_mixture.moe.mote.patch import tune_experts


# One for each place and shape of a bias, each score and each group rule.
FAST = [
    "afmoe",
    "axk2",
    "deepseek_v3",
    "deepseek_v4",
    "ernie4_5_moe",
    "gpt_oss",
    "inkling_text",
    "kolibri1",
    "lfm2_moe",
    "longcat_flash",
    "minimax_m2",
    "zaya",
]
OTHERS = [
    "axk1",
    "bailing_hybrid",
    "beam",
    "deepseek_v32",
    "dots1",
    "dots3_note",
    "dots3_note_text",
    "ernie4_5_vl_moe",
    "exaone_moe",
    "glm4_moe",
    "glm4_moe_lite",
    "glm4v_moe",
    "glm5_next",
    "glm_moe_dsa",
    "hy_v3",
    "hy_v4",
    "inkling2",
    "inkling2_text",
    "inkling_mm_model",
    "kimi_linear",
    "laguna",
    "mimo_v2_flash",
    "minimax_m3_vl",
    "minimax_m3_vl_text",
    "muse_spark",
    "nemotron_h",
    "openai_privacy_filter",
    "solar_open",
    "step3p7",
]
REFUSED_FAST = ["flint", "granitemoe", "llama4_text", "mixtral", "mistral4", "phimoe", "qwen3_moe"]


def build(family: str) -> tuple[Any, dict[str, torch.Tensor]]:
    tiny = build_tiny_moe(family)
    if family == "axk2":
        # With negative biases this family is refused, see test_bake.
        for router in find_routers(tiny.model):
            router.bias.tensor.abs_()
    if family == "zaya":
        # The stock from_pretrained sets the bias of the skip class to -1, whatever the file says.
        for router in find_routers(tiny.model):
            router.bias.tensor[-1] = -1
    return tiny.model, tiny.inputs


def logits_of(model: Any, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    with torch.no_grad():
        return model(**inputs).logits


def busiest(model: Any, inputs: dict[str, torch.Tensor], count: int) -> ExpertEdits:
    """The experts that most tokens go to, in each router with a selection bias that sees tokens."""
    counts: dict[str, torch.Tensor] = {}
    routers = {router.path: router for router in find_routers(model)}

    def watch(path: str, num_experts: int) -> Any:
        def add(output: Any) -> None:
            counts[path] = torch.bincount(output.indices.flatten(), minlength=num_experts)[:num_experts]

        return add

    handles = [h for path, router in routers.items() for h in router.observe(watch(path, router.num_experts))]
    logits_of(model, inputs)
    for handle in handles:
        handle.remove()
    edits = []
    for path, found in counts.items():
        if routers[path].bias is not None:
            best = found.topk(count)
            assert (best.values > 0).all()
            edits += [ExpertEdit(path, expert, "off") for expert in best.indices.tolist()]
    return ExpertEdits(edits)


@pytest.mark.parametrize("families", [FAST, pytest.param(OTHERS, marks=pytest.mark.slow)], ids=["each kind", "others"])
def test_baked_equals_patched_in_a_fresh_process(
    families: list[str], tmp_path: Path, subtests: pytest.Subtests
) -> None:
    patched = {}
    for family in families:
        model, inputs = build(family)
        edits = busiest(model, inputs, 2)
        before = logits_of(model, inputs)
        with tune_experts(model, edits):
            patched[family] = logits_of(model, inputs)
        assert not torch.equal(patched[family], before)
        report = bake(model, edits, calibration=[inputs])
        assert (report.method, report.exact, report.leak_rate) == ("bias", True, 0.0)
        assert report.num_choices_seen > 0
        assert set(report.keys) <= set(model.state_dict())
        model.save_pretrained(tmp_path / family)
        save_file(inputs, tmp_path / family / "inputs.safetensors")
    subprocess.run(
        [sys.executable, Path(__file__).parent / "baked_forward.py", *(tmp_path / family for family in families)],
        env={**os.environ, "PYTHONPATH": ""},
        check=True,
    )
    for family in families:
        with subtests.test(family=family):
            loaded = load_file(tmp_path / family / "logits.safetensors")["logits"]
            assert torch.equal(loaded, patched[family])


@pytest.mark.parametrize(
    "family",
    [
        pytest.param(family, marks=[] if family in REFUSED_FAST else pytest.mark.slow)
        for family in MOE_FAMILIES
        # Product keys; there is no router to find.
        if family not in {*FAST, *OTHERS, "doge"}
    ],
)
def test_rerouting_without_a_bias_is_refused_by_name(family: str) -> None:
    model, _ = build(family)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    router = find_routers(model)[-1]
    assert router.bias is None
    with pytest.raises(UnsupportedRouterError) as error:
        bake(model, ExpertEdits([ExpertEdit(router.path, 0, "off")]))
    text = str(error.value)
    assert type(router.module).__name__ in text
    assert "prune" in text
    assert "zero_experts" in text
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
