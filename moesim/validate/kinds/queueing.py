"""A replica that serves one prompt at a time is a queue with one server, about which theory has exact answers."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from moesim.validate.cases import Found, Setting, case

FloatArray = NDArray[np.float64]

#: One prompt per step, one token per answer: the step is the service.
_ENGINE: dict[str, Any] = {
    "name": "one at a time", "token_budget": 4096, "max_sequences": 1, "block_size": 16, "memory_utilization": 0.9,
    "prefix_caching": False,
}  # fmt: skip


@case("lindley")
def lindley(setting: Setting, *, rate: str, count: int, prompt: dict[str, Any], seed: int = 1) -> Found:
    """Waiting times against Lindley's recursion, W' = max(0, W + S - A) with the service S of a request and the gap A
    to the next arrival (Lindley, The theory of queues with a single server, 1952). The error is the largest deviation,
    over the mean service time."""
    arrival, wait, service = _queue(rate, count, prompt, seed)
    expected = np.zeros_like(wait)
    for index in range(1, len(wait)):
        gap = arrival[index] - arrival[index - 1]
        expected[index] = max(0.0, expected[index - 1] + service[index - 1] - gap)
    worst = float(np.max(np.abs(wait - expected)) / service.mean())
    return Found(error=worst, rows=len(wait), detail=f"{np.count_nonzero(expected)} of {len(wait)} requests wait")


@case("mean_wait", unit="second")
def mean_wait(setting: Setting, *, rate: str, count: int, prompt: dict[str, Any], seed: int = 1) -> Found:
    """Mean wait of Poisson arrivals against Pollaczek and Khinchine: lambda E[S^2] / (2 (1 - rho)), for constant
    service S rho / (2 (1 - rho)) (Kleinrock, Queueing Systems I, 1975, section 5.6)."""
    arrival, wait, service = _queue(rate, count, prompt, seed)
    flow = (len(arrival) - 1) / (arrival[-1] - arrival[0])
    load = flow * service.mean()
    expected = flow * np.mean(service**2) / (2 * (1 - load))
    return Found(float(wait.mean()), float(expected), rows=len(wait), detail=f"load {load:.2f}")


def _queue(rate: str, count: int, prompt: dict[str, Any], seed: int) -> tuple[FloatArray, FloatArray, FloatArray]:
    """[requests] arrival, wait and service of a simulated run, in seconds."""
    from moesim.serving.simulate import simulate
    from moesim.spec.loading import load_experiment

    mix = {"name": "prompts", "input": prompt, "output": {"distribution": "constant", "mean": 1}}
    experiment = load_experiment(
        {
            "model": "llama-3.1-8b", "machine": {"devices": {"h100-sxm": 1}}, "engine": _ENGINE, "seed": seed,
            "requests": {"mix": "prompts", "rate": rate, "count": count}, "library": {"mixes": {"prompts": mix}},
        }
    )  # fmt: skip
    requests = simulate(experiment.spec).requests
    arrival, begin, finish = (np.asarray(requests[name], float) for name in ("arrival", "first_scheduled", "finish"))
    return arrival, begin - arrival, finish - begin
