"""A layout at work, from the prices of two steps: one that decodes, and one that computes prompts."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from moesim.explore.alike import AlikeCommunication, SteadyPricer, SteadyRouting
from moesim.explore.layouts import Degrees
from moesim.hardware.machine import Machine, assemble
from moesim.kernels.calibrated import CalibratedKernels
from moesim.processors import make_mapping
from moesim.serving.build import expert_routing
from moesim.serving.footprint import replica_memory
from moesim.serving.interconnect import interconnect
from moesim.serving.placing import placed
from moesim.serving.scales import engine_scales
from moesim.spec.errors import MoesimError
from moesim.spec.experiment import ExperimentSpec, ParallelismSpec
from moesim.step.batch import Batch, Chunk
from moesim.step.exchange import Exchange
from moesim.step.graph import PICOSECONDS
from moesim.step.layout import ReplicaLayout, replica_layouts
from moesim.step.pricing import StepPricer
from moesim.step.program import StageProgram, stage_program
from moesim.step.routed import ExpertCosts
from moesim.step.tables import StepContext
from moesim.step.tokens import expert_places

#: Metrics of a layout, and whether more of it is better.
METRICS: dict[str, bool] = {
    "throughput": True, "tpot": False, "ttft": False, "e2e": False, "cost": False, "batch": True,
}  # fmt: skip


@dataclass(frozen=True)
class Load:
    """`concurrency` requests under way on the whole machine, of `prompt` tokens and `output` tokens each."""

    concurrency: int
    prompt: int
    output: int


class Bench:
    """Prices layouts of one model on one machine.

    Args:
        spec: model, machine, engine, dtype and routing; its parallelism and requests do not matter.

    Raises:
        MoesimError: the machine cannot be assembled.
    """

    def __init__(self, spec: ExperimentSpec, load: Load) -> None:
        self.spec, self.load = spec, load
        self.machine: Machine = assemble(spec.machine, spec.library)
        kernels = CalibratedKernels(spec.engine.kernels, engine_scales(spec.engine, self.machine))
        mapping = make_mapping(spec.processors, self.machine)
        self.context = StepContext(spec.model, self.machine, spec.storage, spec.engine, kernels, mapping)
        streams = np.random.SeedSequence(spec.seed).spawn(2)
        self._routing = expert_routing(spec, streams[0])
        #: Per second, of the machine; NaN where no price is known.
        self._dollars = self.machine.price
        self._known: dict[tuple[int, bool, bool], list[StageProgram]] = {}
        self._steady: Callable[..., SteadyRouting] = SteadyRouting.maker(self._routing, streams[1])

    def measure(self, degrees: Degrees) -> dict[str, float]:
        """Metrics of a layout: requests that decode at once on a DP rank (`batch`), times in seconds, output tokens per
        second of the whole machine (`throughput`).

        Every DP rank decodes its share of the requests, as many as fit into its KV cache, in `pp` micro-batches that
        follow each other through the stages. While it works off a batch of B requests, it computes B prompts and
        decodes `output` times, so that it gives B x output tokens in B x prefill + output x TPOT seconds.

        Raises:
            MoesimError: it does not fit the model, the machine or the memory.
        """
        layout = self._layout(degrees)
        programs = self._programs(layout)
        ranks = degrees.dp * degrees.replicas
        batch = min(
            math.ceil(self.load.concurrency / ranks), self._room(layout, programs), self.spec.engine.max_sequences
        )
        return self._rates(self._pricer(layout, programs), layout, batch, ranks)

    def _programs(self, layout: ReplicaLayout) -> list[StageProgram]:
        """Of every stage; they depend on whether there are several ranks of a kind, not on how many."""
        key = layout.pp, layout.tp > 1, layout.dp > 1
        if key not in self._known:
            model, engine = self.spec.model, self.spec.engine
            self._known[key] = [stage_program(model, layout, stage, engine) for stage in range(layout.pp)]
        return self._known[key]

    def _layout(self, degrees: Degrees) -> ReplicaLayout:
        dp = degrees.dp if degrees.ep > 1 else 1
        parallelism = ParallelismSpec(tp=degrees.tp, pp=degrees.pp, dp=dp, ep=degrees.ep)
        return replica_layouts(parallelism, self.spec.model, self.machine)[0]

    def _room(self, layout: ReplicaLayout, programs: list[StageProgram]) -> int:
        """Requests that fit into the KV cache of a DP rank when all their tokens are there."""
        tokens = replica_memory(self.context, layout, programs).blocks * self.spec.engine.block_size
        need = self.load.prompt + self.load.output
        if tokens < need:
            what = f"a request of {need} tokens does not fit into the KV cache, a DP rank has room for {tokens}"
            raise MoesimError(what, fix="use a higher tp or pp, narrower weights, or shorter requests")
        return tokens // need

    def _pricer(self, layout: ReplicaLayout, programs: list[StageProgram]) -> StepPricer:
        joined = interconnect(self.spec, self.machine, [layout])
        communication = AlikeCommunication(self.context, layout, joined.fabric, joined.kernels)
        if self._routing is None or self.spec.model.moe is None:
            return SteadyPricer(self.context, layout, programs, communication, None, None)
        moe = self.spec.model.moe
        where = placed(self.spec, layout, self.machine, self._routing)
        if where.slots.replicated or where.relief is not None:
            raise MoesimError(
                f"placement {self.spec.placement.policy} makes replicas, which steady steps leave out",
                key="placement", fix="compare layouts with a placement without, such as contiguous",
            )  # fmt: skip
        costs = ExpertCosts(self.context, layout, programs, where.slots)
        exchange = Exchange(communication, programs, expert_places(where.slots, layout.expert_ranks, moe, limited=True))
        routed = self._steady(communication, costs, exchange)
        return SteadyPricer(self.context, layout, programs, communication, routed, costs)

    def _rates(self, pricer: StepPricer, layout: ReplicaLayout, batch: int, ranks: int) -> dict[str, float]:
        load, stages = self.load, layout.pp
        flights = min(stages, batch)
        each = math.ceil(batch / flights)
        decode = pricer.price(_decoding(layout.dp, each, load.prompt + load.output // 2))
        tpot = max(int(decode.durations[0]), flights * int(decode.stages.max())) / PICOSECONDS
        chunk = min(load.prompt, self.spec.engine.token_budget)
        prompt = pricer.price(_computing(layout.dp, chunk))
        ttft = load.prompt / chunk * int(prompt.durations[0]) / PICOSECONDS
        prefill = load.prompt / chunk * int(prompt.stages.max() + prompt.host.max()) / PICOSECONDS
        held = each * flights
        throughput = ranks * held * load.output / (held * prefill + load.output * tpot)
        return {
            "throughput": throughput,
            "tpot": tpot,
            "ttft": ttft,
            "e2e": ttft + load.output * tpot,
            "cost": self._dollars / throughput * 1e6,
            "batch": float(held),
        }


def _decoding(ranks: int, sequences: int, context: int) -> Batch:
    """A step in which each rank decodes so many sequences."""
    count = ranks * sequences
    ones = np.ones(count, dtype=np.int64)
    return Batch(ranks, np.repeat(np.arange(ranks), sequences), np.arange(count), ones * context, ones)


def _computing(ranks: int, tokens: int) -> Batch:
    """A step in which each rank computes so many tokens of a prompt."""
    return Batch(ranks, chunks=tuple(Chunk(rank, rank, tokens, 0) for rank in range(ranks)))
