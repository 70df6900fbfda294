"""Runs of ASTRA-sim's congestion-aware backend, which stores and forwards whole messages, against our chunks."""

from __future__ import annotations

import csv
from collections.abc import Iterator

import numpy as np

from moesim.fabric import algorithms
from moesim.fabric.algorithms import Layout, Move
from moesim.fabric.chunk import store_and_forward
from moesim.fabric.flow import Flows
from moesim.fabric.routing import Shortest
from moesim.fabric.topology import Topology, from_cables, star
from moesim.fabric.transfer import PICOSECONDS
from moesim.spec.errors import MoesimError
from moesim.validate.cases import Found, Setting, case

GIBIBYTE = 2.0**30


@case("astra_sim_rows")
def astra_sim_rows(setting: Setting, *, file: str) -> Found:
    """The largest relative difference of a collective's time, over the file's congestion-aware runs.

    A message is one chunk, as there. A ring's all-to-all hands every message on from neighbour to neighbour.
    """
    errors, name = [], ""
    for row in _rows(setting, file):
        seconds = _seconds(row)
        errors.append(seconds / (float(row["simulated_ns"]) * 1e-9) - 1)
        if abs(errors[-1]) == max(map(abs, errors)):
            name = f"{row['collective']}, {row['algorithm']}, {row['topology']} of {row['n_npus']}"
    return Found(error=max(errors, key=abs), rows=len(errors), detail=f"largest: {name}")


def _rows(setting: Setting, file: str) -> Iterator[dict[str, str]]:
    with setting.file(file).open(newline="", encoding="utf-8") as stream:
        yield from (row for row in csv.DictReader(stream) if row["backend"] == "aware")


def _seconds(row: dict[str, str]) -> float:
    devices, size = int(row["n_npus"]), float(row["message_bytes"])
    bandwidth, latency = float(row["bw_GiBps_per_dim"]) * GIBIBYTE, float(row["latency_ns_per_dim"]) * 1e-9
    topology = _topology(row["topology"], devices, bandwidth, latency)
    return sum(
        move.rounds * _round(topology, move, size) for move in _moves(row["collective"], row["algorithm"], devices)
    )


def _topology(kind: str, devices: int, bandwidth: float, latency: float) -> Topology:
    """Latency is that of a link; from device to device over a switch there are two. The links of a ring begin with
    those one way round, which messages to the opposite device take."""
    names = [f"npu{i}" for i in range(devices)]
    if kind == "Switch":
        return star(devices, bandwidth, 2 * latency)
    if kind == "FullyConnected":
        mesh = [(i, j) for i in range(devices) for j in range(i)]
        return from_cables(kind, devices, names, mesh, bandwidth=bandwidth, latency=latency)
    here = np.arange(devices)
    there, ones = np.roll(here, -1), np.ones(2 * devices)
    source, target = np.concatenate([here, there]), np.concatenate([there, here])
    return Topology(
        kind, devices, devices, source, target, bandwidth * ones, latency * ones, 0 * ones, ("scale_up",) * len(ones),
        tuple(names),
    )  # fmt: skip


def _moves(collective: str, algorithm: str, devices: int) -> list[Move]:
    """What travels, in shares of the buffer of a device."""
    layout = Layout(devices, np.arange(devices), None, None)
    everyone = algorithms.mutual_flows(layout.order[None])
    if (collective, algorithm) == ("all_to_all", "direct"):
        return [algorithms.move(everyone, 1 / devices)]
    if (collective, algorithm) == ("all_to_all", "ring"):
        return [algorithms.move(algorithms.ring_flows(layout.order[None]), 1 / devices, devices * (devices - 1) // 2)]
    named = {"ring": "ring", "direct": "direct", "halvingDoubling": "halving-doubling"}
    if collective != "all_reduce" or algorithm not in named:
        raise MoesimError(f"no answer to a {collective} with algorithm {algorithm}", fix="leave these rows out")
    return algorithms.REDUCES[named[algorithm]](layout)


def _round(topology: Topology, move: Move, size: float) -> float:
    """Seconds of one round. Where two ways are as short, all messages take the same one; every device sends to the
    one after it first, so that no two start with the same destination."""
    order = np.argsort((move.flows[:, 1] - move.flows[:, 0]) % topology.endpoints, kind="stable")
    routes = Shortest(ties="lowest").routes(topology, move.flows[order])
    flows = Flows(
        pointer=routes.pointer, link=routes.link, fraction=routes.fraction, size=move.share[order] * size,
        latency=routes.latency, coflow=np.zeros(len(move.share), dtype=np.int64), start=np.zeros(1, dtype=np.int64),
        after=((),),
    )  # fmt: skip
    return store_and_forward(flows, topology, np.inf).end / PICOSECONDS
