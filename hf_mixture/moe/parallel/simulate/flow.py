"""What goes over which links: tokens on their way to experts, and experts on their way to devices.

All is expected values: a split over several targets is even, so tokens may be fractions.

Letters: E experts of a layer, D devices, N nodes, P devices of a node.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from hf_mixture.moe.parallel.placement import Cluster, Counts, Holders


Floats = npt.NDArray[np.float64]

LINKS = ("node", "network")


@dataclass(frozen=True, eq=False)
class Traffic:
    """What devices receive and send over the links within their nodes, and over those between nodes.

    Args:
        received: [2, D], in the order of `LINKS`.
        sent: [2, D].
    """

    received: Floats
    sent: Floats

    def __add__(self, other: Traffic) -> Traffic:
        return Traffic(self.received + other.received, self.sent + other.sent)

    def __mul__(self, factor: float) -> Traffic:
        return Traffic(self.received * factor, self.sent * factor)

    def reversed(self) -> Traffic:
        """The same on the way back."""
        return Traffic(self.sent, self.received)

    @property
    def of_devices(self) -> Floats:
        """The larger of what each device receives and sends [2, D]."""
        return np.maximum(self.received, self.sent)


@dataclass(frozen=True, eq=False)
class TokenFlow:
    """Where the tokens of a layer go.

    Args:
        loads: Tokens that each device processes [D].
        local: Those of them that were there already [D].
        traffic: The others, in tokens.
    """

    loads: Floats
    local: Floats
    traffic: Traffic


def no_traffic(num_devices: int) -> Traffic:
    """Nothing is sent."""
    return Traffic(np.zeros((2, num_devices)), np.zeros((2, num_devices)))


def flow_to_holders(sent: npt.NDArray[Any], holders: Holders, cluster: Cluster) -> TokenFlow:
    """Send tokens to the nearest holders: `dispatch` of placements, summed by device and link.

    Args:
        sent: Tokens of each device for each expert [D, E].
        holders: [E, D].
        cluster: The devices.

    Returns:
        The flow.
    """
    shape = (cluster.num_nodes, cluster.devices_per_node, sent.shape[1])
    tokens = np.asarray(sent, dtype=np.float64).reshape(shape)
    held = holders.T.reshape(shape)
    in_node = held.sum(axis=1)
    mask, reachable = held.astype(np.float64), (in_node > 0).astype(np.float64)
    of_node = tokens.sum(axis=1)
    # What stays goes to a holder, so its node is reachable; differences of whole numbers are exact.
    stays = np.einsum("npe,npe->np", tokens, mask)
    in_reach = (tokens @ reachable[:, :, None])[:, :, 0]
    near_each = (reachable * of_node - np.einsum("npe,npe->ne", tokens, mask)) / np.maximum(in_node, 1)
    far_each = ((1 - reachable) * of_node).sum(axis=0) / in_node.sum(axis=0)
    received = np.stack([(mask @ near_each[:, :, None]).reshape(-1), (mask @ far_each).reshape(-1)])
    leaving = np.stack([(in_reach - stays).reshape(-1), (tokens.sum(axis=2) - in_reach).reshape(-1)])
    local = stays.reshape(-1)
    return TokenFlow(local + received.sum(axis=0), local, Traffic(received, leaving))


def flow_by_shares(sent: npt.NDArray[Any], shares: Floats, cluster: Cluster) -> TokenFlow:
    """Send given shares of the tokens of each expert to devices, wherever the tokens come from.

    Args:
        sent: Tokens of each device for each expert [D, E].
        shares: [E, D]; those of an expert sum to 1.
        cluster: The devices.

    Returns:
        The flow.
    """
    shape = (cluster.num_nodes, cluster.devices_per_node, sent.shape[1])
    tokens = np.asarray(sent, dtype=np.float64).reshape(shape)
    goes = shares.T.reshape(shape)
    tokens_of_node, goes_to_node = tokens.sum(axis=1, keepdims=True), goes.sum(axis=1, keepdims=True)
    everything = tokens_of_node.sum(axis=0, keepdims=True)

    def summed(product: Floats) -> Floats:
        return np.asarray(product.sum(axis=2)).reshape(-1)

    local = summed(tokens * goes)
    received = np.stack([summed(goes * (tokens_of_node - tokens)), summed(goes * (everything - tokens_of_node))])
    leaving = np.stack([summed(tokens * (goes_to_node - goes)), summed(tokens * (1 - goes_to_node))])
    return TokenFlow(local + received.sum(axis=0), local, Traffic(received, leaving))


def broadcast_traffic(owners: Counts, holders: Holders, cluster: Cluster) -> Traffic:
    """Copy experts from their owners to all holders, with collectives that know the nodes; in experts.

    An expert enters each node that needs it once, along a chain of nodes that begins at the owner's, as a ring
    broadcast of NCCL does. The holders of a node share what enters and leaves it evenly, and pass the parts to each
    other. So every new holder receives the expert exactly once. Backwards it is the reduction of gradients.

    Args:
        owners: [E].
        holders: [E, D], owners included.
        cluster: The devices.

    Returns:
        Traffic in experts; multiply it by the bytes of an expert.
    """
    num_experts, num_nodes = len(owners), cluster.num_nodes
    copied = holders.sum(axis=1) > 1
    owners, held = owners[copied], holders[copied].reshape(-1, num_nodes, cluster.devices_per_node)
    if not num_experts or not len(owners):
        return no_traffic(cluster.num_devices)
    rows = np.arange(len(owners))
    in_node = held.sum(axis=2)
    home = owners // cluster.devices_per_node
    has, each = in_node > 0, 1 / np.maximum(in_node, 1)
    # The chain runs from the owner's node upwards, and round to the lowest.
    distance = (np.arange(num_nodes) - home[:, None]) % num_nodes
    last = np.where(has, distance, -1).argmax(axis=1)
    enters, leaves = has.copy(), has.copy()
    enters[rows, home] = False
    leaves[rows, last] = False
    mask = held.astype(np.float64)

    def by_device(of_node: Floats) -> Floats:
        return np.einsum("enp,en->np", mask, of_node).reshape(-1)

    passes = (in_node - 1) * each * has
    inside = passes.copy()
    inside[rows, home] = 1
    received_inside = by_device(inside) - np.bincount(owners, minlength=cluster.num_devices)
    return Traffic(
        np.stack([received_inside, by_device(enters * each)]),
        np.stack([by_device(passes), by_device(leaves * each)]),
    )


def direct_traffic(owners: Counts, holders: Holders, cluster: Cluster) -> Traffic:
    """Copy experts from their owners to each holder by a message of its own; in experts.

    Args:
        owners: [E].
        holders: [E, D]; whether the owners are among them makes no difference.
        cluster: The devices.

    Returns:
        Traffic in experts.
    """
    experts, targets = holders.nonzero()
    return point_to_point(owners[experts], targets, cluster)


def point_to_point(sources: Counts, targets: Counts, cluster: Cluster) -> Traffic:
    """Messages between pairs of devices; in messages, those of a device to itself left out.

    Args:
        sources: Devices.
        targets: As many.
        cluster: The devices.

    Returns:
        Traffic in messages.
    """
    found = []
    near = sources // cluster.devices_per_node == targets // cluster.devices_per_node
    for ends in (targets, sources):
        found.append(
            [np.bincount(ends[on], minlength=cluster.num_devices) for on in (near & (sources != targets), ~near)]
        )
    received, sent = np.asarray(found, dtype=np.float64)
    return Traffic(received, sent)


def even_loads(loads: npt.NDArray[Any], holders: Holders, cluster: Cluster) -> Floats:
    """Tokens of each device [D], if the tokens of every expert come evenly from all devices.

    `predicted_loads` of placements in closed form, for many devices.

    Args:
        loads: [E].
        holders: [E, D].
        cluster: The devices.
    """
    held = holders.reshape(len(loads), cluster.num_nodes, cluster.devices_per_node)
    in_node = held.sum(axis=2)
    without = cluster.num_nodes - (in_node > 0).sum(axis=1)
    # In units of what one node sends to the expert: its own node's holders share 1, all share that of other nodes.
    each = 1 / np.maximum(in_node, 1) + (without / in_node.sum(axis=1))[:, None]
    of_node = np.asarray(loads, dtype=np.float64) / cluster.num_nodes
    return np.einsum("enp,en->np", held.astype(np.float64), each * of_node[:, None]).reshape(-1)
