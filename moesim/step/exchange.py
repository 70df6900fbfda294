"""Dispatch and combine of one step's MoE layers: how long tokens travel to their experts and back."""

from __future__ import annotations

from functools import cached_property
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from moesim.fabric.collectives import exchange
from moesim.fabric.transfer import GroupPorts, Transfer
from moesim.step.communication import Communication
from moesim.step.graph import FloatArray, IntArray
from moesim.step.layout import ReplicaLayout
from moesim.step.program import StageProgram

Picoseconds = tuple[IntArray, IntArray]


class PortSums(NamedTuple):
    """Copies of tokens [..., lanes] that each lane sends and receives, by the port they take: towards its own node
    (`up`) and towards other nodes (`out`). What stays on a lane takes none."""

    up_sent: FloatArray
    up_received: FloatArray
    out_sent: FloatArray
    out_received: FloatArray


class StagePorts:
    """Which lane of a stage stands for which DP rank and expert rank, and in which node.

    A DP rank's tokens are divided over its `tp` lanes; each of an expert's shards receives every copy.
    """

    def __init__(self, ports: GroupPorts, layout: ReplicaLayout) -> None:
        self.ports, self.tp, self.expert_tp = ports, layout.tp, layout.expert_tp
        lanes = np.arange(layout.stage_lanes)
        self.rank, self.expert_rank = lanes // layout.tp, lanes // layout.expert_tp
        nodes, self.node = np.unique(ports.node, return_inverse=True)
        of_node = (self.node[:, None] == np.arange(len(nodes))).astype(np.float64)  # [lanes, nodes]
        rank = (self.rank[:, None] == np.arange(layout.dp)).astype(np.float64)
        expert_rank = (self.expert_rank[:, None] == np.arange(layout.expert_ranks)).astype(np.float64)
        #: Lanes of every (node, DP rank) and of every (expert rank, node).
        self.rank_lanes, self.expert_lanes = of_node.T @ rank, expert_rank.T @ of_node
        #: Whether all lanes' ports are equally fast.
        self.alike = all((rates == rates[0]).all() for rates in (ports.up_bandwidth, ports.out_bandwidth))
        #: Lanes of each lane's node.
        self.company = of_node.sum(axis=0)[self.node]

    def of_traffic(self, traffic: NDArray[np.signedinteger[Any]]) -> PortSums:
        """Sums of a traffic matrix [L, DP ranks, expert ranks] of copies. They are whole numbers until they are divided
        by tp, so that the order of summation leaves no trace."""
        copies = traffic.astype(np.float64)
        kept = copies[:, self.rank, self.expert_rank]
        near_sent = (copies @ self.expert_lanes)[:, self.rank, self.node]
        near_received = (self.rank_lanes @ copies)[:, self.node, self.expert_rank]
        sent, received = copies.sum(axis=2) * self.expert_tp, copies.sum(axis=1) * self.tp
        sums = (
            near_sent - kept,
            near_received - kept,
            sent[:, self.rank] - near_sent,
            received[:, self.expert_rank] - near_received,
        )
        return PortSums(*(part / self.tp for part in sums))

    def towards(self, share: FloatArray) -> PortSums:
        """[L, lanes] factors: a lane's copies sent per token of its rank, and received per token of other lanes, where
        a token has `share` [L, expert ranks] copies for each expert rank. See `expected`."""
        mine = share[:, self.expert_rank]
        near = (share @ self.expert_lanes)[:, self.node]
        return PortSums(near - mine, mine, mine.sum(axis=1, keepdims=True) - near, mine)

    def expected(self, tokens: IntArray | FloatArray, towards: PortSums) -> PortSums:
        """[..., L, lanes] sums for so many tokens [..., DP ranks], spread over the expert ranks in fixed shares."""
        own = tokens.take(self.rank, axis=-1)[..., None, :] / self.tp
        near = (tokens @ self.rank_lanes.T).take(self.node, axis=-1)[..., None, :] / self.tp
        factors = (own, near - own, own, own.sum(axis=-1, keepdims=True) - near)
        return PortSums(*(factor * part for factor, part in zip(factors, towards, strict=True)))


def lane_traffic(traffic: NDArray[np.signedinteger[Any]] | FloatArray, layout: ReplicaLayout) -> FloatArray:
    """[..., DP ranks, expert ranks] copies -> [..., lanes, lanes]."""
    lanes = np.arange(layout.stage_lanes)
    by_lane: FloatArray = traffic[..., lanes // layout.tp, :][..., lanes // layout.expert_tp] / layout.tp
    return by_lane


class Exchange:
    """Picoseconds of (dispatch, combine) of all MoE layers of each stage, [P] each.

    Gathering moves every token to every rank, whatever its experts: only their number counts. An all-to-all is
    bound by its busiest port, from the copies that each lane sends and receives, or, where devices are not joined by
    switches, by its busiest link, from the copies between each two lanes.
    """

    def __init__(self, communication: Communication, programs: list[StageProgram]) -> None:
        self.communication = communication
        layout = communication.layout
        self._layers = np.array([len(program.moe_layers) for program in programs])
        bounds = np.cumsum([0, *self._layers]).tolist()
        self.slices = [slice(a, b) for a, b in pairwise(bounds)]
        groups = [communication.fabric.ports(communication.stage_devices(p)) for p in range(layout.pp)]
        self.stages = [StagePorts(group, layout) for group in groups if isinstance(group, GroupPorts)]
        #: Whether the traffic matrix itself decides, not the sums of its rows and columns.
        self.over_links = len(self.stages) < len(groups)

    @property
    def all_to_all(self) -> bool:
        return self.communication.all_to_all

    def of_gathered(self, tokens: IntArray) -> Picoseconds:
        """Where tokens are gathered: [P, ...] for so many tokens [...] per rank, see `Sizes.gathered`."""
        dispatch, combine = self._gathered
        return dispatch[:, tokens], combine[:, tokens]

    def of_traffic(self, traffic: IntArray) -> Picoseconds:
        """Args: traffic: [L, DP ranks, expert ranks] copies."""
        if self.over_links:
            times = [self._over_links(stage, traffic[mine]) for stage, mine in enumerate(self.slices)]
            both = [[int(transfer.picoseconds.sum()) for transfer in pair] for pair in times]
            return np.array([d for d, _ in both]), np.array([c for _, c in both])
        return self.of_sums([at.of_traffic(traffic[mine]) for at, mine in zip(self.stages, self.slices, strict=True)])

    def of_sums(self, sums: list[PortSums]) -> Picoseconds:
        """Args: sums: [..., layers of the stage, lanes] of each stage; the result is [P, ...]."""
        dispatch, combine = np.stack([self._both_ways(stage, part) for stage, part in enumerate(sums)], axis=1)
        return dispatch, combine

    def transfers(self, stage: int, gathered: int, traffic: FloatArray) -> tuple[list[Transfer], list[Transfer]]:
        """Dispatch and combine of one layer as transfers of a single size, one per communicator (for step graphs).

        Args:
            gathered: tokens per rank where they are gathered, see `Sizes.gathered`.
            traffic: [DP ranks, expert ranks] copies.
        """
        if not self.all_to_all:
            dispatch = self.communication.dispatch(stage) if self.communication.layout.dp > 1 else ()
            return [t.at(gathered) for t in dispatch], [t.at(gathered) for t in self.communication.combine(stage)]
        if self.over_links:
            dispatched, combined = self._over_links(stage, traffic)
            return [dispatched], [combined]
        sums = self.stages[stage].of_traffic(traffic.astype(np.int64)[None])
        back = PortSums(sums.up_received, sums.up_sent, sums.out_received, sums.out_sent)
        dispatch_bytes, token_bytes = self.communication.dispatch_bytes, self.communication.token_bytes
        return [self._transfer(stage, sums, dispatch_bytes).at(0)], [self._transfer(stage, back, token_bytes).at(0)]

    def _over_links(self, stage: int, traffic: IntArray | FloatArray) -> tuple[Transfer, Transfer]:
        """Dispatch and combine of [..., DP ranks, expert ranks] copies."""
        communication = self.communication
        devices, copies = communication.stage_devices(stage), lane_traffic(traffic, communication.layout)
        back = np.swapaxes(copies, -1, -2) * communication.token_bytes
        fabric = communication.fabric
        return fabric.all_to_all(copies * communication.dispatch_bytes, devices), fabric.all_to_all(back, devices)

    def _both_ways(self, stage: int, sums: PortSums) -> IntArray:
        """[2, ...] picoseconds of all layers of a stage, dispatch and combine. Only the busier direction of a port
        counts, whichever way tokens go."""
        up, out = np.maximum(sums.up_sent, sums.up_received), np.maximum(sums.out_sent, sums.out_received)
        if self.stages[stage].alike:  # one port stands for all
            up, out = up.max(axis=-1, keepdims=True), out.max(axis=-1, keepdims=True)
        sizes = np.array([self.communication.dispatch_bytes, self.communication.token_bytes])
        busiest = self._transfer(stage, PortSums(up, up, out, out), sizes.reshape(2, *[1] * up.ndim))
        total: IntArray = busiest.picoseconds.sum(axis=-1)
        return total

    def _transfer(self, stage: int, sums: PortSums, size: float | FloatArray) -> Transfer:
        up_sent, up_received, out_sent, out_received = (part * size for part in sums)
        return exchange(up_sent, up_received, out_sent, out_received, ports=self.stages[stage].ports)

    @cached_property
    def _gathered(self) -> IntArray:
        """[2, P, sizes] picoseconds of all layers' dispatch and combine, by tokens per rank."""
        communication, layout = self.communication, self.communication.layout
        table = np.zeros((2, layout.pp, communication.context.token_limit + 1), dtype=np.int64)
        for p in range(layout.pp):
            if layout.dp > 1:
                table[0, p] = np.max([t.picoseconds for t in communication.dispatch(p)], axis=0)
            if layout.stage_lanes > 1:
                table[1, p] = np.max([t.picoseconds for t in communication.combine(p)], axis=0)
        table *= self._layers[:, None]
        return table
