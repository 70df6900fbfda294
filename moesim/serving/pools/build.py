"""From an experiment with pools to replicas of both that are ready to serve."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np

from moesim.engine.clock import Clock
from moesim.hardware.machine import Machine, assemble
from moesim.serving.build import Deployment, Place, deploy
from moesim.serving.pools.base import Pool
from moesim.serving.pools.handover import Handover
from moesim.serving.pools.network import pool_network
from moesim.serving.requests import Requests
from moesim.serving.scales import NOMINAL, Scales
from moesim.serving.sequences import RequestState
from moesim.spec.errors import MoesimError
from moesim.spec.experiment import ExperimentSpec, ParallelismSpec


def deploy_pools(
    spec: ExperimentSpec,
    requests: Requests,
    clock: Clock,
    streams: dict[str, np.random.SeedSequence],
    on_finish: Callable[[RequestState], None],
    scales: Scales = NOMINAL,
) -> tuple[Deployment, Deployment, Handover]:
    """The prefill pool, the decode pool, and what moves requests from one to the other.

    Raises:
        MoesimError: a pool does not fit its machine, has no room for a request, or no path leads to the other.
    """
    assert spec.pools is not None
    handover = Handover(spec.pools.transfer, spec.router, clock, on_finish)
    machines = _machines(spec)
    first = Place(machines[0], pool=handover.sides[0])
    prefill = _deploy(spec, handover.sides[0], requests, clock, streams, on_finish, scales, first)
    taken = spec.pool("prefill").parallelism.devices if spec.pools.shares_machine else 0
    begin = _begin(machines[1], taken, spec.pool("decode").parallelism)
    second = Place(machines[1], begin, len(prefill.replicas), handover.sides[1])
    # The same streams: both pools serve one model, whose experts are as popular here as there. What a step draws
    # depends on its replica's number as well.
    decode = _deploy(spec, handover.sides[1], requests, clock, streams, handover.finish, scales, second)
    handover.join(prefill, decode, pool_network(spec, *machines))
    return prefill, decode, handover


def _begin(machine: Machine, taken: int, decode: ParallelismSpec) -> int:
    """The first device of the decode pool: the next one, or the next node's where that keeps replicas that a node has
    room for from lying on two, and there are enough nodes."""
    per_node, replica = len(machine.devices) // machine.spec.nodes, decode.devices // decode.replicas
    aligned = -(-taken // per_node) * per_node
    if replica > per_node or aligned + decode.devices > len(machine.devices):
        return taken

    def straddling(begin: int) -> int:
        """Replicas that lie on two nodes."""
        first = np.arange(decode.replicas) * replica + begin
        return int(np.count_nonzero(first // per_node != (first + replica - 1) // per_node))

    return aligned if straddling(aligned) < straddling(taken) else taken


def _machines(spec: ExperimentSpec) -> tuple[Machine, Machine]:
    assert spec.pools is not None
    with _of_pool("prefill"):
        first = assemble(spec.pool("prefill").machine, spec.library)
    if spec.pools.shares_machine:
        return first, first
    with _of_pool("decode"):
        return first, assemble(spec.pool("decode").machine, spec.library)


def _deploy(
    spec: ExperimentSpec,
    side: Pool,
    requests: Requests,
    clock: Clock,
    streams: dict[str, np.random.SeedSequence],
    on_finish: Callable[[RequestState], None],
    scales: Scales,
    place: Place,
) -> Deployment:
    with _of_pool(side.name):
        return deploy(spec.pool(side.name), requests, clock, streams, on_finish, scales, place)


@contextmanager
def _of_pool(name: str) -> Iterator[None]:
    """Has errors about what a pool says for itself name the pool."""
    try:
        yield
    except MoesimError as error:
        key = error.key if isinstance(error.key, str) else ""
        if key.partition(".")[0] in ("parallelism", "engine", "machine"):
            error.key = f"pools.{name}.{key}"
        elif f"{name} pool" not in error.what:
            error.what = f"in the {name} pool {error.what}"
        raise
