"""What a difference comes from: mean times of steps and requests, divided into parts that add up to them.

A step is divided as the run's critical path is (`operators`): by operator, and by what bounds it, each with the place
that it waits for: a memory tier, arithmetic, a part of the network, launches and the host. TPOT and decoding are
divided as the mean step is: a request that is decoded waits for steps. TTFT is waiting, and the steps of the prompt.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from moesim.hardware.device import make_device
from moesim.results.bottleneck import RESOURCES, passed_over
from moesim.results.service import counted
from moesim.results.tables import Columns
from moesim.spec.experiment import ExperimentSpec

if TYPE_CHECKING:
    import pandas as pd

    from moesim.results import Results

#: What is divided: the mean over all steps, and over the requests that have it.
DIVIDED = ("step", "tpot", "ttft", "e2e")


class Part(NamedTuple):
    """Of a time: an operator or a kind of waiting, and what bounds it: one of RESOURCES, `waiting`, `steps`."""

    name: str
    bound: str


class Share(NamedTuple):
    """What a part takes, in seconds, and where: of which memory, device, or part of the network."""

    seconds: float
    where: str


Parts = dict[Part, Share]


def divided(results: Results, spec: ExperimentSpec) -> dict[str, Parts]:
    """Mean seconds of those of DIVIDED that are defined, by part. Each sums to its mean; what is rounded away is a
    part too."""
    step = _step(results, spec)
    if spec.training is not None:
        return {"step": step}
    requests = counted({str(name): column.to_numpy() for name, column in results.requests.items()})
    found = {"step": step, "tpot": _decoding(requests, step, requests["output_tokens"] - 1.0)}
    served, finished = (~np.isnan(requests[name]) for name in ("first_token", "finish"))
    found["ttft"] = _first_token(requests, results, spec, served)
    found["e2e"] = _first_token(requests, results, spec, finished) | _decoding(requests, step, np.ones(len(finished)))
    return {
        name: parts
        for name, parts in found.items()
        if parts and all(math.isfinite(each.seconds) for each in parts.values())
    }


def _step(results: Results, spec: ExperimentSpec) -> Parts:
    """Of the mean step of a replica, or of the training step."""
    summary, operators, steps = results.summary, results.operators, results.summary["steps"]
    busy = summary["duration"]
    if spec.training is None:
        busy *= (summary["utilisation"]["busy"] or 0.0) * len(set(results.devices["replica"]) - {-1})
    places = _places(results, spec)
    found: Parts = {}
    for row in operators.to_dict("records"):
        for bound in RESOURCES:
            if seconds := row[f"{bound}_seconds"]:
                where = _elsewhere(row, bound, spec) or places[bound]
                found[Part(str(row["name"]), bound)] = Share(seconds / steps, where)
    hidden = summary["network"].get("hidden")
    if hidden:
        found[Part("hidden behind computation", "network")] = Share(-hidden / steps, "")
    rest = busy / steps - math.fsum(each.seconds for each in found.values()) if steps else math.nan
    found[Part("rounding", "overhead")] = Share(rest, places["overhead"])
    return found


def _first_token(requests: Columns, results: Results, spec: ExperimentSpec, which: NDArray[np.bool_]) -> Parts:
    """Mean time to the first token, of `which` requests."""
    if not which.any():
        return {}
    steps = {name: results.iterations[name].to_numpy() for name in ("replica", "start")}
    own = {name: column[which] for name, column in requests.items()}
    front = spec.engine.frontend_latency
    waiting, queued = own["first_scheduled"] - own["arrival"] - front, passed_over(own, steps)
    found = {
        Part("in the queue", "waiting"): Share(float(np.where(queued, waiting, 0.0).mean()), ""),
        Part("for the step in progress", "waiting"): Share(float(np.where(queued, 0.0, waiting).mean()), ""),
        Part("steps of the prompt", "steps"): Share(_mean(own["first_token"] - own["first_scheduled"]), ""),
    }
    return found | ({Part("front end", "waiting"): Share(front, "")} if front else {})


def _decoding(requests: Columns, step: Parts, tokens: NDArray[np.float64]) -> Parts:
    """Mean time from the first token to the last, over `tokens` [requests] of each. With prefill and decode apart, the
    way to the decode pool and its steps; the operators of the mean step are then of both pools, and say nothing."""
    took = _over(requests["finish"] - requests["first_token"], tokens)
    if "transfer_end" not in requests:
        length = math.fsum(each.seconds for each in step.values())
        return _scaled(step, _mean(took) / length) if length else {}
    way = np.nan_to_num(_over(requests["transfer_end"] - requests["first_token"], tokens))
    moved = np.where(np.isnan(took), np.nan, np.maximum(way, 0.0))
    return {
        Part("transfer to the decode pool", "waiting"): Share(_mean(moved), ""),
        Part("steps of the decode pool", "steps"): Share(_mean(took - moved), ""),
    }


def _over(seconds: NDArray[np.float64], tokens: NDArray[np.float64]) -> NDArray[np.float64]:
    """NaN where there are no tokens."""
    found: NDArray[np.float64] = np.divide(seconds, tokens, out=np.full(len(seconds), np.nan), where=tokens > 0)
    return found


def _places(results: Results, spec: ExperimentSpec) -> dict[str, str]:
    """What the devices in use wait for, by what bounds them."""
    devices = results.devices
    used = devices[devices["stage"] >= 0]
    names = dict.fromkeys(used["descriptor"].astype(str))
    known = [make_device(spec.library.devices[name], index=0, name=name, node=0) for name in names]
    tiers = {device.name: device.memory.tier for device in known}
    return {
        "compute": ", ".join(names),
        "memory": ", ".join(f"{tiers[name]} of {name}" for name in names),
        "overhead": "launches and host",
        "network": "",
    }


def _elsewhere(row: Mapping[Any, Any], bound: str, spec: ExperimentSpec) -> str:
    """Of operators that are not on the devices: a part of the network, by the name of its fabric where it is all of it;
    the tier that experts are copied from; the hosts. Empty for others."""
    if row["kind"] == "copy" and spec.experts is not None:
        return f"copies from {spec.experts.tier}"
    if row["name"] == "host_experts":
        return ", ".join(spec.machine.host)
    level = str(row.get("level", "scale_up")) if bound == "network" else ""
    return {"scale_up": spec.machine.fabric, "scale_out": spec.machine.scale_out}.get(level) or level


def _scaled(parts: Parts, factor: float) -> Parts:
    return {part: share._replace(seconds=share.seconds * factor) for part, share in parts.items()}


def _mean(values: NDArray[np.float64]) -> float:
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else math.nan


def causes(base: dict[str, Parts], change: dict[str, Parts]) -> pd.DataFrame:
    """One row per part: `of` (DIVIDED), `part`, `bound`, `where`, `base`, `change`, `difference` (seconds) and `share`,
    of the whole difference; largest differences first. The rows of one `of` sum to its values."""
    import pandas as pd

    rows = []
    for of in DIVIDED:
        if of in base and of in change:
            rows += sorted(_compared(of, base[of], change[of]), key=lambda row: -abs(float(str(row["difference"]))))
    return pd.DataFrame(rows, columns=["of", "part", "bound", "where", "base", "change", "difference", "share"])


def _compared(of: str, base: Parts, change: Parts) -> Iterator[dict[str, object]]:
    whole = sum(each.seconds for each in change.values()) - sum(each.seconds for each in base.values())
    for part in dict.fromkeys((*base, *change)):
        before, after = (parts.get(part) or Share(0.0, _home(parts, part)) for parts in (base, change))
        places = dict.fromkeys(each.where for each in (before, after) if each.where)
        difference = after.seconds - before.seconds
        yield {
            "of": of, "part": part.name, "bound": part.bound, "where": " → ".join(places), "base": before.seconds,
            "change": after.seconds, "difference": difference, "share": difference / whole if whole else np.nan,
        }  # fmt: skip


def _home(parts: Parts, missing: Part) -> str:
    """Where a part would be that is missing: a run's kernels wait for the same memory and arithmetic, nearly all of
    them."""
    places = (share.where for part, share in parts.items() if part.bound == missing.bound)
    return "" if missing.bound == "network" or missing.name == "host_experts" else next(places, "")
