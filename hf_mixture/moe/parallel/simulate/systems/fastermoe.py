"""Shadowing: the experts that are busy in an iteration are copied to all devices in it, like FasterMoE.

After FasterMoE (He et al., PPoPP 2022). Letters: E experts of a layer, D devices.
"""

from __future__ import annotations

from dataclasses import replace

from hf_mixture.moe.parallel.placement import Counts, busiest
from hf_mixture.moe.parallel.simulate.flow import broadcast_traffic, flow_to_holders
from hf_mixture.moe.parallel.simulate.slots import hold_owned
from hf_mixture.moe.parallel.simulate.systems.base import LayerPlan, System


class Shadowing(System):
    """Broadcast the busiest experts to all devices while a performance model says that it pays.

    Modelled: the loads of the iteration itself decide; experts are shadowed in order of their loads, one more as long
    as the predicted time of the layer falls; the broadcast of weights and the all-reduce of their gradients are waited
    for, and the performance model knows it. There is no limit to the memory of shadows.
    Left out: the fine-grained schedule that pipelines exchanges with computation, and the gate that prefers experts
    near by, which changes the routing.
    """

    def plan(self, tokens: Counts) -> list[LayerPlan]:
        """Shadow by the loads of this iteration."""
        return [self._plan_layer(*layer) for layer in zip(tokens, self.stock_owners(tokens), strict=True)]

    def _plan_layer(self, tokens: Counts, owners: Counts) -> LayerPlan:
        holders = hold_owned(owners, self.devices)
        best = self.quiet_plan(holders)
        seconds = self.machine.routed_seconds(flow_to_holders(tokens, holders, self.devices))
        for expert in busiest(tokens.sum(axis=0), len(owners)).tolist():
            holders = holders.copy()
            holders[expert] = True
            weights = broadcast_traffic(owners, holders, self.devices) * self.machine.model.expert_bytes
            # An all-reduce is a reduction and a broadcast.
            critical = (weights, weights.reversed(), weights)
            after = self.machine.routed_seconds(flow_to_holders(tokens, holders, self.devices))
            after += sum(self.machine.seconds(message) for message in critical)
            if after >= seconds:
                break
            seconds, best = after, replace(best, holders=holders, critical=critical)
        return best
