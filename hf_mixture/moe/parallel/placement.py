r"""Where experts are: who owns each, and who holds a copy of the busy ones for a step (Hecate, arXiv 2502.02581).

Everything here is a function of integer counts that all ranks share, with fixed ties, so that every rank computes the
same without being told. Ranks fill nodes in order.

Letters: L layers, E experts of a layer, D devices, N nodes, t busiest experts that are copied, m free slots of a
device.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt


Counts = npt.NDArray[np.int64]
Holders = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Cluster:
    """The devices of an expert-parallel group.

    Args:
        num_devices: D.
        devices_per_node: Devices that share the fast links of a node; divides D.

    Raises:
        ValueError: If the devices do not fill nodes.
    """

    num_devices: int
    devices_per_node: int

    def __post_init__(self) -> None:
        if self.num_devices < 1 or self.devices_per_node < 1 or self.num_devices % self.devices_per_node:
            raise ValueError(
                f"num_devices={self.num_devices} does not fill nodes of devices_per_node={self.devices_per_node}; "
                "give a number of devices for a node that divides it"
            )

    @property
    def num_nodes(self) -> int:
        """N."""
        return self.num_devices // self.devices_per_node

    def node_of(self, device: int) -> int:
        """The node of a device."""
        return device // self.devices_per_node


def contiguous_owners(num_experts: int, num_devices: int) -> Counts:
    """The owners of stock expert parallelism: neighbouring experts on each device [E]."""
    return np.arange(num_experts) // (num_experts // num_devices)


def materialise(loads: Counts, owners: Counts, cluster: Cluster, *, num_busy: int, num_slots: int) -> Holders:
    """Choose the copies of a step: the best of two ways to use the slots, and of none (Hecate, algorithm 1).

    Either the `num_slots` busiest experts go to all devices, or the `num_busy` busiest share all slots in proportion
    to their loads. At scale the first is often worse with the same memory, so both are tried, and what makes the
    largest load of a device smallest is taken, or has fewer copies among equals.

    Args:
        loads: Tokens that each expert is predicted to get [E].
        owners: Owner of each expert [E].
        cluster: The devices.
        num_busy: t, experts that may be copied.
        num_slots: m, copies that a device has room for, beside the experts it owns.

    Returns:
        Who holds what during the step, owners included [E, D].
    """
    num_busy = min(num_busy, len(loads))
    num_slots = min(num_slots, num_busy)
    held = owners[:, None] == np.arange(cluster.num_devices)
    if num_slots == 0:
        return held
    everywhere = held.copy()
    everywhere[busiest(loads, num_slots)] = True
    shared = share_slots(loads, owners, cluster, num_busy=num_busy, num_slots=num_slots)

    def cost(holders: Holders) -> tuple[float, int]:
        return float(predicted_loads(loads, holders, cluster).max()), int(holders.sum())

    return min((held, everywhere, shared), key=cost)


def busiest(loads: Counts, number: int) -> Counts:
    """The experts with most tokens, descending; the lower index first among equals."""
    return np.argsort(-loads, kind="stable")[:number]


def share_slots(loads: Counts, owners: Counts, cluster: Cluster, *, num_busy: int, num_slots: int) -> Holders:
    """Give all slots to the busiest experts in proportion to their loads.

    The paper leaves rounding open. Slot by slot, the next copy goes to the expert with the most tokens for each of its
    holders, the owner counted: the highest averages method, which makes the largest of these numbers as small as it
    can be. An expert has at most D - 1 copies, and fewer than its share where the devices with free slots have it
    already. Copies go to nodes without the expert first, of these to the one with
    most free slots, there to the device with most free slots; the lower index first among equals.

    Args:
        loads: [E].
        owners: [E].
        cluster: The devices.
        num_busy: t.
        num_slots: m.

    Returns:
        [E, D], owners included.
    """
    held = owners[:, None] == np.arange(cluster.num_devices)
    free = np.full(cluster.num_devices, num_slots)
    return _fill_slots(loads, held, free, cluster, num_busy=num_busy)


def calibrate(
    loads: Counts,
    holders: Holders,
    owners: Counts,
    cluster: Cluster,
    *,
    num_busy: int,
    num_slots: int,
    copy_tokens: float,
) -> Holders:
    """Add copies when the routers have decided, if that pays: algorithm 1 once more, with the true loads.

    The slots that the prediction has left free are filled as in `share_slots`. The new copies are on the critical
    path, forward and backward, so they are taken only if the largest load falls by more than a rank could compute
    meanwhile.

    Args:
        loads: Tokens that each expert has got [E].
        holders: Who holds what by prediction, owners included [E, D].
        owners: [E].
        cluster: The devices.
        num_busy: t.
        num_slots: m.
        copy_tokens: Tokens that a rank computes, forward and backward, while it receives an expert and returns its
            gradient.

    Returns:
        [E, D]; either `holders` itself, or with more copies.
    """
    own = owners[:, None] == np.arange(cluster.num_devices)
    free = num_slots - (holders & ~own).sum(axis=0)
    more = _fill_slots(loads, holders.copy(), free, cluster, num_busy=num_busy)
    wait = (more & ~holders).sum(axis=0).max() * copy_tokens
    before, after = (predicted_loads(loads, held, cluster).max() for held in (holders, more))
    return more if after + wait < before else holders


def _fill_slots(loads: Counts, held: Holders, free: Counts, cluster: Cluster, *, num_busy: int) -> Holders:
    """Fill free slots with the busiest experts; `held` and `free` change."""
    chosen = busiest(loads, num_busy)
    holding = held.sum(axis=1)
    copies = dict.fromkeys(chosen.tolist(), 0)
    averages = [
        (-float(loads[expert]) / holding[expert], place, expert)
        for place, expert in enumerate(chosen.tolist())
        if loads[expert] and holding[expert] < cluster.num_devices
    ]
    heapq.heapify(averages)
    slots_left = int(free.sum())
    while slots_left and averages:
        _, place, expert = heapq.heappop(averages)
        copies[expert] += 1
        slots_left -= 1
        number = int(holding[expert]) + copies[expert]
        if number < cluster.num_devices:
            heapq.heappush(averages, (-float(loads[expert]) / number, place, expert))
    for expert, number in copies.items():
        for _ in range(number):
            device = _place(held[expert], free, cluster)
            if device is None:
                break
            held[expert, device] = True
            free[device] -= 1
    return held


def _place(holds: Any, free: Counts, cluster: Cluster) -> int | None:
    """The device for the next copy of an expert."""
    by_node = (cluster.num_nodes, cluster.devices_per_node)
    possible = (free > 0) & ~holds
    room = np.where(possible, free, 0).reshape(by_node)
    if not possible.any():
        return None
    has_copy = holds.reshape(by_node).any(axis=1)
    free_of_node = free.reshape(by_node).sum(axis=1)
    nodes = [node for node in range(cluster.num_nodes) if room[node].any()]
    node = min(nodes, key=lambda node: (has_copy[node], -free_of_node[node], node))
    return int(node * cluster.devices_per_node + room[node].argmax())


def predicted_loads(loads: Counts, holders: Holders, cluster: Cluster) -> npt.NDArray[np.float64]:
    """Tokens of each device [D], if the tokens of every expert come evenly from all devices."""
    sent = np.tile(loads / cluster.num_devices, (cluster.num_devices, 1))
    return dispatch(sent, holders, cluster).sum(axis=0)


def dispatch(sent: npt.NDArray[Any], holders: Holders, cluster: Cluster) -> npt.NDArray[np.float64]:
    """Tokens that go from each device to each device [D, D].

    A token stays if its device holds the expert; else it goes to the devices of its node that do; else to all that do.
    Tokens are split evenly over those.

    Args:
        sent: Tokens of each device for each expert [D, E].
        holders: [E, D].
        cluster: The devices.
    """
    num_devices, per_node = cluster.num_devices, cluster.devices_per_node
    in_node = np.arange(num_devices)[:, None] // per_node == np.arange(num_devices) // per_node
    moved = np.zeros((num_devices, num_devices))
    for expert, holds in enumerate(holders):
        # For each source, the targets that are eligible.
        near = in_node & holds
        targets = np.where(near.any(axis=1)[:, None], near, holds)
        targets[holds] = np.eye(num_devices, dtype=bool)[holds]
        moved += sent[:, expert, None] * targets / targets.sum(axis=1, keepdims=True)
    return moved


def crossing_share(moved: npt.NDArray[np.float64], cluster: Cluster) -> float:
    """The share of tokens that leave their node."""
    nodes = np.arange(cluster.num_devices) // cluster.devices_per_node
    return float(moved[nodes[:, None] != nodes].sum() / moved.sum())


def shard(loads: Counts, cluster: Cluster, *, num_busy: int, equal_layers: bool = False) -> Counts:
    """Choose the owners of the experts of all layers at once (Hecate, algorithm 2).

    The busiest experts of each layer are copied anyway, so their owners do not matter. The others are dealt out,
    layers with the largest load first and within a layer the largest load first, each to the least loaded node and
    there to the least loaded device that has a slot left; fewer free slots first among equals, then the lower index.
    Every device owns as many experts over all layers; of one layer it may own any number.

    Args:
        loads: [L, E].
        cluster: The devices.
        num_busy: t, busiest experts of a layer.
        equal_layers: Whether every device owns as many experts of each layer, as a permutation of the stock layout
            does. Default: False.

    Returns:
        Owners [L, E].

    Raises:
        ValueError: If the experts do not divide over the devices.
    """
    num_layers, num_experts = loads.shape
    total = num_experts if equal_layers else num_layers * num_experts
    if total % cluster.num_devices:
        raise ValueError(
            f"{total} experts {'of a layer' if equal_layers else 'of all layers'} do not divide over "
            f"{cluster.num_devices} devices; use a number of devices that divides them"
        )
    slots = total // cluster.num_devices
    shape = (num_layers, cluster.num_devices) if equal_layers else (1, cluster.num_devices)
    free = np.full(shape, slots)
    device_loads = np.zeros(cluster.num_devices, dtype=np.int64)
    owners = np.full((num_layers, num_experts), -1)
    busy = np.stack([np.isin(np.arange(num_experts), busiest(layer, num_busy)) for layer in loads])
    for layer in np.argsort(-loads.max(axis=1), kind="stable").tolist():
        order = np.argsort(-loads[layer], kind="stable")
        for expert in order[~busy[layer][order]].tolist():
            room = free[layer if equal_layers else 0], device_loads
            _own(owners, (layer, expert), int(loads[layer, expert]), room, cluster)
    for layer, expert in zip(*busy.nonzero(), strict=True):
        left = free[layer if equal_layers else 0]
        device = int(left.argmax())
        owners[layer, expert] = device
        left[device] -= 1
    return owners


def _own(owners: Counts, expert: tuple[int, int], load: int, room: tuple[Counts, Counts], cluster: Cluster) -> None:
    free, device_loads = room
    by_node = (cluster.num_nodes, cluster.devices_per_node)
    free_of_node = free.reshape(by_node).sum(axis=1)
    node_loads = device_loads.reshape(by_node).sum(axis=1)
    nodes = [node for node in range(cluster.num_nodes) if free_of_node[node]]
    node = min(nodes, key=lambda node: (node_loads[node], free_of_node[node], node))
    first = node * cluster.devices_per_node
    devices = [device for device in range(first, first + cluster.devices_per_node) if free[device]]
    device = min(devices, key=lambda device: (device_loads[device], free[device], device))
    owners[expert] = device
    free[device] -= 1
    device_loads[device] += load
