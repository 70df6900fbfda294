"""Clocks: how long calls take on a CPU, and on a GPU launched one by one or captured in a graph."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from moesim.calibrate.benchmarks.pytorch import Bench
from moesim.calibrate.benchmarks.timing import Clock, Work

#: Calls in one captured graph: enough for a turn through most copies of weights, few enough to capture at once.
CAPTURED = 16

#: Seconds between two CUDA events that are far above their resolution of half a microsecond.
RESOLVED = 200e-6


def clocks(bench: Bench) -> list[Clock]:
    """Every way to launch that is measured on this processor."""
    return [CudaEvents(), CudaGraph()] if bench.kind == "cuda" else [CpuClock(bench.threads, Other(bench).product)]


class Other:
    """What a step does between two calls of one kernel: it runs other code on other weights. Called in a row, small
    kernels find their instructions and data in the nearest caches, and take a tenth of what they take in a step."""

    #: Products of 4 MiB of weights in 16 bits: twice what a core's own cache holds.
    SHAPE, COUNT = (2048, 1024), 64

    def __init__(self, bench: Bench) -> None:
        self._weights = bench.random(self.COUNT, *self.SHAPE, scale=0.02)
        self._row, self._turn = bench.random(1, self.SHAPE[1]), 0

    def product(self) -> None:
        import torch

        self._turn = (self._turn + 1) % self.COUNT
        torch.nn.functional.linear(self._row, self._weights[self._turn])


class CpuClock:
    """One thread's own CPU time, in which other work on the machine does not count; with several threads, and for work
    that waits, the wall clock. `between` runs before each call and is not timed."""

    way = "eager"
    shortest = 0.0

    def __init__(self, threads: int, between: Callable[[], None]) -> None:
        self._alone, self._between = threads == 1, between

    def seconds(self, work: Work, first: int, calls: int) -> float:
        now = time.thread_time if self._alone and not work.wall else time.perf_counter
        total = 0.0
        for call in range(first, first + calls):
            if not work.wall:
                self._between()
            begin = now()
            work.call(call % work.copies)
            total += now() - begin
        return total


class CudaEvents:
    """Between two events on the stream: launches from Python count where the GPU waits for them."""

    way = "eager"
    shortest = RESOLVED

    def seconds(self, work: Work, first: int, calls: int) -> float:
        begin, end = _events()
        begin.record()
        for call in range(first, first + calls):
            work.call(call % work.copies)
        end.record()
        end.synchronize()
        return float(begin.elapsed_time(end)) * 1e-3


class CudaGraph:
    """A captured graph of several calls, replayed: no launches from Python.

    What cannot be captured raises RuntimeError, as PyTorch does.
    """

    way = "graph"
    shortest = RESOLVED

    def __init__(self) -> None:
        self._work: Work | None = None
        self._graph: Any = None

    def seconds(self, work: Work, first: int, calls: int) -> float:
        if self._work is not work:
            self._graph = _captured(work)
            self._work = work
        replays = -(-calls // CAPTURED)
        begin, end = _events()
        begin.record()
        for _ in range(replays):
            self._graph.replay()
        end.record()
        end.synchronize()
        return float(begin.elapsed_time(end)) * 1e-3 * calls / (replays * CAPTURED)


def _events() -> tuple[Any, Any]:
    import torch

    torch.cuda.synchronize()
    return torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)


def _captured(work: Work) -> Any:
    """Warmed up on a stream of its own first, as torch.cuda.graph asks for."""
    import torch

    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for copy in range(min(work.copies, 3)):
            work.call(copy)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for call in range(CAPTURED):
            work.call(call % work.copies)
    return graph
