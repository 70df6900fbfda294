"""The engine's parts: cost of an event, of a sweep, of a draw. `python benchmarks/engine.py`. Medians."""

from __future__ import annotations

import time
from collections.abc import Generator
from functools import partial

import numpy as np
from measure import median, table

from moesim.accelerate import HAVE_NUMBA
from moesim.engine.clock import Clock, Delay
from moesim.engine.sweep import Sweep
from moesim.routing.synthetic import CountRouting
from moesim.step.graph import COMPUTE, NETWORK, StepGraph


def layered_graph(layers: int, lanes: int) -> StepGraph:
    """Eight kernels and two barriers a layer, as a step of a Mixture-of-Experts model has."""
    random = np.random.default_rng(0)
    rows = layers * 10
    network = np.isin(np.arange(rows) % 10, (7, 9))
    return StepGraph(
        name=tuple(f"row{i}" for i in range(rows)),
        kind=("gemm",) * rows,
        layer=np.arange(rows) // 10,
        resource=np.where(network, NETWORK, COMPUTE),
        duration=random.integers(1_000_000, 50_000_000, (rows, lanes)),
        partition=network.astype(np.int64),
        partitions=np.array([np.arange(lanes), np.zeros(lanes, dtype=np.int64)]),
        joint=network,
        predecessors=((), *((i - 1,) for i in range(1, rows))),
    )


def events(count: int = 100_000) -> float:
    """Seconds per callback of the clock."""
    clock = Clock()
    begin = time.perf_counter()
    for at in range(count):
        clock.call_at(at, lambda: None)
    clock.run()
    return (time.perf_counter() - begin) / count


def timeouts(count: int = 100_000) -> float:
    """Seconds per timeout that a process waits for."""

    def process() -> Generator[Delay, None, None]:
        for _ in range(count):
            yield clock.timeout(1)

    clock = Clock()
    clock.process(process())
    begin = time.perf_counter()
    clock.run()
    return (time.perf_counter() - begin) / count


def sweep_time(sweep: Sweep, graph: StepGraph, kernel: str, layers: int) -> float:
    """Seconds per layer of a sweep."""
    begin = time.perf_counter()
    sweep.run(graph.duration, kernel=kernel)  # type: ignore[arg-type]
    return (time.perf_counter() - begin) / layers


def draw_time(routing: CountRouting, singles: int, chunked: int, sources: int) -> float:
    stream = np.random.default_rng(0)
    begin = time.perf_counter()
    for _ in range(10):
        routing.sample(np.full(sources, singles), np.full(sources, chunked), stream)
    return (time.perf_counter() - begin) / 10


def main() -> None:
    layers = 60
    rows = []
    for lanes in (8, 64, 256):
        graph = layered_graph(layers, lanes)
        sweep = Sweep(graph)
        kernels = ["numpy", "numba"] if HAVE_NUMBA else ["numpy"]
        times = [median(partial(sweep_time, sweep, graph, kernel, layers), 9) for kernel in kernels]
        rows.append([str(lanes), *(f"{seconds * 1e6:.2f}" for seconds in times)])
    table("Max-plus sweep, microseconds per layer", ["lanes", "numpy", "numba"][: 1 + len(kernels)], rows)
    seed = np.random.SeedSequence(0)
    qwen = CountRouting(48, 128, 8, zipf=0.35, correlation=0.3, seed=seed)
    deepseek = CountRouting(60, 256, 8, zipf=0.03, correlation=0.1, seed=seed)
    cases = [
        ("48 layers, 128 experts, 2 ranks, 60 decode tokens each", qwen, 60, 0, 2),
        ("48 layers, 128 experts, 2 ranks, 1,000 prompt tokens each", qwen, 0, 1000, 2),
        ("60 layers, 256 experts, 64 ranks, 1 decode token each", deepseek, 1, 0, 64),
    ]
    draws = [
        [name, f"{median(partial(draw_time, routing, singles, chunked, ranks), 5) * 1e3:.2f}"]
        for name, routing, singles, chunked, ranks in cases
    ]
    table("Tokens per expert of one step, milliseconds", ["case", "draw"], draws)
    rows = [
        ["callback of the clock", f"{median(events, 5) * 1e6:.2f}"],
        ["timeout of a SimPy process", f"{median(timeouts, 5) * 1e6:.2f}"],
    ]
    table("Events, microseconds each", ["event", "time"], rows)


if __name__ == "__main__":
    main()
