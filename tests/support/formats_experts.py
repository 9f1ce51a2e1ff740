"""File formats of adapters and of sparse models: small sound artefacts, and how they are read."""

from __future__ import annotations

import copy
import json
import shutil
import tempfile
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from file_format import FileFormat

from hf_mixture.hub.damage import naming


def _edits(folder: Path) -> None:
    from hf_mixture import ExpertEdits
    from hf_mixture.moe.mote.edit import ExpertEdit

    gate = "model.layers.1.mlp.gate"
    ExpertEdits(
        [ExpertEdit(gate, 3, "off", layer=1), ExpertEdit(gate, 4, "scale", 0.5)],
        mode="zero_renorm",
        num_experts={gate: 8},
        top_k={gate: 2},
        fingerprint="sha256:" + "0" * 64,
        scores={"ranking": [{"module": gate, "expert": 3, "score": 2.5}]},
    ).save_pretrained(folder)


def _read_edits(folder: Path) -> Any:
    from hf_mixture import ExpertEdits

    return ExpertEdits.from_pretrained(folder).to_json()


def _maps() -> tuple[Any, list[str]]:
    from hf_mixture.moe.mote.resonance_maps import FtriMaps, ModelFacts
    from hf_mixture.moe.trace.trace import TracedRouter

    routers = tuple(TracedRouter(f"layers.{place}.gate", place, place, 4 - place, 2) for place in range(2))
    counts = np.arange(42).reshape(6, 7) % 5
    maps = FtriMaps(facts=ModelFacts(routers, "qwen3_moe"), counts=counts, tokens=np.full(6, 9))
    return maps, ["yes", "no", "yes", "no", "yes", "no"]


def _ftri(folder: Path) -> None:
    maps, labels = _maps()
    maps.summarise(labels, provenance={"dataset": "a"}).save(folder)


def _read_ftri(folder: Path) -> Any:
    from hf_mixture.moe.mote.resonance_file import read

    summary = read(folder)
    return summary.classes, summary.means.tolist()


def _prompts(folder: Path) -> None:
    from hf_mixture.moe.mote.maps_file import write_maps

    maps, labels = _maps()
    write_maps(folder, maps, labels, {"topic": ["a", "b"] * 3})


def _read_prompts(folder: Path) -> Any:
    from hf_mixture.moe.mote.maps_file import read_maps

    maps, labels, columns = read_maps(folder)
    return maps.counts.tolist(), labels, columns


def _batch_store(folder: Path) -> Any:
    from hf_mixture.moe.mote.scan import _BatchStore

    return _BatchStore(folder, _maps()[0].facts)


def _scan_batch(folder: Path) -> None:
    _batch_store(folder).write(0, {"seed": 0}, ["a", "b"], _maps()[0])


def _read_scan_batch(folder: Path) -> Any:
    found = _batch_store(folder).read(0, {"seed": 0})
    return None if found is None else (found[0], found[1].counts.tolist())


def _measured(folder: Path) -> None:
    from hf_mixture.moe.mote.evaluation import MeasuredFile

    MeasuredFile(folder / "measured.json", {"seed": 0})["unedited"] = {"all": {"num_prompts": 3}}


def _read_measured(folder: Path) -> Any:
    from hf_mixture.moe.mote.evaluation import MeasuredFile

    return dict(MeasuredFile(folder / "measured.json", {"seed": 0}))


def _edited_adapter(folder: Path) -> None:
    (folder / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "me/base"}))


def _read_edited_adapter(folder: Path) -> Any:
    from hf_mixture.moe.mote.auto import _base_of, _json

    return _base_of(str(folder), folder, None, _json(folder / "adapter_config.json"), None)


@cache
def _llama() -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=32,
            hidden_size=16,
            intermediate_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            num_key_value_heads=2,
        )
    )


def mos_model() -> Any:
    """A tiny model with a MoS adapter."""
    from peft import get_peft_model

    from hf_mixture import MosConfig

    config = MosConfig(task_type="CAUSAL_LM", r=2, num_shards=2, init_weights=False, target_modules=["q_proj"])
    return get_peft_model(copy.deepcopy(_llama()), config)


def _mos(folder: Path) -> None:
    mos_model().save_pretrained(folder)


def _read_mos(folder: Path) -> Any:
    from peft import PeftModel

    import hf_mixture  # noqa: F401 - registers

    model = PeftModel.from_pretrained(copy.deepcopy(_llama()), folder)
    return {name: value.tolist() for name, value in model.state_dict().items() if "mos" in name}


def _export(folder: Path) -> Any:
    from safetensors.torch import load_file

    from hf_mixture.adapters.mos.export_folder import export_lora_folder

    with tempfile.TemporaryDirectory() as place:
        base, lora = Path(place, "base"), Path(place, "lora")
        _llama().config.save_pretrained(base)
        export_lora_folder(folder, lora, base_model=str(base))
        return {name: value.tolist() for name, value in load_file(lora / "adapter_model.safetensors").items()}


def _hotswap(folder: Path) -> Any:
    from hf_mixture.adapters.mos.hotswap import hotswap_adapter

    model = mos_model()
    hotswap_adapter(model, folder)
    return {name: value.tolist() for name, value in model.state_dict().items() if "mos" in name}


def _trace(folder: Path) -> None:
    from hf_mixture.moe.trace.files import write_part

    routers = [{"path": "layers.0.gate", "layer": 0, "ordinal": 0, "num_experts": 3, "top_k": 1}]
    header = {"routers": routers, "sample_every": 1, "num_ranks": 1, "per_rank": False, "model_type": "mixtral"}
    row = {"rank": None, "ordinal": 0, "layer": 0, "path": "layers.0.gate", "tokens": 6, "unrouted": 0}
    write_part(folder, header, [{**row, "step": step, "counts": [1, 2, 3]} for step in (1, 2)])


TRACE_FILE = "part-000000000001.parquet"


def _read_trace(folder: Path) -> Any:
    from hf_mixture.moe.trace import load_trace

    trace = load_trace(folder)
    return trace.steps.tolist(), [counts.tolist() for counts in trace.counts]


def _residuals(folder: Path) -> None:
    from hf_mixture.moe.routers.transforms.residual import ResidualExperts, save_residuals

    part = ResidualExperts(torch.ones(4, 3), torch.ones(2, 4, 1), torch.ones(2, 1, 3))
    save_residuals({"layers.0.experts.up": part}, folder / "residuals.safetensors")


def _read_residuals(folder: Path) -> Any:
    from hf_mixture.moe.routers.transforms.residual import load_residuals

    found = load_residuals(folder / "residuals.safetensors")
    return {name: part.rebuild().tolist() for name, part in found.items()}


MWQ_FILES = ("mwq-2.safetensors", "mwq-3.safetensors")


def _mwq(folder: Path) -> None:
    from tiny_planes import nested_model

    nested_model(widths=(2, 3)).save_pretrained(folder)


def _read_mwq(folder: Path) -> Any:
    from hf_mixture.moe.mwq.files import check_checksums, read_header

    files = sorted(folder.glob("mwq-[0-9].safetensors"))
    check_checksums(files)
    return [(name, place.shape, place.checksums) for file in files for name, place in read_header(file).items()]


def _parts(folder: Path) -> None:
    from hf_mixture.moe.mwq.config import MwqConfig
    from hf_mixture.moe.mwq.parts import PartsFolder
    from hf_mixture.moe.mwq.quantise import quantise_matrix

    config = MwqConfig(widths=(2, 3), group_size=8)
    weight = torch.arange(64.0).reshape(1, 8, 8)
    PartsFolder(folder, config).write("w", weight, quantise_matrix("w", weight, config))
    (written,) = folder.iterdir()
    written.rename(folder / "part.safetensors")


def _read_parts(folder: Path) -> Any:
    from hf_mixture.moe.mwq.config import MwqConfig
    from hf_mixture.moe.mwq.parts import PartsFolder

    parts = PartsFolder(folder, MwqConfig(widths=(2, 3), group_size=8))
    weight = torch.arange(64.0).reshape(1, 8, 8)
    shutil.copy(folder / "part.safetensors", parts._path("w", weight))
    return None if parts.read("w", weight) is None else "planes"


def _router_spec(folder: Path) -> None:
    spec = {"moe_router": {"format": 1, "name": "noisy_topk", "options": {"bias": False}}}
    (folder / "config.json").write_text(json.dumps(spec))


def _read_router_spec(folder: Path) -> Any:
    from hf_mixture.hub.reading import read_object
    from hf_mixture.moe.routers.persist import read_spec
    from hf_mixture.moe.routers.registry import router_info

    config = read_object(folder / "config.json")
    with naming(folder / "config.json"):
        name, options = read_spec(SimpleNamespace(**{"moe_router": None, **config})) or ("topk", {})
        return router_info(name).resolve(options)


FORMATS = (
    FileFormat(
        "expert edits",
        _edits,
        _read_edits,
        ("expert_edits.json",),
        ("hf_mixture.moe.mote.edits_file", "hf_mixture.moe.mote.edits"),
    ),
    FileFormat("maps of classes", _ftri, _read_ftri, ("ftri.safetensors",), ("hf_mixture.moe.mote.resonance_file",)),
    FileFormat(
        "maps of prompts", _prompts, _read_prompts, ("prompts.safetensors",), ("hf_mixture.moe.mote.maps_file",)
    ),
    FileFormat(
        "batch of a scan",
        _scan_batch,
        _read_scan_batch,
        ("batch-00000000.safetensors",),
        ("hf_mixture.moe.mote.scan",),
    ),
    FileFormat(
        "evaluation of edits", _measured, _read_measured, ("measured.json",), ("hf_mixture.moe.mote.evaluation",)
    ),
    FileFormat(
        "adapter with edits",
        _edited_adapter,
        _read_edited_adapter,
        ("adapter_config.json",),
        ("hf_mixture.moe.mote.auto",),
    ),
    FileFormat(
        "MoS adapter",
        _mos,
        _read_mos,
        ("adapter_config.json", "adapter_model.safetensors"),
        ("hf_mixture.adapters.mos.checkpoint",),
    ),
    FileFormat(
        "MoS adapter in the place of another",
        _mos,
        _hotswap,
        ("adapter_config.json", "adapter_model.safetensors"),
        ("hf_mixture.adapters.mos.hotswap",),
    ),
    FileFormat(
        "MoS adapter to export",
        _mos,
        _export,
        ("adapter_config.json", "adapter_model.safetensors"),
        ("hf_mixture.adapters.mos.export_folder",),
    ),
    FileFormat(
        "router trace",
        _trace,
        _read_trace,
        (TRACE_FILE,),
        ("hf_mixture.moe.trace.files", "hf_mixture.moe.trace.trace"),
    ),
    FileFormat(
        "residual experts",
        _residuals,
        _read_residuals,
        ("residuals.safetensors",),
        ("hf_mixture.moe.routers.transforms.residual",),
    ),
    FileFormat("MWQ planes", _mwq, _read_mwq, MWQ_FILES, ("hf_mixture.moe.mwq.files",)),
    FileFormat("quantised matrix", _parts, _read_parts, ("part.safetensors",), ("hf_mixture.moe.mwq.parts",)),
    FileFormat(
        "router of a configuration",
        _router_spec,
        _read_router_spec,
        ("config.json",),
        ("hf_mixture.moe.routers.persist",),
    ),
)
