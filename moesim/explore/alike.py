"""What makes pricing hundreds of layouts cheap: what is alike is priced once, and only for the sizes that are asked.

A serving run tabulates its collectives over every number of tokens, for each group of devices, because it will need
most of them. The configurator prices two steps of a layout and throws it away.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache, cached_property

import numpy as np

from moesim.fabric.transfer import Transfer
from moesim.routing.base import RoutingSource, TokenSpans
from moesim.routing.drawn import Drawn
from moesim.routing.synthetic import CountRouting
from moesim.step.batch import Batch
from moesim.step.communication import Communication
from moesim.step.exchange import Exchange
from moesim.step.graph import FloatArray, IntArray
from moesim.step.pricing import StepPricer
from moesim.step.program import StageProgram
from moesim.step.routed import ExpertCosts, RoutedPrice, RoutedTotals
from moesim.step.sampled import step_stream, token_spans
from moesim.step.sizes import Sizes
from moesim.step.stage import StageCosts


class AlikeCommunication(Communication):
    """Groups of the same kinds of devices, spread alike over nodes, take the same time."""

    @cached_property
    def _priced(self) -> dict[tuple[object, ...], Transfer]:
        return {}

    def pattern(self, devices: Sequence[int]) -> tuple[object, ...]:
        found = [self.context.machine.devices[device] for device in devices]
        return tuple((each.spec.name, each.node - found[0].node) for each in found)

    def _alike(self, what: str, devices: Sequence[int], price: Callable[[], Transfer]) -> Transfer:
        key = (what, *self.pattern(devices))
        if key not in self._priced:
            self._priced[key] = price()
        return self._priced[key]

    def _reduce(self, stage: int, rank: int) -> Transfer:
        make = super()._reduce
        return self._alike("reduce", self.rank_devices(stage, rank), lambda: make(stage, rank))

    def _reduce_sums(self, stage: int, rank: int) -> Transfer:
        make = super()._reduce_sums
        return self._alike("reduce_sums", self.rank_devices(stage, rank), lambda: make(stage, rank))

    def _gather(self, stage: int, rank: int) -> Transfer:
        make = super()._gather
        return self._alike("gather", self.rank_devices(stage, rank), lambda: make(stage, rank))

    def _logits(self, stage: int, rank: int) -> Transfer:
        make = super()._logits
        return self._alike("logits", self.rank_devices(stage, rank), lambda: make(stage, rank))

    def send(self, tokens: IntArray) -> IntArray:
        times = np.zeros((self.layout.pp, *tokens.shape), dtype=np.int64)
        size: FloatArray = (tokens * self.token_bytes).astype(np.float64)
        for stage in range(self.layout.pp - 1):
            pairs = zip(self.stage_devices(stage), self.stage_devices(stage + 1), strict=True)
            distinct = {self.pattern(pair): pair for pair in pairs}
            times[stage] = np.max([self._sent(size, *pair) for pair in distinct.values()], axis=0)
        return times

    def _sent(self, size: FloatArray, source: int, destination: int) -> IntArray:
        key = ("send", size.tobytes(), *self.pattern((source, destination)))
        if key not in self._priced:
            self._priced[key] = self.fabric.send(size, source, destination)
        return self._priced[key].picoseconds

    def gathered(self, stage: int, tokens: int) -> tuple[int, int]:
        """Picoseconds of one layer's dispatch and combine where so many tokens per rank are gathered."""
        devices = np.array(self.stage_devices(stage))
        groups = [devices[group].tolist() for group in self.exchange_groups()]
        distinct = {self.pattern(group): group for group in groups}
        pairs = [self._both_ways(group, tokens) for group in distinct.values()]
        return max(there for there, _ in pairs), max(back for _, back in pairs)

    def _both_ways(self, group: list[int], tokens: int) -> tuple[int, int]:
        """As `Communication._dispatch` and `_combine`, of one group and number of tokens."""
        fabric, chunks = self.fabric, np.full(len(group), float(tokens))
        if self.layout.dp == 1:
            if self.layout.stage_lanes == 1:
                return 0, 0
            size = np.array(tokens * self.token_bytes)
            return 0, int(self._alike(f"combine {tokens}", group, lambda: fabric.all_reduce(size, group)).picoseconds)
        there, back = chunks * self.dispatch_bytes, chunks * self.token_bytes
        gather = self._alike(f"dispatch {tokens}", group, lambda: fabric.all_gather(there, group))
        scatter = self._alike(f"combine {tokens}", group, lambda: fabric.reduce_scatter(back, group))
        return int(gather.picoseconds), int(scatter.picoseconds)


class SteadyPricer(StepPricer):
    """Stages with the same layers on devices that are alike share their costs."""

    communication: AlikeCommunication

    def stage_costs(self, program: StageProgram) -> StageCosts:
        devices = self.communication.stage_devices(program.stage)
        key = (program.parts, self.communication.pattern(devices))
        if key not in self._shared:
            self._shared[key] = super().stage_costs(program)
        return self._shared[key]

    @cached_property
    def _shared(self) -> dict[tuple[object, ...], StageCosts]:
        return {}


#: Tokens from which the shares of experts are taken where a routing does not say them.
_MANY = 4096


class SteadyRouting:
    """Prices the MoE parts of single steps in which all ranks have as many tokens.

    What goes to each expert is drawn once for a number of tokens, whatever the layout.

    Args:
        draw: tokens per expert [layers, experts], for (single tokens, tokens of prompts).
    """

    reuses = False

    def __init__(
        self,
        communication: AlikeCommunication,
        costs: ExpertCosts,
        exchange: Exchange,
        routing: RoutingSource,
        key: int,
        draw: Callable[[int, int], IntArray],
        shares: FloatArray,
        known: dict[tuple[object, ...], IntArray],
    ) -> None:
        self._communication, self._costs, self.exchange = communication, costs, exchange
        self._routing, self._key, self._draw = routing, key, draw
        #: Of a token's choices, [layers, experts]; an all-to-all carries what is expected of it.
        self._share, self._known = shares, known

    @classmethod
    def maker(cls, routing: RoutingSource | None, stream: np.random.SeedSequence) -> Callable[..., SteadyRouting]:
        """Makes it for layouts of one model: called with communication, costs and exchange."""
        key = int(stream.generate_state(1, np.uint64)[0])
        known: dict[tuple[object, ...], IntArray] = {}

        @cache
        def draw(singles: int, chunked: int) -> IntArray:
            assert routing is not None
            tokens = np.array([*[1] * singles, *([chunked] if chunked else [])], dtype=np.int64)
            zeros, request = np.zeros(len(tokens), dtype=np.int64), np.arange(len(tokens))
            spans = TokenSpans(zeros, request, zeros, tokens)
            generator = np.random.Generator(np.random.Philox(key=key, counter=[0, 0, singles, chunked]))
            counts: IntArray = routing.counts(spans, 1, generator)[:, 0]
            return counts

        @cache
        def shares() -> FloatArray:
            if isinstance(routing, CountRouting):
                return routing.popularity
            counts = draw(_MANY, 0).astype(np.float64)
            return counts / _MANY

        def make(communication: AlikeCommunication, costs: ExpertCosts, exchange: Exchange) -> SteadyRouting:
            assert routing is not None
            return cls(communication, costs, exchange, routing, key, draw, shares(), known)

        return make

    def clear(self) -> None:
        """Nothing is recorded."""

    def price(self, sizes: Sizes, batch: Batch) -> RoutedPrice:
        chunked = int(sizes.chunked.sum()) if batch.chunks else 0
        experts = self._slowest(int(sizes.tokens.sum()) - chunked, chunked)
        dispatch, combine = self._exchanged(sizes, batch)
        return RoutedPrice(experts, dispatch, combine, None)

    def _slowest(self, singles: int, chunked: int) -> IntArray:
        """[P, 1] picoseconds of the slowest experts; of all layouts whose expert ranks hold the same, once."""
        layout, sorted_ = self._costs.layout, self.exchange.all_to_all
        shape = (layout.pp, layout.expert_ranks, layout.expert_tp, sorted_, hash(self._costs.owner.tobytes()))
        key = (*shape, singles, chunked)
        if key not in self._known:
            counts = self._draw(singles, chunked)
            self._known[key] = self._costs.load(counts[:, None]).slowest.T.astype(np.int64)
        return self._known[key]

    def _exchanged(self, sizes: Sizes, batch: Batch) -> tuple[IntArray, IntArray]:
        """[P, 1] each."""
        if not self.exchange.all_to_all:
            slices, tokens = self.exchange.slices, int(sizes.gathered[0])
            per_layer = [self._communication.gathered(stage, tokens) for stage in range(len(slices))]
            layers = np.array([[mine.stop - mine.start] for mine in slices])
            there, back = (np.array([[pair[way]] for pair in per_layer]) * layers for way in (0, 1))
            return there, back
        tokens = sizes.tokens[0]
        slices = self.exchange.slices
        pairs = [self.exchange.expected(stage, tokens, self._share[mine]) for stage, mine in enumerate(slices)]
        dispatch, combine = (np.array([[int(pair[way].picoseconds.sum())] for pair in pairs]) for way in (0, 1))
        return dispatch, combine

    def drawn(self, batch: Batch, step: int) -> Drawn:
        graphs = self._costs.context.graphs
        spans = token_spans(batch, step, graphs)
        if isinstance(self._routing, CountRouting):
            return self._routing.drawn(spans, batch.ranks, step_stream(self._key, batch, step))
        return Drawn.of_counts(self._routing.counts(spans, batch.ranks, step_stream(self._key, batch, step)))

    def record(self, executed: Sequence[tuple[RoutedPrice, int]]) -> None:
        """Nothing is executed."""

    def totals(self) -> RoutedTotals:
        return self._costs.zeros()
