"""Dispatch and combine of one step's MoE layers: how long tokens travel to their experts and back."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from moesim.fabric.collectives import exchange
from moesim.fabric.transfer import GroupPorts, Transfer
from moesim.placement import rank_loads
from moesim.step.communication import Communication
from moesim.step.graph import FloatArray, IntArray
from moesim.step.program import StageProgram

if TYPE_CHECKING:
    from moesim.step.routed import RoutedLoad

Picoseconds = tuple[IntArray, IntArray]


class Exchange:
    """Picoseconds of (dispatch, combine) of all MoE layers of each stage, [P] each.

    Gathering moves every token to every rank, whatever its experts: only the largest rank counts. An all-to-all is bound
    by its busiest port, from the copies that each lane sends and receives.
    """

    def __init__(self, communication: Communication, programs: list[StageProgram]) -> None:
        self.communication = communication
        layout = communication.layout
        self._layers = np.array([len(program.moe_layers) for program in programs])
        self._ports = [communication.fabric.ports(communication.stage_devices(p)) for p in range(layout.pp)]
        lanes = np.arange(layout.stage_lanes)
        self._rank_of_lane, self._expert_rank_of_lane = lanes // layout.tp, lanes // layout.expert_tp

    def of_counts(self, tokens: IntArray, counts: IntArray, owner: IntArray) -> Picoseconds:
        """Args: tokens: [ranks] including dummies. counts: [L, ranks, experts]. owner: [L, experts] expert rank."""
        if not self.communication.all_to_all:
            return self._gathered(int(tokens.max()))
        traffic = rank_loads(counts, owner, self.communication.layout.expert_ranks).astype(np.float64)
        return self._by_stage([self._from_traffic(p, at, traffic) for p, at in enumerate(self._slices())])

    def of_shares(self, tokens: IntArray, loads: tuple[tuple[RoutedLoad, float], ...]) -> Picoseconds:
        """As `of_counts`, with every rank's tokens spread over the expert ranks in the proportions of drawn loads."""
        if not self.communication.all_to_all:
            return self._gathered(int(tokens.max()))
        top_k = self.communication.context.model.moe.top_k  # type: ignore[union-attr]
        shares = sum(load.rank_copies / load.rank_copies.sum(axis=1, keepdims=True) * weight for load, weight in loads)
        return self._by_stage([self._from_shares(p, tokens * top_k, shares[at]) for p, at in enumerate(self._slices())])

    def transfers(self, stage: int, tokens: IntArray, traffic: FloatArray) -> tuple[list[Transfer], list[Transfer]]:
        """Dispatch and combine of one layer as transfers of a single size, one per communicator (for step graphs).

        Args: traffic: [ranks, expert ranks] copies.
        """
        if not self.communication.all_to_all:
            size = int(tokens.max())
            dispatch = [t.at(size) for t in self.communication.dispatch(stage)] if len(tokens) > 1 else []
            return dispatch, [t.at(size) for t in self.communication.combine(stage)]
        sent = self._port_sums(self._ports[stage], self._lane_traffic(traffic[None]))
        return [self._transfer(stage, sent).at(0)], [self._transfer(stage, sent, back=True).at(0)]

    def _gathered(self, largest: int) -> Picoseconds:
        dispatch, combine = self._gathered_table[:, :, largest] * self._layers
        return dispatch, combine

    @cached_property
    def _gathered_table(self) -> IntArray:
        """[2, P, sizes] picoseconds of one layer's dispatch and combine, by the largest rank's tokens."""
        communication, layout = self.communication, self.communication.layout
        table = np.zeros((2, layout.pp, communication.context.token_limit + 1), dtype=np.int64)
        for p in range(layout.pp):
            if layout.dp > 1:
                table[0, p] = np.max([t.picoseconds for t in communication.dispatch(p)], axis=0)
            if layout.stage_lanes > 1:
                table[1, p] = np.max([t.picoseconds for t in communication.combine(p)], axis=0)
        return table

    def _slices(self) -> list[slice]:
        bounds = np.cumsum([0, *self._layers])
        return [slice(int(a), int(b)) for a, b in zip(bounds, bounds[1:], strict=False)]

    def _by_stage(self, layers: list[Picoseconds]) -> Picoseconds:
        return np.array([d.sum() for d, _ in layers]), np.array([c.sum() for _, c in layers])

    def _from_traffic(self, stage: int, layers: slice, traffic: FloatArray) -> Picoseconds:
        sums = self._port_sums(self._ports[stage], self._lane_traffic(traffic[layers]))
        return self._transfer(stage, sums).picoseconds, self._transfer(stage, sums, back=True).picoseconds

    def _lane_traffic(self, traffic: FloatArray) -> FloatArray:
        """[L, ranks, expert ranks] -> copies [L, lanes, lanes]; a rank's tokens are divided over its lanes, an expert's
        shards each receive every copy."""
        return traffic[:, self._rank_of_lane][:, :, self._expert_rank_of_lane] / self.communication.layout.tp

    def _port_sums(self, ports: GroupPorts, lanes: FloatArray) -> tuple[FloatArray, ...]:
        near = ports.node[:, None] == ports.node[None, :]
        inside = near & ~np.eye(ports.lanes, dtype=bool)
        up = np.where(inside, lanes, 0)
        out = np.where(near, 0, lanes)
        return up.sum(axis=2), up.sum(axis=1), out.sum(axis=2), out.sum(axis=1)

    def _from_shares(self, stage: int, copies: IntArray, shares: FloatArray) -> Picoseconds:
        """Port sums of traffic copies[rank] x shares[expert rank], without the matrix."""
        ports, layout = self._ports[stage], self.communication.layout
        sent = (copies / layout.tp)[self._rank_of_lane]
        share = shares[:, self._expert_rank_of_lane]
        here = ports.node[:, None] == np.unique(ports.node)[None, :]
        node_share, node_sent = (share @ here)[:, here.argmax(axis=1)], (sent @ here)[here.argmax(axis=1)]
        sums = (
            sent * (node_share - share),
            share * (node_sent - sent),
            sent * (share.sum(axis=1, keepdims=True) - node_share),
            share * (sent.sum() - node_sent),
        )
        return self._transfer(stage, sums).picoseconds, self._transfer(stage, sums, back=True).picoseconds

    def _transfer(self, stage: int, sums: tuple[FloatArray, ...], back: bool = False) -> Transfer:
        size = self.communication.token_bytes if back else self.communication.dispatch_bytes
        up_sent, up_received, out_sent, out_received = (part * size for part in sums)
        if back:
            up_sent, up_received, out_sent, out_received = up_received, up_sent, out_received, out_sent
        return exchange(up_sent, up_received, out_sent, out_received, ports=self._ports[stage])
