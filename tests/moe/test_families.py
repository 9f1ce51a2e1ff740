"""The tiny models cover every mixture-of-experts family of the installed transformers, and none is degenerate."""

import inspect
import re

import pytest
import torch
from moe_families import MOE_FAMILIES, build_tiny_moe, find_packages_with_experts, module_of
from moe_family_configs import BROKEN, EXCEPTIONS


def recorded_classes(module):
    """The classes that the models of a module record router logits of."""
    recorders = []
    for value in vars(module).values():
        recorded = getattr(value, "_can_record_outputs", None) or {}
        recorded = recorded.get("router_logits", [])
        recorders += recorded if isinstance(recorded, list) else [recorded]
    return {recorder.target_class for recorder in recorders}


def test_every_module_with_experts_has_a_family():
    covered = {module_of(family).__name__.split(".")[-2] for family in MOE_FAMILIES}
    assert find_packages_with_experts() - covered - set(EXCEPTIONS) == set()
    assert set(EXCEPTIONS) <= find_packages_with_experts() - covered
    assert len(covered) >= 70


@pytest.fixture(scope="module", params=MOE_FAMILIES)
def tiny(request):
    return build_tiny_moe(request.param)


def test_family_runs_on_random_routers(tiny):
    with torch.no_grad():
        outputs = tiny.model(**tiny.inputs)
    assert tiny.inputs["input_ids"].shape == tiny.inputs["attention_mask"].shape == (2, 9)
    assert not tiny.model.training
    assert outputs.logits.isfinite().all()

    recorded = recorded_classes(module_of(tiny.family))
    routers = [name for name, module in tiny.model.named_modules() if type(module) in recorded]
    assert len(routers) >= 2
    values = {name: tensor for name, tensor in tiny.model.state_dict().items() if tensor.is_floating_point()}
    assert {tensor.dtype for tensor in values.values()} == {torch.float32}
    for name, tensor in values.items():
        assert tensor.isfinite().all(), name
        assert tensor.numel() == 1 or tensor.min() < tensor.max(), name


def test_the_families_that_are_left_out_fail_in_transformers_itself():
    for family, error in BROKEN.items():
        broken = build_tiny_moe(family)
        with pytest.raises(AttributeError, match=error):
            broken.model(**broken.inputs)


def test_the_same_seed_builds_the_same_model(tiny):
    one, same = tiny.model.state_dict(), build_tiny_moe(tiny.family).model.state_dict()
    assert all(torch.equal(one[name], same[name]) for name in one)


def test_another_seed_builds_another_model():
    one, other = (build_tiny_moe("deepseek_v3", seed=seed).model.state_dict() for seed in (0, 1))
    assert not any(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("module", sorted({module_of(family) for family in MOE_FAMILIES}, key=lambda m: m.__name__))
def test_every_recorded_router_is_built(module):
    families = [family for family in MOE_FAMILIES if module_of(family) is module]
    built = {type(part) for family in families for part in build_tiny_moe(family).model.modules()}
    source = inspect.getsource(module)
    constructed = {cls for cls in recorded_classes(module) if re.search(rf"(?<!class ){cls.__name__}\(", source)}
    assert constructed
    assert constructed <= built


@pytest.mark.parametrize("family", ["qwen3_moe", "deepseek_v3", "gemma4", "hunyuan_v1_moe", "nllb-moe"])
def test_overrides_use_the_names_of_the_family(family):
    recorded = recorded_classes(module_of(family))
    model = build_tiny_moe(family, num_experts=16).model
    gates = [
        parameter
        for router in model.modules()
        if type(router) in recorded
        for parameter in router.parameters()
        if parameter.dim() == 2
    ]
    assert {len(gate) for gate in gates} == {16}
