"""Quantising in memory: calibration against the slow way, linear layers, refusals, and runs that were killed."""

from __future__ import annotations

import pytest
import torch
from moe_families import MOE_FAMILIES, build_tiny_moe
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file
from tiny_planes import CONFIG, full_model, logits

from hf_mixture.moe.anatomy import UnsupportedRouterError
from hf_mixture.moe.mwq import fit, quantise
from hf_mixture.moe.mwq.calibration import collect_moments
from hf_mixture.moe.mwq.checkpoint import quantise_checkpoint
from hf_mixture.moe.mwq.config import MwqConfig
from hf_mixture.moe.mwq.quantise import quantise_experts
from hf_mixture.moe.mwq.targets import find_targets, nested_experts


def text(number=6, length=20):
    ids = torch.randint(5, 60, (number, length), generator=torch.Generator().manual_seed(0))
    return [{"input_ids": row[None]} for row in ids]


@pytest.mark.parametrize("whole", [False, True])
def test_moments_are_those_of_what_each_expert_is_given(whole):
    model = full_model()
    config = MwqConfig(**CONFIG, linears=True)
    targets = find_targets(model, config)
    (moments,) = collect_moments(model, targets, text(), config, whole=whole, max_bytes=2**30)

    # The slow way: eager experts, one call of a linear function after the other.
    model.set_experts_implementation("eager")
    expected = {name: torch.zeros_like(tensor) for name, tensor in moments.items()}
    seen = []
    linear = torch.nn.functional.linear

    def spy(tokens, weight, bias=None):
        seen.append((tokens.detach(), weight))
        return linear(tokens, weight, bias)

    torch.nn.functional.linear = spy
    try:
        with torch.no_grad():
            for batch in text():
                model(**batch)
    finally:
        torch.nn.functional.linear = linear
    places = {}
    for path, module in targets.items():
        for name, weight in module.named_parameters(recurse=False):
            parts = weight if weight.dim() == 3 else [weight]
            for expert, part in enumerate(parts):
                places[part.data_ptr()] = f"{path}.{name}", expert if weight.dim() == 3 else None
    for tokens, weight in seen:
        if weight.data_ptr() not in places:
            continue
        name, expert = places[weight.data_ptr()]
        values = tokens.reshape(-1, tokens.shape[-1])
        target = expected[name] if expert is None else expected[name][expert]
        if whole:
            target += values.T @ values
        else:
            for group in range(len(target)):
                part = values[:, 16 * group : 16 * group + 16]
                target[group] += part.T @ part
    for name, tensor in moments.items():
        torch.testing.assert_close(tensor, expected[name], rtol=1e-4, atol=1e-4)


def test_calibration_lowers_the_error_of_the_outputs():
    full = full_model()
    batches = text(number=40, length=40)
    experts = full.model.layers[0].mlp.experts
    path = "model.layers.0.mlp.experts"
    given = []
    handle = experts.register_forward_pre_hook(lambda module, args: given.append(args))
    with torch.no_grad():
        for batch in batches:
            full(**batch)
    handle.remove()

    def error(model):
        nested = nested_experts(model)[path]
        with torch.no_grad():
            return sum(float((nested(*args) - experts(*args)).square().sum()) for args in given)

    plain, calibrated = full_model(), full_model()
    quantise_experts(plain, MwqConfig(**CONFIG))
    quantise_experts(calibrated, MwqConfig(**CONFIG), batches=batches)
    assert error(calibrated) < error(plain)


def test_layers_are_calibrated_in_portions_that_fit():
    config, batches = MwqConfig(**CONFIG), text()
    models = [full_model() for _ in range(2)]
    for model, moment_bytes in zip(models, (2**32, 1), strict=True):
        quantise_experts(model, config, batches=batches, compensation="every_level", moment_bytes=moment_bytes)
    for name, tensor in models[0].state_dict().items():
        assert torch.equal(tensor, models[1].state_dict()[name])


@pytest.mark.parametrize("compensation", [None, "base", "every_level"])
def test_calibrated_models_save_and_load(tmp_path, compensation):
    model = full_model()
    model.train()
    quantise_experts(model, MwqConfig(**CONFIG, linears=True), batches=text(), compensation=compensation)
    assert model.training
    model.eval()
    model.save_pretrained(tmp_path)
    assert torch.equal(logits(type(model).from_pretrained(tmp_path)), logits(model))


def test_what_is_refused_changes_nothing():
    model = full_model()
    before = logits(model)
    with pytest.raises(ValueError, match="group_size=128 does not divide the 32 inputs"):
        quantise_experts(model)
    with pytest.raises(ValueError, match="compensation='base' needs the inputs of the experts; give batches"):
        quantise_experts(model, MwqConfig(**CONFIG), compensation="base")
    for batches in ([], iter(())):
        with pytest.raises(ValueError, match="batches is empty, or can be iterated over only once"):
            quantise_experts(model, MwqConfig(**CONFIG), batches=batches)
    with torch.no_grad():
        model.model.layers[1].mlp.experts.down_proj[3, 0, 0] = float("nan")
    with pytest.raises(ValueError, match=r"model\.layers\.1\.mlp\.experts\.down_proj cannot be quantised: .* nan"):
        quantise_experts(model, MwqConfig(**CONFIG))
    with torch.no_grad():
        model.model.layers[1].mlp.experts.down_proj[3, 0, 0] = (
            full_model().model.layers[1].mlp.experts.down_proj[3, 0, 0]
        )
    assert torch.equal(logits(model), before)
    quantise_experts(model, MwqConfig(**CONFIG))
    with pytest.raises(ValueError, match="is quantised already"):
        quantise_experts(model, MwqConfig(**CONFIG))


def test_offloaded_experts_are_refused():
    model = full_model()
    model.model.layers[1].to("meta")
    with pytest.raises(
        ValueError, match=r"layers\.1\.mlp\.experts\.gate_up_proj is on the device 'meta'.*from_pretrained"
    ):
        quantise_experts(model, MwqConfig(**CONFIG))
    assert not nested_experts(model)


def test_modules_can_be_left_out():
    model = full_model()
    quantise_experts(model, MwqConfig(**CONFIG, modules_to_not_convert=["layers.0.mlp.experts"]))
    assert "model.layers.0.mlp.experts" not in nested_experts(model)
    assert "model.layers.1.mlp.experts" in nested_experts(model)
    # A name is whole parts of a path: "layers.1" is not "layers.10".
    model = full_model()
    quantise_experts(model, MwqConfig(**CONFIG, modules_to_not_convert=["ayers.0.mlp.experts"]))
    assert "model.layers.0.mlp.experts" in nested_experts(model)


def test_a_checkpoint_that_was_being_quantised_goes_on(tmp_path, monkeypatch):
    full_model().save_pretrained(tmp_path / "full")
    quantise_checkpoint(str(tmp_path / "full"), tmp_path / "whole", MwqConfig(**CONFIG))
    fitted = []

    def stop_after_three(weight, *args, **kwargs):
        if len(fitted) == 3:
            raise KeyboardInterrupt
        fitted.append(weight.shape)
        return fit.fit_planes(weight, *args, **kwargs)

    monkeypatch.setattr(quantise, "fit_planes", stop_after_three)
    with pytest.raises(KeyboardInterrupt):
        quantise_checkpoint(str(tmp_path / "full"), tmp_path / "again", MwqConfig(**CONFIG))
    parts = list((tmp_path / "again" / ".parts").iterdir())
    assert len(parts) == 3
    # One of them was being written when the process was killed.
    parts[0].write_bytes(parts[0].read_bytes()[:100])

    def count(weight, *args, **kwargs):
        fitted.append(weight.shape)
        return fit.fit_planes(weight, *args, **kwargs)

    fitted.clear()
    monkeypatch.setattr(quantise, "fit_planes", count)
    sizes = quantise_checkpoint(str(tmp_path / "full"), tmp_path / "again", MwqConfig(**CONFIG))
    assert len(fitted) == 2 * full_model().config.num_hidden_layers - 2
    assert not (tmp_path / "again" / ".parts").exists()
    for name in sizes:
        ours, theirs = (load_file(tmp_path / run / name) for run in ("again", "whole"))
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(tensor, theirs[key]) for key, tensor in ours.items())


def test_parts_of_another_weight_or_another_way_are_not_used(tmp_path):
    weight = torch.randn(2, 8, 32)
    for config in (MwqConfig((2, 3), 16), MwqConfig((2, 3), 32), MwqConfig((2,), 16)):
        kept = MwqConfig(config.widths, config.group_size, parts=str(tmp_path))
        for given in (weight, weight + 1):
            planes = quantise.quantise_matrix("name", given, kept)
            again = quantise.quantise_matrix("name", given, kept)
            fresh = fit.fit_planes(given, config.widths, config.group_size)
            for one, two, three in zip(planes.tensors(), again.tensors(), fresh.tensors(), strict=True):
                assert torch.equal(one, three)
                assert torch.equal(two, three)
    assert len(list(tmp_path.iterdir())) == 6


REFUSED = {
    "dbrx": "do not run through the experts interface",
    "diffusion_gemma": "is shared with another module",
    "doge": "product keys",
    "jetmoe": "are not one module beside it",
    "llama4": "do not run through the experts interface",
    "llama4_text": "do not run through the experts interface",
    "longcat_flash": "do not run through the experts interface",
    "nllb-moe": "only expert_0 and expert_1 compute",
    "step3p7": "do not run through the experts interface",
    "switch_transformers": "do not run through the experts interface",
}


def first_output(model, given):
    with torch.no_grad():
        output = model(**given)
    return output.logits if hasattr(output, "logits") else output.last_hidden_state


@pytest.mark.parametrize("family", sorted(REFUSED))
def test_families_that_cannot_be_quantised_say_why(family):
    with pytest.raises((ValueError, UnsupportedRouterError), match=REFUSED[family]):
        quantise_experts(build_tiny_moe(family).model, MwqConfig(group_size=8))


@pytest.mark.slow
@pytest.mark.parametrize("family", [family for family in MOE_FAMILIES if family not in REFUSED])
def test_families_load_quantised_save_and_reload(family, tmp_path):
    _family(family, tmp_path)


@pytest.mark.parametrize("family", ["qwen3_moe", "gpt_oss", "ernie4_5_vl_moe", "qwen3_omni_moe_thinker", "gemma4"])
def test_some_families_load_quantised_save_and_reload(family, tmp_path):
    """One converter for two modules, blocks that initialise their experts, transposed weights, models in models."""
    _family(family, tmp_path)


def _family(family, tmp_path):
    tiny = build_tiny_moe(family)
    tiny.model.save_pretrained(tmp_path / "full")
    load = type(tiny.model).from_pretrained
    nested = load(tmp_path / "full", quantization_config=MwqConfig(group_size=8)).eval()
    expected = first_output(nested, tiny.inputs)
    nested.save_pretrained(tmp_path / "nested")
    again = load(tmp_path / "nested").eval()
    for name, tensor in nested.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name]), name
    torch.testing.assert_close(first_output(again, tiny.inputs), expected, rtol=1e-4, atol=1e-5)
    # Loaded too: one family does not save its selection biases.
    here = load(tmp_path / "full").eval()
    quantise_experts(here, MwqConfig(group_size=8))
    torch.testing.assert_close(first_output(here, tiny.inputs), expected, rtol=1e-4, atol=1e-5)
    stock = again.dequantize()
    torch.testing.assert_close(first_output(stock, tiny.inputs), expected, rtol=1e-3, atol=1e-4)
    on_disk = load(tmp_path / "nested", experts_implementation="mwq_offload").eval()
    torch.testing.assert_close(first_output(on_disk, tiny.inputs), expected, rtol=1e-4, atol=1e-5)


def test_the_matrices_of_adapters_stay_as_they_are():
    config = LoraConfig(r=16, target_modules=["q_proj"], init_lora_weights=False)
    model = get_peft_model(full_model(), config)
    targets = find_targets(model, MwqConfig(**CONFIG, linears=True))
    assert [path for path in targets if "q_proj" in path]
    assert not [path for path in targets if "lora" in path]


def test_a_model_that_another_method_has_quantised_is_refused():
    model = full_model()
    model.quantization_method = "bitsandbytes"
    with pytest.raises(ValueError, match="is quantised by bitsandbytes, and a saved model says one method; quantise"):
        quantise_experts(model, MwqConfig(**CONFIG))
    assert not nested_experts(model)
