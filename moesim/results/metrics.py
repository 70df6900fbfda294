"""The summary of a run: latencies, throughput, goodput, utilisation, energy, cost."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moesim.engine.record import RunRecord
from moesim.results.bottleneck import bottleneck
from moesim.results.service import counted, counted_seconds, goodput, stages, throughput
from moesim.results.tables import ENERGY_PARTS, Columns, all_columns, replica_count
from moesim.spec.serving import SloSpec

Summary = dict[str, Any]
PERCENTILES = (50, 90, 95, 99)


def weighted_percentiles(
    values: NDArray[np.float64], counts: NDArray[np.int64], percentiles: Sequence[float]
) -> NDArray[np.float64]:
    """Percentiles of the sample that holds `values[i]` `counts[i]` times, interpolated linearly between neighbours
    (definition 7 of Hyndman and Fan, 1996, the default of numpy), without writing the sample out.

    Returns: one value per percentile (0 to 100); NaN for an empty sample.
    """
    order = np.argsort(values, kind="stable")
    ordered, cumulative = np.asarray(values, float)[order], np.cumsum(np.asarray(counts, np.int64)[order])
    size = int(cumulative[-1]) if len(cumulative) else 0
    if size == 0:
        return np.full(len(percentiles), np.nan)
    position = (size - 1) * np.asarray(percentiles, float) / 100
    below = np.floor(position).astype(np.int64)
    above = np.minimum(below + 1, size - 1)
    low = ordered[np.searchsorted(cumulative, below, side="right")]
    high = ordered[np.searchsorted(cumulative, above, side="right")]
    return np.asarray(low + (high - low) * (position - below))


def distribution(values: NDArray[np.float64], counts: NDArray[np.int64] | None = None) -> dict[str, float]:
    """Mean and percentiles in seconds of what is not NaN."""
    known = ~np.isnan(values)
    sample = np.asarray(values, float)[known]
    weights = np.ones(len(sample), np.int64) if counts is None else np.asarray(counts, np.int64)[known]
    total = int(weights.sum())
    mean = float(np.dot(sample, weights) / total) if total else math.nan
    points = weighted_percentiles(sample, weights, PERCENTILES)
    return {"mean": mean} | {f"p{p}": float(value) for p, value in zip(PERCENTILES, points, strict=True)}


def _per(numerator: float, denominator: float) -> float:
    return numerator / denominator if denominator else math.nan


def _counts(record: RunRecord, requests: Columns) -> Summary:
    """Requests and tokens. The prefix hit rate is the share of the scheduled prompts' tokens found in the cache."""
    totals = record.totals
    finished = int(np.count_nonzero(~np.isnan(requests["finish"])))
    scheduled = ~np.isnan(requests["first_scheduled"])
    prompt = float(requests["input_tokens"][scheduled].sum())
    return {
        "total": len(requests["arrival"]),
        "finished": finished,
        "unfinished": len(requests["arrival"]) - finished,
        "dropped": totals.dropped,
        "clipped": totals.clipped,
        "preemptions": totals.preemptions,
        "prefix_hit_tokens": totals.prefix_hit_tokens,
        "prefix_hit_rate": _per(float(requests["cached_tokens"][scheduled].sum()), prompt),
    }


def _stages(requests: Columns, record: RunRecord, slo: SloSpec) -> list[Summary]:
    """What each stage of the load got, by itself: from its begin to its last token."""
    return [
        {
            "stage": stage,
            "begin": begin,
            "end": end,
            "total": len(own["arrival"]),
            "finished": int(np.count_nonzero(~np.isnan(own["finish"]))),
            **{name: distribution(own[name]) for name in ("ttft", "tpot", "e2e")},
            "throughput": throughput(own, end - begin),
            "goodput": goodput(own, slo, end - begin),
        }
        for stage, begin, end, own in stages(requests, record)
    ]


def _transfer(requests: Columns) -> Summary:
    """Of KV entries between pools: how long they travel, and how long after the first token they have arrived, waiting
    for blocks included."""
    return {
        "bytes": float(np.nansum(requests["transfer_bytes"])),
        "time": distribution(requests["transfer_end"] - requests["transfer_start"]),
        "exposed": distribution(requests["transfer_end"] - requests["first_token"]),
    }


def _pools(record: RunRecord, devices: Columns) -> Summary:
    """Each pool's devices, and the share of the run in which its replicas execute steps."""
    steps, found = record.iterations, {}
    for name in ("prefill", "decode"):
        mine = steps["pool"] == name
        count = len(np.unique(devices["replica"][devices["pool"] == name]))
        seconds = float((steps["end"] - steps["start"])[mine].sum())
        found[name] = {
            "devices": int(np.count_nonzero(devices["pool"] == name)),
            "replicas": count,
            "busy": _per(seconds, count * record.end),
            "kv_peak": float(np.max(steps["kv_used"][mine], initial=0.0)),
        }
    return found


def _utilisation(record: RunRecord) -> Summary:
    """MFU, MBU and their sparse forms (MoE-CAP, arXiv 2412.07067, equations of S-MBU and S-MFU): FLOPs or bytes of all
    forward steps over the time spent in them and the peak of the devices that executed them. The plain forms count
    every expert, so they may exceed 1; the sparse ones count what a step touched. `busy` is the share of the run in
    which a replica executes a step."""
    totals = record.totals
    replicas = replica_count(record.devices)
    compute, memory = (totals.busy * peak / replicas for peak in (totals.peak_flops, totals.peak_bandwidth))
    return {
        "mfu": _per(totals.dense_flops, compute),
        "mbu": _per(totals.dense_bytes, memory),
        "s_mfu": _per(totals.sparse_flops, compute),
        "s_mbu": _per(totals.sparse_bytes, memory),
        "busy": _per(totals.busy, replicas * record.end),
    }


def _network(record: RunRecord, links: Columns) -> Summary:
    """The busiest link of each part of the machine, and communication on the critical path of all steps: seconds that
    computation does not hide (`exposed`), seconds that it does, the share of step time that is exposed, the least time
    for it (see RunRecord.operators) and the distance to it, and the seconds that steps waited on shared links."""
    operators, busiest = record.operators, []
    for level in dict.fromkeys(links["level"].tolist()):
        members = np.flatnonzero((links["level"] == level) & (links["bytes"] > 0))
        if len(members):
            shares = links["utilisation"][members]
            alike = int(np.count_nonzero(shares >= shares.max() * (1 - 1e-9))) - 1
            at = members[int(np.argmax(shares))]
            share = float(links["utilisation"][at])
            busiest.append({"level": str(level), "link": str(links["name"][at]), "alike": alike, "utilisation": share})
    moves = ~np.isnan(operators["least_seconds"].astype(np.float64))
    took, least = float(operators["seconds"][moves].sum()), float(operators["least_seconds"][moves].sum())
    network = float(operators["network_seconds"].sum())
    exposed = max(network - record.totals.hidden, 0.0)
    return {
        "busiest": busiest,
        "exposed": exposed,
        "hidden": record.totals.hidden,
        "exposed_share": _per(exposed, float(operators["seconds"].sum())),
        "sharing": record.totals.sharing,
        "least": least,
        "distance": _per(took + record.totals.sharing, least),
    }


def _experts(record: RunRecord) -> Summary:
    """Load imbalance as max/mean of tokens: within steps (token-weighted), and of the whole run's counts by layer.

    Where not all experts are on the devices: shares of the distinct experts of steps and layers that were in the cache,
    came ahead of their layer, or were computed by the host; and bytes of experts copied to the devices."""
    tokens = np.asarray(record.expert_tokens, float)
    run = math.nan
    if len(record.moe_layers) and tokens.size and tokens.sum() > 0:
        mean = tokens.mean(axis=1)
        run = float(np.mean(tokens.max(axis=1)[mean > 0] / mean[mean > 0]))
    totals = record.totals
    return {
        "layers": len(record.moe_layers),
        "experts": int(tokens.shape[1]) if len(record.moe_layers) else 0,
        "imbalance": totals.expert_imbalance,
        "rank_imbalance": totals.rank_imbalance,
        "run_imbalance": run,
        "hit_rate": _per(totals.expert_hits, totals.expert_requests),
        "fetched_ahead": _per(totals.expert_fetched_ahead, totals.expert_requests),
        "on_host": _per(totals.expert_on_host, totals.expert_requests),
        "copied_bytes": totals.expert_copied,
    }


def _energy(record: RunRecord, devices: Columns) -> Summary:
    """Joules of the devices by component and of the chassis, over the whole run."""
    parts = {part: float(devices[f"energy_{part}"].sum()) for part in ENERGY_PARTS}
    parts["chassis"] = record.totals.chassis_power * record.end
    total = math.fsum(parts.values())
    tokens = float(record.requests["generated_tokens"].sum())
    return {
        "total": total,
        "per_output_token": _per(total, tokens),
        "average_power": _per(total, record.end),
        **parts,
    }


def _cost(record: RunRecord) -> Summary:
    """Dollars for the machine over the run; null where no price is known."""
    price = record.totals.price
    total = price * record.end if price > 0 else math.nan
    return {"total": total, "per_million_output_tokens": _per(total * 1e6, float(_generated(record)))}


def _generated(record: RunRecord) -> int:
    return int(record.requests["generated_tokens"].sum())


def _memory(record: RunRecord) -> Summary:
    """Of the fullest device, in bytes; the KV cache's peak and mean use as a share of its blocks (mean by time)."""
    devices, iterations = record.devices, record.iterations
    summary: Summary = dict.fromkeys(("weights", "kv", "capacity", "share", "kv_peak", "kv_mean"), math.nan)
    if len(devices["weight_bytes"]):
        used = devices["weight_bytes"] + devices["kv_bytes"]
        at = int(np.argmax(used / np.maximum(devices["capacity_bytes"], 1)))
        summary["weights"], summary["kv"] = float(devices["weight_bytes"][at]), float(devices["kv_bytes"][at])
        summary["capacity"] = float(devices["capacity_bytes"][at])
        summary["share"] = _per(float(used[at]), summary["capacity"])
    if len(iterations["kv_used"]):
        duration = iterations["end"] - iterations["start"]
        summary["kv_peak"] = float(np.max(iterations["kv_used"]))
        summary["kv_mean"] = _per(float(np.dot(iterations["kv_used"], duration)), float(duration.sum()))
    return summary


def clean(value: Any) -> Any:
    """Plain JSON: numpy scalars as Python's, NaN and infinity as null."""
    if isinstance(value, dict):
        return {str(key): clean(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [clean(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def summarise(record: RunRecord, slo: SloSpec | None = None, tables: dict[str, Columns] | None = None) -> Summary:
    """The summary of a run: SI units, JSON types, null where a quantity is not defined (no finished request, no price).

    Args:
        tables: the run's `all_columns`, where the caller has them already.
    """
    columns = all_columns(record) if tables is None else tables
    requests, seconds, slo = counted(columns["requests"]), counted_seconds(record), slo or SloSpec()
    summary: Summary = {
        "duration": record.end,
        "partial": record.partial,
        "steps": record.totals.step_count,
        "requests": _counts(record, requests),
        "ttft": distribution(requests["ttft"]),
        "tpot": distribution(requests["tpot"]),
        "itl": distribution(columns["itl"]["duration"], columns["itl"]["count"]),
        "e2e": distribution(requests["e2e"]),
        "throughput": throughput(requests, seconds),
        "goodput": goodput(requests, slo, seconds),
        "utilisation": _utilisation(record),
        "network": _network(record, columns["links"]),
        "experts": _experts(record),
        "memory": _memory(record),
        "energy": _energy(record, columns["devices"]),
        "cost": _cost(record),
        "bottleneck": bottleneck(record),
        "notes": list(record.notes),
        "kernels": {device: dict(kinds) for device, kinds in record.kernels.items()},
    }
    if record.stages:
        summary["stages"] = _stages(requests, record, slo)
    if "transfer_start" in requests:
        summary["transfer"], summary["pools"] = _transfer(requests), _pools(record, columns["devices"])
    cleaned: Summary = clean(summary)
    return cleaned


def numbers(summary: Summary, above: str = "") -> dict[str, float]:
    """The metrics of a summary by dotted name, NaN for null; without truths and texts, what was given (the SLO), and
    lists of the largest (the bottleneck's operators)."""
    found: dict[str, float] = {}
    for key, value in summary.items():
        name = f"{above}{key}"
        if isinstance(value, dict):
            if key != "slo" and name not in ("bottleneck.operators", "intervals"):
                found |= numbers(value, f"{name}.")
        elif value is None or (isinstance(value, (int, float)) and not isinstance(value, bool)):
            found[name] = math.nan if value is None else float(value)
    return found
