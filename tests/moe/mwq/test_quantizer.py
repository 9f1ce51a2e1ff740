"""`from_pretrained(quantization_config=MwqConfig(...))`: quantising, saving, reading at every width, and refusing."""

from __future__ import annotations

import copy
import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors import safe_open
from tiny_planes import CONFIG, full_model, inputs, logits, nested_model
from transformers import AutoModelForCausalLM, MixtralForCausalLM, Trainer, TrainingArguments
from two_processes import run_on_two

from hf_mixture.adapters.mos.config import MosConfig
from hf_mixture.moe.mwq.config import MwqConfig
from hf_mixture.moe.mwq.files import read_header
from hf_mixture.moe.mwq.linear import NestedLinear
from hf_mixture.moe.mwq.planes import num_bytes
from hf_mixture.moe.mwq.targets import nested_experts, nested_modules


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """The model in full precision, quantised, and quantised with its linear layers."""
    path = tmp_path_factory.mktemp("models")
    full_model().save_pretrained(path / "full")
    for name, options in {"nested": {}, "linears": {"linears": True}}.items():
        config = MwqConfig(**CONFIG, **options)
        model = MixtralForCausalLM.from_pretrained(path / "full", quantization_config=config)
        model.save_pretrained(path / name)
    return path


def copy_of(folder: Path, target: Path) -> Path:
    target.mkdir()
    for file in folder.iterdir():
        (target / file.name).write_bytes(file.read_bytes())
    return target


def test_quantising_while_loading_is_quantising_in_memory(folders):
    loaded = MixtralForCausalLM.from_pretrained(folders / "full", quantization_config=MwqConfig(**CONFIG))
    here = nested_model()
    assert loaded.state_dict().keys() == here.state_dict().keys()
    for name, tensor in loaded.state_dict().items():
        assert torch.equal(tensor, here.state_dict()[name]), name
    for model in (loaded, here):
        assert model.is_quantized
        assert model.hf_quantizer.quantization_config.widths == (2, 3, 4)
        assert not any(p.requires_grad for n, p in model.named_parameters() if "_proj_" in n)


@pytest.mark.parametrize("name", ["nested", "linears"])
def test_a_saved_model_reloads_without_arguments(folders, name):
    loaded = AutoModelForCausalLM.from_pretrained(folders / name)
    assert type(loaded) is MixtralForCausalLM
    config = MwqConfig(**CONFIG, linears=name == "linears")
    made = MixtralForCausalLM.from_pretrained(folders / "full", quantization_config=config)
    for key, tensor in made.state_dict().items():
        assert torch.equal(tensor, loaded.state_dict()[key]), key
    assert torch.equal(logits(loaded), logits(made))
    assert loaded.config.quantization_config.to_dict() == config.to_dict()


def test_the_files_are_separate_planes(folders):
    sizes = {file.name: file.stat().st_size for file in (folders / "nested").glob("*.safetensors")}
    assert set(sizes) == {"mwq-rest.safetensors", "mwq-2.safetensors", "mwq-3.safetensors", "mwq-4.safetensors"}
    shapes = [(8, 64, 32), (8, 32, 32)] * full_model().config.num_hidden_layers
    for width in (2, 3, 4):
        expected = sum(num_bytes(shape, range(2, width + 1), 16) for shape in shapes)
        names = [f"mwq-{level}.safetensors" for level in range(2, width + 1)]
        tensors = sum(
            place.num_bytes * len(place.checksums)
            for name in names
            for place in read_header(folders / "nested" / name).values()
        )
        assert tensors == expected
        index = json.loads((folders / "nested" / f"mwq-at-{width}.safetensors.index.json").read_text())
        assert set(index["weight_map"].values()) == {"mwq-rest.safetensors", *names}
    with safe_open(folders / "nested" / "mwq-3.safetensors", framework="pt") as file:
        assert file.metadata()["format"] == "pt"
        assert all("_sign_3" in name or "_scale_3" in name for name in file.keys())  # noqa: SIM118


def test_file_sizes_at_a_size_that_matters(tmp_path):
    """Acceptance check 2: files within 1 % of the formula, once the header no longer weighs."""
    from moe_families import build_tiny_moe

    model = build_tiny_moe("mixtral", hidden_size=256, intermediate_size=256, num_experts=8, num_hidden_layers=1).model
    model.save_pretrained(tmp_path / "full")
    config = MwqConfig()
    MixtralForCausalLM.from_pretrained(tmp_path / "full", quantization_config=config).save_pretrained(
        tmp_path / "nested"
    )
    shapes = [(8, 512, 256), (8, 256, 256)]
    size = sum((tmp_path / "nested" / f"mwq-{width}.safetensors").stat().st_size for width in (2, 3, 4))
    assert size == pytest.approx(sum(num_bytes(shape, (2, 3, 4), 128) for shape in shapes), rel=0.01)
    apart = 0
    for width in (2, 3, 4):
        alone = MixtralForCausalLM.from_pretrained(tmp_path / "full", quantization_config=MwqConfig(widths=(width,)))
        alone.save_pretrained(tmp_path / str(width))
        apart += (tmp_path / str(width) / f"mwq-{width}.safetensors").stat().st_size
    # Acceptance check 5, and "done when" 2 of the issue: 0.55.
    assert apart / size >= 1.9
    assert size / apart <= 0.55


def test_a_smaller_width_needs_and_reads_fewer_files(folders, tmp_path):
    small = copy_of(folders / "nested", tmp_path / "small")
    for width in (3, 4):
        (small / f"mwq-{width}.safetensors").unlink()
    with pytest.warns(UserWarning, match="max_width"):
        model = AutoModelForCausalLM.from_pretrained(small, quantization_config=MwqConfig(max_width=2))
    assert model.config.quantization_config.widths == (2,)
    whole = nested_model()
    for module in nested_experts(whole).values():
        module.mwq_width = 2
    assert torch.equal(logits(model), logits(whole))
    model.save_pretrained(tmp_path / "again")
    assert {file.name for file in (tmp_path / "again").glob("*.safetensors")} == {
        "mwq-rest.safetensors",
        "mwq-2.safetensors",
    }
    assert torch.equal(logits(AutoModelForCausalLM.from_pretrained(tmp_path / "again")), logits(model))


def test_saving_replaces_what_was_saved_before(folders, tmp_path):
    folder = copy_of(folders / "nested", tmp_path / "model")
    with pytest.warns(UserWarning, match="max_width"):
        model = AutoModelForCausalLM.from_pretrained(folder, quantization_config=MwqConfig(max_width=3))
    model.save_pretrained(folder)
    assert not (folder / "mwq-4.safetensors").exists()
    assert [file.name for file in folder.iterdir() if file.name.startswith(".")] == []
    assert torch.equal(logits(AutoModelForCausalLM.from_pretrained(folder)), logits(model))


def test_large_files_are_cut(folders, tmp_path):
    model = AutoModelForCausalLM.from_pretrained(folders / "nested")
    model.save_pretrained(tmp_path, max_shard_size="15KB")
    assert len(list(tmp_path.glob("mwq-2-0000?-of-0000?.safetensors"))) > 1
    assert torch.equal(logits(AutoModelForCausalLM.from_pretrained(tmp_path)), logits(model))


@pytest.mark.parametrize("name", ["nested", "linears"])
def test_dequantising_gives_a_stock_model(folders, tmp_path, name):
    nested = AutoModelForCausalLM.from_pretrained(folders / name)
    expected = logits(nested)
    with pytest.warns(UserWarning, match="dequantize"):
        loaded = AutoModelForCausalLM.from_pretrained(folders / name, quantization_config=MwqConfig(dequantize=True))
    for model in (nested.dequantize(), loaded):
        torch.testing.assert_close(logits(model), expected, rtol=1e-4, atol=1e-5)
        assert not nested_modules(model)
        assert type(model.model.layers[0].mlp.experts) is type(full_model().model.layers[0].mlp.experts)
        assert not getattr(model.config, "quantization_config", None)
        assert model.state_dict().keys() == full_model().state_dict().keys()
        model.save_pretrained(tmp_path / "stock")
        assert torch.equal(logits(AutoModelForCausalLM.from_pretrained(tmp_path / "stock")), logits(model))


def test_without_the_plugin_nothing_is_loaded(folders):
    """A process that does not import this package must stop: stock transformers only warns of unknown methods."""
    program = (
        "import sys\nfrom transformers import AutoModelForCausalLM\n"
        "try:\n    AutoModelForCausalLM.from_pretrained(sys.argv[1])\n"
        "except OSError as error:\n    print('stopped', error)\n"
        "assert 'hf_mixture' not in sys.modules\n"
    )
    command = [sys.executable, "-P", "-c", program, str(folders / "nested")]
    environment = {**os.environ, "TRANSFORMERS_VERBOSITY": "warning"}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    assert done.stdout.startswith("stopped Error no file named model.safetensors")
    assert "mwq" in done.stderr


def test_types_of_the_model_leave_scales_alone(folders):
    model = AutoModelForCausalLM.from_pretrained(folders / "linears", dtype=torch.bfloat16)
    assert logits(model).dtype == torch.bfloat16
    experts = next(iter(nested_experts(model).values()))
    assert experts.gate_up_proj_scale_3.dtype == experts.down_proj_offset.dtype == torch.float16
    before = {name: tensor.clone() for name, tensor in experts.state_dict().items()}
    nn_module_to = torch.nn.Module.to
    nn_module_to(model, torch.float32)
    assert model.lm_head.weight.dtype == torch.float32
    for name, tensor in experts.state_dict().items():
        assert tensor.dtype == before[name].dtype
        assert torch.equal(tensor, before[name])


def test_copies_save_themselves(folders, tmp_path):
    model = AutoModelForCausalLM.from_pretrained(folders / "nested")
    twin = copy.deepcopy(model)
    with torch.no_grad():
        twin.lm_head.weight.zero_()
    twin.save_pretrained(tmp_path)
    assert bool((logits(AutoModelForCausalLM.from_pretrained(tmp_path)) == 0).all())
    assert torch.equal(logits(AutoModelForCausalLM.from_pretrained(folders / "nested")), logits(model))


def test_models_pickle(folders):
    model = AutoModelForCausalLM.from_pretrained(folders / "linears")
    again = pickle.loads(pickle.dumps(model))  # noqa: S301 - its own
    assert torch.equal(logits(again), logits(model))


def test_linear_layers_are_nested_but_for_head_and_routers(folders):
    model = AutoModelForCausalLM.from_pretrained(folders / "linears")
    layers = {name.rpartition(".")[2] for name, module in model.named_modules() if isinstance(module, NestedLinear)}
    assert layers == {"q_proj", "k_proj", "v_proj", "o_proj"}
    plain = copy.deepcopy(model)
    plain.dequantize()
    given = inputs()
    for one in (model, plain):
        one.requires_grad_(False)
        one.get_input_embeddings().weight.requires_grad_()
        one(**given, labels=given["input_ids"]).loss.backward()
    torch.testing.assert_close(
        model.get_input_embeddings().weight.grad, plain.get_input_embeddings().weight.grad, rtol=1e-3, atol=1e-5
    )


@pytest.mark.parametrize("kind", ["lora", "mos"])
def test_adapters_train_on_top(folders, tmp_path, kind):
    config = {
        "lora": LoraConfig(target_modules=["q_proj", "v_proj"], r=2),
        "mos": MosConfig(target_modules=["q_proj", "v_proj"], r=2),
    }[kind]
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(folders / "linears"), config)
    rows = [{"input_ids": row, "labels": row} for row in torch.randint(5, 60, (8, 12)).tolist()]
    arguments = TrainingArguments(
        tmp_path / "out", max_steps=4, learning_rate=1e-2, report_to=[], use_cpu=True, disable_tqdm=True
    )
    before = {name: tensor.clone() for name, tensor in model.get_base_model().state_dict().items() if "_proj" in name}
    Trainer(model, arguments, train_dataset=rows).train()
    model.eval()
    for name, tensor in model.get_base_model().state_dict().items():
        assert name not in before or "lora" in name or "mos" in name or torch.equal(tensor, before[name])
    model.save_pretrained(tmp_path / "adapter")
    base = AutoModelForCausalLM.from_pretrained(folders / "linears")
    without = logits(base)
    again = PeftModel.from_pretrained(base, tmp_path / "adapter")
    assert torch.equal(logits(again), logits(model))
    assert not torch.equal(logits(again), without)
    with pytest.raises(TypeError, match=r"cannot be merged into; call\s+dequantize\(\) on the base model first"):
        model.merge_and_unload()


@pytest.mark.parametrize("sharing", ["fsdp", "tp"])
def test_experts_spread_over_processes(folders, tmp_path, sharing):
    """Each process holds the planes of its experts; what they save together is what was loaded."""
    expected = AutoModelForCausalLM.from_pretrained(folders / "nested")
    with torch.no_grad():
        torch.save(expected(input_ids=torch.arange(5, 25).view(2, 10)).logits, tmp_path / "expected.pt")
    run_on_two(Path(__file__).with_name("expert_parallel_worker.py"), folders, tmp_path, sharing)
    assert torch.equal(logits(AutoModelForCausalLM.from_pretrained(tmp_path / "saved")), logits(expected))


def damage(path: Path, place: int = -1) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 4
    path.write_bytes(bytes(content))


def test_damaged_planes_are_refused(folders, tmp_path):
    model = copy_of(folders / "linears", tmp_path / "model")
    damage(model / "mwq-3.safetensors")
    with pytest.raises(ValueError, match=r"the planes of expert \d of .* are damaged: .*; download or save the model"):
        AutoModelForCausalLM.from_pretrained(model)
    # A width that does not need them can be read.
    with pytest.warns(UserWarning, match="max_width"):
        AutoModelForCausalLM.from_pretrained(model, quantization_config=MwqConfig(max_width=2))


def test_truncated_files_are_refused(folders, tmp_path):
    model = copy_of(folders / "nested", tmp_path / "model")
    path = model / "mwq-2.safetensors"
    path.write_bytes(path.read_bytes()[:-7])
    with pytest.raises((ValueError, OSError), match=r"truncated or damaged|incomplete"):
        AutoModelForCausalLM.from_pretrained(model)


def test_missing_files_are_refused(folders, tmp_path):
    model = copy_of(folders / "nested", tmp_path / "model")
    (model / "mwq-3.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"mwq-3\.safetensors"):
        AutoModelForCausalLM.from_pretrained(model)


def test_another_group_size_in_the_configuration_is_refused(folders, tmp_path):
    model = copy_of(folders / "nested", tmp_path / "model")
    config = json.loads((model / "config.json").read_text())
    config["quantization_config"]["group_size"] = 32
    (model / "config.json").write_text(json.dumps(config))
    with pytest.raises((ValueError, RuntimeError), match=r"mismatch|ignore_mismatched_sizes"):
        AutoModelForCausalLM.from_pretrained(model)


def test_a_newer_format_is_refused(folders, tmp_path):
    model = copy_of(folders / "nested", tmp_path / "model")
    config = json.loads((model / "config.json").read_text())
    config["quantization_config"]["format_version"] = 2
    (model / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r"format_version=2 of the planes is not known; .* update hf_mixture"):
        AutoModelForCausalLM.from_pretrained(model)


def test_what_cannot_be_quantised_while_loading(folders, tmp_path):
    def load(source="full", **options):
        return AutoModelForCausalLM.from_pretrained(folders / source, **options)

    with pytest.raises(ValueError, match=r"MixtralExperts at .* group_size=128 does not divide the 32 inputs of gate"):
        load(quantization_config=MwqConfig())
    with pytest.raises(ValueError, match="max_width says how to read a quantised model"):
        load(quantization_config=MwqConfig(group_size=16, max_width=2))
    with pytest.raises(ValueError, match="names all of its experts"):
        load(quantization_config=MwqConfig(group_size=16, modules_to_not_convert=["experts"]))
    with pytest.raises(ValueError, match='device_map places modules on "disk" while'):
        load(quantization_config=MwqConfig(group_size=16), device_map={"": "disk"})
    with (
        pytest.raises(ValueError, match="max_width=5 is none of the widths"),
        pytest.warns(UserWarning, match="max_width"),
    ):
        load("nested", quantization_config=MwqConfig(widths=(4, 5), max_width=5))


def test_a_checkpoint_without_experts_is_refused(folders, tmp_path):
    from safetensors.torch import load_file, save_file

    model = copy_of(folders / "full", tmp_path / "model")
    tensors = load_file(model / "model.safetensors")
    kept = {
        name: tensor
        for name, tensor in tensors.items()
        if "layers.0.mlp.experts" not in name.replace("block_sparse_moe", "mlp")
    }
    assert len(kept) < len(tensors)
    save_file(kept, model / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"the checkpoint has no weights for model\.layers\.0\.mlp\.experts"):
        AutoModelForCausalLM.from_pretrained(model, quantization_config=MwqConfig(group_size=16))


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"widths": (2, 4)}, r"widths=\(2, 4\) must ascend by one"),
        ({"widths": (0, 1)}, "must be whole numbers from 1 to 8"),
        ({"widths": (8, 9)}, "must be whole numbers from 1 to 8"),
        ({"widths": ()}, "must be whole numbers from 1 to 8"),
        ({"widths": "v3"}, "widths='v3' is no preset; the presets are 'v1', 'v2'"),
        ({"group_size": 12}, "group_size=12 is not a positive multiple of 8"),
        ({"max_width": 7}, r"max_width=7 is none of the widths \(2, 3, 4\)"),
        ({"level_weights": {1: 1.0}}, "must give numbers of at least 0 to widths from 2 to 8"),
        ({"level_weights": {2: 0.0}}, "level_weights are all 0"),
        ({"bits": 4}, "MwqConfig has no argument 'bits'"),
    ],
)
def test_configurations_are_checked(values, said):
    with pytest.raises(ValueError, match=said):
        MwqConfig(**values)


def test_presets_and_json():
    assert MwqConfig("v1").widths == (2, 3, 4)
    assert MwqConfig("v2").widths == (5, 6, 7, 8)
    config = MwqConfig((2, 3), 64, linears=True, level_weights={2: 1, 3: 5}, modules_to_not_convert=["o_proj"])
    values = json.loads(json.dumps(config.to_dict()))
    assert MwqConfig.from_dict(values).to_dict() == config.to_dict()
    assert not {"max_width", "dequantize", "parts", "expert_budget"} & values.keys()
