"""Collectives between processes: NCCL with a GPU each, or gloo on the CPU."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from moesim.calibrate.benchmarks.cases import Case, powers, shuffled
from moesim.calibrate.benchmarks.pytorch import Bench
from moesim.calibrate.benchmarks.timing import Measurement, summarised

#: Processes on a CPU; samples of a case, the first of which do not count, and the calls in one of them above and below
#: so many bytes.
CPU_RANKS, WARM_UP, SAMPLES, FEW, MANY, LARGE = 2, 2, 9, 2, 20, 2**20

OPERATIONS = ("all_reduce", "all_gather", "reduce_scatter", "all_to_all")

#: Seconds without an answer after which the processes are given up.
SILENCE = 120.0


def collective_cases(bench: Bench) -> list[Case]:
    """1 KiB to 64 MiB per rank, as NCCL's tests count them: between all GPUs, or processes on the CPU; with one GPU
    there is nothing to measure."""
    import torch

    on_gpus = bench.kind == "cuda"
    ranks, library = (int(torch.cuda.device_count()), "nccl") if on_gpus else (CPU_RANKS, "gloo")
    if ranks < 2:
        return []
    sizes = powers(2**10, 2**26)[::2]
    return shuffled(
        Case("collective", operation, (ranks, 1, size), library) for operation in OPERATIONS for size in sizes
    )


def measured(cases: Sequence[Case], bench: Bench) -> Iterator[tuple[Case, Measurement]]:
    """Each case as soon as it is measured, by processes of their own.

    Raises:
        RuntimeError: they do not answer.
    """
    import queue

    import torch.multiprocessing as processes

    ranks, context = cases[0].size("num_gpus"), processes.get_context("spawn")
    plain = Bench(bench.kind, bench.format)  # without the memory that this process holds
    answers = context.Queue()
    with tempfile.TemporaryDirectory() as folder:
        meeting = Path(folder) / "meeting"
        team = [
            context.Process(target=_rank, args=(rank, ranks, str(meeting), list(cases), plain, answers), daemon=True)
            for rank in range(ranks)
        ]
        try:
            for process in team:
                process.start()
            for case in cases:
                yield case, summarised(answers.get(timeout=SILENCE))
        except queue.Empty:
            raise RuntimeError("the processes of the collectives do not answer") from None
        finally:
            for process in team:
                process.terminate()
                process.join()


def _rank(rank: int, ranks: int, meeting: str, cases: Sequence[Case], bench: Bench, answers: Any) -> None:
    """One process: all cases in order; the first rank tells the samples, in seconds per call."""
    import torch
    import torch.distributed as group

    torch.set_num_threads(1)
    if bench.kind == "cuda":
        torch.cuda.set_device(rank)
    backend = "nccl" if bench.kind == "cuda" else "gloo"
    group.init_process_group(backend, init_method=f"file://{meeting}", rank=rank, world_size=ranks)
    for case in cases:
        samples = _samples(case, bench, ranks)
        if rank == 0:
            answers.put(samples)
    group.barrier()
    group.destroy_process_group()


def _samples(case: Case, bench: Bench, ranks: int) -> list[float]:
    import torch
    import torch.distributed as group

    count = max(case.size("bytes") // bench.item_bytes // ranks, 1) * ranks
    whole = torch.ones(count, dtype=bench.dtype, device=bench.kind)
    part = torch.ones(count // ranks, dtype=bench.dtype, device=bench.kind)
    # PyTorch 2.13 has new names for two of them, and warns of the old.
    gather = getattr(group, "all_gather_single", None) or group.all_gather_into_tensor
    scatter = getattr(group, "reduce_scatter_single", None) or group.reduce_scatter_tensor
    other = torch.empty_like(whole)
    calls: dict[str, Callable[[], object]] = {
        "all_reduce": lambda: group.all_reduce(whole),
        "all_gather": lambda: gather(whole, part),
        "reduce_scatter": lambda: scatter(part, whole),
        "all_to_all": lambda: group.all_to_all_single(other, whole),
    }
    call, repeats = calls[case.kernel], FEW if case.size("bytes") > LARGE else MANY

    def finish() -> None:
        if bench.kind == "cuda":
            torch.cuda.synchronize()

    found = []
    for sample in range(WARM_UP + SAMPLES):
        group.barrier()
        finish()
        begin = time.perf_counter()
        for _ in range(repeats):
            call()
        finish()
        if sample >= WARM_UP:
            found.append((time.perf_counter() - begin) / repeats)
        whole.fill_(1.0)  # sums of sums would leave the range of the format
    return found
