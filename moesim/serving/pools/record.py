"""The record of a run on two pools: their records side by side, and the moves between them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace

import numpy as np

from moesim.engine.record import Column, RunRecord, TimelineStep, Totals
from moesim.fabric.transfer import PICOSECONDS
from moesim.serving.pools.handover import Handover

#: Of `Totals`, what one machine has once, and what the steps' tokens weigh.
_OF_MACHINE = ("price", "chassis_power")
_OF_REQUESTS = ("dropped", "clipped")
_IMBALANCES = ("rank_imbalance", "expert_imbalance")


def pooled_record(
    prefill: RunRecord, decode: RunRecord, handover: Handover, requests: dict[str, Column], shared: bool
) -> RunRecord:
    """One record of both. Iterations and devices say their pool, requests where and how they moved on.

    Args:
        requests: columns of all requests. shared: both pools are on one machine.
    """
    pools = {"prefill": prefill, "decode": decode}
    offset = 0 if shared else len(prefill.devices["device"])
    steps = {name: {**each.iterations, "pool": _named(name, each.iterations["start"])} for name, each in pools.items()}
    iterations = _stacked(steps["prefill"], steps["decode"])
    order = np.lexsort((iterations["replica"], iterations["start"]))
    return RunRecord(
        requests=requests | _moved(handover, requests),
        iterations={name: column[order] for name, column in iterations.items()},
        itl=_stacked(prefill.itl, decode.itl),
        devices=_devices(pools, handover, offset, shared),
        operators=_operators(prefill.operators, decode.operators),
        links=_links(prefill, decode, handover, shared),
        expert_tokens=_added(prefill.expert_tokens, decode.expert_tokens),
        moe_layers=max(prefill.moe_layers, decode.moe_layers, key=len),
        totals=_totals(prefill, decode, shared),
        end=prefill.end,
        partial=prefill.partial,
        timeline=lambda: [*prefill.timeline(), *(_shifted(step, offset) for step in decode.timeline())],
        notes=list(dict.fromkeys(f"{name} pool: {note}" for name, each in pools.items() for note in each.notes)),
        kernels={**decode.kernels, **prefill.kernels},
    )


def _named(name: str, like: Column) -> Column:
    return np.full(len(like), name)


def _stacked(first: Mapping[str, Column], second: Mapping[str, Column]) -> dict[str, Column]:
    return {name: np.concatenate([first[name], second[name]]) for name in first}


def _shifted(step: TimelineStep, offset: int) -> TimelineStep:
    return replace(step, devices=tuple(device + offset for device in step.devices))


def _moved(handover: Handover, requests: Mapping[str, Column]) -> dict[str, Column]:
    """Where requests decode, and their transfers; -1 and NaN of those that did not move."""
    count = len(requests["request"])
    columns: dict[str, Column] = {}
    columns |= {name: np.full(count, -1, dtype=np.int64) for name in ("decode_replica", "decode_rank")}
    columns |= {name: np.full(count, np.nan) for name in ("transfer_start", "transfer_end", "transfer_bytes")}
    for request, move in handover.moves.items():
        columns["decode_replica"][request], columns["decode_rank"][request] = move.twin.replica, move.twin.rank
        if move.begin >= 0:
            columns["transfer_start"][request] = move.begin / PICOSECONDS
            columns["transfer_bytes"][request] = move.moved
        if move.end >= 0:
            columns["transfer_end"][request] = move.end / PICOSECONDS
    return columns


def _devices(
    pools: Mapping[str, RunRecord], handover: Handover, offset: int, shared: bool
) -> dict[str, Column]:
    """Of both machines, or of one of which each pool uses a part; transfers count as sent by prefill devices."""
    used = {name: np.where(each.devices["replica"] >= 0, name, "") for name, each in pools.items()}
    first, second = ({**each.devices, "pool": used[name]} for name, each in pools.items())
    for name, sums in (("sent_bytes", handover.sent), ("energy_link", handover.joules)):
        first[name] = first[name].copy()
        for device, value in sums.items():
            first[name][device] += value
    if shared:
        decodes = second["replica"] >= 0
        return {name: np.where(decodes, second[name], first[name]) for name in first}
    second["device"] = second["device"] + offset
    for machine, columns in ((name, each) for name, each in (("prefill", first), ("decode", second))):
        columns["name"] = np.array([f"{machine}/{name}" for name in columns["name"]])
    return _stacked(first, second)


def _operators(first: Mapping[str, Column], second: Mapping[str, Column]) -> dict[str, Column]:
    """Summed by name, largest first."""
    both = _stacked(first, second)
    names = list(dict.fromkeys(both["name"].tolist()))
    place = np.array([names.index(name) for name in both["name"].tolist()], dtype=np.int64)
    columns: dict[str, Column] = {"name": np.array(names), "kind": both["kind"][np.unique(place, return_index=True)[1]]}
    for name in first:
        if name == "level":  # where a pool does not communicate, the other's
            largest = [max(both[name][place == row].tolist()) for row in range(len(names))]
            columns[name] = np.array(largest, dtype=str)
        elif name not in columns:
            known = ~np.isnan(both[name])
            total = np.bincount(place[known], weights=both[name][known], minlength=len(names))
            columns[name] = np.where(np.bincount(place[known], minlength=len(names)) > 0, total, np.nan)
    order = np.lexsort((columns["name"], -columns["seconds"]))
    return {name: column[order] for name, column in columns.items()}


def _links(prefill: RunRecord, decode: RunRecord, handover: Handover, shared: bool) -> dict[str, Column]:
    """Links of the pools' own steps, and, as a level of their own, those that entries moved over."""
    if shared:
        links = {**prefill.links, "bytes": prefill.links["bytes"] + decode.links["bytes"]}
    else:
        links = _stacked(prefill.links, decode.links)
    topology = handover.network.topology
    moved = np.flatnonzero(handover.links.carried > 0)
    transfers = {
        "name": np.array([topology.link_name(link) for link in moved.tolist()], dtype=object),
        "level": np.full(len(moved), "transfer"),
        "bandwidth": topology.bandwidth[moved],
        "bytes": handover.links.carried[moved],
    }
    return _stacked(links, transfers)


def _added(first: Column, second: Column) -> Column:
    """Of all MoE layers of either; a pool that makes drafts has more."""
    total = np.zeros(np.maximum(first.shape, second.shape))
    for each in (first, second):
        total[tuple(slice(size) for size in each.shape)] += each
    return total


def _totals(prefill: RunRecord, decode: RunRecord, shared: bool) -> Totals:
    first, second = prefill.totals, decode.totals
    values = {each.name: getattr(first, each.name) + getattr(second, each.name) for each in fields(Totals)}
    for name in (*(_OF_MACHINE if shared else ()), *_OF_REQUESTS):
        values[name] = getattr(first, name)
    weights = np.array([each.expert_tokens.sum() for each in (prefill, decode)])
    for name in _IMBALANCES if weights.sum() else ():
        values[name] = float(weights @ np.nan_to_num([getattr(first, name), getattr(second, name)]) / weights.sum())
    return Totals(**values)
