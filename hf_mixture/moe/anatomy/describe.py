"""A table of the routers of a model, for people and for programs."""

from __future__ import annotations

import dataclasses
import os
from dataclasses import dataclass
from typing import Any

from torch import nn

from hf_mixture.hub.damage import loading
from hf_mixture.moe.anatomy.find import find_routers
from hf_mixture.moe.anatomy.router import MoeRouter
from hf_mixture.moe.anatomy.ties import tied_routers


@dataclass(frozen=True, kw_only=True)
class MoeRow:
    """One router, as `describe_moe` shows it.

    Args:
        path: Path of the router.
        layer: Index of the model layer.
        router: Class of the router.
        num_experts: E, number of routed experts.
        num_extra_choices: Identity or skip classes that can be chosen instead of an expert.
        top_k: K, number of experts for a token.
        selection: The selection rule in words.
        bias_path: Name of the selection bias in the state dict.
        experts_path: Path of the experts.
        experts: Class of the experts.
        num_expert_parameters: Number of parameters of all experts of the layer.
        note: What cannot be read or rewritten, and why.
        tied_to: Path of an earlier router with the same weights and experts.
    """

    path: str
    layer: int | None
    router: str
    num_experts: int
    num_extra_choices: int
    top_k: int
    selection: str
    bias_path: str | None
    experts_path: str | None
    experts: str | None
    num_expert_parameters: int
    note: str
    tied_to: str | None = None


@dataclass(frozen=True)
class MoeTable:
    """The routers of a model.

    Args:
        model_type: Of the configuration.
        rows: One row for each router, in the order of the model.
    """

    model_type: str
    rows: tuple[MoeRow, ...]

    @property
    def num_experts(self) -> int:
        """Number of routed experts in all layers; experts that two routers share count once."""
        return sum(row.num_experts for row in self.rows if row.tied_to is None)

    def to_dict(self) -> dict[str, Any]:
        """The table as JSON values."""
        rows = [dataclasses.asdict(row) for row in self.rows]
        return {"model_type": self.model_type, "num_experts": self.num_experts, "routers": rows}

    def __str__(self) -> str:
        head = f"{self.model_type}: {len(self.rows)} routers, {self.num_experts:,} routed experts"
        return "\n".join([head, *(_describe(rows) for rows in _alike(self.rows))])


def describe_moe(model: nn.Module) -> MoeTable:
    """Describe the routers and experts of a model: where they are, how they select, what can be edited.

    Args:
        model: A transformers model, wrapped or not; on the device "meta" it needs no memory.

    Returns:
        A table that prints well; layers that are alike share its lines.

    Raises:
        UnsupportedRouterError: If the model has no routers, or its family does not follow a known contract.

    Example:
        >>> from transformers import MixtralConfig, MixtralForCausalLM
        >>> from hf_mixture import describe_moe
        >>> config = MixtralConfig(
        ...     vocab_size=32, hidden_size=16, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2,
        ...     num_key_value_heads=2, num_local_experts=4, num_experts_per_tok=2,
        ... )
        >>> print(describe_moe(MixtralForCausalLM(config)))
        mixtral: 2 routers, 8 routed experts
        layers 0-1: 2 of 4 experts, MixtralTopKRouter: softmax, renormalised
          router  model.layers.{0-1}.mlp.gate
          experts model.layers.{0-1}.mlp.experts, MixtralExperts, 3,072 parameters a layer
    """
    routers = find_routers(model)
    tied = tied_routers(routers)
    rows = tuple(_row(router, tied.get(router.path)) for router in routers)
    return MoeTable(getattr(getattr(model, "config", None), "model_type", type(model).__name__), rows)


def _row(router: MoeRouter, tied_to: str | None) -> MoeRow:
    experts = router.experts
    note = "returns tokens grouped by expert" if router.layout == "grouped" else router.reason
    if router.defect:
        note = "; ".join(filter(None, [note, router.defect]))
    return MoeRow(
        path=router.path,
        layer=router.layer,
        router=type(router.module).__name__,
        num_experts=router.num_experts,
        num_extra_choices=router.num_choices - router.num_experts,
        top_k=router.top_k,
        selection="not explicit" if router.rule is None else str(router.rule),
        bias_path=None if router.bias is None else router.bias.path,
        experts_path=router.experts_path,
        experts=None if experts is None else type(experts).__name__,
        num_expert_parameters=0 if experts is None else sum(p.numel() for p in experts.parameters()),
        note=note,
        tied_to=tied_to,
    )


def _alike(rows: tuple[MoeRow, ...]) -> list[list[MoeRow]]:
    """Group the rows that differ in nothing but their layer."""
    groups: dict[tuple[Any, ...], list[MoeRow]] = {}
    for row in rows:
        pattern = [_pattern(name, row.layer) for name in (row.path, row.bias_path, row.experts_path, row.tied_to)]
        same = dataclasses.replace(row, path="", layer=None, bias_path=None, experts_path=None, tied_to=None)
        groups.setdefault((*pattern, same), []).append(row)
    return list(groups.values())


def _pattern(path: str | None, layer: int | None) -> str | None:
    if path is None or layer is None:
        return path
    parts = path.split(".")
    if str(layer) in parts:
        parts[parts.index(str(layer))] = "{}"
    return ".".join(parts)


def _describe(rows: list[MoeRow]) -> str:
    row = rows[0]
    layers = ranges([other.layer for other in rows if other.layer is not None])
    title = f"layer{'s' if len(rows) > 1 else ''} {layers}" if layers else row.path

    def place(path: str) -> str:
        pattern = _pattern(path, row.layer) or path
        return pattern.replace("{}", "{" + layers + "}" if len(rows) > 1 else layers)

    extra = f" (and {row.num_extra_choices} that are no experts)" if row.num_extra_choices else ""
    lines = [
        f"{title}: {row.top_k} of {row.num_experts} experts{extra}, {row.router}: {row.selection}",
        f"  router  {place(row.path)}",
    ]
    if row.bias_path is not None:
        lines.append(f"  bias    {place(row.bias_path)}")
    if row.experts_path is not None:
        size = f"{row.num_expert_parameters:,} parameters a layer"
        lines.append(f"  experts {place(row.experts_path)}, {row.experts}, {size}")
    if row.tied_to is not None:
        lines.append(f"  tied to {place(row.tied_to)}: the same weights and experts")
    if row.note:
        lines.append(f"  note    {row.note}")
    return "\n".join(lines)


def ranges(numbers: list[int]) -> str:
    """Write sorted numbers with their runs joined, as in "0, 3-60".

    Args:
        numbers: Numbers in rising order.

    Returns:
        The text.
    """
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ", ".join(str(a) if a == b else f"{a}-{b}" for a, b in runs)


def empty_model(name: str | os.PathLike[str], *, revision: str | None = None) -> nn.Module:
    """Build a model from its configuration alone, without memory for its weights.

    Args:
        name: Folder, or name of a repository on the Hub.
        revision: Branch, tag or commit of the repository.

    Returns:
        The model on the device "meta".

    Raises:
        FileNotFoundError: If there is no such model.
        ValueError: If its configuration cannot be read, or names no class of transformers.
    """
    import torch
    import transformers

    with loading(name):
        config = transformers.AutoConfig.from_pretrained(name, revision=revision)
    architecture = (config.architectures or [None])[0]
    model_class = getattr(transformers, architecture or "", None)
    with torch.device("meta"):
        if model_class is not None:
            model: nn.Module = model_class(config)
            return model
        if architecture is not None:
            raise ValueError(
                f"architectures={architecture!r} of {os.fspath(name)} must be a class of transformers "
                f"{transformers.__version__}; models with code of their own cannot be inspected"
            )
        return transformers.AutoModel.from_config(config)
