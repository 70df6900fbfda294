"""Dispatch and combine of one step's MoE layers: how long tokens travel to their experts and back."""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property
from itertools import pairwise
from typing import TypeAlias

import numpy as np

from moesim.fabric.calibrated import paced
from moesim.fabric.collectives import exchange
from moesim.fabric.dispatch import check_form, combine, dispatch
from moesim.fabric.expert_protocol import ExpertLoad
from moesim.fabric.switch import group_ports
from moesim.fabric.tokens import Tokens
from moesim.fabric.transfer import GroupPorts, Transfer, picoseconds
from moesim.routing.drawn import Drawn
from moesim.step.communication import Communication
from moesim.step.graph import FloatArray, IntArray
from moesim.step.ports import PortSums, stage_ports
from moesim.step.program import StageProgram
from moesim.step.tokens import ExpectedHops, ExpertPlaces, HoppingTokens, LaneTokens, RoutedTokens

#: (dispatch, combine)
Picoseconds: TypeAlias = tuple[IntArray, IntArray]
Pair: TypeAlias = tuple[Transfer, Transfer]


class Exchange:
    """Picoseconds of (dispatch, combine) of all MoE layers of each stage, [P] each.

    Gathering moves every token to every rank, whatever its experts: only their number counts. An all-to-all is
    bound by its busiest port, from the copies that each lane sends and receives, or, where devices are not joined by
    switches, by its busiest link, from the copies between each two lanes. Measured kernels take what their terms say of
    the busiest lane.

    Raises:
        MoesimError: the form of dispatch does not suit the fabric.
    """

    def __init__(self, communication: Communication, programs: list[StageProgram], places: ExpertPlaces) -> None:
        self.communication, self.places = communication, places
        layout = communication.layout
        self._layers = np.array([len(program.moe_layers) for program in programs])
        bounds = np.cumsum([0, *self._layers]).tolist()
        self.slices = [slice(a, b) for a, b in pairwise(bounds)]
        devices = [communication.stage_devices(p) for p in range(layout.pp)]
        groups = [communication.fabric.ports(each) for each in devices]
        for group in groups:
            check_form(communication.form, group)
        form, work = communication.form, communication.kernels is not None
        ports = [group for group in groups if isinstance(group, GroupPorts)]
        #: Whether what travels between each two lanes decides, not the sums by lane.
        self.over_links = len(ports) < len(groups)
        if self.over_links:  # measured kernels are priced by the sums all the same
            ports = [group_ports(communication.context.machine, each) for each in devices] if work else []
        self.stages = [stage_ports(each, layout, form, work) for each in ports]

    @property
    def all_to_all(self) -> bool:
        return self.communication.all_to_all

    @property
    def coherent(self) -> bool:
        """Whether tokens stay with their experts; see `DispatchSpec.returns`."""
        return self.places.hops is not None

    def tokens(self, drawn: Drawn) -> RoutedTokens:
        """The tokens of a step's choices on their way."""
        return HoppingTokens(drawn, self.places) if self.coherent else RoutedTokens(drawn, self.places)

    def of_context(self, tokens: IntArray) -> IntArray:
        """[P, ...] picoseconds of gathering the context of so many new tokens [...] per rank."""
        return np.stack([self.communication.context_gather(p).picoseconds[tokens] for p in range(len(self.slices))])

    def of_gathered(self, tokens: IntArray) -> Picoseconds:
        """Where tokens are gathered: [P, ...] for so many tokens [...] per rank, see `Sizes.gathered`."""
        there, back = self._gathered
        return there.take(tokens, axis=1), back.take(tokens, axis=1)

    def of_drawn(self, drawn: Drawn) -> Picoseconds:
        """Of an all-to-all, for the choices of a step."""
        tokens = self.tokens(drawn)
        if self.over_links:
            pairs = [self.transfers(stage, tokens.part(mine)) for stage, mine in enumerate(self.slices)]
            there, back = (np.array([int(pair[way].picoseconds.sum()) for pair in pairs]) for way in (0, 1))
            return there, back
        most = float(tokens.copies[:1].sum(axis=-1).max(initial=0)) / self.places.top_k / self.communication.layout.tp
        sums = [at.of_tokens(tokens.part(mine)) for at, mine in zip(self.stages, self.slices, strict=True)]
        return self.of_sums(sums, np.array(most))

    def of_sums(self, sums: list[PortSums], most: FloatArray) -> Picoseconds:
        """Args: sums: [..., layers of the stage, lanes] of each stage; most: [...] tokens of the fullest lane. The
        result is [P, ...]."""
        there, back = np.stack([self._both_ways(stage, part, most) for stage, part in enumerate(sums)], axis=1)
        return there, back

    def gathers(self, stage: int, tokens: int) -> tuple[list[Transfer], list[Transfer]]:
        """Dispatch and combine of one layer where tokens are gathered, one transfer per communicator (for step graphs);
        tokens: per rank, see `Sizes.gathered`."""
        there = self.communication.dispatch(stage) if self.communication.layout.dp > 1 else ()
        return [t.at(tokens) for t in there], [t.at(tokens) for t in self.communication.combine(stage)]

    def transfers(self, stage: int, tokens: Tokens) -> Pair:
        """Dispatch and combine of an all-to-all, [L] sizes for the tokens of so many layers."""
        most = tokens.copies[:1].sum(axis=-1).max(initial=0) / self.places.top_k / self.communication.layout.tp
        sums = self.stages[stage].of_tokens(tokens) if self.stages else ()
        moved = self._over_links(stage, tokens) if self.over_links else self._over_ports(stage, sums)
        return self._paced(stage, moved, sums, float(most))

    def expected(self, stage: int, tokens: IntArray, share: FloatArray, computed: FloatArray | None = None) -> Pair:
        """The same for so many tokens [DP ranks], of which a share [L, experts] goes to each expert; see
        `ExpertPlaces.relieved`."""
        places = self.places.part(self.slices[stage])
        sums: PortSums = ()
        if places.hops is not None:
            return self.transfers(stage, ExpectedHops(tokens, share, places))
        if self.stages:
            at = self.stages[stage]
            sums = at.expected(tokens, at.towards(places.relieved(share[:, None], computed)))
        if self.over_links:
            moved = self._over_links(stage, places.relieved(tokens[:, None] * share[:, None], computed))
        else:
            moved = self._over_ports(stage, sums)
        return self._paced(stage, moved, sums, float(tokens.max()) / self.communication.layout.tp)

    def _over_ports(self, stage: int, sums: PortSums) -> Pair:
        communication = self.communication
        there = self._transfer(stage, sums, communication.dispatch_bytes)
        back = (sums[1], sums[0], sums[3], sums[2])
        here = self._transfer(stage, back, communication.combine_bytes)
        return replace(there, algorithm=communication.form), replace(here, algorithm=communication.form)

    def _over_links(self, stage: int, tokens: Tokens) -> Pair:
        communication = self.communication
        group = communication.fabric.ports(communication.stage_devices(stage))
        lanes = LaneTokens(tokens, communication.layout)
        there = dispatch(lanes, communication.dispatch_bytes, group, communication.form)
        return there, combine(lanes, communication.combine_bytes, group, communication.form)

    def _paced(self, stage: int, moved: Pair, sums: PortSums, most: float) -> Pair:
        """As long as measured kernels, or the library's own all-to-all, take for it."""
        there, back = moved
        kernels = self.communication.kernels
        if kernels is None:
            return self._by_library(there), self._by_library(back)
        seconds = self._kernel_seconds(stage, sums, np.array(most))
        return paced(there, seconds[0], kernels.library), paced(back, seconds[1], kernels.library)

    def _by_library(self, transfer: Transfer) -> Transfer:
        """Libraries know nothing of switches that multiply tokens and add up results."""
        return transfer if self.communication.form == "in-network" else self.communication.fabric.pace(transfer)

    def _both_ways(self, stage: int, sums: PortSums, most: FloatArray) -> IntArray:
        """[2, ...] picoseconds of all layers of a stage, dispatch and combine. Only the busier direction of a port
        counts, whichever way tokens go."""
        if self.communication.kernels is not None:
            took: IntArray = picoseconds(self._kernel_seconds(stage, sums, most)).sum(axis=-1)
            return took
        up, out = np.maximum(sums[0], sums[1]), np.maximum(sums[2], sums[3])
        if self.stages[stage].alike:  # one port stands for all
            up, out = up.max(axis=-1, keepdims=True), out.max(axis=-1, keepdims=True)
        sizes = np.array([self.communication.dispatch_bytes, self.communication.combine_bytes])
        busiest = self._transfer(stage, (up, up, out, out), sizes.reshape(2, *[1] * up.ndim))
        total: IntArray = self._by_library(busiest).picoseconds.sum(axis=-1)
        return total

    def _transfer(self, stage: int, sums: PortSums, size: float | FloatArray) -> Transfer:
        up_sent, up_received, out_sent, out_received = (part * size for part in sums[:4])
        return exchange(up_sent, up_received, out_sent, out_received, ports=self.stages[stage].ports)

    def _kernel_seconds(self, stage: int, sums: PortSums, most: FloatArray) -> FloatArray:
        """[2, ..., L] seconds that measured kernels take, dispatch and combine."""
        communication, at = self.communication, self.stages[stage]
        assert communication.kernels is not None
        up, out, copies = (np.maximum(*sums[i : i + 2]).max(axis=-1) for i in (0, 2, 4))
        return communication.kernels.both_ways(
            ExpertLoad(most[..., None], copies, up, out),
            (communication.dispatch_bytes, communication.combine_bytes),
            experts=self.places.owner.shape[1],
            nodes=len(np.unique(at.node)),
        )

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
