"""Says what a folder holds, what it needs to load, and what is wrong with it.

Reads JSON, file sizes and safetensors headers only: no tensor is loaded, no code is run, no pickle is opened.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any

from hf_mixture.hub.cards import OWN_PEFT_TYPES


HUB_PATTERNS = ("*.json", "*.yaml", "adapter_model.safetensors")
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")

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
        kind: `"MOS adapter"` (or another PEFT type), `"model"`, `"mixture"`, `"data set"`, `"training run"`.
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
        location: A folder, or the Hub id of a model repository, of which only the configuration files and the adapter
            weights are fetched.
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
    root = _local_folder(location)
    found = []
    for folder in [root, *sorted(path for depth in ("*/", "*/*/") for path in root.glob(depth))]:
        for recognise in _RECOGNISERS:
            artefact = recognise(folder)
            if artefact is not None:
                found.append(artefact)
    if not found:
        raise ValueError(
            f"{location} holds nothing that is known here; expected adapter_config.json, mixture.json, config.json, "
            "recipe.yaml or parquet files, there or up to two levels below"
        )
    for artefact in found:
        check = (validators or {}).get(artefact.kind)
        if check is not None and not artefact.problems:
            try:
                check(artefact.path)
            except ValueError as error:
                artefact.problems.append(Problem(str(error), "save it again from the program that made it"))
    return found


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
    except SafetensorError as error:
        return f"{path.name} ({size} bytes) is truncated or damaged: {error}"
    return None


def _local_folder(location: str | PathLike[str]) -> Path:
    path = Path(location)
    if path.is_dir():
        return path
    if path.exists():
        raise ValueError(f"{location} is a file; name the folder that holds it")
    if _HUB_ID.fullmatch(str(location)) is None:
        raise ValueError(f"{location} is neither a folder nor a Hub id of the form owner/name")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(str(location), allow_patterns=list(HUB_PATTERNS)))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ValueError(
            f"{location} is not a folder here, and the Hub did not answer for it ({reason}); check the spelling, the "
            "network, or download the repository first"
        ) from error


def _read_json(path: Path, artefact: Artefact) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        artefact.problems.append(Problem(f"{path.name} is not JSON: {error}", "restore the file or save again"))
        return {}
    if not isinstance(content, dict):
        artefact.problems.append(Problem(f"{path.name} is not a JSON object", "restore the file or save again"))
        return {}
    return content


def _recognise_adapter(folder: Path) -> Artefact | None:
    path = folder / "adapter_config.json"
    if not path.is_file():
        return None
    artefact = Artefact(path=folder, kind="PEFT adapter")
    config = _read_json(path, artefact)
    if not artefact.problems:
        _describe_adapter(artefact, config)
    weights = folder / "adapter_model.safetensors"
    if weights.is_file():
        artefact.facts["weights"] = f"{weights.name}, {weights.stat().st_size:,} bytes"
        _check_weights(artefact, weights)
    elif (folder / "adapter_model.bin").is_file():
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
    return artefact


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
    artefact.needs.append(f"the base model {base}")
    is_path = str(base).startswith((".", "/", "~")) or str(base).count("/") > 1
    if is_path and not Path(base).expanduser().exists():
        artefact.problems.append(
            Problem(
                f"the base model {base} is not at that path (relative paths start at the current directory)",
                "run from the directory where that path holds, or set base_model_name_or_path in adapter_config.json",
            )
        )


def _recognise_model(folder: Path) -> Artefact | None:
    path = folder / "config.json"
    if not path.is_file():
        return None
    artefact = Artefact(path=folder, kind="model")
    config = _read_json(path, artefact)
    artefact.facts |= {key: _brief(config[key]) for key in ("model_type", "architectures") if config.get(key)}
    weights = sorted(folder.glob("*.safetensors"))
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        wanted = set(_read_json(index, artefact).get("weight_map", {}).values())
        for name in sorted(wanted - {file.name for file in weights}):
            artefact.problems.append(Problem(f"{name} of the weight index is missing", "copy the whole folder again"))
    elif not weights:
        artefact.problems.append(Problem("no safetensors weights", "save again: model.save_pretrained(folder)"))
    for file in weights:
        _check_weights(artefact, file)
    return artefact


def _recognise_mixture(folder: Path) -> Artefact | None:
    path = folder / "mixture.json"
    if not path.is_file():
        return None
    artefact = Artefact(path=folder, kind="mixture")
    content = _read_json(path, artefact)
    sources = content.get("sources")
    if isinstance(sources, list):
        named = (source for source in sources if isinstance(source, dict))
        artefact.facts["weights"] = _brief({str(source.get("name")): source.get("weight") for source in named})
    artefact.facts |= {key: _brief(content[key]) for key in ("unit", "seed") if key in content}
    if not artefact.problems:
        artefact.needs.append("hf_mixture.Mixture.from_pretrained(DIR)")
    return artefact


def _recognise_dataset(folder: Path) -> Artefact | None:
    shards = sorted(folder.glob("*.parquet"))
    if not shards:
        return None
    artefact = Artefact(path=folder, kind="data set", facts={"parquet files": str(len(shards))})
    artefact.needs.append("datasets.load_dataset(DIR)")
    for shard in shards:
        with shard.open("rb") as file:
            head = file.read(4)
            file.seek(max(shard.stat().st_size - 4, 0))
            if (head, file.read()) != (b"PAR1", b"PAR1"):
                artefact.problems.append(
                    Problem(f"{shard.name} is truncated or not parquet", "copy or write it again")
                )
    return artefact


def _recognise_run(folder: Path) -> Artefact | None:
    # The journal tells a run from the folders below it, which have a copy of the recipe.
    if not ((folder / "recipe.yaml").is_file() and (folder / "journal.json").is_file()):
        return None
    artefact = Artefact(path=folder, kind="training run", facts={"recipe": "recipe.yaml"})
    if not (folder / "results.json").is_file():
        artefact.needs.append(f"to be continued: hf-mixture train {folder / 'recipe.yaml'} --resume")
    return artefact


def _check_weights(artefact: Artefact, path: Path) -> None:
    error = safetensors_error(path)
    if error is not None:
        artefact.problems.append(Problem(error, "copy or download the file again, or save again from the program"))


def _brief(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {item}" for key, item in value.items())
    if isinstance(value, list):
        return ", ".join(str(item) for item in sorted(value, key=str))
    return str(value)


_RECOGNISERS: tuple[Callable[[Path], Artefact | None], ...] = (
    _recognise_run,
    _recognise_adapter,
    _recognise_model,
    _recognise_mixture,
    _recognise_dataset,
)
