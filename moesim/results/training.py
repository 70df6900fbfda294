"""Tables and summary of a training run."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from moesim.engine.trained import TrainingRecord
from moesim.results.folder import Results
from moesim.results.metrics import clean
from moesim.results.tables import ENERGY_PARTS, Columns, frame, ratio

Summary = dict[str, Any]

#: The tables of a training run's folder.
TRAINING_TABLES = ("tasks", "devices", "operators", "links", "experts")
#: What a device keeps in memory, by the columns of the table.
MEMORY_PARTS = ("weight", "gradient", "optimizer", "activation", "workspace")
_RESOURCES = {"compute": "compute throughput", "memory": "memory bandwidth", "network": "network bandwidth",
              "overhead": "fixed overhead (launches)"}  # fmt: skip


def from_training(record: TrainingRecord, spec: Mapping[str, Any], manifest: Mapping[str, Any]) -> Results:
    """The results of a training step, in memory. `spec` is the resolved document, as plain data."""
    columns = training_columns(record)
    about = {**manifest, "tables": list(TRAINING_TABLES)}
    return Results(dict(spec), about, training_summary(record, columns), lambda name: frame(columns[name]))


def training_columns(record: TrainingRecord) -> dict[str, Columns]:
    """Every table of the run by name, as numpy columns."""
    tasks = dict(record.tasks)
    tasks["duration"] = tasks["end"] - tasks["start"]
    devices = dict(record.devices)
    for resource in ("compute", "network", "copy"):
        devices[f"{resource}_utilisation"] = ratio(devices[f"{resource}_busy"], record.end)
    devices["energy"] = np.sum([devices[f"energy_{part}"] for part in ENERGY_PARTS], axis=0)
    operators, links = dict(record.operators), dict(record.links)
    operators["share"] = ratio(operators["seconds"], np.sum(operators["seconds"]))
    links["utilisation"] = ratio(links["bytes"], links["bandwidth"] * record.end)
    layers, experts = len(record.moe_layers), record.expert_tokens.shape[1]
    load = {
        "layer": np.repeat(np.asarray(record.moe_layers, dtype=np.int64), experts),
        "expert": np.tile(np.arange(experts, dtype=np.int64), layers),
        "tokens": record.expert_tokens.ravel(),
    }
    return {"tasks": tasks, "devices": devices, "operators": operators, "links": links, "experts": load}


def training_summary(record: TrainingRecord, tables: dict[str, Columns] | None = None) -> Summary:
    """SI units, JSON types, null where a quantity is not defined.

    mfu: FLOPs of forward and backward passes, without recomputation, over step time and the peak of the devices that
    take part; hfu: of all that they compute. bubble: see TrainingRecord.

    Args:
        tables: the run's `training_columns`, where the caller has them already.
    """
    columns = training_columns(record) if tables is None else tables
    devices, used = columns["devices"], columns["devices"]["stage"] >= 0
    peak = float(devices["peak_flops"][used].sum()) * record.end
    summary: Summary = {
        "duration": record.end,
        "partial": False,
        "steps": 1,
        "training": {
            "step_time": record.end,
            "sequences": record.sequences,
            "tokens": record.tokens,
            "tokens_per_second": record.tokens / record.end,
            "schedule": record.schedule,
            "stages": record.stages,
            "chunks": record.chunks,
            "micro_batches": record.micro_batches,
            "in_flight": record.in_flight,
            "bubble": record.bubble,
            "bubble_formula": record.formula,
            "after_passes": record.end - record.span,
            "copies_per_token": record.copies,
        },
        "utilisation": {
            "mfu": record.model_flops / peak if peak else math.nan,
            "hfu": record.hardware_flops / peak if peak else math.nan,
            **{name: float(devices[f"{name}_utilisation"][used].mean()) for name in ("compute", "network", "copy")},
        },
        "network": _network(columns),
        "experts": _experts(record),
        "memory": _memory(columns),
        "energy": _energy(record, devices),
        "cost": {
            "total": record.price * record.end if record.price > 0 else math.nan,
            "per_million_tokens": record.price * record.end / record.tokens * 1e6 if record.price > 0 else math.nan,
        },
        "bottleneck": _bottleneck(columns),
        "notes": list(record.notes),
        "kernels": {device: dict(kinds) for device, kinds in record.kernels.items()},
    }
    cleaned: Summary = clean(summary)
    return cleaned


def _network(columns: dict[str, Columns]) -> Summary:
    """Communication on the critical path, and the busiest link of each part of the machine."""
    operators, links, busiest = columns["operators"], columns["links"], []
    for level in dict.fromkeys(links["level"].tolist()):
        members = np.flatnonzero((links["level"] == level) & (links["bytes"] > 0))
        if len(members):
            at = members[int(np.argmax(links["utilisation"][members]))]
            share = float(links["utilisation"][at])
            busiest.append({"level": str(level), "link": str(links["name"][at]), "utilisation": share})
    exposed = float(operators["network_seconds"].sum())
    total = float(operators["seconds"].sum())
    return {"busiest": busiest, "exposed": exposed, "exposed_share": exposed / total if total else math.nan}


def _experts(record: TrainingRecord) -> Summary:
    """Tokens of the fullest expert over the mean, the mean over layers."""
    tokens = record.expert_tokens
    ratios = tokens.max(axis=1) / tokens.mean(axis=1) if tokens.size else np.array([math.nan])
    return {"layers": len(record.moe_layers), "experts": int(tokens.shape[1]), "imbalance": float(ratios.mean())}


def _memory(columns: dict[str, Columns]) -> Summary:
    """Of the fullest device, in bytes."""
    devices = columns["devices"]
    used = np.sum([devices[f"{part}_bytes"] for part in MEMORY_PARTS], axis=0)
    at = int(np.argmax(used / devices["capacity_bytes"]))
    parts = {part: float(devices[f"{part}_bytes"][at]) for part in MEMORY_PARTS}
    capacity = float(devices["capacity_bytes"][at])
    return {**parts, "total": float(used[at]), "capacity": capacity, "share": float(used[at]) / capacity,
            "device": str(devices["name"][at])}  # fmt: skip


def _energy(record: TrainingRecord, devices: Columns) -> Summary:
    """Joules of the devices by component and of the chassis, over the step."""
    parts = {part: float(devices[f"energy_{part}"].sum()) for part in ENERGY_PARTS}
    parts["chassis"] = record.chassis_power * record.end
    total = math.fsum(parts.values())
    return {"total": total, "per_token": total / record.tokens, "average_power": total / record.end, **parts}


def _bottleneck(columns: dict[str, Columns]) -> Summary:
    """The critical path by what bounds it, and Amdahl's bound on twice the resource, as for serving runs."""
    operators = columns["operators"]
    sums = {name: float(operators[f"{name}_seconds"].sum()) for name in _RESOURCES}
    total = math.fsum(sums.values())
    if not total:
        return {"resource": None, "share": math.nan, "speedup": math.nan, "shares": {}, "lines": []}
    shares = {name: value / total for name, value in sums.items()}
    resource = max(shares, key=lambda name: shares[name])
    largest = np.argsort(-operators[f"{resource}_seconds"], kind="stable")[:3]
    named = ", ".join(str(operators["name"][i]) for i in largest if operators[f"{resource}_seconds"][i] > 0)
    line = (
        f"{_RESOURCES[resource]} bounds {100 * shares[resource]:.0f} % of the critical path ({named}); twice of it "
        f"would make the step at most {1 / (1 - shares[resource] / 2):.2f} times as fast"
    )
    return {"resource": resource, "share": shares[resource], "speedup": 1 / (1 - shares[resource] / 2),
            "shares": shares, "lines": [line]}  # fmt: skip
