"""What makes a run's answer uncertain: each source with its spread, and runs in which they took other values."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from moesim.fabric.calibrated import collective_terms, expert_terms
from moesim.fabric.expert_protocol import Direction
from moesim.fabric.library import CalibratedFabric
from moesim.serving.build import Deployment
from moesim.serving.pools.service import POOLS
from moesim.serving.scales import Scales
from moesim.spec.calibration import (
    CollectiveCalibration,
    CollectiveFit,
    ExpertFit,
    Quantiles,
    load_collective_calibrations,
)
from moesim.spec.experiment import ExperimentSpec, PoolSpec, PoolsSpec
from moesim.spec.fabric import FabricSpec
from moesim.spec.serving import EngineSpec
from moesim.uncertainty.averaging import averaging
from moesim.uncertainty.spread import Spread, lognormal, of_residuals

#: Of what nobody measured: a median error of 25 %, as the datasheet rooflines with defaults of a family aim at.
ESTIMATED = lognormal(1.6)
#: Share of the variance of a fit's log residuals that a run's calls of one shape have in common; the rest averages out
#: over a step. Within an octave of sizes, 0.82 to 0.85 over GEMMs and 0.71 to 0.96 over fused MoE (intraclass
#: correlation of a four-term roofline's residuals on bf16 tables of H100, H200 and B200). Runs range over several: 0.62
#: is how far measured runs scatter about simulated ones (vLLM 0.15.1, the models that its parameters are fitted to,
#: each left out of the fit in turn).
COMMON = 0.62
#: Terms that were measured on a relative: errors grow by no more than this within an architecture.
TAKEN_OVER = 1.3
#: Of measured kernels that send tokens to experts.
DIRECTIONS: tuple[Direction, Direction] = ("dispatch", "combine")
#: What the host adds to a step, and to a request.
_OVERHEADS = (
    "step_overhead", "sequence_overhead", "request_overhead", "exposed_overhead", "launch_overhead", "frontend_latency",
)  # fmt: skip


@dataclass(frozen=True)
class Source:
    """One source of error, with the spread of its factor.

    what: `kernels`, `collectives`, `fabric` or `engine`. device: of kernels. name: the kernel, operation, fabric, or
    the engine's key. origin: where the spread comes from.
    """

    what: str
    device: str
    name: str
    spread: Spread
    origin: str

    @property
    def label(self) -> str:
        return ".".join(part for part in (self.what, self.device, self.name) if part)


def error_sources(spec: ExperimentSpec, deployments: Sequence[Deployment]) -> list[Source]:
    """The sources of a run that has been made, in a fixed order; of two pools, once what both have."""
    parts = [spec] if spec.pools is None else [spec.pool(name) for name in POOLS]
    found: dict[str, Source] = {}
    for part, deployment in zip(parts, deployments, strict=True):
        sources = [*_kernels(deployment), *_collectives(deployment), *_fabrics(part, deployment), *_engine(part.engine)]
        for source in sources:
            found.setdefault(source.label, source)
    for source in () if spec.pools is None else _closed_forms(spec):  # of transfers
        found.setdefault(source.label, source)
    return [found[label] for label in sorted(found)]


def varied(
    spec: ExperimentSpec, sources: Sequence[Source], factors: Sequence[float], seed: int
) -> tuple[ExperimentSpec, Scales]:
    """The experiment in which every source takes a factor, and arrivals and routing another seed."""
    kernels: dict[tuple[str, str], float] = {}
    collectives: dict[str, float] = {}
    engine: dict[str, float] = {}
    fabrics = dict(spec.library.fabrics)
    for source, factor in zip(sources, factors, strict=True):
        if source.what == "kernels":
            kernels[source.device, source.name] = factor
        elif source.what == "collectives":
            collectives[source.name] = factor
        elif source.what == "engine":
            engine[source.name] = factor
        else:
            fabrics[source.name] = _slower(fabrics[source.name], factor)
    changes = {
        "seed": seed,
        "engine": _later(spec.engine, engine),
        "pools": None if spec.pools is None else _later_pools(spec.pools, engine),
        "library": spec.library.model_copy(update={"fabrics": fabrics}),
    }
    return spec.model_copy(update=changes), Scales(kernels, collectives)


def _later(engine: EngineSpec, factors: Mapping[str, float]) -> EngineSpec:
    """The engine whose estimated overheads are multiplied."""
    own = {name: getattr(engine, name) * factor for name, factor in factors.items() if name in engine.estimated}
    return engine.model_copy(update=own)


def _later_pools(pools: PoolsSpec, factors: Mapping[str, float]) -> PoolsSpec:
    changes: dict[str, PoolSpec] = {}
    for name in POOLS:
        pool: PoolSpec = getattr(pools, name)
        if pool.engine is not None:
            changes[name] = pool.model_copy(update={"engine": _later(pool.engine, factors)})
    return pools.model_copy(update=changes)


def _slower(fabric: FabricSpec, factor: float) -> FabricSpec:
    """The fabric on which all that its links and ports take is multiplied."""
    times = {key: getattr(fabric, key) * factor for key in ("latency", "hop_latency", "overhead")}
    return fabric.model_copy(update={**times, "efficiency": fabric.efficiency / factor})


def _measured(residuals: Mapping[str, Quantiles], own: bool, averaged: float = 1.0) -> Spread | None:
    """What the calls of a run have in common of a fit's spread; None where it keeps no residuals.

    Args:
        averaged: what errors of several shapes leave of it.
    """
    spread = of_residuals(residuals)
    return None if spread is None else spread.stretched(averaged * math.sqrt(COMMON) * (1.0 if own else TAKEN_OVER))


def _kernels(deployment: Deployment) -> Iterator[Source]:
    averaged = averaging(deployment)
    for (device, kernel), (source, fit) in deployment.kernels.priced().items():
        own = source.device == device
        spread = None if fit is None else _measured(fit.record.residuals, own, averaged.get((device, kernel), 1.0))
        origin = f"measured: {source.stack}" if own else f"taken over from {source.device}: {source.stack}"
        if spread is None:
            spread, origin = ESTIMATED, "estimated: datasheet roofline" if fit is None else "estimated: no residuals"
        yield Source("kernels", device, kernel, spread, origin)


def _collectives(deployment: Deployment) -> Iterator[Source]:
    """Of the library that paces calls within a node, by operation, and of kernels that dispatch to experts."""
    known = load_collective_calibrations()
    if isinstance(deployment.fabric, CalibratedFabric):
        protocol = deployment.fabric.protocol
        for operation in dict.fromkeys(operation for operation, _ in protocol.terms):
            terms = protocol.of(operation)
            fits = [(each, fit) for each in known for fit in each.collectives if fit.operation == operation]
            origin = next((each, fit) for each, fit in fits if collective_terms(fit) == terms)
            yield _library(operation, *origin, protocol.device)
    if deployment.dispatch is not None:
        kernels, mode = deployment.dispatch.protocol, deployment.dispatch.mode
        nodes = {deployment.machine.devices[i].node for i in deployment.replicas[0].pricer.layout.devices[0].ravel()}
        used = kernels.terms if len(nodes) == 1 else kernels.scattered
        for direction in DIRECTIONS:
            experts = [(each, fit) for each in known for fit in each.experts if fit.direction == direction]
            measured = next((each, fit) for each, fit in experts if expert_terms(fit) == used[mode, direction])
            yield _library(direction, *measured, kernels.device)


def _library(
    operation: str, calibration: CollectiveCalibration, fit: CollectiveFit | ExpertFit, device: str
) -> Source:  # fmt: skip
    own = device in calibration.devices
    spread = _measured({str(regime): each for regime, each in fit.record.residuals.items()}, own)
    origin = f"{'measured on' if own else 'taken over from'} {calibration.name}: {fit.library}"
    if spread is None:
        spread, origin = ESTIMATED, "estimated: no residuals"
    return Source("collectives", "", operation, spread, origin)


def _fabrics(spec: ExperimentSpec, deployment: Deployment) -> Iterator[Source]:
    """Of the fabrics on which closed forms say what a transfer takes."""
    machine = deployment.machine
    if spec.parallelism.replica_devices == 1:
        return
    measured = isinstance(deployment.fabric, CalibratedFabric)
    gathered = spec.engine.transport == "allgather" or deployment.dispatch is not None
    if measured and gathered and machine.nodes == 1:
        return
    yield from _closed_forms(spec)


def _closed_forms(spec: ExperimentSpec) -> Iterator[Source]:
    for name in spec.library.fabrics:
        yield Source("fabric", "", name, ESTIMATED, "estimated: closed form")


def _engine(engine: EngineSpec) -> Iterator[Source]:
    for name in _OVERHEADS:
        if name in engine.estimated and getattr(engine, name) > 0:
            yield Source("engine", "", name, ESTIMATED, "estimated")
