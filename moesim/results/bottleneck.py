"""What bounds a run: the resource that step time waits for, uneven devices, the queue, the host."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moesim.engine.record import RunRecord
from moesim.results.tables import Columns, replica_count

#: Resources of step time, and how a sentence calls them.
RESOURCES = {
    "compute": "compute throughput",
    "memory": "memory bandwidth",
    "network": "network bandwidth",
    "overhead": "fixed overhead (launches, host)",
}
#: A share below this is not worth a line.
NOTICEABLE = 0.05
#: Share of a KV cache from which it counts as full.
_FULL = 0.95
#: Shares of the requests, and their number, that must be waiting at the last arrival for the queue to count as growing.
BACKLOG_SHARE, BACKLOG_LEAST = 0.05, 10
#: Requests come at once that come within a hundredth of the time, and before so many steps have begun.
_AT_ONCE, _FEW_STEPS = 0.01, 10


def bottleneck(record: RunRecord) -> dict[str, Any]:
    """Which resource bounds step time and by how much, with sentences (`lines`) for a reader.

    `shares` divide the critical path of all steps by what bounds each operator. `speedup` is Amdahl's bound (1967) on
    faster steps from twice the resource: 1 / (1 - share / 2), reached only if nothing else becomes the bound.
    `waiting_share` is the part of all TTFT spent before the first scheduling; `queued_share` that of requests which a
    step passed over: the others only waited for the step in progress to end.
    """
    result = _step_time(record)
    result |= {"device_imbalance": _device_imbalance(record), **_queue(record)}
    replicas = replica_count(record.devices)
    result["busy"] = record.totals.busy / (replicas * record.end) if record.end else math.nan
    result["lines"] = _lines(result, record)
    return result


def _step_time(record: RunRecord) -> dict[str, Any]:
    operators = record.operators
    seconds = {name: np.asarray(operators[f"{name}_seconds"], float) for name in RESOURCES}
    total = math.fsum(float(column.sum()) for column in seconds.values())
    if total <= 0:
        return {"resource": None, "share": math.nan, "speedup": math.nan, "shares": {}, "operators": {}}
    shares = {name: float(column.sum()) / total for name, column in seconds.items()}
    resource = max(shares, key=lambda name: shares[name])
    column = seconds[resource]
    largest = [int(i) for i in np.argsort(-column, kind="stable")[:3] if column[i] > 0]
    return {
        "resource": resource,
        "share": shares[resource],
        "speedup": 1 / (1 - shares[resource] / 2),
        "shares": shares,
        "operators": {str(operators["name"][i]): float(column[i]) / total for i in largest},
    }


def _device_imbalance(record: RunRecord) -> float:
    """Max/mean of the compute time of the devices in use."""
    busy = np.asarray(record.devices["compute_busy"], float)[record.devices["replica"] >= 0]
    return float(busy.max() / busy.mean()) if len(busy) and busy.mean() > 0 else math.nan


def _queue(record: RunRecord) -> dict[str, Any]:
    """Waiting share of TTFT, and the growth of the queue: of the stage in which it is the longest, those that are
    overloaded first."""
    requests = record.requests
    arrival, scheduled, first = requests["arrival"], requests["first_scheduled"], requests["first_token"]
    served = ~np.isnan(first)
    ttft = float((first - arrival)[served].sum())
    waiting = float((scheduled - arrival)[served].sum())
    result: dict[str, Any] = {"waiting_share": waiting / ttft if ttft > 0 else math.nan}
    queued = float((scheduled - arrival)[served & passed_over(requests, record.iterations)].sum())
    result["queued_share"] = queued / ttft if ttft > 0 else math.nan
    stage = requests.get("stage", np.zeros(len(arrival), dtype=np.int64))
    stages = [_growth(record, stage == number) | {"stage": int(number)} for number in np.unique(stage[stage >= 0])]
    for each in stages:
        each["overloaded"] &= each["stage"] not in record.closed
    result |= {"backlog": 0, "backlog_halfway": 0, "overloaded": False, "at_once": False}
    if stages:
        result |= max(stages, key=lambda each: (each["overloaded"], not each["at_once"], each["backlog"]))
    if "stage" not in requests:
        result.pop("stage", None)
    result["overloaded"] |= record.overloaded
    return result


def _growth(record: RunRecord, stage: NDArray[np.bool_]) -> dict[str, Any]:
    """Whether the queue grew while the requests of a stage arrived: a stable queue stays bounded however many requests
    come, an overloaded one holds a fixed share of them and twice as many at the end as halfway."""
    requests = record.requests
    arrival = requests["arrival"][stage]
    first, last, halfway = float(arrival.min()), float(arrival.max()), float(np.median(arrival))
    finish = requests["finish"][stage]
    seconds = record.end if stage.all() or np.isnan(finish).any() else float(finish.max()) - first
    start = record.iterations["start"]
    begun = int(np.bincount(record.iterations["replica"][(start >= first) & (start < last)], minlength=1).max())
    at_once = bool(len(arrival) > 1 and last - first < _AT_ONCE * seconds and begun < _FEW_STEPS)
    backlog, before = _backlog(record, last), _backlog(record, halfway)
    many = backlog >= max(BACKLOG_LEAST, BACKLOG_SHARE * len(arrival))
    overloaded = bool(before < 0.75 * backlog and many and not at_once)
    return {"backlog": backlog, "backlog_halfway": before, "overloaded": overloaded, "at_once": at_once}


def passed_over(requests: Columns, steps: Columns) -> NDArray[np.bool_]:
    """[requests] Whether a step of a request's replica began while it waited."""
    passed = np.zeros(len(requests["arrival"]), dtype=bool)
    for replica in np.unique(requests["replica"]):
        mine = requests["replica"] == replica
        begin = np.sort(steps["start"][steps["replica"] == replica])
        # NaN, never scheduled, sorts behind all steps.
        until = np.searchsorted(begin, requests["first_scheduled"][mine])
        passed[mine] = until > np.searchsorted(begin, requests["arrival"][mine])
    return passed


def _backlog(record: RunRecord, time: float) -> int:
    """Requests that have arrived and were not scheduled yet."""
    arrived = np.count_nonzero(record.requests["arrival"] <= time)
    return int(arrived - np.count_nonzero(record.requests["first_scheduled"] <= time))


def percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def _lines(result: dict[str, Any], record: RunRecord) -> list[str]:
    if result["resource"] is None:
        return ["no step was executed"]
    lines = [_headline(result)]
    overhead = result["shares"]["overhead"]
    if result["resource"] != "overhead" and overhead >= NOTICEABLE:
        lines.append(f"kernel launches and the host take {percent(overhead)} of step time")
    # The mean over two pools says nothing of the one that bounds.
    busy = math.nan if "pool" in record.iterations else result["busy"]
    return lines + _imbalance_line(result, record) + _memory_line(record) + _queue_lines(result, busy)


def _headline(result: dict[str, Any]) -> str:
    resource, share = result["resource"], result["share"]
    parts = ", ".join(f"{name} {percent(part)}" for name, part in result["operators"].items() if part >= 0.01)
    within = f" ({parts})" if parts else ""
    change = "halving" if resource == "overhead" else "doubling"
    bound = f"{change} it would speed steps up by at most {result['speedup']:.2f}×"
    return f"{RESOURCES[resource]} bounds {percent(share)} of step time{within}; {bound}"


def _imbalance_line(result: dict[str, Any], record: RunRecord) -> list[str]:
    devices, ranks = result["device_imbalance"], record.totals.rank_imbalance
    parts = []
    if len(record.devices["device"]) > 1 and devices >= 1 + NOTICEABLE:
        parts.append(f"the busiest device computes {devices:.2f}× as long as the mean")
    if ranks >= 1 + NOTICEABLE:
        parts.append(f"the fullest expert-parallel rank gets {ranks:.2f}× the mean tokens of a step")
    return ["; ".join(parts)] if parts else []


def _memory_line(record: RunRecord) -> list[str]:
    """Whether the KV cache is what keeps sequences from running."""
    preemptions, used = record.totals.preemptions, record.iterations["kv_used"]
    if not preemptions or np.max(used, initial=0.0) < _FULL:
        return []
    times = "once" if preemptions == 1 else f"{preemptions:,} times"
    return [f"the KV cache is full: {times} a sequence lost its entries to another, and was computed again"]


def _queue_lines(result: dict[str, Any], busy: float) -> list[str]:
    waiting = result["waiting_share"]
    if result["at_once"] and not result["overloaded"]:
        return ["all requests arrive at once: latencies measure the queue, throughput the machine"]
    if result["overloaded"]:
        count, halfway = result["backlog"], result["backlog_halfway"]
        where = f" in stage {result['stage']}" if "stage" in result else ""
        return [
            f"overloaded, the queue grows{where}: {count} requests wait when the last one arrives ({halfway} halfway), "
            f"waiting is {percent(waiting)} of TTFT"
        ]
    # Mostly one or the other: the queue, or what any request waits for that comes between two steps.
    where = "in the queue" if result["queued_share"] >= waiting / 2 else "for the step in progress"
    lines = [f"waiting {where} is {percent(waiting)} of TTFT"] if waiting >= NOTICEABLE else []
    if busy < 0.7:
        lines.append(f"steps run {percent(busy)} of the time: arrivals, not the machine, bound throughput")
    return lines
