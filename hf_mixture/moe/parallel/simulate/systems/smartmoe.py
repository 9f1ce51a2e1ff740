"""Another permutation of experts now and then, like SmartMoE.

After SmartMoE (Zhai et al., USENIX ATC 2023). Letters: L layers, E experts of a layer, D devices.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from hf_mixture.moe.parallel.placement import Cluster, Counts
from hf_mixture.moe.parallel.simulate.flow import Traffic, flow_to_holders, no_traffic
from hf_mixture.moe.parallel.simulate.hardware import Machine
from hf_mixture.moe.parallel.simulate.slots import hold_owned
from hf_mixture.moe.parallel.simulate.systems.base import LayerPlan, System, SystemSettings


class Permutation(System):
    """Exchange owners so that the loads of devices even out; every device has as many experts, and none is copied.

    Modelled: the online placement. Every `reshard_interval` iterations the experts are dealt out greedily by the loads
    of the window; the new permutation is taken if the predicted time of a layer falls. Weights and the state of the
    optimizer move, and that is waited for; its time is spread over the interval.
    Left out: the offline search over other kinds of parallelism, which the comparison holds fixed.
    With one expert on a device no permutation changes the largest load of a device.
    """

    def __init__(self, machine: Machine, settings: SystemSettings) -> None:
        super().__init__(machine, settings)
        self.owners: Counts | None = None
        self.moves: list[Traffic] = []

    def plan(self, tokens: Counts) -> list[LayerPlan]:
        """Use the permutation, after a look whether another is better."""
        if self.owners is None:
            self.owners = self.stock_owners(tokens)
            self.moves = [no_traffic(self.devices.num_devices)] * len(self.owners)
        predicted = self.predicted
        if predicted is not None and self.replans:
            before, self.owners = (
                self.owners,
                np.stack([self._better(*layer) for layer in zip(predicted, self.owners, strict=True)]),
            )
            share = 1 / self.settings.reshard_interval
            self.moves = [self.moved(*pair) * share for pair in zip(before, self.owners, strict=True)]
        return [
            replace(self.quiet_plan(hold_owned(owners, self.devices)), moves=moves)
            for owners, moves in zip(self.owners, self.moves, strict=True)
        ]

    def _better(self, loads: Counts, owners: Counts) -> Counts:
        found = deal_out(loads, self.devices)
        tokens = self.even_tokens(loads)
        before, after = (
            self.machine.routed_seconds(flow_to_holders(tokens, hold_owned(own, self.devices), self.devices))
            for own in (owners, found)
        )
        return found if after < before else owners


def deal_out(loads: Counts, cluster: Cluster) -> Counts:
    """Give every device as many experts, the busiest first, each to the device with the smallest load so far.

    Args:
        loads: [E].
        cluster: The devices; D divides E. Among equals the node with the smallest load, then the lower index.

    Returns:
        Owners [E].

    Example:
        >>> import numpy as np
        >>> from hf_mixture.moe.parallel.placement import Cluster
        >>> from hf_mixture.moe.parallel.simulate.systems.smartmoe import deal_out
        >>> deal_out(np.array([9, 5, 4, 1]), Cluster(2, 2)).tolist()
        [0, 1, 1, 0]
    """
    num_devices = cluster.num_devices
    free = np.full(num_devices, len(loads) // num_devices)
    of_device, of_node = np.zeros(num_devices, dtype=np.int64), np.zeros(cluster.num_nodes, dtype=np.int64)
    owners = np.empty(len(loads), dtype=np.int64)
    full = np.iinfo(np.int64).max
    for expert in np.argsort(-loads, kind="stable").tolist():
        load = np.where(free > 0, of_device, full)
        least = (load == load.min()).nonzero()[0]
        device = int(least[of_node[least // cluster.devices_per_node].argmin()])
        owners[expert] = device
        free[device] -= 1
        of_device[device] += loads[expert]
        of_node[device // cluster.devices_per_node] += loads[expert]
    return owners
