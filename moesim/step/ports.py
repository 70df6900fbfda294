"""What an all-to-all of a stage puts on the ports of its lanes, by the form in which copies of tokens travel."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from moesim.fabric.dispatch import check_form
from moesim.fabric.tokens import Tokens
from moesim.fabric.transfer import GroupPorts
from moesim.step.graph import FloatArray, IntArray
from moesim.step.layout import ReplicaLayout

#: Copies of tokens [..., lanes] that each lane sends and receives towards its own node, and sends and receives towards
#: other nodes; what stays on a lane takes no port. Where kernels are priced by their work, also the copies that each
#: lane makes and takes in, its own included.
PortSums: TypeAlias = tuple[FloatArray, ...]


class StagePorts:
    """Which lane of a stage stands for which DP rank and expert rank, and in which node; copies go straight there.

    A DP rank's tokens are divided over its `tp` lanes; each of an expert's shards receives every copy.

    Args:
        form: per-expert, or per-device: one copy for all of a token's experts on a rank.
        work: whether the sums count what lanes make and take in.
    """

    def __init__(
        self, ports: GroupPorts, layout: ReplicaLayout, form: str = "per-expert", work: bool = False
    ) -> None:  # fmt: skip
        self.ports, self.form, self.work = ports, form, work
        self.tp, self.expert_tp = layout.tp, layout.expert_tp
        lanes = np.arange(layout.stage_lanes)
        self.rank, self.expert_rank = lanes // layout.tp, lanes // layout.expert_tp
        nodes, self.node = np.unique(ports.node, return_inverse=True)
        of_node = (self.node[:, None] == np.arange(len(nodes))).astype(np.float64)  # [lanes, nodes]
        self._of_rank = (self.rank[:, None] == np.arange(layout.dp)).astype(np.float64)
        expert_rank = (self.expert_rank[:, None] == np.arange(layout.expert_ranks)).astype(np.float64)
        #: Lanes of every (node, DP rank) and of every (expert rank, node).
        self.rank_lanes, self.expert_lanes = of_node.T @ self._of_rank, expert_rank.T @ of_node
        #: Whether all lanes' ports are equally fast.
        self.alike = all((rates == rates[0]).all() for rates in (ports.up_bandwidth, ports.out_bandwidth))
        #: Lanes of each lane's node.
        self.company = of_node.sum(axis=0)[self.node]
        self._each = np.eye(layout.expert_ranks, dtype=bool)

    def of_tokens(self, tokens: Tokens) -> PortSums:
        """[L, lanes] sums of the tokens of every DP rank to the expert ranks."""
        return self.of_traffic(self._messages(tokens))

    def of_traffic(self, traffic: NDArray[np.signedinteger[Any]] | FloatArray) -> PortSums:
        """Sums of a traffic matrix [L, DP ranks, expert ranks] of messages. Sums of whole numbers are whole until they
        are divided by tp, so that the order of summation leaves no trace."""
        copies = traffic.astype(np.float64)
        kept = copies[:, self.rank, self.expert_rank]
        near_sent = (copies @ self.expert_lanes)[:, self.rank, self.node]
        near_received = (self.rank_lanes @ copies)[:, self.node, self.expert_rank]
        sent, received = self._all(copies)
        sums = (near_sent - kept, near_received - kept, sent - near_sent, received - near_received)
        return self._per_lane((*sums, sent, received))

    def towards(self, token: Tokens) -> PortSums:
        """[L, lanes] factors: a lane's sums per token behind each of them, where every token does in expectation what
        the only one of `token` [L, 1, ...] does. See `expected`."""
        share = np.asarray(self._messages(token), dtype=np.float64)[:, 0]
        mine = share[:, self.expert_rank]
        near = (share @ self.expert_lanes)[:, self.node]
        everywhere = mine.sum(axis=1, keepdims=True)
        return self._kept((near - mine, mine, everywhere - near, mine, everywhere, mine))

    def expected(self, tokens: IntArray | FloatArray, towards: PortSums) -> PortSums:
        """[..., L, lanes] sums for so many tokens [..., DP ranks], spread over the expert ranks in fixed shares."""
        return tuple(count * part for count, part in zip(self._behind(tokens), towards, strict=True))

    def senders(self, tokens: IntArray) -> PortSums:
        """[..., 1, lanes] tokens [..., DP ranks] behind each sum: a sender's own, or the mean of a receiver's senders,
        which are the ranks in its node or in the others. Sums are those of whole numbers, whatever their order."""
        own = tokens.take(self.rank, axis=-1).astype(np.float64)
        near = (tokens @ self.rank_lanes.T).take(self.node, axis=-1)
        total = own.sum(axis=-1, keepdims=True)
        far = (total - near) / np.maximum(len(self.rank) - self.company, 1)
        every = np.broadcast_to(total / len(self.rank), own.shape)
        parts = self._kept((own, near / self.company, own, far, own, every))
        return tuple(part[..., None, :] for part in parts)

    def _messages(self, tokens: Tokens) -> NDArray[Any]:
        """[L, sources, expert ranks] messages."""
        return tokens.copies if self.form == "per-expert" else tokens.visits(self._each)

    def _behind(self, tokens: IntArray | FloatArray) -> PortSums:
        """[..., 1, lanes] tokens of all the lanes whose messages add up in a sum."""
        own = tokens.take(self.rank, axis=-1)[..., None, :] / self.tp
        near = (tokens @ self.rank_lanes.T).take(self.node, axis=-1)[..., None, :] / self.tp
        total = own.sum(axis=-1, keepdims=True)
        return self._kept((own, near - own, own, total - near, own, total))

    def _all(self, messages: FloatArray) -> tuple[FloatArray, FloatArray]:
        """[L, lanes] messages that each lane makes and takes in, times tp."""
        made, taken = messages.sum(axis=2) * self.expert_tp, messages.sum(axis=1) * self.tp
        return made[:, self.rank], taken[:, self.expert_rank]

    def _per_lane(self, sums: PortSums) -> PortSums:
        return tuple(part / self.tp for part in self._kept(sums))

    def _kept(self, columns: PortSums) -> PortSums:
        return columns if self.work else columns[:4]


class ForwardingPorts(StagePorts):
    """One message to each node that a token needs, to the device of the sender's index there, which forwards it to the
    devices of its node; to the own node straight away (DeepEP's normal mode). Nodes hold equally many devices."""

    def __init__(self, ports: GroupPorts, layout: ReplicaLayout, work: bool = False) -> None:
        super().__init__(ports, layout, "per-device", work)
        assert ports.grid is not None
        self.nodes, width = ports.grid.shape
        self.index = np.empty(ports.lanes, dtype=np.int64)
        self.index[ports.grid] = np.arange(width)
        #: Lanes of every (index, DP rank); expert ranks that each node holds any lane of.
        self.index_ranks = (self.index == np.arange(width)[:, None]).astype(np.float64) @ self._of_rank
        self.reached = self.expert_lanes.T > 0

    def of_tokens(self, tokens: Tokens) -> PortSums:
        device, node = (tokens.visits(sets).astype(np.float64) for sets in (self._each, self.reached))
        by_index = self.index_ranks @ device  # [L, index, expert rank]
        through = by_index[:, self.index, self.expert_rank]  # to each lane by the way of itself
        forwarded = (by_index @ self.expert_lanes)[:, self.index, self.node]
        made, taken = self._all(device)
        here = node[:, self.rank, self.node]
        sent = node.sum(axis=2)[:, self.rank] - here
        received = (self.index_ranks @ node)[:, self.index, self.node] - here
        return self._per_lane((forwarded - through, taken - through, sent, received, made, taken))

    def towards(self, token: Tokens) -> PortSums:
        device, node = (token.visits(sets)[:, 0] for sets in (self._each, self.reached))
        mine, here = device[:, self.expert_rank], node[:, self.node]
        near, everywhere = (device @ self.expert_lanes)[:, self.node], node.sum(axis=1, keepdims=True)
        made = mine.sum(axis=1, keepdims=True)
        return self._kept((near - mine, mine, everywhere - here, here, made, mine))

    def senders(self, tokens: IntArray) -> PortSums:
        own = tokens.take(self.rank, axis=-1).astype(np.float64)
        alike = (tokens @ self.index_ranks.T).take(self.index, axis=-1)
        total = own.sum(axis=-1, keepdims=True)
        others = max(len(self.rank) - self.nodes, 1)
        every = np.broadcast_to(total / len(self.rank), own.shape)
        far = (alike - own) / max(self.nodes - 1, 1)
        parts = self._kept((alike / self.nodes, (total - alike) / others, own, far, own, every))
        return tuple(part[..., None, :] for part in parts)

    def _behind(self, tokens: IntArray | FloatArray) -> PortSums:
        own = tokens.take(self.rank, axis=-1)[..., None, :] / self.tp
        alike = (tokens @ self.index_ranks.T).take(self.index, axis=-1)[..., None, :] / self.tp
        total = own.sum(axis=-1, keepdims=True)
        return self._kept((alike, total - alike, own, alike - own, own, total))


class CombiningPorts(StagePorts):
    """One message up to the switch for a token that needs any other device; the switch multiplies it, and adds up the
    results on their way back."""

    def __init__(self, ports: GroupPorts, layout: ReplicaLayout, work: bool = False) -> None:
        super().__init__(ports, layout, "per-device", work)
        #: The expert ranks that lie, in part or as a whole, beyond a lane of each expert rank.
        self.beyond = ~self._each if self.expert_tp == 1 else np.ones_like(self._each)

    def of_tokens(self, tokens: Tokens) -> PortSums:
        direct = super().of_tokens(tokens)
        up = tokens.visits(self.beyond)[:, self.rank, self.expert_rank] / self.tp
        return (up, *direct[1:])

    def towards(self, token: Tokens) -> PortSums:
        direct = super().towards(token)
        return (token.visits(self.beyond)[:, 0, self.expert_rank], *direct[1:])


def stage_ports(ports: GroupPorts, layout: ReplicaLayout, form: str, work: bool) -> StagePorts:
    """Raises MoesimError where the form does not suit the group."""
    check_form(form, ports)
    if form == "per-node" and ports.several_nodes:
        return ForwardingPorts(ports, layout, work)
    if form == "in-network":
        return CombiningPorts(ports, layout, work)
    return StagePorts(ports, layout, "per-expert" if form == "per-expert" else "per-device", work)
