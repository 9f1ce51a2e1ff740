"""Fully sharded sparse data parallelism (Hecate, arXiv 2502.02581), whole and in parts.

Letters: L layers, E experts of a layer, D devices, t busiest experts that are copied, m free slots of a device.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from hf_mixture.moe.parallel.placement import Counts, Holders, busiest, shard
from hf_mixture.moe.parallel.simulate.flow import (
    Floats,
    Traffic,
    broadcast_traffic,
    direct_traffic,
    flow_to_holders,
    no_traffic,
)
from hf_mixture.moe.parallel.simulate.hardware import Machine
from hf_mixture.moe.parallel.simulate.slots import Branch, copy_busiest, hold_owned, place_copies, portions
from hf_mixture.moe.parallel.simulate.systems.base import LayerPlan, System, SystemSettings, copy_seconds


class Fssdp(System):
    """Owners change now and then (algorithm 2); the busiest experts are copied for each iteration (algorithm 1).

    Copies go out behind the attention of the forward pass, and their gradients come back behind that of the backward
    pass; what does not fit there is waited for. The time of moving owners is spread over the iterations until they
    move again, so that it does not depend on where a simulation begins. The gradients of copies are summed on the way
    (a reduction), as copies are passed on (a broadcast).

    Args:
        machine: The machine.
        settings: What may be used.
        branch: The way to use slots; see `copy_busiest`. Default: `"best"`.
        reshards: Whether owners change. Default: True.
        copies: Whether experts are copied. Default: True.
        rematerialises: Whether copies are dropped after the forward pass and fetched again behind the attention of
            the backward pass, together with gradients. Default: False.
        calibrates: Whether a quarter of the slots, at least one, is kept for copies by the loads of the iteration
            itself; they are made, and waited for, if that is predicted to pay. Algorithm 1 fills all slots that it
            may use, so without keeping some there is nothing to calibrate with. Default: False.
        direct: Whether owners send each copy themselves, as one exchange between all does, instead of a broadcast
            that knows the nodes. Default: False.
        timed: Whether each layer takes the t with the smallest predicted time, from that of the settings in steps of
            two: more copies than go behind attention may save more than they take. Default: False.
    """

    def __init__(
        self,
        machine: Machine,
        settings: SystemSettings,
        *,
        branch: Branch = "best",
        reshards: bool = True,
        copies: bool = True,
        rematerialises: bool = False,
        calibrates: bool = False,
        direct: bool = False,
        timed: bool = False,
    ) -> None:
        super().__init__(machine, settings)
        self.branch, self.reshards, self.direct = branch, reshards, direct
        self.rematerialises, self.timed = rematerialises, timed
        # The copies of a layer that is computed, and those that are fetched for the next one.
        self.live_layers = 2 if rematerialises else None
        most = settings.num_slots if timed else min(settings.num_slots, settings.num_busy)
        self.num_slots = most if copies else 0
        self.num_kept = max(self.num_slots // 4, 1) if calibrates and self.num_slots else 0
        self.owners: Counts | None = None
        self.moves: list[Traffic] = []

    def plan(self, tokens: Counts) -> list[LayerPlan]:
        """Plan by the loads of the window; calibrate by those of the iteration."""
        if self.owners is None:
            self.owners = self.stock_owners(tokens)
            self.moves = [no_traffic(self.devices.num_devices)] * len(self.owners)
        predicted = self.predicted
        if predicted is None:
            return [self.quiet_plan(hold_owned(owners, self.devices)) for owners in self.owners]
        if self.reshards and self.replans:
            before, self.owners = self.owners, shard(predicted, self.devices, num_busy=self.settings.num_busy)
            share = 1 / self.settings.reshard_interval
            self.moves = [self.moved(*pair) * share for pair in zip(before, self.owners, strict=True)]
        layers = zip(tokens, predicted, self.owners, self.moves, strict=True)
        return [self._plan_layer(*layer) for layer in layers]

    def _plan_layer(self, tokens: Counts, predicted: Counts, owners: Counts, moves: Traffic) -> LayerPlan:
        numbers = [self.settings.num_busy]
        while self.timed and numbers[-1] < len(owners):
            numbers.append(min(2 * max(numbers[-1], 1), len(owners)))
        plans = [self._plan_copies(predicted, owners, number) for number in numbers]
        if len(plans) > 1:
            even = self.even_tokens(predicted)
            plan = min(plans, key=lambda plan: self._seconds(even, plan))
        else:
            [plan] = plans
        plan = replace(plan, moves=moves)
        return self._calibrate(plan, tokens, owners) if self.num_kept else plan

    def _plan_copies(self, predicted: Counts, owners: Counts, num_busy: int) -> LayerPlan:
        num_slots = self.num_slots - self.num_kept
        holders = copy_busiest(
            predicted, owners, self.devices, num_busy=num_busy, num_slots=num_slots, branch=self.branch
        )
        copied = self._copied(owners, holders)
        gradients = copied.reversed()
        backward = gradients + copied if self.rematerialises else gradients
        return replace(self.quiet_plan(holders), forward=copied, backward=backward)

    def _seconds(self, tokens: Counts | Floats, plan: LayerPlan) -> float:
        """Predicted time of a layer, without attention."""
        routed = self.machine.routed_seconds(flow_to_holders(tokens, plan.holders, self.devices))
        return routed + copy_seconds(plan, self.machine)

    def _copied(self, owners: Counts, holders: Holders) -> Traffic:
        copy = direct_traffic if self.direct else broadcast_traffic
        return copy(owners, holders, self.devices) * self.machine.model.expert_bytes

    def _calibrate(self, plan: LayerPlan, tokens: Counts, owners: Counts) -> LayerPlan:
        """Add copies by the true loads, where the time that they save is more than they take."""
        loads, holders = tokens.sum(axis=0), plan.holders.copy()
        chosen = busiest(loads, self.settings.num_busy)
        used = holders.sum(axis=0) - np.bincount(owners, minlength=self.devices.num_devices)
        free = self.num_slots - used
        most = self.devices.num_devices - 1
        # What each holder has now is what the next copy of an expert relieves.
        held = holders[chosen].sum(axis=1)
        place_copies(holders, chosen, portions(loads[chosen], int(free.sum()), most, held=held), free, self.devices)
        added = self._copied(owners, (holders & ~plan.holders) | hold_owned(owners, self.devices))
        # Gradients of the new copies come back behind attention, with the others.
        calibrated = replace(plan, holders=holders, critical=(added,), backward=plan.backward + added.reversed())
        return calibrated if self._seconds(tokens, calibrated) < self._seconds(tokens, plan) else plan
