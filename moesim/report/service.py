"""What each stage of a load and each class of request got, as lines of the console's summary."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from moesim.report.text import memory_size, percent, short_time, significant

#: More lines than these would hide the rest of the summary.
_MOST = 8


def stage_lines(summary: Mapping[str, Any]) -> str:
    """A line for each stage: throughput, mean latencies, goodput; empty where there is but one."""
    stages = summary.get("stages", [])
    if len(stages) < 2:
        return ""
    return _lines([f"{stage['stage']}: {_service(stage)}" for stage in stages])


def class_lines(summary: Mapping[str, Any]) -> str:
    """A line for each class of requests that has an objective."""
    classes = summary["goodput"].get("classes", {})
    return _lines(
        [
            f"{name}: {significant(entry['requests'])} requests/s, {percent(entry['share'])} meet their SLO"
            for name, entry in classes.items()
            if entry["slo"]
        ]
    )


def _service(stage: Mapping[str, Any]) -> str:
    rate = stage["throughput"]["requests"]
    parts = ["–" if rate is None else f"{significant(rate)} requests/s"]
    for name, label in (("ttft", "TTFT"), ("tpot", "TPOT"), ("e2e", "E2E")):
        parts.append(f"{label} {short_time(stage[name]['mean'])}")
    if stage["goodput"]["slo"]:
        parts.append(f"{percent(stage['goodput']['share'])} meet the SLO")
    return " · ".join(parts)


def _lines(lines: list[str]) -> str:
    hidden = len(lines) - _MOST
    return "\n".join(lines[:_MOST] + ([f"and {hidden} more in summary.json"] if hidden > 0 else []))


def pool_lines(summary: Mapping[str, Any]) -> str:
    """Of a run on two pools: how busy each is, and what moving from one to the other takes."""
    if "pools" not in summary:
        return ""
    lines = [
        f"{name}: {pool['devices']} devices, {percent(pool['busy'])} busy, KV cache {percent(pool['kv_peak'])} at most"
        for name, pool in summary["pools"].items()
    ]
    transfer = summary["transfer"]
    mean, late = (transfer[part]["mean"] for part in ("time", "exposed"))
    if mean is not None:
        lines.append(
            f"transfer: {memory_size(transfer['bytes'])}, {short_time(mean)} each, there {short_time(late)} after the "
            f"first token"
        )
    return "\n".join(lines)
