"""The tables that figures are drawn from, made of runs and sweeps; what a figure lacks is said in one line."""

from __future__ import annotations

import gzip
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from moesim.report.names import more_is_better
from moesim.report.plots.kernels import part_of
from moesim.report.sources import Sources
from moesim.results.folder import Results
from moesim.spec.errors import MoesimError

if TYPE_CHECKING:
    import pandas as pd

    from moesim.results.compare import Difference

#: What is shown where nobody names other metrics.
LOAD_METRICS = ("throughput.output_tokens", "ttft.p90", "tpot.mean")
SPEEDUP_METRICS = ("throughput.output_tokens", "tpot.mean", "ttft.mean", "e2e.mean")
PARETO_METRICS = ("tpot.mean", "throughput.output_tokens")


def lacking(figure: str, what: str, fix: str) -> MoesimError:
    return MoesimError(f"the figure {figure} needs {what}", fix=fix)


def _runs(sources: Sources, figure: str) -> Mapping[str, Results]:
    if not sources.runs:
        raise lacking(figure, "the results of a run", "give a results folder")
    return sources.runs


def _serving(sources: Sources, figure: str) -> Mapping[str, Results]:
    """The runs that serve requests."""
    found = {run: results for run, results in _runs(sources, figure).items() if not results.trains}
    if not found:
        raise lacking(figure, "a run that serves requests, not a training step", "give one that does")
    return found


def _frame(rows: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    import pandas as pd

    return pd.DataFrame(list(rows))


def latency_cdf(sources: Sources, metrics: Sequence[str] = ()) -> pd.DataFrame:
    from moesim.report.plots.latency import cdf_table

    names = [metric.partition(".")[0] for metric in metrics] or ["ttft", "tpot", "e2e"]
    samples: dict[str, dict[str, Any]] = {}
    for run, results in _serving(sources, "latency-cdf").items():
        itl = (results.itl["duration"].to_numpy(dtype=float), results.itl["count"].to_numpy(dtype=np.int64))
        samples[run] = {name: itl if name == "itl" else _request_column(results, name) for name in names}
    table = cdf_table(samples)
    if not len(table):
        raise lacking("latency-cdf", "finished requests", "let the run go on for longer")
    return table


def _request_column(results: Results, name: str) -> Any:
    if name not in ("ttft", "tpot", "e2e"):
        raise lacking("latency-cdf", f"a latency, {name!r} is none", "name ttft, tpot, itl or e2e")
    return results.requests[name].to_numpy(dtype=float)


def throughput_latency(sources: Sources, metrics: Sequence[str] = ()) -> pd.DataFrame:
    names = metrics or LOAD_METRICS
    if len(names) == 1:
        names = (LOAD_METRICS[0], *names)
    rows = _known_loads(sources, "throughput-latency", names)
    if len(rows) < 2:
        fix = "run the experiment at several rates, or give the table of a sweep over requests.rate"
        raise lacking("throughput-latency", f"two loads, there is {len(rows)}", fix)
    return _load_table(rows, names)


def goodput(sources: Sources, metrics: Sequence[str] = ()) -> pd.DataFrame:
    rows = _known_loads(sources, "goodput", ("goodput.requests",))
    rows = [row for row in rows if math.isfinite(row["load"])]
    if not rows:
        raise lacking("goodput", "the rate at which requests were sent", "sweep over requests.rate")
    return _load_table(rows, ("goodput.requests",))


def _known_loads(sources: Sources, figure: str, metrics: Sequence[str]) -> list[dict[str, Any]]:
    if not sources.loads:
        raise lacking(figure, "runs or a sweep", "give results folders or the table of a sweep")
    found = sources.loads
    for metric in metrics:
        check_metric(figure, metric, [name for row in sources.loads for name in row])
        found = [row for row in found if math.isfinite(float(row.get(metric, math.nan)))]
        if not found:
            about = "requests" if metric.startswith("goodput") else metric.partition(".")[0]
            fix = "give the runs an SLO: --set slo.tpot='50 ms'" if about == "requests" else "name another --metric"
            raise lacking(figure, f"{metric}, which is not defined in these results", fix)
    return found


def check_metric(figure: str, metric: str, known: Sequence[str]) -> None:
    """Raises MoesimError with the nearest names where there is no such metric."""
    from moesim.spec.library import did_you_mean

    if metric not in known:
        names = sorted({name for name in known if "." in name and not name.endswith((".low", ".high"))})
        group = [name for name in names if name.startswith(f"{metric}.")]
        near = f"say which: {', '.join(group)}" if group else did_you_mean(metric, names)
        raise MoesimError(f"there is no metric {metric!r} for the figure {figure}", fix=near or "see summary.json")


def _load_table(rows: Sequence[Mapping[str, Any]], metrics: Sequence[str]) -> pd.DataFrame:
    columns = ["series", "load", *metrics]
    for metric in metrics:
        if any(math.isfinite(float(row.get(f"{metric}.low", math.nan))) for row in rows):
            columns += [f"{metric}.low", f"{metric}.high"]
    return _frame([{name: row.get(name, math.nan) for name in columns} for row in rows])


def roofline(sources: Sources, metrics: Sequence[str] = ()) -> pd.DataFrame:
    import pandas as pd

    parts = []
    for run, results in _serving(sources, "roofline").items():
        operators = results.operators
        if "flops" not in operators:
            raise lacking("roofline", f"the work of operators, {run} was run by an older version", "run it again")
        used = results.devices[results.devices["replica"] >= 0]
        names = ["name", "kind", "flops", "memory_bytes", "device_seconds"]
        known = operators.loc[operators["device_seconds"] > 0, names].rename(columns={"name": "operator"})
        known.insert(0, "run", run)
        known["share"] = known["device_seconds"] / known["device_seconds"].sum()
        parts.append(known.assign(**{peak: used[peak].max() for peak in ("peak_flops", "peak_bandwidth")}))
    table = pd.concat(parts, ignore_index=True)
    if not (table["flops"] > 0).any():
        raise lacking("roofline", "steps that were executed", "let the run go on for longer")
    return table


def breakdown(sources: Sources, metrics: Sequence[str] = ()) -> pd.DataFrame:
    rows = []
    for run, results in _runs(sources, "breakdown").items():
        operators = results.operators.assign(part=results.operators["kind"].map(part_of))
        sums = operators.groupby("part")["seconds"].sum()
        steps = max(int(results.summary["steps"]), 1)
        rows += [
            {"run": run, "part": part, "seconds": float(value) / steps, "share": float(value / sums.sum())}
            for part, value in sums.items()
        ]
    if not rows:
        raise lacking("breakdown", "steps that were executed", "let the run go on for longer")
    return _frame(rows)


#: Metric of each axis of the radar, and the power of it that grows as a run gets better.
_CAP = {
    "S-MFU": ("utilisation.s_mfu", 1),
    "S-MBU": ("utilisation.s_mbu", 1),
    "throughput": ("throughput.output_tokens", 1),
    "speed per request": ("tpot.mean", -1),
    "tokens per joule": ("energy.per_output_token", -1),
    "tokens per dollar": ("cost.per_million_output_tokens", -1),
}


def cap_radar(sources: Sources, metrics: Sequence[str] = ()) -> pd.DataFrame:
    """Utilisations as they are; throughput, speed, and efficiency in energy and cost over the best run's."""
    from moesim.results.metrics import numbers

    rows = []
    for run, results in _serving(sources, "cap-radar").items():
        known = numbers(results.summary)
        for axis, (metric, power) in _CAP.items():
            value = known.get(metric, math.nan)
            good = value**power if value else math.nan
            rows.append({"run": run, "axis": axis, "metric": metric, "value": value, "good": good})
    table = _frame(rows)
    best = table.groupby("axis")["good"].transform("max")
    share = table["metric"].str.startswith("utilisation.")
    table["shown"] = table["good"].where(share, table["good"] / best).clip(0, 1)
    # An axis that no run knows (no price) is left out.
    return table[best.notna()].drop(columns="good").reset_index(drop=True)


def pareto(sources: Sources, metrics: Sequence[str] = ()) -> pd.DataFrame:
    from moesim.report.plots.trade import on_front

    names = tuple(metrics) or PARETO_METRICS
    if len(names) != 2:
        raise lacking("pareto", f"two metrics, not {len(names)}", "give --metric twice")
    rows = _known_loads(sources, "pareto", names)
    if len(rows) < 2:
        raise lacking("pareto", "two points or more", "give several runs, or the table of a sweep")
    table = _frame([{name: row[name] for name in ("series", "point", *names)} for row in rows])
    first, second = (table[name].to_numpy(dtype=float) for name in names)
    table["front"] = on_front(first, second, more_is_better(names[0]), more_is_better(names[1]))
    if not sources.runs and len(sources.sweeps) == 1:
        table["series"] = sources.sweeps[0].label
    return table


def speedup(sources: Sources, metrics: Sequence[str] = ()) -> pd.DataFrame:
    """Ratios to the first run, above 1 where better; their intervals from those of the differences."""
    from moesim.results.compare import compare, of_results

    runs = _runs(sources, "speedup")
    if len(runs) < 2:
        raise lacking("speedup", "two runs or more", "give the results folder of the base first, then the others")
    sides = {run: of_results(results) for run, results in runs.items()}
    base = next(iter(sides.values()))
    found = {run: {each.metric: each for each in compare(base, side)} for run, side in sides.items()}
    rows: list[dict[str, Any]] = []
    known = [name for name in SPEEDUP_METRICS if name in base.metrics]
    for metric in metrics or known or ["duration"]:  # that of a training step
        check_metric("speedup", metric, list(base.metrics))
        for run, side in sides.items():
            if side is base:
                rows.append(
                    {"run": run, "metric": metric, "ratio": 1.0, "low": math.nan, "high": math.nan, "basis": ""}
                )
            elif metric in found[run]:
                rows.append({"run": run, "metric": metric, **_ratio(found[run][metric])})
    return _frame(rows)


def _ratio(found: Difference) -> dict[str, Any]:
    low, ratio, high = (1 + change / found.first for change in (found.low, found.change, found.high))
    if not more_is_better(found.metric):
        low, ratio, high = (1 / each if not each <= 0 else math.nan for each in (high, ratio, low))
    return {"ratio": ratio, "low": low, "high": high, "basis": found.basis}


def utilisation(sources: Sources, metrics: Sequence[str] = ()) -> pd.DataFrame:
    from moesim.report.overtime import device_labels, device_shares

    rows = []
    runs = _runs(sources, "utilisation")
    for run, results in runs.items():
        names = device_labels([str(name) for name in results.devices["name"]])
        shares = device_shares(results.devices)
        for index, name in enumerate(names):
            device = name if len(runs) == 1 else f"{run} {name}"
            rows.append({"device": device, **{key: float(values[index]) for key, values in shares.items()}})
    return _frame(rows)


def expert_load(sources: Sources, metrics: Sequence[str] = ()) -> pd.DataFrame:
    from moesim.report.load import relative_load

    run, results = next(iter(_runs(sources, "expert-load").items()))
    layers, load = relative_load(results)
    if not len(layers):
        raise lacking(
            "expert-load", f"experts, and {run} routed no tokens to any", "give a run of a model with experts"
        )
    table = results.experts[results.experts["layer"].isin(layers)].reset_index(drop=True)
    return table.assign(relative=load.reshape(-1))[["layer", "expert", "tokens", "relative"]]


def co_activation(sources: Sources, metrics: Sequence[str] = ()) -> pd.DataFrame:
    from moesim.report.plots.experts import together

    traced = [Path(str(trace)) for results in sources.runs.values() if (trace := _trace(results)) is not None]
    paths = [*sources.traces, *(path for path in traced if path.is_file())]
    if not paths:
        what = "the experts of every token, and results hold only how many tokens each expert had"
        raise lacking("co-activation", what, "give a routing trace beside them (moesim routing generate)")
    import pyarrow.parquet as pq

    table = pq.read_table(paths[0]).to_pandas()
    places = [name for name in table.columns if name[:1] == "e" and name[1:].isdecimal()]
    if not places:
        raise lacking("co-activation", "a trace of tokens, this one has counts of steps", "see the format of traces")
    layers = np.unique(table["layer"])
    layer = int(layers[len(layers) // 2])
    ids = table.loc[table["layer"] == layer, places].to_numpy(dtype=np.int64)
    return together(ids, int(table[places].to_numpy().max()) + 1, layer)


def _trace(results: Results) -> str | None:
    routing = results.spec.get("routing")
    return routing.get("trace") if isinstance(routing, Mapping) else None


def topology(sources: Sources, metrics: Sequence[str] = ()) -> pd.DataFrame:
    results = next(iter(_runs(sources, "topology").values()))
    return results.links.rename(columns={"name": "link"})[["link", "level", "bandwidth", "bytes", "utilisation"]]


def tornado(sources: Sources, metrics: Sequence[str] = ()) -> pd.DataFrame:
    """Of the tables given, that of the metric, else the first; without any, what the sources of error of a repeated run
    change (their 80 % ranges)."""
    if sources.changes:
        named = {stem.removeprefix("tornado-").replace("-", "."): table for stem, table in sources.changes}
        metric = metrics[0] if metrics else next(iter(named))
        if metrics and len(named) > 1 and metric not in named:
            raise lacking("tornado", f"a table of {metric}, there is {', '.join(named)}", "name another --metric")
        return named.get(metric, sources.changes[0][1]).assign(metric=metric)
    repeated = [results for results in sources.runs.values() if "intervals" in results.summary]
    if not repeated:
        what = "a table of what parameters change, or a run that was repeated"
        raise lacking("tornado", what, "give the table of moesim explain, or run with --uncertainty")
    from moesim.report.plots.factors import factor_changes

    metric = metrics[0] if metrics else "tpot.mean"
    check_metric("tornado", metric, list(repeated[0].uncertainty.columns))
    return factor_changes(repeated[0].uncertainty, metric).assign(metric=metric)


def gantt(sources: Sources, metrics: Sequence[str] = ()) -> pd.DataFrame:
    from moesim.report.timeline import DEVICES_PROCESS

    results = next(iter(_runs(sources, "gantt").values()))
    path = None if results.path is None else results.path / "timeline.json.gz"
    if path is None or not path.is_file():
        raise lacking("gantt", "the timeline of the run", "run it without --no-figures")
    events = json.loads(gzip.decompress(path.read_bytes()))["traceEvents"]
    return step_table([event for event in events if event["pid"] >= DEVICES_PROCESS])


def step_table(events: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """The last recorded step, which is one of decoding where there is one: device, resource, operator, kind, layer,
    start, end (seconds from its begin)."""
    tracks = {(event["pid"], event["tid"]): event["args"]["name"] for event in events if event["name"] == "thread_name"}
    slices = [event for event in events if event["ph"] == "X"]
    if not slices:
        raise lacking("gantt", "a step that was recorded in full", "let the run go on for longer")
    last = max(slices, key=lambda event: event["ts"])
    mine = [event for event in slices if (event["pid"], event["args"]["step"]) == (last["pid"], last["args"]["step"])]
    begin = min(event["ts"] for event in mine)
    rows = []
    for event in mine:
        device, _, resource = tracks[event["pid"], event["tid"]].rpartition(" ")
        start = 1e-6 * (event["ts"] - begin)
        rows.append(
            {"device": device.rpartition("/")[2], "resource": resource, "operator": event["name"],
             "kind": event["args"]["kind"], "layer": event["args"]["layer"], "start": start,
             "end": start + 1e-6 * event["dur"]}
        )  # fmt: skip
    return _frame(rows).sort_values(["device", "resource", "start"], kind="stable").reset_index(drop=True)
