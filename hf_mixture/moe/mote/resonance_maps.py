"""The activation maps of prompts, and what they come to for the classes of a behaviour.

Letters: P prompts, C classes, L routers, E experts, N the sum of E over routers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from hf_mixture.moe.anatomy import MoeRouter
from hf_mixture.moe.anatomy.find import base_path
from hf_mixture.moe.trace.trace import TracedRouter


if TYPE_CHECKING:
    from torch import nn

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class ModelFacts:
    """The model that maps were made with.

    Args:
        routers: Its L routers, in their order.
        model_type: `config.model_type`.
        fingerprint: `fingerprint_of(model).sha256`; None where the weights were not at hand.
        base_model_name_or_path: Its name.
        quantization: Its quantisation method; None for full weights. Routing differs under quantisation.
    """

    routers: tuple[TracedRouter, ...]
    model_type: str | None = None
    fingerprint: str | None = None
    base_model_name_or_path: str | None = None
    quantization: str | None = None

    @property
    def columns(self) -> list[tuple[TracedRouter, int]]:
        """The router and the expert of each of the N columns of a map."""
        return [(router, expert) for router in self.routers for expert in range(router.num_experts)]

    @property
    def signature(self) -> dict[str, Any]:
        """The fields of `ExpertEdits` that say which model edits are for."""
        return {
            "base_model_name_or_path": self.base_model_name_or_path,
            "model_type": self.model_type,
            "num_experts": {router.path: router.num_experts for router in self.routers},
            "top_k": {router.path: router.top_k for router in self.routers},
            "fingerprint": self.fingerprint,
        }

    def split(self, row: npt.NDArray[Any]) -> list[npt.NDArray[Any]]:
        """Split the last axis N of an array by router."""
        return np.split(row, np.cumsum([router.num_experts for router in self.routers])[:-1], axis=-1)

    def grid(self, row: npt.NDArray[Any]) -> Floats:
        """Arrange a map [N] as [L, E], with NaN where a router has fewer experts than the largest."""
        grid = np.full((len(self.routers), max(router.num_experts for router in self.routers)), np.nan)
        for place, part in enumerate(self.split(row)):
            grid[place, : len(part)] = part
        return grid


def facts_of(model: nn.Module, routers: Sequence[MoeRouter]) -> ModelFacts:
    """Note the model that maps are made with.

    Args:
        model: The model.
        routers: Its routers.

    Returns:
        The facts.
    """
    from hf_mixture.moe.mote.fingerprint import fingerprint_of

    found = fingerprint_of(model, routers)
    config = getattr(model, "config", None)
    quantization: Any = getattr(config, "quantization_config", None)
    if isinstance(quantization, Mapping):
        method = quantization.get("quant_method")
    else:
        method = getattr(quantization, "quant_method", None)
    return ModelFacts(
        routers=tuple(
            TracedRouter(base_path(router.path), router.layer, router.ordinal, router.num_experts, router.top_k)
            for router in routers
        ),
        model_type=found.model_type,
        fingerprint=found.sha256,
        base_model_name_or_path=getattr(config, "name_or_path", None) or None,
        quantization=None if method is None else str(getattr(method, "value", method)),
    )


def facts_from(given: Mapping[str, Any]) -> ModelFacts:
    """Make the facts of a model from the JSON of a file; wrong keys raise TypeError or KeyError."""
    return ModelFacts(**{**given, "routers": tuple(TracedRouter(**router) for router in given["routers"])})


@dataclass(frozen=True, kw_only=True, eq=False)
class FtriMaps:
    """The activation maps of prompts.

    Args:
        facts: The model.
        counts: Choices of each expert, exact integers [P, N].
        tokens: Tokens that were counted [P].
        values: Sums of another statistic [P, N]; None for counts alone.
        statistic: What `values` are; see `FtriCollector`.
        positions: Which tokens were counted.
    """

    facts: ModelFacts
    counts: Ints
    tokens: Ints
    values: Floats | None = None
    statistic: str = "count"
    positions: str = "prompt"

    def __len__(self) -> int:
        return len(self.tokens)

    def rows(self, *, normalise: bool = True) -> Floats:
        """Give the statistic of each prompt.

        Args:
            normalise: Whether it is divided by the tokens of the prompt, since sums grow with its length.
                Default: True.

        Returns:
            The maps [P, N].

        Raises:
            ValueError: If no token of some prompt was counted.
        """
        values = self.counts.astype(np.float64) if self.values is None else self.values
        if not normalise:
            return values
        if not self.tokens.all():
            raise ValueError(
                f"no token of prompt {int(np.flatnonzero(self.tokens == 0)[0])} was counted ({self.positions}); "
                "leave it out, choose other tokens, or pass normalise=False"
            )
        rates: Floats = values / self.tokens[:, None]
        return rates

    def select(self, chosen: Sequence[int] | npt.NDArray[Any]) -> FtriMaps:
        """Keep some prompts.

        Args:
            chosen: Their positions.

        Returns:
            Their maps, in that order.
        """
        places = np.asarray(chosen, dtype=np.int64)
        values = None if self.values is None else self.values[places]
        return replace(self, counts=self.counts[places], tokens=self.tokens[places], values=values)

    @classmethod
    def concatenate(cls, parts: Sequence[FtriMaps]) -> FtriMaps:
        """Join the maps of one model, made with the same settings.

        Args:
            parts: At least one.

        Returns:
            The prompts of all parts, in their order.
        """
        return replace(
            parts[0],
            counts=np.concatenate([part.counts for part in parts]),
            tokens=np.concatenate([part.tokens for part in parts]),
            values=None if parts[0].values is None else np.concatenate([_values(part) for part in parts]),
        )

    def gather(self) -> FtriMaps:
        """Collect the prompts of all processes, in the order of their ranks; a collective call.

        Returns:
            The maps of all prompts, on every process.
        """
        from accelerate import PartialState

        if PartialState().num_processes == 1:
            return self
        return replace(
            self,
            counts=_gathered(self.counts),
            tokens=_gathered(self.tokens),
            values=None if self.values is None else _gathered(self.values),
        )

    def summarise(
        self, labels: Sequence[str], *, normalise: bool = True, provenance: Mapping[str, Any] | None = None
    ) -> FtriSummary:
        """Take the mean map of each class: `M_c = mean_{p in c} a_p`.

        Args:
            labels: The class of each prompt.
            normalise: As in `rows`. Default: True.
            provenance: Facts about the prompts, plain JSON. Default: {}.

        Returns:
            Means and counts of the classes, in the order of their names.

        Raises:
            ValueError: If there are not as many labels as prompts, fewer than two classes, or fewer than two prompts
                in one.
        """
        classes = _check_labels(self, labels)
        names = np.asarray(labels, dtype=object)
        rows = self.rows(normalise=normalise)
        members = [np.flatnonzero(names == name) for name in classes]
        return FtriSummary(
            facts=self.facts,
            classes=tuple(classes),
            means=np.stack([rows[places].mean(axis=0) for places in members]),
            counts=np.stack([self.counts[places].sum(axis=0) for places in members]),
            num_prompts=np.array([len(places) for places in members], dtype=np.int64),
            num_tokens=np.array([self.tokens[places].sum() for places in members], dtype=np.int64),
            statistic=self.statistic,
            positions=self.positions,
            normalise=normalise,
            provenance=dict(provenance or {}),
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class FtriSummary:
    """What the maps of prompts come to for C classes.

    Args:
        facts: The model.
        classes: Names of the classes, sorted.
        means: Mean map of each class [C, N].
        counts: Choices of each expert, all prompts of a class together [C, N].
        num_prompts: Prompts of each class [C].
        num_tokens: Tokens of each class that were counted [C].
        statistic: What the means are of; see `FtriCollector`.
        positions: Which tokens were counted.
        normalise: Whether the maps were divided by the tokens of their prompts.
        provenance: Facts about the prompts, plain JSON.
    """

    facts: ModelFacts
    classes: tuple[str, ...]
    means: Floats
    counts: Ints
    num_prompts: Ints
    num_tokens: Ints
    statistic: str = "count"
    positions: str = "prompt"
    normalise: bool = True
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def place(self, target: str) -> int:
        """Return the position of a class.

        Raises:
            ValueError: If there is no such class.
        """
        if target not in self.classes:
            raise ValueError(f"target={target!r} is no class of these maps; they have {', '.join(self.classes)}")
        return self.classes.index(target)

    def differential(self, target: str) -> Floats:
        """Give the differential map `D = M_target - mean over the prompts of all other classes`.

        Args:
            target: The class.

        Returns:
            D [N].
        """
        place = self.place(target)
        others = np.arange(len(self.classes)) != place
        rest = np.average(self.means[others], axis=0, weights=self.num_prompts[others])
        difference: Floats = self.means[place] - rest
        return difference

    def save(self, folder: Any) -> str:
        """Write `ftri.safetensors` into a folder; see `hf_mixture.moe.mote.resonance_file`."""
        from hf_mixture.moe.mote.resonance_file import write

        return write(self, folder)


def maps_from_routed_experts(
    routed: Sequence[npt.NDArray[Any]], facts: ModelFacts, *, positions: str = "prompt"
) -> FtriMaps:
    """Count the expert ids that a server returned, such as `routed_experts` of vLLM.

    Args:
        routed: For each prompt the chosen experts [tokens, model layers, K]; rows of dense layers are not read.
        facts: The model; layers without a router have placeholders in `routed`.
        positions: Which tokens they are. Default: `"prompt"`.

    Returns:
        The maps.

    Raises:
        ValueError: If an array has another shape, or an id is out of range.

    Example:
        >>> import numpy as np
        >>> from hf_mixture.moe.mote.resonance_maps import ModelFacts, maps_from_routed_experts
        >>> from hf_mixture.moe.trace.trace import TracedRouter
        >>> facts = ModelFacts((TracedRouter("model.layers.1.mlp.gate", 1, 0, 4, 2),))
        >>> maps_from_routed_experts([np.array([[[0, 0], [3, 1]]])], facts).counts.tolist()
        [[0, 1, 0, 1]]
    """
    counts = []
    for number, ids in enumerate(routed):
        parts = []
        for router in facts.routers:
            if router.layer is None or ids.ndim != 3 or ids.shape[1] <= router.layer or ids.shape[2] != router.top_k:
                raise ValueError(
                    f"routed[{number}] has the shape {list(ids.shape)}; it must be [tokens, layers, {router.top_k}] "
                    f"with a row for layer {router.layer}"
                )
            own = ids[:, router.layer].reshape(-1).astype(np.int64)
            if len(own) and not (own.min() >= 0 and own.max() < router.num_experts):
                raise ValueError(
                    f"routed[{number}] has the expert {int(own.max())} in layer {router.layer}, which has "
                    f"{router.num_experts}; check that the model is the same"
                )
            parts.append(np.bincount(own, minlength=router.num_experts))
        counts.append(np.concatenate(parts))
    return FtriMaps(
        facts=facts,
        counts=np.stack(counts).astype(np.int64),
        tokens=np.array([len(ids) for ids in routed], dtype=np.int64),
        positions=positions,
    )


def _check_labels(maps: FtriMaps, labels: Sequence[str]) -> list[str]:
    if len(labels) != len(maps):
        raise ValueError(f"there are {len(labels)} labels for {len(maps)} prompts; give one for each")
    classes = sorted(set(labels))
    if len(classes) < 2:
        raise ValueError(
            f"all prompts have the label {classes[0]!r}; at least two classes are needed to see a difference"
        )
    for name in classes:
        if list(labels).count(name) < 2:
            raise ValueError(f"class {name!r} has one prompt; at least 2 are needed: add prompts, or join classes")
    return classes


def _values(maps: FtriMaps) -> Floats:
    assert maps.values is not None  # noqa: S101 - parts are of one statistic
    return maps.values


def _gathered(array: npt.NDArray[Any]) -> Any:
    """Rows of all processes, which may have different numbers of them."""
    import torch
    from accelerate import PartialState
    from accelerate.utils import gather, pad_across_processes

    device = PartialState().device
    lengths = gather(torch.tensor([len(array)], device=device)).tolist()
    padded = pad_across_processes(torch.from_numpy(array).to(device), dim=0)
    parts = gather(padded).cpu().unflatten(0, (len(lengths), -1))
    return torch.cat([part[:length] for part, length in zip(parts, lengths, strict=True)]).numpy()
