"""Loading a model with its expert edits in one call, from files alone."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from torch import nn

from hf_mixture.hub.reading import read_object
from hf_mixture.moe.mote.edits import ExpertEdits
from hf_mixture.moe.mote.edits_file import FILE_NAME, read
from hf_mixture.moe.mote.patch import tune_experts


CONFIG_FIELD = "mote"
# All that says what a repository holds; weights are fetched by the loaders that read them.
_PATTERNS = (FILE_NAME, "config.json", "adapter_config.json")


class AutoMoTE:
    """Loads a mixture of tunable experts: a base model, a PEFT adapter where there is one, and expert edits.

    The edits lie in `expert_edits.json`, beside a model, beside an adapter, or alone; or in the field `mote` of
    `config.json`, with the same content. No code of the repository is run.

    Raises:
        TypeError: If it is instantiated; use `from_pretrained`.

    Example:
        >>> from transformers import MixtralConfig, MixtralForCausalLM
        >>> from hf_mixture import AutoMoTE, ExpertEdit, ExpertEdits
        >>> config = MixtralConfig(
        ...     vocab_size=32, hidden_size=16, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2,
        ...     num_key_value_heads=2, num_local_experts=4, num_experts_per_tok=2,
        ... )
        >>> MixtralForCausalLM(config).save_pretrained("base")
        >>> edit = ExpertEdit(module="model.layers.1.mlp.gate", expert=3, op="off")
        >>> path = ExpertEdits([edit]).save_pretrained("edits")
        >>> model = AutoMoTE.from_pretrained("edits", base_model="base")
        >>> type(model).__name__
        'MixtralForCausalLM'
    """

    def __init__(self) -> None:
        raise TypeError("AutoMoTE is not to be instantiated; use AutoMoTE.from_pretrained(folder or repository)")

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | os.PathLike[str],
        base_model: str | os.PathLike[str] | nn.Module | None = None,
        *,
        revision: str | None = None,
        check_fingerprint: bool = True,
        auto_class: Any = None,
        **model_kwargs: Any,
    ) -> Any:
        """Load the model and tune its experts.

        Args:
            name_or_path: A folder, or a model repository of the Hub.
            base_model: The base model: loaded already, or its name or folder. Default: the model in the same place,
                else the one that the adapter or the edits name.
            revision: Branch, tag or commit of `name_or_path`. Default: the main branch.
            check_fingerprint: Whether edits that are signed for another model are refused. Default: True.
            auto_class: Class that loads the base model. Default: `AutoModelForCausalLM`.
            model_kwargs: Passed to its `from_pretrained`.

        Returns:
            The model, patched; with an adapter, a `PeftModel`. `untune_experts(model)` takes the edits off.

        Raises:
            ValueError: If there are no edits, no base model is known, or the edits do not suit it.

        Example:
            ```python
            model = AutoMoTE.from_pretrained("me/formal-style-experts", dtype="bfloat16")
            ```
        """
        folder = _fetch(os.fspath(name_or_path), revision)
        adapter = _json(folder / "adapter_config.json")
        if isinstance(base_model, nn.Module):
            model: Any = base_model
        else:
            source, at = _base_of(os.fspath(name_or_path), folder, base_model, adapter, revision)
            model = _load(source, auto_class, revision=at, **model_kwargs)
        edits = _edits_of(folder, model)
        if adapter is not None:
            from peft import PeftModel

            model = PeftModel.from_pretrained(model, os.fspath(name_or_path), revision=revision)
        tune_experts(model, edits, check_fingerprint=check_fingerprint)
        return model


def _load(source: str, auto_class: Any, **kwargs: Any) -> Any:
    if auto_class is None:
        from transformers import AutoModelForCausalLM

        auto_class = AutoModelForCausalLM
    return auto_class.from_pretrained(source, **kwargs)


def _fetch(name_or_path: str, revision: str | None) -> Path:
    if os.path.isdir(name_or_path):
        return Path(name_or_path)
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(name_or_path, revision=revision, allow_patterns=list(_PATTERNS)))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError) as error:
        raise ValueError(
            f"{name_or_path!r} is no folder here, and the Hub did not give a model repository of that name "
            f"({type(error).__name__}); check the name, the revision and the access"
        ) from error


def _json(path: Path) -> dict[str, Any] | None:
    if not path.is_file():
        return None
    return read_object(path)


def _base_of(
    name_or_path: str,
    folder: Path,
    base_model: str | os.PathLike[str] | None,
    adapter: dict[str, Any] | None,
    revision: str | None,
) -> tuple[str, str | None]:
    """Name and revision of the base model."""
    if base_model is not None:
        return os.fspath(base_model), None
    if (folder / "config.json").is_file():
        return name_or_path, revision
    named = (adapter or {}).get("base_model_name_or_path")
    if named is None and (folder / FILE_NAME).is_file():
        named = read(folder / FILE_NAME).base_model_name_or_path
    if not named:
        raise ValueError(f"{name_or_path} names no base model: pass base_model, its name or the loaded model")
    return str(named), (adapter or {}).get("revision")


def _edits_of(folder: Path, model: Any) -> ExpertEdits:
    if (folder / FILE_NAME).is_file():
        return read(folder / FILE_NAME)
    document = getattr(model.config, CONFIG_FIELD, None)
    if document is None:
        raise ValueError(
            f"{folder} has no {FILE_NAME}, and the configuration of the model has no field {CONFIG_FIELD!r}; write "
            "the one with ExpertEdits.save_pretrained, or the other as config.mote = edits.to_dict()"
        )
    return ExpertEdits.from_json(json.dumps(document), where=f"config.{CONFIG_FIELD}")
