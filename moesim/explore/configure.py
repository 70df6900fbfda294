"""The parallelism configurator: every layout of a model on so many devices, ranked."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from moesim.spec.errors import MoesimError
from moesim.spec.library import did_you_mean

if TYPE_CHECKING:
    import pandas as pd

    from moesim.spec.experiment import ExperimentSpec

#: Requests under way per device, where nobody says how many on all of them.
PER_DEVICE = 16


def configure(
    model: str | Path,
    machine: str | Path,
    *,
    devices: int | None = None,
    metric: str = "throughput",
    engine: str = "vllm-0.19",
    concurrency: int | None = None,
    prompt: int = 1024,
    output: int = 512,
    overrides: Sequence[str] = (),
) -> pd.DataFrame:
    """Rank every tensor, pipeline, data and expert parallelism of a model on a machine, from the prices of two steps
    each (`steady.Bench.measure`), without a serving run.

    Args:
        model, machine, engine: names, or files that end in .yaml.
        devices: how many of them to use; of a machine with fewer, so many nodes as are needed. None: all of the
            machine's.
        metric: what to rank by: throughput, tpot, ttft, e2e, cost or batch.
        concurrency: requests under way on the whole machine; None: 16 per device.
        prompt, output: tokens of each request.
        overrides: "a.b.c=value" for the experiment that these make up.

    Returns:
        A row per layout, the best first: `tp`, `pp`, `dp`, `ep`, `replicas`, `status`, `reason`, and `throughput`
        (output tokens per second of the whole machine), `tpot`, `ttft`, `e2e` (seconds), `cost` (dollars per million
        output tokens, NaN without a price), `batch` (requests that a DP rank decodes at once). Layouts that do not fit
        follow with their reasons.

    Raises:
        MoesimError: there is no such model, machine or metric, or the machine cannot be so large.
    """
    import pandas as pd

    from moesim.explore.layouts import Degrees, layouts
    from moesim.explore.points import reason
    from moesim.explore.steady import METRICS, Bench

    if metric not in METRICS:
        fix = did_you_mean(metric, METRICS) or f"choose one of {', '.join(METRICS)}"
        raise MoesimError(f"there is no metric {metric!r} of a layout", fix=fix)
    spec = _experiment(model, machine, engine, devices, overrides)
    count = devices or spec.machine.nodes * sum(spec.machine.devices.values())
    load = _load(concurrency or PER_DEVICE * count, prompt, output)
    bench = Bench(spec, load)
    rows: list[dict[str, Any]] = []
    for degrees in layouts(count, spec.model.moe is not None):
        try:
            found: dict[str, Any] = {"status": "ok", "reason": "", **bench.measure(degrees)}
        except MoesimError as error:
            found = {"status": "infeasible", "reason": reason(error)}
        rows.append({**degrees._asdict(), **found})
    table = pd.DataFrame(rows, columns=[*Degrees._fields, "status", "reason", *METRICS])
    return table.sort_values(metric, ascending=not METRICS[metric], kind="stable", ignore_index=True)


def _load(concurrency: int, prompt: int, output: int) -> Any:
    from moesim.explore.steady import Load

    for name, value in (("concurrency", concurrency), ("prompt", prompt), ("output", output)):
        if value < 1:
            raise MoesimError(f"a {name} of {value} is no load", fix="use 1 or more")
    return Load(concurrency, prompt, output)


def _experiment(
    model: str | Path, machine: str | Path, engine: str, devices: int | None, overrides: Sequence[str]
) -> ExperimentSpec:
    """The experiment that is laid out, with as many nodes as `devices` need."""
    from moesim.spec.loading import load_experiment, load_system

    document = {
        "name": "configure", "model": str(model), "machine": str(machine), "engine": engine,
        "requests": {"mix": "chat", "rate": "1/s", "count": 1},
    }  # fmt: skip
    if devices is None:
        return load_experiment(document, overrides).spec
    if devices < 1:
        raise MoesimError(f"{devices} devices hold no model", fix="use 1 or more")
    system, _ = load_system(machine)
    per_node = sum(system.devices.values())
    nodes = -(-devices // per_node)
    if nodes > 1 and system.scale_out is None:
        what = f"{system.name} has {per_node} devices and no scale-out network to join {nodes} of it"
        raise MoesimError(what, fix=f"ask for at most {per_node} devices, or --set machine.scale_out=ib-ndr400")
    return load_experiment(document, [f"machine.nodes={nodes}", *overrides]).spec
