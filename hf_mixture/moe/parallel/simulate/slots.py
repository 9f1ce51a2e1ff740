"""The copies of a step (Hecate, algorithm 1) for many devices: the plans of `placement`, faster.

Letters: E experts of a layer, D devices, t busiest experts that are copied, m free slots of a device.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from hf_mixture.moe.parallel.placement import Cluster, Counts, Holders, busiest
from hf_mixture.moe.parallel.simulate.flow import even_loads


Branch = Literal["best", "all", "share"]


def hold_owned(owners: Counts, cluster: Cluster) -> Holders:
    """Holders [E, D] without copies."""
    return np.asarray(owners[:, None] == np.arange(cluster.num_devices))


def copy_busiest(
    loads: Counts, owners: Counts, cluster: Cluster, *, num_busy: int, num_slots: int, branch: Branch = "best"
) -> Holders:
    """Choose the copies of a step as `placement.materialise` does, or by one of its two ways.

    Args:
        loads: Tokens that each expert is predicted to get [E].
        owners: [E].
        cluster: The devices.
        num_busy: t.
        num_slots: m.
        branch: `"all"`: the `num_slots` busiest to all devices; `"share"`: slots in proportion to loads; `"best"`: the
            better of these and of no copies. Default: `"best"`.

    Returns:
        [E, D], owners included.
    """
    num_busy = min(num_busy, len(loads))
    num_slots = min(num_slots, num_busy)
    held = hold_owned(owners, cluster)
    if num_slots == 0:
        return held
    everywhere = held.copy()
    everywhere[busiest(loads, num_slots)] = True
    if branch == "all":
        return everywhere
    shared = held.copy()
    free = np.full(cluster.num_devices, num_slots)
    chosen = busiest(loads, num_busy)
    place_copies(shared, chosen, portions(loads[chosen], free.sum(), cluster.num_devices - 1), free, cluster)
    if branch == "share":
        return shared
    return min(
        (held, everywhere, shared),
        key=lambda holders: (float(even_loads(loads, holders, cluster).max()), int(holders.sum())),
    )


def portions(loads: Counts, num_copies: int, largest: int, *, held: Counts | None = None) -> Counts:
    """Divide copies over experts by the highest averages, holders counted: see `placement.share_slots`.

    Args:
        loads: Tokens of the experts that may be copied, descending.
        num_copies: Copies to divide.
        largest: Most copies of an expert.
        held: Holders that each has already. Default: 1, its owner.

    Returns:
        Copies of each.
    """
    held = np.ones_like(loads) if held is None else held
    averages = loads[:, None] / (np.arange(largest) + held[:, None])
    averages[held[:, None] + np.arange(largest) > largest] = 0
    places = np.broadcast_to(np.arange(len(loads))[:, None], averages.shape)
    order = np.lexsort((places.ravel(), -averages.ravel()))[:num_copies]
    won = places.ravel()[order[averages.ravel()[order] > 0]]
    return np.bincount(won, minlength=len(loads))


def place_copies(held: Holders, experts: Counts, numbers: Counts, free: Counts, cluster: Cluster) -> None:
    """Put copies on devices, into `held`, and take their slots from `free`.

    Nodes without the expert first, of these the one with most free slots, there the device with most free slots; the
    lower index first among equals. An expert gets fewer copies where the free slots are on devices that have it.

    Args:
        held: [E, D], changed.
        experts: Experts to copy, in this order.
        numbers: Copies of each.
        free: Free slots of devices [D], changed.
        cluster: The devices.
    """
    room = free.reshape(cluster.num_nodes, cluster.devices_per_node)
    of_node = room.sum(axis=1)
    for expert, number in zip(experts.tolist(), numbers.tolist(), strict=True):
        holds = held[expert].reshape(room.shape)
        order = np.argsort(-of_node, kind="stable")
        # Every node that lacks the expert takes one, so their order does not change on the way.
        nodes = order[(~holds.any(axis=1) & (of_node > 0))[order]][:number]
        devices = room[nodes].argmax(axis=1)
        holds[nodes, devices] = True
        room[nodes, devices] -= 1
        of_node[nodes] -= 1
        if len(nodes) == number:
            continue
        keys = np.where(((room > 0) & ~holds).any(axis=1), of_node, -1)
        for _ in range(number - len(nodes)):
            node = int(keys.argmax())
            if keys[node] < 0:
                break
            slots = np.where(holds[node], 0, room[node])
            device = int(slots.argmax())
            holds[node, device] = True
            room[node, device] -= 1
            of_node[node] -= 1
            slots[device] = 0
            keys[node] = of_node[node] if slots.any() else -1
