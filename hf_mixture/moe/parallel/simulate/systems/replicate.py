"""Replication on the fly by the routing of the iteration itself, like LLEP and MoonEP.

After LLEP (arXiv 2601.17111): longest processing time first, with weights sent point to point. Letters: E experts of a
layer, D devices.
"""

from __future__ import annotations

import heapq
from dataclasses import replace

import numpy as np

from hf_mixture.moe.parallel.placement import Counts
from hf_mixture.moe.parallel.simulate.flow import Floats, direct_traffic
from hf_mixture.moe.parallel.simulate.slots import hold_owned
from hf_mixture.moe.parallel.simulate.systems.base import LayerPlan, System


# Largest over mean load below which stock expert parallelism is kept, as in LLEP.
_BALANCED = 1.3


class OnTheFly(System):
    """Give every device its equal part of the tokens of the iteration, and the experts for it.

    Modelled: owners keep what they have room for; the rest of an expert goes to the devices with the smallest loads.
    Owners send the weights to each of these devices, and get the gradients back; both are waited for. The tokens of an
    expert are divided without regard to where they come from.
    Left out: the least number of tokens for which a product of matrices is worth while.
    """

    def plan(self, tokens: Counts) -> list[LayerPlan]:
        """Plan by the loads of this iteration."""
        return [self._plan_layer(*layer) for layer in zip(tokens, self.stock_owners(tokens), strict=True)]

    def _plan_layer(self, tokens: Counts, owners: Counts) -> LayerPlan:
        loads, num_devices = tokens.sum(axis=0), self.devices.num_devices
        owned = hold_owned(owners, self.devices)
        plan = self.quiet_plan(owned)
        if (loads @ owned).max() <= _BALANCED * loads.sum() / num_devices:
            return plan
        parts = divide_evenly(loads, owners, num_devices)
        shares = parts / np.maximum(loads, 1)[:, None]
        shares[loads == 0] = owned[loads == 0]
        holders = owned | (parts > 0)
        weights = direct_traffic(owners, holders, self.devices) * self.machine.model.expert_bytes
        return replace(plan, holders=holders, shares=shares, critical=(weights, weights.reversed()))


def divide_evenly(loads: Counts, owners: Counts, num_devices: int) -> Floats:
    """Divide the tokens of experts so that no device has more than the mean, rounded up.

    The busiest expert first. Its owner keeps what it has room for beside the experts that it owns and that come later;
    the rest goes to the devices with the smallest loads, these counted, each filled before the next.

    Args:
        loads: [E].
        owners: [E].
        num_devices: D.

    Returns:
        Tokens of each expert for each device [E, D].

    Example:
        >>> import numpy as np
        >>> from hf_mixture.moe.parallel.simulate.systems.replicate import divide_evenly
        >>> divide_evenly(np.array([9, 1, 1, 1]), np.arange(4), 4).astype(int).tolist()
        [[3, 2, 2, 2], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]
    """
    most = -(-int(loads.sum()) // num_devices)
    parts = np.zeros((len(loads), num_devices))
    # What devices have taken, and what they still own and may have to take.
    load = np.bincount(owners, weights=loads, minlength=num_devices).astype(np.int64).tolist()
    order = np.argsort(-loads, kind="stable").tolist()
    idle = [(value, device) for device, value in enumerate(load)]
    heapq.heapify(idle)
    for expert in order:
        owner, number = int(owners[expert]), int(loads[expert])
        others = load[owner] - number
        kept = min(number, max(most - others, 0))
        parts[expert, owner] = kept
        load[owner] = others + kept
        heapq.heappush(idle, (load[owner], owner))
        rest = number - kept
        while rest:
            value, device = heapq.heappop(idle)
            if value != load[device]:
                continue
            taken = min(rest, most - value)
            parts[expert, device] += taken
            load[device] += taken
            rest -= taken
            heapq.heappush(idle, (load[device], device))
    return parts
