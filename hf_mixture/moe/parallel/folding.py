"""`FoldingPlan`: one mapping of ranks for attention and another for experts (MoE Parallel Folding, arXiv 2504.14960).

Dimensions of parallelism: tp tensor, cp context, dp data, pp pipeline, ep expert, etp expert tensor, edp expert data.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hf_mixture.moe.parallel.groups import RankGroups, divisors, rank_groups


if TYPE_CHECKING:
    from accelerate import ParallelismConfig
    from torch.distributed.device_mesh import DeviceMesh
    from transformers.distributed import DistributedConfig


_SIZES = ("tp", "cp", "pp", "ep", "etp")


@dataclass(frozen=True, kw_only=True)
class FoldingPlan:
    r"""Sizes of all dimensions of parallelism over the same ranks, checked before anything is started.

    world = tp x cp x dp x pp = etp x ep x edp x pp. The attention of a layer is laid out over tp, cp and dp, its
    experts over etp, ep and edp: expert parallelism may cover any of the ranks that attention uses otherwise, and so
    stay within a node. tp, or etp, varies fastest with the rank, pp slowest, so that both mappings have the same
    pipeline stages: the order of Megatron-Core. The listing in the paper has another order, in which they differ.

    Args:
        world: Number of ranks.
        tp: Tensor parallelism of attention. Default: 1, as for all others.
        cp: Context parallelism.
        pp: Pipeline stages.
        ep: Expert parallelism.
        etp: Tensor parallelism of experts. Megatron-Core would take tp where this is not given.

    Attributes:
        dp (`int`): Data parallelism of attention.
        edp (`int`): Data parallelism of experts.

    Raises:
        ValueError: If a size is not a positive whole number, or the sizes do not divide the ranks; the nearest layout
            that works is named.

    Example:
        >>> from hf_mixture import FoldingPlan
        >>> plan = FoldingPlan(world=16, tp=2, ep=8)
        >>> plan.dp, plan.edp, plan.groups("ep")[0]
        (8, 2, [0, 1, 2, 3, 4, 5, 6, 7])
    """

    world: int
    tp: int = 1
    cp: int = 1
    pp: int = 1
    ep: int = 1
    etp: int = 1

    def __post_init__(self) -> None:
        for name in ("world", *_SIZES):
            value = getattr(self, name)
            if type(value) is not int or value < 1:
                raise ValueError(f"{name}={value!r} is not a positive whole number")
        self._refuse(self._problem())

    @property
    def dp(self) -> int:
        """Data parallelism of attention: ranks that see different tokens."""
        return self.world // (self.tp * self.cp * self.pp)

    @property
    def edp(self) -> int:
        """Data parallelism of experts: ranks that hold the same experts."""
        return self.world // (self.etp * self.ep * self.pp)

    def groups(self, *dimensions: str) -> RankGroups:
        """The groups of ranks that differ only in some dimensions.

        Args:
            dimensions: Of tp, cp, dp, pp, or of etp, ep, edp, pp.

        Returns:
            Groups of ranks.

        Raises:
            ValueError: If the dimensions are not of one mapping.
        """
        dense = {"tp": self.tp, "cp": self.cp, "dp": self.dp, "pp": self.pp}
        expert = {"etp": self.etp, "ep": self.ep, "edp": self.edp, "pp": self.pp}
        for sizes in (dense, expert):
            if set(dimensions) <= set(sizes):
                return rank_groups(sizes, dimensions)
        raise ValueError(
            f"{', '.join(dimensions)} are not dimensions of one mapping; those of attention are {', '.join(dense)}, "
            f"those of experts {', '.join(expert)}"
        )

    def check_model(self, config: Any) -> None:
        """Check that a model divides over the plan.

        Args:
            config: Configuration of a sparse model of transformers.

        Raises:
            ValueError: If experts, heads, inner sizes or layers do not divide; the nearest layout that works is named.
        """
        self._refuse(self.model_problem(config), lambda plan: plan.model_problem(config) is None)

    def device_meshes(self, device_type: str) -> tuple[DeviceMesh, DeviceMesh]:
        """The meshes of attention (pp, dp, cp, tp) and of experts (pp, edp, ep, etp), over the same ranks.

        Args:
            device_type: Such as `"cuda"` or `"cpu"`; the process group must have been started.

        Returns:
            Both meshes.
        """
        import torch
        from torch.distributed.device_mesh import DeviceMesh

        ranks = torch.arange(self.world)
        dense = ranks.view(self.pp, self.dp, self.cp, self.tp)
        expert = ranks.view(self.pp, self.edp, self.ep, self.etp)
        return (
            DeviceMesh(device_type, dense, mesh_dim_names=("pp", "dp", "cp", "tp")),
            DeviceMesh(device_type, expert, mesh_dim_names=("pp", "edp", "ep", "etp")),
        )

    def to_distributed_config(self, **options: Any) -> DistributedConfig:
        """Give the plan as `from_pretrained(..., distributed_config=...)` takes it.

        Args:
            options: Further fields of `DistributedConfig`, such as `ep_implementation`.

        Returns:
            The configuration.

        Raises:
            ValueError: If transformers cannot run the plan; the reason, and an engine that can, are named. If the
                launcher started another number of processes; the nearest layout of these is named.
        """
        from hf_mixture.moe.parallel.engines import to_distributed_config

        return to_distributed_config(self, **options)

    def to_parallelism_config(self) -> ParallelismConfig:
        """Give a plan without expert parallelism as `Accelerator(parallelism_config=...)` takes it.

        Returns:
            The configuration.

        Raises:
            ValueError: If Accelerate cannot run the plan; the reason, and an engine that can, are named.
        """
        from hf_mixture.moe.parallel.engines import to_parallelism_config

        return to_parallelism_config(self)

    def to_megatron_args(self) -> list[str]:
        """Give the plan as arguments of Megatron-LM, which runs all of them.

        Returns:
            The arguments.
        """
        from hf_mixture.moe.parallel.engines import to_megatron_args

        return to_megatron_args(self)

    def to_torchtitan(self) -> str:
        """Give the plan as the `[parallelism]` section of a configuration of torchtitan.

        Returns:
            TOML.

        Raises:
            ValueError: If torchtitan cannot run the plan; the reason, and an engine that can, are named.
        """
        from hf_mixture.moe.parallel.engines import to_torchtitan

        return to_torchtitan(self)

    def nearest(
        self, accept: Callable[[FoldingPlan], bool] = lambda plan: True, *, world: int | None = None
    ) -> FoldingPlan | None:
        """The layout that differs least, by the factors between the sizes.

        Args:
            accept: What the layout must satisfy besides.
            world: Number of its ranks. Default: as many as this layout has.

        Returns:
            The layout; None if there is none.
        """

        def distance(plan: FoldingPlan) -> float:
            return sum(abs(math.log2(getattr(plan, name) / getattr(self, name))) for name in _SIZES)

        plans = all_plans(self.world if world is None else world)
        return min((plan for plan in plans if accept(plan)), key=distance, default=None)

    def sizes(self) -> str:
        """Return the sizes as arguments, without those that are 1."""
        named = [f"{name}={getattr(self, name)}" for name in _SIZES if getattr(self, name) > 1]
        return ", ".join([f"world={self.world}", *named])

    def _problem(self) -> str | None:
        dense, expert = self.tp * self.cp * self.pp, self.etp * self.ep * self.pp
        if self.world % dense:
            return f"tp={self.tp} x cp={self.cp} x pp={self.pp} = {dense} does not divide the {self.world} ranks"
        if self.world % expert:
            return f"etp={self.etp} x ep={self.ep} x pp={self.pp} = {expert} does not divide the {self.world} ranks"
        return None

    def model_problem(self, config: Any) -> str | None:
        """Say why a model does not divide over the plan.

        Args:
            config: Configuration of a sparse model of transformers.

        Returns:
            The reason, or None if it does.
        """
        text = config.get_text_config()
        counts = {
            "experts": (_first(text, "num_local_experts", "num_experts", "n_routed_experts"), "ep", self.ep),
            "attention heads": (text.num_attention_heads, "tp", self.tp),
            "inner columns of an expert": (
                _first(text, "moe_intermediate_size", "intermediate_size"),
                "etp",
                self.etp,
            ),
            "layers": (text.num_hidden_layers, "pp", self.pp),
        }
        for what, (count, name, size) in counts.items():
            if count % size:
                return f"{name}={size} does not divide the {count} {what} of the model"
        return None

    def _refuse(self, problem: str | None, accept: Callable[[FoldingPlan], bool] = lambda plan: True) -> None:
        if problem is None:
            return
        near = self.nearest(accept)
        remedy = f"the nearest layout that works is {near.sizes()}" if near is not None else "use other ranks"
        raise ValueError(f"{problem}; {remedy}")


def all_plans(world: int) -> Iterator[FoldingPlan]:
    """All layouts of a number of ranks.

    Args:
        world: Number of ranks.

    Yields:
        Plans.
    """
    for pp in divisors(world):
        inner = divisors(world // pp)
        for tp, cp, ep, etp in itertools.product(inner, repeat=4):
            if (world // pp) % (tp * cp) == 0 and (world // pp) % (ep * etp) == 0:
                yield FoldingPlan(world=world, tp=tp, cp=cp, pp=pp, ep=ep, etp=etp)


def _first(config: Any, *names: str) -> int:
    """The first of some fields that a configuration has."""
    for name in names:
        value = getattr(config, name, None)
        if isinstance(value, int):
            return value
    raise ValueError(
        f"{type(config).__name__} has none of the fields {', '.join(names)}; give the configuration of a sparse model"
    )
