"""Measured libraries in place of closed forms: which calibration speaks for a device, and transfers that it paces.

Within one node of a calibrated device, a call takes what its library was measured to take: `calibrated` replaces the
rounds of a transfer by one phase of that duration; bytes, energy and the ports or links in use stay as they were.
Elsewhere (several nodes, other topologies, devices without measurements) closed forms apply; a protocol's `overhead`,
`latency` and `efficiency` are then the terms to give a link: seconds per call, seconds per round, and the share of its
bandwidth that a message of a size leaves.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from moesim.fabric.auto import ChosenTransfer
from moesim.fabric.expert_protocol import Direction, ExpertProtocol, ExpertTerms, Mode
from moesim.fabric.protocol import TWO_BYTES, CollectiveProtocol, CollectiveTerms
from moesim.fabric.topology import Topology
from moesim.fabric.transfer import (
    FloatArray,
    Group,
    GroupPorts,
    IntArray,
    Operation,
    Phase,
    Transfer,
    Use,
    phases_picoseconds,
    picoseconds,
)
from moesim.spec.calibration import (
    CollectiveCalibration,
    CollectiveFit,
    ExpertFit,
    load_collective_calibrations,
)
from moesim.spec.kernels import version_order

#: Where a device has no calibration of its own: that of another with the same link and family, or the same link.
Match = Literal["device", "family", "link"]


def collective_protocol(
    device: str, *, family: str, link: str, port: float, libraries: Sequence[str] = ("nccl",)
) -> CollectiveProtocol | None:
    """What is known of collectives between devices of one node; None where nothing was measured over such a link.

    Args:
        device: name of the descriptor. link, port: that join the devices; bytes/s per direction.
        libraries: in order of preference, by the start of their names: "nccl" means the newest one, "vllm-graph-0.19"
            that version's own all-reduce within CUDA graphs. Each operation comes from the first that has it.
    """
    terms: dict[tuple[Operation, int], CollectiveTerms] = {}
    used: dict[str, str] = {}
    largest = 0
    for calibration, match in _candidates(device, family, link):
        for wanted in libraries:
            fits = _newest(calibration.collectives, wanted)
            fresh = [fit for fit in fits if fit.operation not in {operation for operation, _ in terms}]
            for fit in fresh:
                terms[fit.operation, fit.element] = collective_terms(fit)
                used[fit.library] = _origin(calibration, match)
                largest = max(largest, *fit.ranks)
        if terms:
            break
    if not terms:
        return None
    origin = "; ".join(f"{library} {where}" for library, where in used.items())
    return CollectiveProtocol(", ".join(used), device, port, terms, largest, origin)


def expert_protocol(
    device: str, *, family: str, link: str, port: float, units: int, nic: float = np.inf, library: str = "deepep"
) -> ExpertProtocol | None:
    """What is known of kernels that dispatch to experts; None where nothing was measured over such a link.

    Args: as `collective_protocol`; nic: bytes/s of the scale-out port per direction. units: SMs of the device.
    """
    within: dict[tuple[Mode, Direction], ExpertTerms] = {}
    across: dict[tuple[Mode, Direction], ExpertTerms] = {}
    used: tuple[dict[str, str], dict[str, str]] = {}, {}  # within a node, over several
    for calibration, match in _candidates(device, family, link):
        for fit in calibration.experts:
            several = fit.nodes != (1,)
            known = across if several else within
            if fit.library.startswith(library) and (fit.mode, fit.direction) not in known:
                known[fit.mode, fit.direction] = expert_terms(fit)
                used[several].setdefault(fit.library, _origin(calibration, match))
    if not within:
        return None
    origins = ["; ".join(f"{name} {where}" for name, where in each.items()) for each in used]
    return ExpertProtocol(", ".join(used[0] | used[1]), device, port, nic, units, within, across, *origins)


def _candidates(device: str, family: str, link: str) -> Iterator[tuple[CollectiveCalibration, Match]]:
    """Calibrations of the link, the device's own first, then its family's, among equals the best fitted first."""
    own = load_collective_calibrations(link, device)
    yield from ((calibration, "device") for calibration in sorted(own, key=_scatter))
    others = [each for each in load_collective_calibrations(link) if device not in each.devices]
    others.sort(key=lambda each: (each.family != family, _scatter(each)))
    yield from ((each, "family" if each.family == family else "link") for each in others)


def _scatter(calibration: CollectiveCalibration) -> float:
    return float(np.median([fit.record.p90 for fit in calibration.collectives])) if calibration.collectives else np.inf


def _origin(calibration: CollectiveCalibration, match: Match) -> str:
    if match == "device":
        return f"measured on {calibration.name}"
    shared = "the same family and link" if match == "family" else "the same link"
    return f"taken over from {calibration.name} ({shared} {calibration.link}), scaled by the port's bandwidth"


def _newest(fits: Sequence[CollectiveFit], wanted: str) -> list[CollectiveFit]:
    """The fits of the newest library whose name starts so; of each operation, the newest that has it."""
    named = [fit for fit in fits if fit.library == wanted or fit.library.startswith((f"{wanted}-", f"{wanted}."))]
    best: dict[str, str] = {}
    for fit in named:
        if fit.operation not in best or version_order(fit.library) > version_order(best[fit.operation]):
            best[fit.operation] = fit.library
    return [fit for fit in named if fit.library == best[fit.operation]]


def collective_terms(fit: CollectiveFit) -> CollectiveTerms:
    """The coefficients of a descriptor's entry."""
    return CollectiveTerms(
        launch=fit.launch,
        round=fit.round,
        efficiency=fit.efficiency,
        local=np.inf if fit.local is None else fit.local,
        ramp=fit.ramp,
        exponent=fit.exponent,
        contention=fit.contention,
        direct=fit.direct or 0.0,
        staging=fit.staging,
        in_switch=fit.in_switch or 0.0,
        switch_ranks=fit.switch_ranks,
    )


def expert_terms(fit: ExpertFit) -> ExpertTerms:
    """The coefficients of a descriptor's entry."""

    def rate(value: float | None) -> float:
        return np.inf if value is None else value

    return ExpertTerms(
        launch=fit.launch,
        efficiency=fit.efficiency,
        expert=fit.expert,
        message=rate(fit.message),
        hop=fit.hop,
        fill=fit.fill,
        fill_tokens=fit.fill_tokens,
        out_efficiency=fit.out_efficiency,
        copy_time=fit.copy_time,
        copy_rate=rate(fit.copy_rate),
        token_time=fit.token_time,
        token_rate=rate(fit.token_rate),
        sharpness=fit.sharpness,
    )


def calibrated(
    transfer: Transfer, protocol: CollectiveProtocol, size: ArrayLike | None = None, element: int = TWO_BYTES
) -> Transfer:
    """`transfer` as long as its library takes; unchanged where the library does not speak for it.

    Args:
        size: [*shape] bytes of a rank's buffer, as `CollectiveProtocol.seconds` counts them. None: from the busiest
            lane's bytes, which holds for every algorithm with the fewest bytes per port (ring, direct, pairwise) and
            makes of an uneven all-to-all the even one with the same busiest port.
        element: bytes per element.
    """
    if isinstance(transfer, ChosenTransfer):
        parts = tuple(calibrated(each, protocol, size, element) for each in transfer.candidates)
        return replace(transfer, candidates=parts)
    ranks = transfer.ports.lanes
    if transfer.ports.several_nodes or not transfer.phases or transfer.operation not in protocol:
        return transfer
    if size is None:
        passes = 2.0 if transfer.operation == "all_reduce" else 1.0
        busiest = np.maximum(transfer.sent, transfer.received).max(axis=-1)
        size = busiest if transfer.operation == "send" else busiest * ranks / (passes * (ranks - 1))
    seconds = np.broadcast_to(protocol.seconds(transfer.operation, size, ranks, element), transfer.shape)
    return paced(transfer, seconds, protocol.library)


def paced(transfer: Transfer, seconds: FloatArray, library: str) -> Transfer:
    """`transfer` with all its bytes, in one phase, in so many seconds [*shape], its call's overhead included."""
    if not transfer.phases:
        return transfer
    phase = PacedPhase(transfer.phases, np.asarray(seconds, dtype=np.float64))
    return Transfer(transfer.operation, library, _without_overhead(transfer.ports), (phase,), transfer.shape)


def _without_overhead(group: Group) -> Group:
    """The same ports or links, where the duration of a call holds its overhead already."""
    if not group.overhead:
        return group
    if isinstance(group, GroupPorts):
        return replace(group, overhead=0.0)
    return replace(group, topology=_free(group.topology))


@lru_cache(maxsize=16)
def _free(topology: Topology) -> Topology:
    return replace(topology, overhead=0.0, node_overhead=None)


@dataclass(frozen=True, eq=False)
class PacedPhase:
    """What a library's kernel does in one call: the bytes of `moves`, in `seconds` [...] whatever ports would allow.

    It holds every port or link that its bytes pass until it ends. The group's overhead, which a transfer adds
    itself, is part of `seconds`.
    """

    moves: tuple[Phase, ...]
    seconds: FloatArray
    rounds: int = field(default=1, init=False)
    parallel: bool = field(default=False, init=False)

    @cached_property
    def sent(self) -> FloatArray:
        return _sum([phase.rounds * phase.sent for phase in self.moves])

    @cached_property
    def received(self) -> FloatArray:
        return _sum([phase.rounds * phase.received for phase in self.moves])

    def round_picoseconds(self, group: Group) -> IntArray:
        beyond: IntArray = np.maximum(picoseconds(self.seconds) - picoseconds(group.overhead), 0)
        return beyond

    def joules(self, group: Group) -> FloatArray:
        return _sum([phase.rounds * phase.joules(group) for phase in self.moves])

    def pause(self, group: Group) -> int:
        return int(self.round_picoseconds(group))

    def uses(self, group: Group, members: Sequence[int]) -> list[Use]:
        took = int(self.round_picoseconds(group))
        held = dict.fromkeys(use.resource for phase in self.moves for use in phase.uses(group, members))
        return [Use(resource, took) for resource in held]

    def at(self, place: tuple[int, ...], shape: tuple[int, ...], lanes: int) -> PacedPhase:
        moves = tuple(phase.at(place, shape, lanes) for phase in self.moves)
        return PacedPhase(moves, np.asarray(np.broadcast_to(self.seconds, shape)[place]))


def _sum(parts: Sequence[NDArray[np.float64]]) -> FloatArray:
    total: FloatArray = np.asarray(sum(parts[1:], start=parts[0]), dtype=np.float64)
    return total


def slack(transfer: Transfer) -> IntArray:
    """[*shape] picoseconds by which a paced transfer exceeds what its ports or links alone would take."""
    phases = tuple(move for phase in transfer.phases for move in (phase.moves if isinstance(phase, PacedPhase) else ()))
    if not phases:
        return np.zeros(transfer.shape, dtype=np.int64)
    beyond: IntArray = transfer.picoseconds - phases_picoseconds(phases, transfer.ports, transfer.shape)
    return beyond
