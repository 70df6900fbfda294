"""A measured run simulated: its experiment, and the latencies of each of its stages."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moesim.calibrate.serving.measured import Run
from moesim.engine.record import RunRecord
from moesim.uncertainty.propagated import REACH, crowding, step_deviation
from moesim.uncertainty.sources import error_sources

#: The engine of the runs.
ENGINE = "vllm-0.15"

#: Standard deviation of the tokens of a prompt: random text has no fixed length in tokens (measured: 562 to 590).
_SPREAD = 6.0


@dataclass(frozen=True)
class Latencies:
    """Simulated latencies of a stage, in seconds. shares: of the run's step time, by kind of operator. growth: by how
    much more TPOT and E2E grow than steps. deviation: standard deviation of their logarithm, as the simulator knows its
    kernels. late: the part of TTFT that no kernel is to blame for."""

    run: str
    stage: int
    ttft: float
    tpot: float
    e2e: float
    ttft_p90: float
    e2e_p90: float
    shares: Mapping[str, float]
    growth: float = 1.0
    deviation: float = 0.0
    late: float = 0.0

    def within(self, metric: str, measured: float, simulated: float) -> bool:
        """Whether a measured value lies in the 80 % interval of the simulated one, which is a mean or a percentile."""
        share = 1.0 - self.late / self.ttft if metric == "ttft" else 1.0
        return abs(math.log(measured / simulated)) <= REACH * share * self.deviation


def experiment(run: Run, engine: str = ENGINE) -> dict[str, Any]:
    """The document of the experiment that sends what the run was sent in its scored stages."""
    mix = {
        "input": {"distribution": "normal", "mean": run.prompt - run.prefix, "deviation": _SPREAD, "minimum": 1},
        "output": {"distribution": "constant", "mean": run.output},
        "prefix": {"groups": run.groups, "tokens": run.prefix},
        "pool": run.prompts,
    }
    stages = [
        {"mix": "measured", "rate": f"{stage.rate:g}/s", "duration": f"{stage.duration:g} s", "arrival": "conditioned"}
        for stage in run.stages
        if stage.scored
    ]
    return {
        "name": f"vllm-{run.id}",
        "model": run.model,
        "machine": run.system,
        "parallelism": {"tp": run.tp},
        "dtype": {"weights": run.dtype, "activations": run.dtype},
        "engine": engine,
        "library": {"mixes": {"measured": mix}},
        "requests": {"stages": stages},
        "seed": 1,
    }  # fmt: skip


def overrides(run: Run) -> list[str]:
    """What the run said of its engine."""
    return [
        f"engine.token_budget={run.token_budget}",
        f"engine.max_sequences={run.max_sequences}",
        f"engine.block_size={run.block_size}",
        f"engine.memory_utilization={run.memory_utilization}",
    ]


def replay(run: Run, changes: Sequence[str] = (), engine: str = ENGINE, skip: int = 0) -> list[Latencies]:
    """Simulates a run's scored stages, its engine changed by `--set` texts.

    Args:
        skip: how many of each stage's first requests are not counted.

    Raises:
        MoesimError: the experiment cannot run.
    """
    from moesim.results.tables import request_columns
    from moesim.serving.simulate import Simulation
    from moesim.spec.loading import load_experiment

    spec = load_experiment(experiment(run, engine), [*overrides(run), *changes]).spec
    simulation = Simulation(spec)
    record = simulation.run()
    requests, shares = request_columns(record), step_shares(record)
    growth = crowding(record)
    deviation = growth * step_deviation(record, error_sources(spec, simulation.deployments))
    found = []
    for place, number in enumerate(stage.number for stage in run.stages if stage.scored):
        mine = np.flatnonzero(requests["stage"] == place) if "stage" in requests else np.arange(len(requests["ttft"]))
        seen = _latencies(run, number, requests, mine[skip:], shares)
        found.append(replace(seen, growth=growth, deviation=deviation, late=spec.engine.frontend_latency))
    return found


def steady(run: Run, seconds: float) -> list[Run]:
    """Each scored stage as a run of its own, cut to `seconds`, or to three times what a request takes, after every
    prompt was sent once (`skip` these)."""
    return [
        replace(run, stages=(replace(stage, duration=run.prompts / stage.rate + max(seconds, 3 * stage.e2e["mean"])),))
        for stage in run.stages
        if stage.scored
    ]


def replay_all(
    runs: Sequence[Run], changes: Sequence[str] = (), engine: str = ENGINE, skip: int = 0, workers: int = 1
) -> Iterator[list[Latencies]]:
    """The scored runs in their order, by so many processes."""
    jobs = [(run, changes, engine, skip) for run in runs if run.scored]
    if workers == 1:
        yield from map(_job, jobs)
        return
    from concurrent.futures import ProcessPoolExecutor

    with ProcessPoolExecutor(workers) as pool:
        yield from pool.map(_job, jobs)


def _job(job: tuple[Run, Sequence[str], str, int]) -> list[Latencies]:
    return replay(*job)


def step_shares(record: RunRecord) -> dict[str, float]:
    """Of the critical path of all steps."""
    kinds, seconds = record.operators["kind"], record.operators["seconds"].astype(np.float64)
    return {str(kind): float(seconds[kinds == kind].sum() / seconds.sum()) for kind in np.unique(kinds)}


def _latencies(
    run: Run, stage: int, requests: Mapping[str, NDArray[Any]], mine: NDArray[np.int64], shares: Mapping[str, float]
) -> Latencies:
    ttft, e2e = (np.asarray(requests[name], dtype=np.float64)[mine] for name in ("ttft", "e2e"))
    return Latencies(
        run=run.id,
        stage=stage,
        ttft=float(ttft.mean()),
        tpot=float(e2e.mean() - ttft.mean()) / (run.output - 1),  # of the means, as it was measured
        e2e=float(e2e.mean()),
        ttft_p90=float(np.quantile(ttft, 0.9)),
        e2e_p90=float(np.quantile(e2e, 0.9)),
        shares=shares,
    )
