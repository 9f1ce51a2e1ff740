"""Replicas that stay, and are made and given up as loads change, like FlexMoE.

After FlexMoE (Nie et al., SIGMOD 2023). Letters: L layers, E experts of a layer, D devices.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from hf_mixture.moe.parallel.placement import Counts, Holders
from hf_mixture.moe.parallel.simulate.flow import (
    Floats,
    Traffic,
    broadcast_traffic,
    even_loads,
    flow_to_holders,
    point_to_point,
)
from hf_mixture.moe.parallel.simulate.hardware import Machine
from hf_mixture.moe.parallel.simulate.slots import hold_owned, place_copies
from hf_mixture.moe.parallel.simulate.systems.base import STATE_BYTES, LayerPlan, System, SystemSettings


# Largest over mean load of a device above which replicas are looked at.
_BALANCED = 1.1


@dataclass(frozen=True, eq=False)
class _Layer:
    """Where the replicas of a layer are [E, D], and the free slots of devices [D]."""

    holders: Holders
    free: Counts


class PersistentReplicas(System):
    """Expand busy experts to more devices, shrink idle ones, and exchange experts of devices.

    Modelled: every replica has the state of the optimizer with it, so a new one brings it along, and the all-reduce of
    the gradients of replicas is waited for. Where the predicted largest load of a device is more than 1.1 of the mean,
    experts with most tokens for each replica get further ones, in free slots or in those that the experts with fewest
    tokens for each replica give up; then an expert of the busiest device changes places with one of the idlest. A
    change stays if the predicted time of the layer falls, its all-reduce included, and pays for itself in a window.
    Devices have as many slots as for FSSDP, whose prediction and whose choice of devices are used too. The state of
    new replicas goes behind attention (FlexMoE sends it beside training), what does not fit there is waited for. The
    first replicas are there already: a simulation begins amid training.
    Simplified: changes are tried in groups that halve where they do not pay, which takes fewer predictions than pairs.
    """

    copies_persist = True

    def __init__(self, machine: Machine, settings: SystemSettings) -> None:
        super().__init__(machine, settings)
        self.layers: list[_Layer] = []

    def plan(self, tokens: Counts) -> list[LayerPlan]:
        """Adjust the replicas, and use them."""
        if not self.layers:
            free = np.full(self.devices.num_devices, min(self.settings.num_slots, tokens.shape[2]))
            self.layers = [_Layer(hold_owned(owners, self.devices), free) for owners in self.stock_owners(tokens)]
        before, predicted = self.layers, self.predicted
        if predicted is not None:
            self.layers = [self._adjust(*layer) for layer in zip(before, predicted, strict=True)]
        return [self._plan_layer(*layer) for layer in zip(before, self.layers, strict=True)]

    def _plan_layer(self, before: _Layer, layer: _Layer) -> LayerPlan:
        plan = replace(self.quiet_plan(layer.holders), critical=self._synchronise(layer.holders), moves_hidden=True)
        if self.num_steps > self.settings.window:
            return replace(plan, moves=self._moves(before.holders, layer.holders))
        return plan

    def _moves(self, before: Holders, after: Holders) -> Traffic:
        """New replicas, from the first device that had the expert."""
        experts, targets = (after & ~before).nonzero()
        sources = before.argmax(axis=1)[experts]
        state = STATE_BYTES * self.machine.model.expert_parameters
        return point_to_point(sources, targets, self.devices) * state

    def _synchronise(self, holders: Holders) -> tuple[Traffic, ...]:
        """The all-reduce of gradients, as a reduction and a broadcast."""
        first = np.asarray(holders.argmax(axis=1))
        copied = broadcast_traffic(first, holders, self.devices) * self.machine.model.expert_bytes
        return copied.reversed(), copied

    def _seconds(self, tokens: Floats, before: Holders, after: Holders) -> float:
        """Predicted time of the layer, with the time that the change takes spread over a window."""
        machine = self.machine
        routed = machine.routed_seconds(flow_to_holders(tokens, after, self.devices))
        moves = max(0.0, machine.seconds(self._moves(before, after)) - 3 * machine.attention_seconds)
        waits = sum(machine.seconds(message) for message in self._synchronise(after))
        return routed + waits + moves / self.settings.window

    def _adjust(self, layer: _Layer, loads: Counts) -> _Layer:
        of_devices = even_loads(loads, layer.holders, self.devices)
        if of_devices.max() <= _BALANCED * of_devices.mean():
            return layer
        before, tokens = layer.holders, self.even_tokens(loads)
        seconds = self._seconds(tokens, before, before)
        group = max(self.devices.num_devices // 4, 1)
        while group:
            changed = self._expand(layer, loads, group)
            after = self._seconds(tokens, before, changed.holders)
            if after < seconds:
                layer, seconds = changed, after
            else:
                group //= 2
        changed = self._exchange(layer, loads)
        return changed if self._seconds(tokens, before, changed.holders) < seconds else layer

    def _expand(self, layer: _Layer, loads: Counts, group: int) -> _Layer:
        """Make replicas of the experts with most tokens for each, after shrinking those with fewest if need be."""
        holders, free = layer.holders.copy(), layer.free.copy()
        replicas = holders.sum(axis=1)
        for _ in range(group - int(free.sum())):
            average = np.where(replicas > 1, loads / replicas, np.inf)
            expert = int(average.argmin())
            if np.isinf(average[expert]):
                break
            device = holders[expert].nonzero()[0][-1]
            holders[expert, device] = False
            free[device] += 1
            replicas[expert] -= 1
        wanted = np.zeros_like(replicas)
        for _ in range(min(group, int(free.sum()))):
            average = np.where(replicas + wanted < self.devices.num_devices, loads / (replicas + wanted), -1)
            wanted[average.argmax()] += 1
        experts = np.argsort(-loads, kind="stable")
        place_copies(holders, experts, wanted[experts], free, self.devices)
        return _Layer(holders, free)

    def _exchange(self, layer: _Layer, loads: Counts) -> _Layer:
        """Exchange the idlest experts of the busiest and of the idlest device that the other does not have."""
        of_devices = even_loads(loads, layer.holders, self.devices)
        busy, idle = int(of_devices.argmax()), int(of_devices.argmin())
        average = loads / layer.holders.sum(axis=1)
        holders = layer.holders.copy()
        for here, there in ((busy, idle), (idle, busy)):
            movable = layer.holders[:, here] & ~layer.holders[:, there]
            if not movable.any():
                return layer
            expert = int(np.where(movable, average, np.inf).argmin())
            holders[expert, [here, there]] = [False, True]
        return _Layer(holders, layer.free)
