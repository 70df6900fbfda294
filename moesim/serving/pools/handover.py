"""From the prefill pool to the decode pool: who takes a request, when its KV entries travel, and how long they do.

A request is offered to a decode replica when its prompt is complete (`when: end`) or has begun (`layerwise`), and gets
blocks there at the first step whose scheduler finds some. Its entries travel when it has both. The prefill replica
keeps its blocks until they have arrived.

Layer by layer, only what computation does not hide travels after the prompt's end. With L layers, a step of d seconds
that completes the prompt, and a transfer of x seconds that could begin w before its end, it ends
max(x / L, x - (w - d / L)) after that: the last layer's entries exist no earlier, and the first layer's not before
d / L (Splitwise, ISCA 2024, section 4.2). What was hidden is not held against other transfers on the links.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from moesim.engine.clock import Clock
from moesim.fabric.live import LiveFlows
from moesim.serving.build import Deployment
from moesim.serving.pools.lanes import Side, transfer_lanes
from moesim.serving.pools.network import Path, PoolNetwork
from moesim.serving.replica import Replica
from moesim.serving.router import ROUTERS
from moesim.serving.sequences import RequestState
from moesim.spec.experiment import TransferSpec
from moesim.step.graph import PICOSECONDS


@dataclass(eq=False)
class Move:
    """A request on its way. Times in picoseconds, -1 where it has not happened.

    state, source: in the prefill pool; twin, target: in the decode pool. last, took: tokens and duration of the step
    that completed the prompt. moved: bytes.
    """

    state: RequestState
    source: Replica
    twin: RequestState
    target: Replica
    complete: int = -1
    last: int = 0
    took: int = 0
    reserved: int = -1
    begin: int = -1
    end: int = -1
    moved: float = 0.0


class Handover:
    """Moves of requests from prefill to decode replicas."""

    def __init__(
        self, spec: TransferSpec, router: str, clock: Clock, on_finish: Callable[[RequestState], None]
    ) -> None:
        self.spec, self.clock = spec, clock
        self.moves: dict[int, Move] = {}
        self.sent: dict[int, float] = {}  # bytes, and joules, by device of the prefill pool
        self.joules: dict[int, float] = {}
        self._router, self._on_finish = ROUTERS.make(router), on_finish
        self._paths: dict[tuple[int, int, int, int], Path] = {}
        self.sides: tuple[PrefillSide, DecodeSide] = PrefillSide(self), DecodeSide(self)

    def join(self, prefill: Deployment, decode: Deployment, network: PoolNetwork) -> None:
        """Between these pools, over this network."""
        self._prefill, self._decode, self.network = prefill, decode, network
        self.links = LiveFlows(self.clock, network.topology.bandwidth)
        self._targets = [(each, rank) for each in decode.replicas for rank in range(each.scheduler.ranks)]
        pricer = prefill.replicas[0].pricer
        side = Side(pricer.layout, pricer.programs)
        self._layers = sum(len(side.layers(stage)) for stage in range(pricer.layout.pp))

    def offer(self, source: Replica, state: RequestState) -> Move:
        """Find a decode replica for a request, which queues there for blocks."""
        loads = np.zeros(len(self._targets), dtype=np.int64)
        if self._router.needs_load and len(self._targets) > 1:
            loads = np.array([load for replica in self._decode.replicas for load in replica.load()])
        target, rank = self._targets[self._router.choose(loads)]
        twin = RequestState(
            state.request, state.arrival, state.input_tokens, state.output_tokens, state.hashes, state.left,
            replica=target.index, rank=rank, generated=1, remote=True,
        )  # fmt: skip
        move = self.moves[state.request] = Move(state, source, twin, target)
        target.accept(twin)
        return move

    def complete(self, source: Replica, state: RequestState, tokens: int, duration: int) -> None:
        move = self.moves.get(state.request) or self.offer(source, state)
        move.complete, move.last, move.took = int(self.clock.now), tokens, duration
        self.go(move)

    def reserve(self, state: RequestState) -> None:
        move = self.moves[state.request]
        move.reserved = int(self.clock.now)
        self.go(move)

    def go(self, move: Move) -> None:
        """Send what has not travelled yet, if there is somewhere to send it."""
        if move.complete < 0 or move.reserved < 0:
            return
        path = self._path(move)
        tokens = move.state.input_tokens - move.twin.cached
        move.begin, move.moved = int(self.clock.now), tokens * path.bytes
        left = float(tokens)
        if self.spec.when == "layerwise":
            left = self._exposed(move, path, tokens)
        for total, each in ((self.sent, path.sent), (self.joules, path.joules)):
            for device, value in each.items():
                total[device] = total.get(device, 0.0) + tokens * value
        flows = path.of(left, self.spec.latency + self.network.overhead)
        self.links.send(flows, lambda: self._arrive(move))

    def _exposed(self, move: Move, path: Path, tokens: int) -> float:
        """Tokens whose entries travel after the prompt's end, at the links' full rate before it."""
        first = move.took / self._layers
        hidden = move.complete - max(move.state.first_scheduled, move.reserved) - first
        if hidden <= 0:
            return tokens
        move.begin = round(move.complete - hidden)
        last = min(move.last, tokens) / self._layers
        if not path.seconds:
            return last
        return max(last, tokens - hidden / PICOSECONDS / path.seconds)

    def _path(self, move: Move) -> Path:
        key = (move.source.index, move.state.rank, move.target.index, move.twin.rank)
        if key not in self._paths:
            source, target = (Side(each.pricer.layout, each.pricer.programs) for each in (move.source, move.target))
            lanes = transfer_lanes(self._prefill.context, source, move.state.rank, target, move.twin.rank)
            self._paths[key] = self.network.path(lanes)
        return self._paths[key]

    def _arrive(self, move: Move) -> None:
        move.end = int(self.clock.now)
        move.source.vacate(move.state)
        move.twin.first_token = move.twin.last_token = move.state.first_token
        move.target.accept(move.twin)

    def settle(self) -> None:
        """At the end of a run: requests under way have the tokens that they have at their decode replica."""
        for move in self.moves.values():
            move.state.generated = max(move.state.generated, move.twin.generated if move.complete >= 0 else 0)

    def finish(self, twin: RequestState) -> None:
        """A request has its last token."""
        state = self.moves[twin.request].state
        state.finish, state.generated = twin.finish, twin.generated
        state.preemptions += twin.preemptions
        self._on_finish(state)


class PrefillSide:
    """Hears of the prefill replicas' requests."""

    name: Literal["prefill"] = "prefill"
    prefills = True

    def __init__(self, handover: Handover) -> None:
        self._handover = handover

    def admitted(self, replica: Replica, states: list[RequestState]) -> None:
        if self._handover.spec.when == "layerwise":
            for state in states:
                if state.output_tokens > 1:
                    self._handover.offer(replica, state)

    def prefilled(self, replica: Replica, state: RequestState, tokens: int, duration: int) -> None:
        self._handover.complete(replica, state, tokens, duration)


class DecodeSide:
    """Hears of the decode replicas' requests."""

    name: Literal["decode"] = "decode"
    prefills = False

    def __init__(self, handover: Handover) -> None:
        self._handover = handover

    def admitted(self, replica: Replica, states: list[RequestState]) -> None:
        for state in states:
            if state.remote:
                self._handover.reserve(state)

    def prefilled(self, replica: Replica, state: RequestState, tokens: int, duration: int) -> None:
        raise AssertionError("a decode replica passes nothing on")
