"""Configuration of Mixture of Shards adapters."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Literal

from peft import PeftConfig
from peft.utils import PeftType


_NAMES = ("target_modules", "exclude_modules", "modules_to_save", "target_parameters", "layers_pattern")


@dataclass
class MosConfig(PeftConfig):
    r"""Configuration of a Mixture of Shards (MoS) adapter, https://arxiv.org/abs/2410.00938.

    All targeted modules of one type share two pools of trainable shards. Each module builds its own factors
    `A (r, in)` and `B (out, r)` from shards chosen by a fixed random index and computes
    `y = W x + (mos_alpha / r) B A dropout(x)`: a rank-r update at the trainable cost of LoRA of rank
    `equivalent_rank`. (MoSLoRA, "mixture of subspaces", is another method.) The defaults are this package's; the
    paper explores a grid.

    A setting is feasible when `r - private_rank <= (equivalent_rank - private_rank) * L`, where L is the number of
    modules that share a pool. The defaults need L >= 15; smaller models get an error with the smallest valid change.

    Args:
        r: Active rank of every module, at least `private_rank`. Default: 16.
        equivalent_rank: e; the pools hold as many parameters as LoRA of rank e on the same modules. Default: 2.
        private_rank: p; rank of each module that it shares with no other, counted inside e. 0 switches shard
            privatisation off. Default: 1.
        num_shards: l; shards per vector, a divisor of all dimensions. 1 switches vector sharding off. Default: 4.
        mos_alpha: Numerator of the scaling `mos_alpha / r`. Default: 16.
        mos_dropout: Dropout probability on the input of A, in [0, 1). Default: 0.
        pool_by: Which modules share pools: `"module_type+shape"` (leaf name and dimensions), `"module_type"` (leaf
            name), or a mapping from a regular expression on the end of the module name to a group name.
        index_seed: Seed of the shard indices; adapters with different seeds choose different shards. Default: 0.
        save_indices: Save the indices beside the pools. Without them, loading draws them again from `index_seed`,
            which gives the same indices on every version and platform. Default: True.
        subset_selection: False lets every module use all public shards in pool order, which needs
            `r == (equivalent_rank - private_rank) * L + private_rank`. Default: True.
        pair_dissociation: False makes A and B of a module use the same shard positions. Default: True.
        init_weights: True starts from B = 0, the unchanged base model; False draws B at random. Default: True.
        target_modules: Modules to adapt: names (ends of paths), a regular expression, or `"all-linear"`. By default
            those that PEFT adapts with LoRA in the architecture.
        exclude_modules: Modules to leave alone: names or a regular expression.
        target_parameters: Names of parameters to adapt, such as the 3-D `experts.gate_up_proj`; each expert is a
            module of its group.
        rank_pattern: Ranks that differ from `r`, by regular expression on the end of the module name.
        layers_to_transform: Indices of the only layers to adapt.
        layers_pattern: Name of the list that `layers_to_transform` counts in, if not the first one.
        modules_to_save: Modules that are trained in full and saved with the adapter.
        fan_in_fan_out: True where weights are stored as (in, out), as in `Conv1D` of GPT-2.
        bias: `"none"`; the other values of LoRA are not supported.

    Raises:
        ValueError: A value is outside its range, or two of them contradict each other.

    Example:
        >>> config = MosConfig(r=4, equivalent_rank=2, private_rank=1, target_modules=["q_proj", "v_proj"])
        >>> config.peft_type.value
        'MOS'
    """

    r: int = field(default=16, metadata={"help": "Active rank of every targeted module."})
    equivalent_rank: int = field(
        default=2, metadata={"help": "Rank of the LoRA that has the same number of trainable parameters."}
    )
    private_rank: int = field(
        default=1, metadata={"help": "Rank that a module shares with no other; 0 switches privatisation off."}
    )
    num_shards: int = field(
        default=4, metadata={"help": "Shards per vector; divides all dimensions. 1 switches vector sharding off."}
    )
    mos_alpha: float = field(default=16, metadata={"help": "The update is scaled by mos_alpha / r."})
    mos_dropout: float = field(default=0.0, metadata={"help": "Dropout probability on the input of A."})
    pool_by: Literal["module_type+shape", "module_type"] | dict[str, str] = field(
        default="module_type+shape",
        metadata={"help": "Which modules share pools: a rule, or a mapping from regular expression to group name."},
    )
    index_seed: int = field(default=0, metadata={"help": "Seed of the shard indices."})
    save_indices: bool = field(
        default=True, metadata={"help": "Save the shard indices; otherwise index_seed restores them at loading."}
    )
    subset_selection: bool = field(
        default=True, metadata={"help": "Modules draw a subset of the public shards; False uses all of them."}
    )
    pair_dissociation: bool = field(default=True, metadata={"help": "A and B have separate draws."})
    init_weights: bool = field(
        default=True, metadata={"help": "Start from B = 0; False draws B at random, which is for tests."}
    )
    target_modules: list[str] | str | None = field(
        default=None, metadata={"help": "Modules to adapt: names, a regular expression, or 'all-linear'."}
    )
    exclude_modules: list[str] | str | None = field(
        default=None, metadata={"help": "Modules to leave alone: names or a regular expression."}
    )
    target_parameters: list[str] | None = field(
        default=None, metadata={"help": "Parameters to adapt, such as the stacked weights of experts."}
    )
    rank_pattern: dict[str, int] = field(
        default_factory=dict, metadata={"help": "Ranks that differ from r, by regular expression."}
    )
    layers_to_transform: list[int] | int | None = field(
        default=None, metadata={"help": "Indices of the only layers to adapt."}
    )
    layers_pattern: list[str] | str | None = field(
        default=None, metadata={"help": "Name of the list of layers that layers_to_transform counts in."}
    )
    modules_to_save: list[str] | None = field(
        default=None, metadata={"help": "Modules trained in full and saved with the adapter."}
    )
    fan_in_fan_out: bool = field(default=False, metadata={"help": "Weights are stored as (in, out), as in Conv1D."})
    bias: str = field(default="none", metadata={"help": "Only 'none' is supported."})

    def __post_init__(self) -> None:
        """Normalise names to sets and check every value that can be checked without a model."""
        super().__post_init__()
        self.peft_type = PeftType.MOS
        self.target_modules = _as_set(self.target_modules)
        self.exclude_modules = _as_set(self.exclude_modules)
        self._check_types()
        self._check_numbers()
        self._check_choices()

    def _check_numbers(self) -> None:
        if not isinstance(self.rank_pattern, dict):
            raise ValueError(f"rank_pattern={self.rank_pattern!r} must be a mapping from regular expression to rank.")
        counts = {"r": self.r, "equivalent_rank": self.equivalent_rank, "num_shards": self.num_shards}
        counts |= {f"rank_pattern[{pattern!r}]": rank for pattern, rank in self.rank_pattern.items()}
        for name, count in counts.items():
            if not _is_int(count) or count < 1:
                raise ValueError(f"{name}={count!r} must be an integer of at least 1.")
        if not _is_int(self.private_rank) or not 0 <= self.private_rank <= self.equivalent_rank:
            raise ValueError(
                f"private_rank={self.private_rank!r} must be an integer in [0, equivalent_rank] = "
                f"[0, {self.equivalent_rank}]: private shards are part of the budget. Remedy: lower private_rank."
            )
        for name in ("r", *(name for name in counts if name.startswith("rank_pattern"))):
            if counts[name] < self.private_rank:
                raise ValueError(
                    f"{name}={counts[name]} must be at least private_rank={self.private_rank}, which every module "
                    f"uses. Remedy: raise it, or private_rank={counts[name]}."
                )
        if not _is_int(self.index_seed):
            raise ValueError(f"index_seed={self.index_seed!r} must be an integer.")
        if not _is_number(self.mos_alpha) or not math.isfinite(self.mos_alpha):
            raise ValueError(f"mos_alpha={self.mos_alpha!r} must be a finite number.")
        if not _is_number(self.mos_dropout) or not 0 <= self.mos_dropout < 1:
            raise ValueError(f"mos_dropout={self.mos_dropout!r} must be a probability in [0, 1).")

    def _check_types(self) -> None:
        for name in ("base_model_name_or_path", "revision"):
            if not isinstance(getattr(self, name), str | None):
                raise ValueError(f"{name}={getattr(self, name)!r} must be a string or None.")
        for name in ("save_indices", "subset_selection", "pair_dissociation", "init_weights", "fan_in_fan_out"):
            if not isinstance(getattr(self, name), bool):
                raise ValueError(f"{name}={getattr(self, name)!r} must be true or false.")
        for name in (*_NAMES, "layers_to_transform"):
            value = getattr(self, name)
            values = value if isinstance(value, list | tuple | set) else [] if value is None else [value]
            wanted = "integers" if name == "layers_to_transform" else "names"
            if not all(_is_int(one) if wanted == "integers" else isinstance(one, str) and one for one in values):
                raise ValueError(f"{name}={value!r} must be a list of {wanted}, or None.")

    def _check_choices(self) -> None:
        if self.bias != "none":
            raise ValueError(
                f"bias={self.bias!r} is not supported, only 'none' is. Remedy: train biases with modules_to_save."
            )
        if isinstance(self.target_parameters, str):
            raise ValueError(f"target_parameters={self.target_parameters!r} must be a list of parameter names.")
        if self.target_parameters and (self.mos_dropout or self.fan_in_fan_out):
            raise ValueError(
                f"target_parameters needs mos_dropout=0 and fan_in_fan_out=False, not mos_dropout={self.mos_dropout} "
                f"and fan_in_fan_out={self.fan_in_fan_out}: the update is added to the stored weight."
            )
        if isinstance(self.target_modules, str):
            for name in ("layers_to_transform", "layers_pattern"):
                if getattr(self, name) is not None:
                    raise ValueError(
                        f"{name}={getattr(self, name)!r} cannot be used with target_modules={self.target_modules!r}, "
                        "which is no list of names. Remedy: list the names, or select the layers in a regular "
                        "expression."
                    )
        if self.layers_pattern and self.layers_to_transform is None:
            raise ValueError(
                f"layers_pattern={self.layers_pattern!r} needs layers_to_transform, the indices of the layers."
            )
        if isinstance(self.pool_by, dict):
            for pattern, group in self.pool_by.items():
                if not isinstance(group, str) or not group or "." in group or group.startswith("mos_"):
                    raise ValueError(
                        f"pool_by[{pattern!r}]={group!r} must be a non-empty name without '.' that does not start "
                        "with 'mos_': it becomes part of the keys of the saved file."
                    )
        elif self.pool_by not in ("module_type+shape", "module_type"):
            raise ValueError(
                f"pool_by={self.pool_by!r} must be 'module_type+shape', 'module_type' or a mapping from regular "
                "expression to group name."
            )


def _as_set(names: Any) -> Any:
    return set(names) if isinstance(names, list | tuple) else names


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
