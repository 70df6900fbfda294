"""The run as a trace that Perfetto (ui.perfetto.dev) and chrome://tracing open: the Chrome trace event format.

A process per replica holds its steps, counters, and its requests as asynchronous spans; a process for the devices of a
replica holds the operators of the steps that were recorded in full, a track per device and resource. Size is bounded:
what is merged or left out is said in `otherData`.
"""

from __future__ import annotations

import gzip
import heapq
import json
import math
from collections.abc import Iterable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import moesim
from moesim.engine.record import Column, RunRecord, TimelineStep
from moesim.step.graph import ABSENT, PICOSECONDS, RESOURCES

Event = dict[str, Any]
Columns = dict[str, Column]
Nanoseconds = NDArray[np.int64]

#: Bounds on what one trace holds.
MOST_STEPS, MOST_SAMPLES, MOST_REQUESTS, MOST_OPERATORS = 12_000, 2_000, 500, 24_000
#: The first track of a replica's process holds its steps (further ones follow where steps overlap).
STEPS_TRACK = 1
#: Processes are numbered: replicas from 1 (0 is the idle process in Perfetto), their devices from 10,001; requests that
#: no replica has taken yet have one of their own.
UNASSIGNED, DEVICES_PROCESS = 10_000, 10_001


def nanoseconds(seconds: Column) -> Nanoseconds:
    """Whole nanoseconds, the resolution of Perfetto: what touches in the run touches in the trace."""
    return np.rint(np.asarray(seconds, float) * 1e9).astype(np.int64)


def microseconds(time: int) -> float:
    """Nanoseconds as the format's unit. Perfetto multiplies by a thousand and cuts off the fraction, so the number is
    the next one up where the product would fall short. Exact up to eleven days."""
    value = time / 1e3
    return value if int(value * 1e3) == time else math.nextafter(value, math.inf)


def trace(record: RunRecord, name: str = "experiment", seed: int | None = None) -> dict[str, Any]:
    """The trace as a JSON document; times in microseconds, as the format wants them."""
    about: dict[str, Any] = {"name": name, "version": moesim.__version__, "seed": seed}
    about |= {"simulated_seconds": record.end, "partial": record.partial}
    events: list[Event] = []
    for replica in np.unique(record.iterations["replica"]).tolist():
        chosen = record.iterations["replica"] == replica
        steps = {key: column[chosen] for key, column in record.iterations.items()}
        pool = f" ({steps['pool'][0]})" if "pool" in steps else ""
        events += process(_pid(replica), f"replica {replica}{pool}")
        events += _steps(_pid(replica), steps, about)
        events += _counters(_pid(replica), steps)
    events += _requests(record, about)
    events += node_events(record.timeline(), record.devices, about)
    return {"displayTimeUnit": "ms", "otherData": about, "traceEvents": events}


def write_timeline(record: RunRecord, path: Path, name: str = "experiment", seed: int | None = None) -> Path:
    """Write the trace, compressed (Perfetto opens it as it is). Equal runs give equal bytes."""
    return write(trace(record, name, seed), path)


def write(document: dict[str, Any], path: Path) -> Path:
    """Write a trace, compressed."""
    content = json.dumps(document, separators=(",", ":"), allow_nan=False).encode()
    # No file name and no time of writing in the header.
    with path.open("wb") as raw, gzip.GzipFile("", "wb", compresslevel=6, fileobj=raw, mtime=0) as file:
        file.write(content)
    return path


def _pid(replica: int) -> int:
    return UNASSIGNED if replica < 0 else replica + 1


def process(pid: int, name: str) -> list[Event]:
    return [
        {"ph": "M", "name": "process_name", "pid": pid, "tid": STEPS_TRACK, "args": {"name": name}},
        {"ph": "M", "name": "process_sort_index", "pid": pid, "tid": STEPS_TRACK, "args": {"sort_index": pid}},
    ]


def track(pid: int, tid: int, name: str) -> list[Event]:
    return [
        {"ph": "M", "name": "thread_name", "pid": pid, "tid": tid, "args": {"name": name}},
        {"ph": "M", "name": "thread_sort_index", "pid": pid, "tid": tid, "args": {"sort_index": tid}},
    ]


def _groups(count: int, most: int) -> NDArray[np.int64]:
    """Bounds of at most `most` groups of consecutive steps, equal in number; [groups + 1]."""
    size = max(1, -(-count // most))
    return np.append(np.arange(0, count, size), count)


def _steps(pid: int, steps: Columns, about: dict[str, Any]) -> Iterator[Event]:
    """The steps one after another; beyond MOST_STEPS, each slice is a run of consecutive ones."""
    bounds = _groups(len(steps["start"]), MOST_STEPS)
    first, last = bounds[:-1], bounds[1:] - 1
    start = nanoseconds(steps["start"][first])
    end = nanoseconds(np.maximum.reduceat(steps["end"], first))
    sums = {key: np.add.reduceat(steps[key], first) for key in ("prefill_tokens", "decode_tokens", "output_tokens")}
    if len(first) < len(steps["start"]):
        about[f"steps of replica {pid - 1}"] = f"{len(steps['start'])} steps in slices of {bounds[1]}"
    tracks = _free_tracks(start, end)
    for number in range(int(tracks.max(initial=-1)) + 1):
        yield from track(pid, STEPS_TRACK + number, "steps" if number == 0 else f"steps ({number + 1})")
    for i in range(len(first)):
        prefill, decode = int(sums["prefill_tokens"][i]), int(sums["decode_tokens"][i])
        kind = "decode" if prefill == 0 else "prefill" if decode == 0 else "mixed"
        number = int(last[i] - first[i]) + 1
        label = kind if number == 1 else f"{number} steps, {kind}"
        args = {
            "step": int(steps["step"][first[i]]), "steps": number, "prefill_tokens": prefill, "decode_tokens": decode,
            "output_tokens": int(sums["output_tokens"][i]), "sequences": int(steps["sequences"][first[i]]),
        }  # fmt: skip
        yield slice_event(pid, STEPS_TRACK + int(tracks[i]), label, kind, int(start[i]), int(end[i]), args)


def slice_event(pid: int, tid: int, name: str, category: str, start: int, end: int, args: dict[str, Any]) -> Event:
    return {
        "ph": "X", "name": name, "cat": category, "pid": pid, "tid": tid, "ts": microseconds(start),
        "dur": microseconds(end - start), "args": args,
    }  # fmt: skip


def _free_tracks(start: Nanoseconds, end: Nanoseconds) -> NDArray[np.int64]:
    """For each interval the first track that is free at its start, so that no track holds two at once."""
    tracks = np.zeros(len(start), np.int64)
    if not np.any(start[1:] < end[:-1]):
        return tracks
    busy: list[tuple[int, int]] = []  # (end, track)
    free: list[int] = []
    for i in np.argsort(start, kind="stable").tolist():
        while busy and busy[0][0] <= start[i]:
            heapq.heappush(free, heapq.heappop(busy)[1])
        tracks[i] = heapq.heappop(free) if free else len(busy)
        heapq.heappush(busy, (int(end[i]), int(tracks[i])))
    return tracks


def _counters(pid: int, steps: Columns) -> Iterator[Event]:
    """Requests running and waiting, KV cache and output rate, sampled at steps (the rate: over the steps between)."""
    count = len(steps["start"])
    bounds = _groups(count, MOST_SAMPLES)
    first = bounds[:-1]
    time = nanoseconds(steps["start"][first])
    finish = np.maximum.reduceat(steps["end"], first)
    seconds = np.maximum(np.append(steps["start"][first[1:]], finish[-1]) - steps["start"][first], 1e-12)
    # Shown as "requests running", ...: Perfetto puts a counter's name before that of each of its values.
    series = {
        ("requests", "running"): steps["sequences"][first].tolist(),
        ("requests", "waiting"): steps["waiting"][first].tolist(),
        ("KV cache", "%"): np.round(100 * steps["kv_used"][first], 2).tolist(),
        ("output", "tokens/s"): np.round(np.add.reduceat(steps["output_tokens"], first) / seconds, 1).tolist(),
    }
    stamps = [microseconds(at) for at in (*time.tolist(), int(nanoseconds(finish).max()))]
    base = {"ph": "C", "pid": pid, "tid": STEPS_TRACK}
    for (name, unit), values in series.items():
        for stamp, value in zip(stamps, [*values, 0], strict=True):
            yield {"name": name, "ts": stamp, "args": {unit: value}, **base}


def _requests(record: RunRecord, about: dict[str, Any]) -> Iterator[Event]:
    """Asynchronous spans of the first requests: the request, and in it queued, prefill, decode; and its transfer."""
    columns, order = record.requests, np.argsort(record.requests["arrival"], kind="stable")
    if len(order) > MOST_REQUESTS:
        about["requests"] = f"the first {MOST_REQUESTS} of {len(order)}"
    phases, times = _phases(columns)
    # What has not happened lasts until the end of the run.
    marks = nanoseconds(np.fmin(times, record.end))
    if np.any(columns["replica"] < 0):
        yield from process(_pid(-1), "requests without a replica")
    for i in order[:MOST_REQUESTS].tolist():
        number, pid = int(columns["request"][i]), _pid(int(columns["replica"][i]))
        base = {"cat": "request", "id": number, "pid": pid, "tid": STEPS_TRACK}
        finished = not np.isnan(columns["finish"][i])
        args = {key: int(columns[key][i]) for key in ("input_tokens", "output_tokens", "cached_tokens", "preemptions")}
        name = f"request {number}" + ("" if finished else " (unfinished)")
        yield {"ph": "b", "name": name, "ts": microseconds(int(marks[0, i])), "args": args, **base}
        known = int(np.count_nonzero(~np.isnan(times[:, i])))  # the phase in progress is shown too
        ends = marks[: min(known + 1, len(times)), i].tolist()
        for phase, (start, end) in zip(phases, pairwise(ends), strict=False):
            if start == end and phase in _BETWEEN_POOLS:
                continue
            yield {"ph": "b", "name": phase, "ts": microseconds(start), **base}
            yield {"ph": "e", "name": phase, "ts": microseconds(end), **base}
        yield {"ph": "e", "name": name, "ts": microseconds(ends[-1]), **base}


#: Phases of a request that moves from one pool to another.
_BETWEEN_POOLS = ("waiting for blocks", "transfer")


def _phases(columns: Columns) -> tuple[tuple[str, ...], NDArray[np.float64]]:
    """Names of a request's phases, and [phases + 1, requests] the times between which they lie. Of a transfer, what
    comes after the first token."""
    names = ["arrival", "first_scheduled", "first_token", "finish"]
    times = np.array([columns[name] for name in names], float)
    if "transfer_start" not in columns:
        return ("queued", "prefill", "decode"), times
    stays = (columns["decode_replica"] < 0) | (columns["output_tokens"] == 1)
    begin, end = (np.where(stays, times[2], columns[name]) for name in ("transfer_start", "transfer_end"))
    times = np.insert(times, 3, [np.maximum(begin, times[2]), end], axis=0)
    return ("queued", "prefill", *_BETWEEN_POOLS, "decode"), times


def node_events(timeline: Iterable[TimelineStep], devices: Columns, about: dict[str, Any]) -> Iterator[Event]:
    """The nodes of the steps recorded in full, by device and resource."""
    recorded = list(timeline)
    left, tracks = MOST_OPERATORS, set[tuple[int, int]]()
    for index, step in enumerate(recorded):
        rows, lanes = step.graph.rows, step.graph.lanes
        shown = min(lanes, max(1, MOST_OPERATORS // (len(recorded) * max(1, rows))))
        if rows * shown > left:
            about["operators"] = f"{index} of {len(recorded)} recorded steps"
            return
        if shown < lanes:
            about["lanes"] = f"the first {shown} of {lanes} devices of each recorded step"
        left -= rows * shown
        pid = DEVICES_PROCESS + step.replica
        if not any(known == pid for known, _ in tracks):
            yield from process(pid, f"replica {step.replica}: devices")
        yield from _nodes(pid, step, shown, [str(name) for name in devices["name"]], tracks)


def _nodes(pid: int, step: TimelineStep, lanes: int, names: list[str], tracks: set[tuple[int, int]]) -> Iterator[Event]:
    graph = step.graph
    # Rounded as the steps are, so that a step's first operator begins with it.
    start = nanoseconds((step.start + step.schedule.start) / PICOSECONDS)
    finish = nanoseconds((step.start + step.schedule.finish) / PICOSECONDS)
    for lane in range(lanes):
        device = step.devices[lane]
        for row in np.flatnonzero(graph.duration[:, lane] != ABSENT).tolist():
            resource = int(graph.resource[row])
            tid = device * len(RESOURCES) + resource + 1
            if finish[row, lane] == start[row, lane]:
                continue  # below the resolution of the trace
            if (pid, tid) not in tracks:
                tracks.add((pid, tid))
                yield from track(pid, tid, f"{names[device]} {RESOURCES[resource].name}")
            args: dict[str, Any] = {"step": step.step, "layer": int(graph.layer[row]), "kind": graph.kind[row]}
            collective = graph.collectives.get(row)
            if collective is not None:
                args |= {"operation": collective.operation, "algorithm": collective.algorithm}
            begin, end = int(start[row, lane]), int(finish[row, lane])
            yield slice_event(pid, tid, graph.name[row], graph.kind[row], begin, end, args)
