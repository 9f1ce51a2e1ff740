"""Says what a folder holds, what it needs to load, and what is wrong with it.

Reads JSON, file sizes and safetensors headers only: no tensor is loaded, no code is run, no pickle is opened.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any

from hf_mixture.hub.cards import OWN_PEFT_TYPES
from hf_mixture.hub.damage import error_text
from hf_mixture.hub.documents import describe_facts, find_format
from hf_mixture.hub.formats import MODEL_TYPES
from hf_mixture.hub.place import Place, find_place
from hf_mixture.hub.reading import read_object


Validator = Callable[[Path], None]
"""Raises `ValueError` when the artefact in the folder cannot be used."""


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong, and what to do about it."""

    what: str
    fix: str


@dataclass(kw_only=True)
class Artefact:
    """What one folder holds.

    Args:
        path: The folder.
        kind: `"MOS adapter"` (or another PEFT type), `"model"`, `"MWQ model"`, `"data set"`, `"training run"`,
            or a kind of `hf_mixture.hub.formats`.
        facts: What the files say, for people.
        needs: What loading it takes, for people.
        problems: What is wrong with it.
    """

    path: Path
    kind: str
    facts: dict[str, str] = field(default_factory=dict)
    needs: list[str] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)


def inspect_artefacts(
    location: str | PathLike[str], validators: Mapping[str, Validator] | None = None
) -> list[Artefact]:
    """Inspect a folder and the folders up to two levels below it, or a Hub repository.

    Args:
        location: A folder, or the Hub id of a model or data set repository, of which only the small files are
            fetched.
        validators: For each kind of artefact, a deeper check of its folder. Defaults to none.

    Returns:
        One entry for each artefact found, that of the folder itself first.

    Raises:
        ValueError: If `location` is neither a folder nor a Hub id, or if nothing in it is known.

    Example:
        >>> import json, pathlib, tempfile
        >>> from hf_mixture.hub.artefacts import inspect_artefacts
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     config = {"peft_type": "MOS", "base_model_name_or_path": "gpt2"}
        ...     _ = pathlib.Path(folder, "adapter_config.json").write_text(json.dumps(config))
        ...     [artefact] = inspect_artefacts(folder)
        >>> artefact.kind, artefact.problems[0].what
        ('MOS adapter', 'adapter_model.safetensors is missing')
    """
    place = find_place(location)
    found = []
    for folder in place.folders():
        for recognise in _RECOGNISERS:
            found += recognise(folder, place)
    if not found:
        raise ValueError(
            f"{location} holds nothing that is known here; expected adapter_config.json, config.json, recipe.yaml, "
            "parquet files or a file of a format of this package, there or up to two levels below"
        )
    for artefact in found:
        if place.is_remote:
            artefact.needs = [need.replace(str(place.root), str(location)) for need in artefact.needs]
        check = (validators or {}).get(artefact.kind)
        if check is None or artefact.problems or (place.is_remote and artefact.kind in _WEIGHTS_NEEDED):
            continue
        try:
            check(artefact.path)
        except Exception as error:  # whatever a damaged artefact raises is the finding
            artefact.problems.append(Problem(error_text(error), "save it again from the program that made it"))
    return found


# Their checks read weights, which are not fetched from a repository.
_WEIGHTS_NEEDED = ("MWQ model", "token pack")


def safetensors_error(path: Path) -> str | None:
    """Compare the header of a safetensors file with its length.

    Args:
        path: The file.

    Returns:
        What is wrong, or `None` if the header is valid and accounts for each byte of the file.
    """
    from safetensors import SafetensorError, safe_open

    size = path.stat().st_size
    try:
        with safe_open(path, framework="numpy") as file:
            file.keys()
    except (SafetensorError, OSError) as error:
        return f"{path.name} ({size} bytes) is truncated or damaged: {error}"
    return None


def _read_json(path: Path, artefact: Artefact) -> dict[str, Any]:
    try:
        return read_object(path, remedy="restore the file or save again")
    except ValueError as error:
        what, _, fix = str(error).rpartition("; ")
        artefact.problems.append(Problem(what.replace(str(path), path.name) or str(error), fix))
        return {}


def _recognise_adapter(folder: Path, place: Place) -> list[Artefact]:
    path = folder / "adapter_config.json"
    if not path.is_file():
        return []
    artefact = Artefact(path=folder, kind="PEFT adapter")
    config = _read_json(path, artefact)
    if not artefact.problems:
        _describe_adapter(artefact, config)
    weights = folder / "adapter_model.safetensors"
    if weights.is_file():
        artefact.facts["weights"] = f"{weights.name}, {weights.stat().st_size:,} bytes"
        _check_weights(artefact, weights)
    elif place.has(folder / "adapter_model.bin"):
        artefact.problems.append(
            Problem(
                "the weights are a pickle (adapter_model.bin), which can run code when it is read",
                "load it where it was made and save it again: model.save_pretrained(folder)",
            )
        )
    else:
        artefact.problems.append(
            Problem(
                "adapter_model.safetensors is missing", "copy the whole folder, or save again: model.save_pretrained()"
            )
        )
    return [artefact]


def _describe_adapter(artefact: Artefact, config: Mapping[str, Any]) -> None:
    peft_type = config.get("peft_type")
    if not isinstance(peft_type, str):
        artefact.problems.append(
            Problem(
                "adapter_config.json has no 'peft_type'", "restore the file or save again: model.save_pretrained()"
            )
        )
        return
    artefact.kind = f"{peft_type} adapter"
    names = ("r", "equivalent_rank", "private_rank", "num_shards", "lora_alpha", "mos_alpha", "target_modules")
    artefact.facts |= {name: _brief(config[name]) for name in names if config.get(name) is not None}
    if peft_type in OWN_PEFT_TYPES:
        artefact.needs.append(
            f"import hf_mixture before loading; without it PEFT raises KeyError: '{peft_type}' "
            "(or, once: hf-mixture export-lora DIR OUT_DIR, and load OUT_DIR with stock PEFT)"
        )
    base = config.get("base_model_name_or_path")
    if not base:
        artefact.needs.append(
            "the base model, which the configuration does not name: PeftModel.from_pretrained(model, DIR)"
        )
        return
    if not isinstance(base, str):
        artefact.problems.append(
            Problem(f"base_model_name_or_path is {_brief(base)!r}, not a name", "set it to a Hub id or a folder")
        )
        return
    artefact.needs.append(f"the base model {base}")
    is_path = base.startswith((".", "/", "~")) or base.count("/") > 1
    # Where the user is unknown, the functions of pathlib raise.
    if is_path and not os.path.exists(os.path.expanduser(base)):
        artefact.problems.append(
            Problem(
                f"the base model {base} is not at that path (relative paths start at the current directory)",
                "run from the directory where that path holds, or set base_model_name_or_path in adapter_config.json",
            )
        )


def _recognise_model(folder: Path, place: Place) -> list[Artefact]:
    path = folder / "config.json"
    if not path.is_file():
        return []
    artefact = Artefact(path=folder, kind="model")
    config = _read_json(path, artefact)
    artefact.facts |= {key: _brief(config[key]) for key in ("model_type", "architectures") if config.get(key)}
    _describe_model(artefact, config)
    index = folder / "model.safetensors.index.json"
    if artefact.kind == "MWQ model":
        index = max(folder.glob("mwq-at-*.safetensors.index.json"), default=index)
    weights = place.glob(folder, "*.safetensors")
    if index.is_file():
        wanted = _read_json(index, artefact).get("weight_map")
        names = {str(name) for name in wanted.values()} if isinstance(wanted, dict) else set()
        for name in sorted(names - {file.name for file in weights}):
            artefact.problems.append(Problem(f"{name} of the weight index is missing", "copy the whole folder again"))
    elif not weights:
        artefact.problems.append(Problem("no safetensors weights", "save again: model.save_pretrained(folder)"))
    for file in weights:
        _check_weights(artefact, file)
    return [artefact]


def _describe_model(artefact: Artefact, config: Mapping[str, Any]) -> None:
    """What is special about a model of this package."""
    quantisation = config.get("quantization_config")
    if isinstance(quantisation, dict) and quantisation.get("quant_method") == "mwq":
        artefact.kind = "MWQ model"
        artefact.facts["widths"] = _brief(quantisation.get("widths"))
        artefact.needs.append("import hf_mixture before loading; AutoModelForCausalLM.from_pretrained(DIR)")
    routers = config.get("moe_router")
    if isinstance(routers, dict):
        artefact.facts["routers"] = str(routers.get("name"))
        artefact.needs.append("import hf_mixture before loading: other programs would use the routers of the family")
    if config.get("mote") is not None:
        artefact.facts["expert edits"] = "in config.json"
        artefact.needs.append("hf_mixture.AutoMoTE.from_pretrained(DIR), which applies them")
    model_type = config.get("model_type")
    if isinstance(model_type, str) and model_type in MODEL_TYPES:
        method, auto_class = MODEL_TYPES[model_type]
        artefact.facts["method"] = method
        artefact.needs.append(f"import hf_mixture before loading; {auto_class}.from_pretrained(DIR)")
    if version := config.get("transformers_version"):
        artefact.facts["saved with"] = f"transformers {_brief(version)}"
    experts = config.get("references")
    for reference in experts if isinstance(experts, list) else []:
        name = reference.get("name") if isinstance(reference, dict) else None
        if name and not reference.get("subfolder"):
            artefact.needs.append(f"the expert {_brief(name)}")


def _recognise_mixture(folder: Path, place: Place) -> list[Artefact]:
    path = folder / "mixture.json"
    if not path.is_file():
        return []
    artefact = Artefact(path=folder, kind="mixture")
    content = _read_json(path, artefact)
    sources = content.get("sources")
    if isinstance(sources, list):
        named = (source for source in sources if isinstance(source, dict))
        artefact.facts["weights"] = _brief({str(source.get("name")): source.get("weight") for source in named})
    artefact.facts |= {key: _brief(content[key]) for key in ("unit", "seed") if key in content}
    if not artefact.problems:
        artefact.needs.append("hf_mixture.Mixture.from_pretrained(DIR)")
    return [artefact]


def _recognise_documents(folder: Path, place: Place) -> list[Artefact]:
    """Files of a format of this package; those of a run or a trace are recognised as a whole."""
    found: dict[str, Artefact] = {}
    candidates = [*folder.glob("*.json"), *folder.glob("*.safetensors"), *folder.glob("journal.jsonl")]
    # A table is one file or a few; a data set may have thousands.
    candidates += sorted(folder.glob("*.parquet"))[:_NUM_TABLES]
    for path in sorted(path for path in candidates if path.name not in _OF_OTHERS):
        form, facts, problem = find_format(path)
        if form is None:
            continue
        known = found.setdefault(form.kind, Artefact(path=folder, kind=form.kind))
        known.facts |= {"file": path.name, **describe_facts(facts)}
        if form.needs and not known.needs:
            known.needs.append(form.needs.replace("FOLDER", str(folder)).replace("FILE", str(path)))
        if problem is not None:
            known.problems.append(Problem(problem, "copy it again, or use the release that wrote it"))
    return list(found.values())


_NUM_TABLES = 16
_OF_OTHERS = (
    "adapter_config.json",
    "adapter_model.safetensors",
    "config.json",
    "journal.json",
    "mixture.json",
    "results.json",
)


def _recognise_dataset(folder: Path, place: Place) -> list[Artefact]:
    shards = [path for path in place.glob(folder, "*.parquet") if not path.match("part-*.parquet")]
    if not shards:
        return []
    artefact = Artefact(path=folder, kind="data set", facts={"parquet files": str(len(shards))})
    artefact.needs.append("datasets.load_dataset(DIR)")
    for shard in shards:
        if not shard.is_file():
            continue
        with shard.open("rb") as file:
            head = file.read(4)
            file.seek(max(shard.stat().st_size - 4, 0))
            if (head, file.read()) != (b"PAR1", b"PAR1"):
                artefact.problems.append(
                    Problem(f"{shard.name} is truncated or not parquet", "copy or write it again")
                )
    return [artefact]


def _recognise_run(folder: Path, place: Place) -> list[Artefact]:
    # The journal tells a run from the folders below it, which have a copy of the recipe.
    if not ((folder / "recipe.yaml").is_file() and (folder / "journal.json").is_file()):
        return []
    artefact = Artefact(path=folder, kind="training run", facts={"recipe": "recipe.yaml"})
    journal = _read_json(folder / "journal.json", artefact)
    if isinstance(finished := journal.get("finished"), dict):
        artefact.facts["finished parts"] = _brief(list(finished))
    if not place.has(folder / "results.json"):
        artefact.needs.append(f"to be continued: hf-mixture train {folder / 'recipe.yaml'} --resume")
    return [artefact]


def _check_weights(artefact: Artefact, path: Path) -> None:
    error = safetensors_error(path) if path.is_file() else None
    if error is not None:
        artefact.problems.append(Problem(error, "copy or download the file again, or save again from the program"))


def _brief(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {item}" for key, item in value.items())
    if isinstance(value, list):
        return ", ".join(str(item) for item in sorted(value, key=str))
    return str(value)


_RECOGNISERS: tuple[Callable[[Path, Place], list[Artefact]], ...] = (
    _recognise_run,
    _recognise_adapter,
    _recognise_model,
    _recognise_mixture,
    _recognise_documents,
    _recognise_dataset,
)
