"""A run record from a small batch server, to test what reads records without an engine.

One server takes waiting requests in order of arrival, up to `slots` at a time. A step takes `step` seconds plus
`per_prompt` seconds per prompt token of the requests that joined; each step gives every running request one token. With
one slot, one output token and per_prompt = 0 this is a single-server queue with constant service time.
"""

import numpy as np

from moesim.engine.record import RunRecord, TimelineStep, Totals
from moesim.step.graph import ABSENT, COMPUTE, NETWORK, PICOSECONDS, Schedule, StepGraph

ITERATION_COLUMNS = (
    "replica", "step", "start", "end", "prefill_tokens", "decode_tokens", "sequences", "waiting", "kv_used",
    "prefill_sequences", "output_tokens",
)  # fmt: skip


def serve(arrivals, inputs, outputs, *, slots=64, step=0.02, per_prompt=2e-5):
    """Returns the request columns, the iteration columns, and the inter-token latencies of the server."""
    count = len(arrivals)
    scheduled, first, finish = (np.full(count, np.nan) for _ in range(3))
    running, left, rows = np.zeros(0, int), np.zeros(0, int), []
    clock, following, gaps = 0.0, 0, ([], [])
    while following < count or len(running):
        if not len(running):
            clock = max(clock, arrivals[following])
        ready = int(np.searchsorted(arrivals, clock, side="right"))
        joining = np.arange(following, min(ready, following + slots - len(running)))
        following += len(joining)
        scheduled[joining] = clock
        prompt = int(inputs[joining].sum())
        end = clock + step + per_prompt * prompt
        kv = min(1.0, (len(running) + len(joining)) / slots)
        rows.append((0, len(rows), clock, end, prompt, len(running), len(running) + len(joining), ready - following, kv,
                     len(joining), len(running) + len(joining)))  # fmt: skip
        if len(running):
            gaps[0].append(end - clock)
            gaps[1].append(len(running))
        clock = first[joining] = end
        running, left = np.append(running, joining), np.append(left, outputs[joining]) - 1
        finish[running[left == 0]] = clock
        running, left = running[left > 0], left[left > 0]
    table = np.array(rows)
    iterations = {name: table[:, i] for i, name in enumerate(ITERATION_COLUMNS)}
    for name in set(ITERATION_COLUMNS) - {"start", "end", "kv_used"}:
        iterations[name] = iterations[name].astype(np.int64)
    requests = {
        "request": np.arange(count), "arrival": arrivals, "replica": np.zeros(count, np.int64),
        "rank": np.zeros(count, np.int64), "input_tokens": inputs, "output_tokens": outputs,
        "generated_tokens": outputs.copy(), "cached_tokens": np.zeros(count, np.int64), "first_scheduled": scheduled,
        "first_token": first, "finish": finish, "preemptions": np.zeros(count, np.int64),
    }  # fmt: skip
    return requests, iterations, {"duration": np.array(gaps[0]), "count": np.array(gaps[1], np.int64)}


def device_columns(count, end, busy):
    """`count` equal devices that compute for `busy` seconds, alternately 5 % more and less, and send for a quarter."""
    uneven = busy * (1 + 0.05 * (-1.0) ** np.arange(count))
    ones = np.ones(count)
    return {
        "device": np.arange(count), "name": np.array([f"gpu{i}" for i in range(count)]),
        "descriptor": np.array(["accelerator"] * count), "replica": np.zeros(count, np.int64),
        "dp_rank": np.arange(count), "stage": np.zeros(count, np.int64), "compute_busy": 0.6 * uneven,
        "network_busy": 0.25 * busy * ones, "flops": 1e15 * ones, "memory_bytes": 1e14 * ones,
        "sent_bytes": 1e12 * ones, "energy_compute": 3e2 * end * ones / 10, "energy_memory": 1e2 * end * ones / 10,
        "energy_link": 1e1 * end * ones / 10, "energy_idle": 75 * end * ones, "weight_bytes": 31e9 * ones,
        "kv_bytes": 50e9 * ones, "capacity_bytes": 96e9 * ones, "peak_flops": 500e12 * ones,
        "peak_bandwidth": 1.79e12 * ones,
    }  # fmt: skip


#: name, kind, and seconds bound by compute, memory, network, overhead; 10 seconds in all.
OPERATORS = (
    ("qkv projection", "gemm", 0.3, 0.4, 0.0, 0.05),
    ("attention", "attention", 0.1, 1.9, 0.0, 0.05),
    ("output projection", "gemm", 0.1, 0.3, 0.0, 0.05),
    ("all-gather", "all_gather", 0.0, 0.0, 0.45, 0.1),
    ("experts", "experts", 0.2, 4.0, 0.0, 0.1),
    ("reduce-scatter", "reduce_scatter", 0.0, 0.0, 0.55, 0.1),
    ("norms", "norm", 0.0, 0.2, 0.0, 0.1),
    ("lm head", "gemm", 0.05, 0.3, 0.0, 0.0),
    ("host", "host", 0.0, 0.0, 0.0, 0.6),
)


def operator_columns():
    names, kinds, compute, memory, network, overhead = zip(*OPERATORS, strict=True)
    parts = [np.array(part) for part in (compute, memory, network, overhead)]
    columns = {"name": np.array(names), "kind": np.array(kinds), "seconds": np.sum(parts, axis=0)}
    labels = ("compute", "memory", "network", "overhead")
    columns |= {f"{name}_seconds": part for name, part in zip(labels, parts, strict=True)}
    moves = parts[2] > 0  # half of the time of every transfer is its least
    columns["least_seconds"] = np.where(moves, parts[2] / 2, np.nan)
    columns["level"] = np.where(moves, "scale_up", "")
    computes = ~moves & (columns["kind"] != "host")
    columns["device_seconds"] = np.where(computes, 2 * columns["seconds"], np.nan)
    columns["flops"] = np.where(computes, columns["seconds"] * 5e13, np.nan)
    columns["memory_bytes"] = np.where(computes, columns["seconds"] * 3e12, np.nan)
    return columns


def link_columns(devices):
    """A port out of and into each device, of 50 GB/s; the further, the more bytes."""
    names = [f"node0/gpu{i} -> switch" for i in range(devices)] + [f"switch -> node0/gpu{i}" for i in range(devices)]
    return {
        "name": np.array(names),
        "level": np.array(["scale_up"] * 2 * devices),
        "bandwidth": np.full(2 * devices, 50e9),
        "bytes": np.tile(np.arange(devices) * 1e9, 2),
    }


def timeline_step(start, lanes=2, layers=4):
    """A step of `layers` layers: computation on every lane, then a collective that waits for the slowest."""
    names, kinds, layer, duration, start_at, finish_at = [], [], [], [], [], []
    clock = 0
    for index in range(layers):
        work = np.array([50_000_000 + 7_000_000 * lane for lane in range(lanes)])
        for name, kind, cost in (("experts", "experts", work), ("combine", "all_gather", np.full(lanes, 20_000_000))):
            names.append(name)
            kinds.append(kind)
            layer.append(index)
            duration.append(cost)
            start_at.append(np.full(lanes, clock))
            finish_at.append(clock + cost)
            clock = int(finish_at[-1].max())
    rows = len(names)
    graph = StepGraph(
        name=tuple(names), kind=tuple(kinds), layer=np.array(layer),
        resource=np.array([COMPUTE, NETWORK] * layers), duration=np.array(duration),
        partition=np.array([0, 1] * layers), partitions=np.array([range(lanes), [0] * lanes]),
        joint=np.array([False, True] * layers), predecessors=tuple((i - 1,) if i else () for i in range(rows)),
    )  # fmt: skip
    schedule = Schedule(np.array(start_at), np.array(finish_at))
    assert schedule.makespan != ABSENT
    return TimelineStep(int(start * PICOSECONDS), 0, 0, "decode of 8 sequences", graph, schedule, tuple(range(lanes)))


def record(count=300, rate=10.0, *, seed=1, devices=2, layers=48, experts=128, timeline=True, **server):
    """A run of `count` requests at `rate` per second on `devices` devices; layers = 0: a model without experts."""
    random = np.random.default_rng(seed)
    arrivals = np.cumsum(random.exponential(1 / rate, count))
    inputs, outputs = (random.lognormal(np.log(m), 0.8, count).astype(np.int64).clip(1) for m in (220, 160))
    requests, iterations, itl = serve(arrivals, inputs, outputs, **server)
    busy, end = float(np.sum(iterations["end"] - iterations["start"])), float(iterations["end"][-1])
    popularity = random.permuted(np.tile(np.arange(1, experts + 1) ** -0.7, (layers, 1)), axis=1)
    tokens = popularity / popularity.sum(axis=1, keepdims=True) * 8 * int(inputs.sum() + outputs.sum())
    totals = Totals(
        busy=busy, step_count=len(iterations["start"]), sparse_flops=0.05 * 1e15 * busy, dense_flops=0.8 * 1e15 * busy,
        sparse_bytes=0.5 * 3.58e12 * busy, dense_bytes=0.9 * 3.58e12 * busy, rank_imbalance=1.12,
        expert_imbalance=4.1, price=2 * 0.5e-3, chassis_power=200.0, peak_flops=1e15, peak_bandwidth=3.58e12,
    )  # fmt: skip
    return RunRecord(
        requests=requests, iterations=iterations, itl=itl, devices=device_columns(devices, end, busy),
        operators=operator_columns(), links=link_columns(devices), expert_tokens=np.rint(tokens),
        moe_layers=tuple(range(layers)), totals=totals, end=end,
        timeline=lambda: [timeline_step(iterations["start"][0], devices)] if timeline else [],
    )  # fmt: skip
