"""Clocks: how long calls take on a CPU, and on a GPU launched one by one or captured in a graph."""

from __future__ import annotations

import time
from typing import Any

from moesim.calibrate.benchmarks.pytorch import Bench
from moesim.calibrate.benchmarks.timing import Clock, Work

#: Calls in one captured graph: enough for a turn through most copies of weights, few enough to capture at once.
CAPTURED = 16


def clocks(bench: Bench) -> list[Clock]:
    """Every way to launch that is measured on this processor."""
    return [CudaEvents(), CudaGraph()] if bench.kind == "cuda" else [CpuClock(bench.threads)]


class CpuClock:
    """One thread's own CPU time, in which other work on the machine does not count; with several threads, and for work
    that waits, the wall clock."""

    way = "eager"

    def __init__(self, threads: int) -> None:
        self._alone = threads == 1

    def seconds(self, work: Work, first: int, calls: int) -> float:
        now = time.thread_time if self._alone and not work.wall else time.perf_counter
        begin = now()
        for call in range(first, first + calls):
            work.call(call % work.copies)
        return now() - begin


class CudaEvents:
    """Between two events on the stream: launches from Python count where the GPU waits for them."""

    way = "eager"

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
