"""What a difference comes from: mean times of steps and requests, divided into parts that add up to them.

A step is divided as the run's critical path is (`operators`): by operator, and by what bounds it, each with the place
that it waits for: a memory tier, arithmetic, a part of the network, launches and the host. TPOT and decoding are
divided as the mean step is: a request that is decoded waits for steps. TTFT is waiting, and the steps of the prompt.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from moesim.hardware.machine import assemble
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
    length = math.fsum(each.seconds for each in step.values())
    requests = counted({str(name): column.to_numpy() for name, column in results.requests.items()})
    found = {"step": step, "tpot": _scaled(step, _mean(requests["tpot"]) / length)}
    served, finished = (~np.isnan(requests[name]) for name in ("first_token", "finish"))
    found["ttft"] = _first_token(requests, results, spec, served)
    decoding = _mean(requests["finish"] - requests["first_token"])
    found["e2e"] = _first_token(requests, results, spec, finished) | _scaled(step, decoding / length)
    return {
        name: parts
        for name, parts in found.items()
        if parts and all(math.isfinite(each.seconds) for each in parts.values())
    }


def _step(results: Results, spec: ExperimentSpec) -> Parts:
    """Of the mean step of a replica."""
    summary, operators = results.summary, results.operators
    steps, replicas = summary["steps"], len(set(results.devices["replica"]) - {-1})
    busy = (summary["utilisation"]["busy"] or 0.0) * summary["duration"] * replicas
    places = _places(results, spec)
    found: Parts = {}
    for row in operators.to_dict("records"):
        for bound in RESOURCES:
            if seconds := row[f"{bound}_seconds"]:
                where = _level(str(row["level"]), spec) if bound == "network" else places[bound]
                found[Part(str(row["name"]), bound)] = Share(seconds / steps, where)
    hidden = summary["network"]["hidden"]
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


def _places(results: Results, spec: ExperimentSpec) -> dict[str, str]:
    """What the devices in use wait for, by what bounds them."""
    used = results.devices[results.devices["replica"] >= 0]
    machine = assemble(spec.machine, spec.library)
    tiers = {device.spec.name: device.memory.tier for device in machine.devices}
    names = dict.fromkeys(used["descriptor"].astype(str))
    return {
        "compute": ", ".join(names),
        "memory": ", ".join(f"{tiers[name]} of {name}" for name in names),
        "overhead": "launches and host",
    }


def _level(level: str, spec: ExperimentSpec) -> str:
    """A part of the network, by the name of its fabric where it is all of it."""
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
    """Where a part would be that is missing: a run's kernels wait for the same memory and arithmetic, all of them."""
    places = (share.where for part, share in parts.items() if part.bound == missing.bound)
    return "" if missing.bound == "network" else next(places, "")
