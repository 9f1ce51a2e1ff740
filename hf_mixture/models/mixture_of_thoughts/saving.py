"""Saving and loading a mixture: the trained part, and where its experts come from."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from huggingface_hub import snapshot_download
from torch import Tensor

from hf_mixture.hub.atomic import write_tensors
from hf_mixture.hub.reading import read_tensors
from hf_mixture.models.mixture_of_thoughts.configuration_mixture_of_thoughts import MixtureOfThoughtsConfig
from hf_mixture.models.mixture_of_thoughts.references import load_reference


if TYPE_CHECKING:
    from hf_mixture.models.mixture_of_thoughts.modeling_mixture_of_thoughts import MixtureOfThoughtsForCausalLM


_WEIGHTS = "model.safetensors"
_OF_DOWNLOADS = ("token", "cache_dir", "local_files_only", "force_download")
# What AutoModel passes on and has no meaning for a mixture.
_IGNORED = {"_from_auto", "adapter_kwargs", "_commit_hash", "trust_remote_code", "code_revision", "weights_only"}


def save(
    model: MixtureOfThoughtsForCausalLM,
    folder: Path,
    *,
    save_experts: bool,
    state_dict: Mapping[str, Tensor] | None,
) -> None:
    """Write the configuration and the trained weights, and the experts if asked for.

    Args:
        model: The mixture.
        folder: Where.
        save_experts: Whether the folder shall need no other.
        state_dict: Weights to save instead of those of the model, as the Trainer gathers them.

    Raises:
        ValueError: If an expert could not be found again.
    """
    config: MixtureOfThoughtsConfig = model.config
    references = [dict(reference) for reference in config.references or [{}] * model.num_experts]
    encoder = None if config.prompt_encoder_reference is None else dict(config.prompt_encoder_reference)
    if save_experts:
        for index, reference in enumerate(references):
            reference["subfolder"] = f"expert_{index}"
        encoder = None if model.prompt_encoder is None else {**(encoder or {}), "subfolder": "prompt_encoder"}
    for index, reference in enumerate(references):
        if not reference.get("subfolder") and not reference.get("name"):
            raise ValueError(
                f"expert {index} was not loaded by name and could not be found again; save with save_experts=True"
            )
    folder.mkdir(parents=True, exist_ok=True)
    if save_experts:
        for index, expert in enumerate(model.experts):
            expert.save_pretrained(folder / f"expert_{index}")
        if model.prompt_encoder is not None:
            model.prompt_encoder.save_pretrained(folder / "prompt_encoder")
    weights = model.state_dict() if state_dict is None else state_dict
    own = {name: value.detach().cpu().contiguous() for name, value in weights.items() if is_trained(name)}
    write_tensors(folder / _WEIGHTS, own, metadata={"format": "pt"})
    settings = MixtureOfThoughtsConfig.from_dict(config.to_dict())
    settings.architectures = [type(model).__name__]
    settings.references, settings.prompt_encoder_reference = references, encoder
    settings.save_pretrained(folder)


def is_trained(name: str) -> bool:
    """Whether a parameter belongs to the mixture itself and not to an expert."""
    return name.startswith(("levels.", "router."))


def load(
    model_class: type[MixtureOfThoughtsForCausalLM],
    name: str | os.PathLike[str],
    *,
    expert_kwargs: Mapping[str, Any] | Sequence[Mapping[str, Any]] | None,
    verify_experts: bool,
    config: MixtureOfThoughtsConfig | None,
    revision: str | None,
    **kwargs: Any,
) -> MixtureOfThoughtsForCausalLM:
    """Load a mixture: its experts by their references, then its own weights."""
    folder = Path(name)
    if not folder.is_dir():
        patterns = ["*.json", _WEIGHTS, "expert_*/*", "prompt_encoder/*"]
        options = {key: kwargs[key] for key in _OF_DOWNLOADS if kwargs.get(key) is not None}
        folder = Path(snapshot_download(str(name), revision=revision, allow_patterns=patterns, **options))
    settings = config or MixtureOfThoughtsConfig.from_pretrained(folder)
    count = len(settings.experts or [])
    references = settings.references or []
    if len(references) != count or not count:
        raise ValueError(
            f"config.json of {name} names {len(references)} references for {count} experts; every expert needs one"
        )
    if not (folder / _WEIGHTS).is_file():
        raise ValueError(f"{name} must contain {_WEIGHTS}, as save_pretrained of a mixture writes it")
    common = {key: value for key, value in kwargs.items() if key not in _IGNORED}
    # AutoModel writes it into the configuration of the mixture, which has no attention of that kind.
    if config is not None and config._attn_implementation is not None:
        common.setdefault("attn_implementation", config._attn_implementation)
    more = expert_kwargs if isinstance(expert_kwargs, Sequence) else [expert_kwargs or {}] * count
    if len(more) != count:
        raise ValueError(f"expert_kwargs has {len(more)} entries for {count} experts; give one for each")
    experts = []
    for reference, of_expert, expert_config in zip(references, more, settings.experts or [], strict=True):
        arguments = {**common, **of_expert}
        quantised = getattr(expert_config, "quantization_config", None)
        if quantised is not None and not reference.get("subfolder"):
            arguments.setdefault("quantization_config", quantised)
        experts.append(load_reference(reference, folder, causal=True, verify=verify_experts, **arguments))
    encoder = None
    if settings.prompt_encoder is not None:
        reference = settings.prompt_encoder_reference or {}
        encoder = load_reference(reference, folder, causal=False, verify=verify_experts)
    model = model_class(settings, experts=experts, prompt_encoder=encoder)
    _, weights = read_tensors(folder / _WEIGHTS)
    expected = {key: value.shape for key, value in model.state_dict().items() if is_trained(key)}
    found = {key: value.shape for key, value in weights.items()}
    if expected != found:
        wrong = sorted(key for key in expected.keys() | found.keys() if expected.get(key) != found.get(key))
        raise ValueError(
            f"{_WEIGHTS} of {name} does not fit its configuration: {len(wrong)} tensors are missing, unknown or of "
            f"another shape, {wrong[0]} among them"
        )
    with torch.no_grad():
        model.load_state_dict(weights, strict=False)
    return model.eval()
