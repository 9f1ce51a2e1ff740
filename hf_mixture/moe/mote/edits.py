"""The edits of the experts of one model: what one file holds, and what they mean.

Letters: E experts of a router, K chosen per token, L routers.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from hf_mixture.moe.mote.edit import FORCE_WEIGHTS, MODES, ExpertEdit, ForceWeight, Mode, Op, check_together


if TYPE_CHECKING:
    from torch import nn

__all__ = ["ExpertEdit", "ExpertEdits", "Ranked"]


class Ranked(Protocol):
    """An expert of a ranking."""

    @property
    def path(self) -> str: ...
    @property
    def layer(self) -> int | None: ...
    @property
    def expert(self) -> int: ...
    @property
    def score(self) -> float: ...


@dataclass(frozen=True)
class ExpertEdits:
    """Edits of the experts of one model, and what they mean (arXiv 2502.11096).

    Args:
        edits: The edits; at most one of `off`, `on`, `bias` and at most one `scale` of each expert, and no `off`
            beside another operation.
        mode: What `off` means. `"reroute"`: the next best expert takes the place, with the family's own weights.
            `"zero_renorm"` and `"zero"`: the selection stays and the weight becomes 0, the others growing to the same
            sum or not. `"logit_mask"`: the logit becomes -inf before the softmax. `"force"`, `"scale"` and `"bias"`
            are for files with that operation only (`on`, `scale`, `bias`). Default: `"reroute"`.
        force_weight: Gate of an expert that is forced on, before the family's normalisation: its `"own"`, the token's
            largest (`"max"`) or the `value` of the edit (`"const"`). Default: `"max"`.
        base_model_name_or_path: The model that the edits are for. Default: None.
        model_type: Its `config.model_type`. Default: None.
        num_experts: E of each router, by path. Default: None.
        top_k: K of each router, by path. Default: None.
        fingerprint: `fingerprint_of(model).sha256`; None accepts any model with these routers. Default: None.
        scores: How the experts were found; plain JSON. Default: {}.
        provenance: Data set, revision, counts of the classes; plain JSON. Default: {}.

    Raises:
        ValueError: If edits are given twice, contradict each other, or do not suit the mode.

    Example:
        >>> from hf_mixture.moe.mote.edits import ExpertEdit, ExpertEdits
        >>> edits = ExpertEdits([ExpertEdit("model.layers.3.mlp.gate", 13, "off")])
        >>> edits.mode, len(edits)
        ('reroute', 1)
        >>> ExpertEdits.from_json(edits.to_json()) == edits
        True
    """

    edits: Sequence[ExpertEdit]
    mode: Mode = "reroute"
    force_weight: ForceWeight = "max"
    base_model_name_or_path: str | None = None
    model_type: str | None = None
    num_experts: Mapping[str, int] | None = None
    top_k: Mapping[str, int] | None = None
    fingerprint: str | None = None
    scores: Mapping[str, Any] = field(default_factory=dict)
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "edits", tuple(self.edits))
        if self.mode not in MODES:
            raise ValueError(f"mode={self.mode!r} must be one of {', '.join(MODES)}")
        if self.force_weight not in FORCE_WEIGHTS:
            raise ValueError(f"force_weight={self.force_weight!r} must be one of {', '.join(FORCE_WEIGHTS)}")
        check_together(self.edits, self.mode, self.force_weight)

    def __len__(self) -> int:
        return len(self.edits)

    def by_module(self) -> dict[str, list[ExpertEdit]]:
        """Group the edits by router.

        Returns:
            For each router path its edits, in their order.
        """
        groups: dict[str, list[ExpertEdit]] = {}
        for edit in self.edits:
            groups.setdefault(edit.module, []).append(edit)
        return groups

    @classmethod
    def from_ranking(
        cls,
        ranked: Iterable[Ranked],
        *,
        top: int,
        op: Op = "off",
        value: float | None = None,
        mode: Mode = "reroute",
        model: nn.Module | None = None,
        **fields: Any,
    ) -> ExpertEdits:
        """Make one edit of each of the first experts of a ranking.

        Args:
            ranked: Experts, best first, with `path`, `layer`, `expert` and `score`, as `rank_experts` returns them.
            top: Number of experts to edit, >= 1.
            op: The operation. Default: `"off"`.
            value: Its value. Default: None.
            mode: As in `ExpertEdits`. Default: `"reroute"`.
            model: Its name, type, expert counts and fingerprint are noted. Default: None.
            fields: Further fields of `ExpertEdits`.

        Returns:
            The edits, with the scores of the ranking.

        Raises:
            ValueError: If the ranking has fewer than `top` experts.

        Example:
            >>> from types import SimpleNamespace
            >>> from hf_mixture.moe.mote.edits import ExpertEdits
            >>> first = SimpleNamespace(path="model.layers.3.mlp.gate", layer=3, expert=13, score=2.45)
            >>> ExpertEdits.from_ranking([first], top=1).edits[0].expert
            13
        """
        if top < 1:
            raise ValueError(f"top={top} must be >= 1: the number of experts to edit")
        chosen = [expert for expert, _ in zip(ranked, range(top), strict=False)]
        if len(chosen) < top:
            raise ValueError(f"top={top} is more than the {len(chosen)} experts of the ranking; lower it")
        edits = [ExpertEdit(expert.path, expert.expert, op, value, expert.layer) for expert in chosen]
        ranking = [{"module": expert.path, "expert": expert.expert, "score": float(expert.score)} for expert in chosen]
        fields["scores"] = {"ranking": ranking, **fields.get("scores", {})}
        made = cls(edits, mode=mode, **fields)
        return made if model is None else made.signed(model)

    def signed(self, model: nn.Module) -> ExpertEdits:
        """Note which model the edits are for.

        Args:
            model: The model, patched or not.

        Returns:
            The same edits with the name, the type, the expert counts and the fingerprint of the model.
        """
        from dataclasses import replace

        from hf_mixture.moe.mote.fingerprint import fingerprint_of

        found = fingerprint_of(model)
        name = getattr(getattr(model, "config", None), "name_or_path", None)
        return replace(
            self,
            base_model_name_or_path=self.base_model_name_or_path or name or None,
            model_type=found.model_type,
            num_experts=found.num_experts,
            top_k=found.top_k,
            fingerprint=found.sha256,
        )

    def to_json(self) -> str:
        """Write the text of `expert_edits.json`: fixed key order, one final newline.

        Returns:
            JSON.

        Raises:
            ValueError: If `scores` or `provenance` is not plain JSON.
        """
        from hf_mixture.moe.mote.edits_file import dump

        return dump(self)

    def to_dict(self) -> dict[str, Any]:
        """Give the content of `expert_edits.json` as a dictionary, for `config.mote`.

        Returns:
            JSON values.
        """
        import json

        document: dict[str, Any] = json.loads(self.to_json())
        return document

    @classmethod
    def from_json(cls, text: str | bytes, *, where: str = "expert_edits.json") -> ExpertEdits:
        """Read the text of `expert_edits.json`.

        Args:
            text: The text.
            where: What messages call it.

        Returns:
            The edits.

        Raises:
            ValueError: If it is not JSON, newer than this package, or breaks the schema.
        """
        from hf_mixture.moe.mote.edits_file import parse

        return parse(text, where=where)

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | os.PathLike[str],
        *,
        revision: str | None = None,
        token: str | bool | None = None,
        cache_dir: str | os.PathLike[str] | None = None,
    ) -> ExpertEdits:
        """Load edits from a folder or a Hub repository.

        Args:
            name_or_path: A folder with `expert_edits.json`, that file, or a model repository of the Hub.
            revision: Branch, tag or commit. Default: the main branch.
            token: Access token. Default: the one that is logged in.
            cache_dir: Cache of the Hub. Default: the usual one.

        Returns:
            The edits.

        Raises:
            FileNotFoundError: If there is no such file.
            ValueError: If the file is not valid.
        """
        from hf_mixture.moe.mote.edits_file import find, read

        return read(find(os.fspath(name_or_path), revision=revision, token=token, cache_dir=cache_dir))

    def save_pretrained(self, save_directory: str | os.PathLike[str]) -> str:
        """Write `expert_edits.json` into a folder, which may hold a model or an adapter too.

        Args:
            save_directory: The folder; made where it is missing.

        Returns:
            Path of the file.
        """
        from hf_mixture.moe.mote.edits_file import write

        return write(self, save_directory)

    def push_to_hub(
        self,
        repo_id: str,
        *,
        folder: str | os.PathLike[str] | None = None,
        revision: str | None = None,
        private: bool | None = None,
        token: str | bool | None = None,
        commit_message: str = "Upload expert edits",
        create_pr: bool = False,
    ) -> str:
        """Upload the edits to a model repository.

        Args:
            repo_id: Name of the repository; made where it is missing.
            folder: A folder whose `README.md`, `ftri.safetensors`, `*.png` and adapter files go with them.
                Default: none.
            revision: Branch. Default: the main branch.
            private: Whether a new repository is private. Default: the setting of the account.
            token: Access token. Default: the one that is logged in.
            commit_message: Message of the commit.
            create_pr: Whether to open a pull request instead of committing. Default: False.

        Returns:
            Address of the commit.
        """
        from hf_mixture.moe.mote.edits_file import push

        return push(
            self,
            repo_id,
            folder=folder,
            revision=revision,
            private=private,
            token=token,
            commit_message=commit_message,
            create_pr=create_pr,
        )
