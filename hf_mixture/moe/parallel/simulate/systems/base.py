"""What a system decides in each iteration, and what it remembers.

Letters: L layers, E experts of a layer, D devices.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from hf_mixture.moe.parallel.placement import Counts, Holders, contiguous_owners
from hf_mixture.moe.parallel.simulate.flow import (
    Floats,
    TokenFlow,
    Traffic,
    flow_by_shares,
    flow_to_holders,
    no_traffic,
    point_to_point,
)
from hf_mixture.moe.parallel.simulate.hardware import Machine


# Of a parameter: its 16-bit value, with its 32-bit value and two moments (Adam).
STATE_BYTES = 14


@dataclass(frozen=True, kw_only=True)
class SystemSettings:
    """What systems may use.

    Args:
        num_busy: t, busiest experts of a layer that FSSDP may copy.
        num_slots: m, copies of a layer that a device has room for.
        window: Iterations whose token counts are the prediction. Default: 5.
        reshard_interval: Iterations between changes of the owners. Default: 100.
    """

    num_busy: int
    num_slots: int
    window: int = 5
    reshard_interval: int = 100


@dataclass(frozen=True, kw_only=True, eq=False)
class LayerPlan:
    """Where the experts of a layer are in an iteration, and what is sent for it, in bytes.

    Args:
        holders: [E, D].
        forward: Sent behind the attention of the forward pass.
        backward: Sent behind the attention of the backward pass.
        critical: Messages that everything waits for, one after the other.
        moves: Experts that change their places for good.
        moves_hidden: Whether the moves go behind attention. Default: False.
        shares: Tokens of each expert that each device gets [E, D]. Default: tokens go to the nearest holders.
    """

    holders: Holders
    forward: Traffic
    backward: Traffic
    critical: tuple[Traffic, ...]
    moves: Traffic
    moves_hidden: bool = False
    shares: Floats | None = None


class System(ABC):
    """A system of expert-parallel training.

    Attributes:
        copies_persist: Whether copies stay, with gradients and the state of the optimizer; otherwise they are weights
            that exist from the forward to the backward pass of an iteration.
        live_layers: Layers whose copies exist at the same time; None for all.
    """

    copies_persist: ClassVar[bool] = False
    live_layers: int | None = None

    def __init__(self, machine: Machine, settings: SystemSettings) -> None:
        self.machine, self.settings = machine, settings
        self.devices = machine.devices
        self.history: deque[Counts] = deque(maxlen=settings.window)
        self.num_steps = 0

    def step(self, tokens: Counts) -> list[LayerPlan]:
        """Plan an iteration, and remember its loads.

        Args:
            tokens: Of each device for each expert [L, D, E]; only systems that plan by them look at them before.

        Returns:
            The plan of each layer.
        """
        plans = self.plan(tokens)
        self.history.append(tokens.sum(axis=1))
        self.num_steps += 1
        return plans

    @abstractmethod
    def plan(self, tokens: Counts) -> list[LayerPlan]:
        """Plan an iteration."""

    @property
    def predicted(self) -> Counts | None:
        """Tokens of experts over the window [L, E]; None before the window is full."""
        return np.sum(self.history, axis=0) if len(self.history) == self.settings.window else None

    @property
    def replans(self) -> bool:
        """Whether owners may change in this iteration."""
        since = self.num_steps - self.settings.window
        return since >= 0 and since % self.settings.reshard_interval == 0

    def stock_owners(self, tokens: Counts) -> Counts:
        """Owners of stock expert parallelism in all layers [L, E]."""
        num_layers, num_devices, num_experts = tokens.shape
        return np.tile(contiguous_owners(num_experts, num_devices), (num_layers, 1))

    def quiet_plan(self, holders: Holders) -> LayerPlan:
        """A plan that sends nothing but tokens."""
        nothing = no_traffic(self.devices.num_devices)
        return LayerPlan(holders=holders, forward=nothing, backward=nothing, critical=(), moves=nothing)

    def moved(self, before: Counts, after: Counts) -> Traffic:
        """Bytes of experts that change their owners, with the state of the optimizer."""
        state = STATE_BYTES * self.machine.model.expert_parameters
        return point_to_point(before, after, self.devices) * state

    def even_tokens(self, loads: Counts) -> Floats:
        """Tokens [D, E], if those of an iteration of the window come evenly from all devices."""
        of_device = loads / (self.settings.window * self.devices.num_devices)
        return np.tile(of_device, (self.devices.num_devices, 1))


def flow_of(tokens: Counts | Floats, plan: LayerPlan, machine: Machine) -> TokenFlow:
    """Where the tokens of a layer go.

    Args:
        tokens: [D, E].
        plan: The plan of the layer.
        machine: The machine.

    Returns:
        The flow.
    """
    if plan.shares is not None:
        return flow_by_shares(tokens, plan.shares, machine.devices)
    return flow_to_holders(tokens, plan.holders, machine.devices)


def copy_seconds(plan: LayerPlan, machine: Machine) -> float:
    """What a layer waits for copies: what does not fit behind attention, and what is critical.

    Args:
        plan: The plan of the layer.
        machine: The machine.
    """
    forward = max(0.0, machine.seconds(plan.forward) - machine.attention_seconds)
    backward = max(0.0, machine.seconds(plan.backward) - 2 * machine.attention_seconds)
    return forward + backward + sum(machine.seconds(message) for message in plan.critical)
