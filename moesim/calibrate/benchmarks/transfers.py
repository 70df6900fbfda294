"""Moving bytes: between host and device, within each, and from a drive."""

from __future__ import annotations

import mmap
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from moesim.calibrate.benchmarks.cases import Case, powers, shuffled
from moesim.calibrate.benchmarks.pytorch import Bench
from moesim.calibrate.benchmarks.timing import Work

if TYPE_CHECKING:
    from torch import Tensor

#: The file that a drive is read from.
FILE_BYTES = 512 * 2**20

#: Pairs of buffers that copies take turns between.
MOST_BUFFERS = 64

#: What direct I/O needs its offsets and buffers to be multiples of.
BLOCK = 4096


def memcpy_cases(kind: str) -> list[Case]:
    """Copies from 1 KiB to 256 MiB: within the host, and where there is a GPU to it, from it and within it."""
    sizes = powers(2**10, 2**28)[::2]
    ways = [("host_to_host", "pageable")]
    if kind == "cuda":
        ways += [("host_to_device", "pageable"), ("host_to_device", "pinned"), ("device_to_host", "pageable")]
        ways += [("device_to_host", "pinned"), ("device_to_device", "")]
    return shuffled(Case("memcpy", kernel, (size,), variant) for kernel, variant in ways for size in sizes)


def memcpy_work(case: Case, bench: Bench) -> Work:
    """One copy; `pinned` hosts' memory is locked, so that the device's copy engine reaches it."""
    import torch

    size, (source, _, target) = case.size("bytes"), case.kernel.split("_")

    def buffer(place: str) -> Tensor:
        if place == "device":
            return torch.zeros(size, dtype=torch.uint8, device=bench.kind)
        return torch.zeros(size, dtype=torch.uint8, pin_memory=case.variant == "pinned")

    count = min(bench.count(-(-size // bench.item_bytes)), MOST_BUFFERS)
    pairs = [(buffer(source), buffer(target)) for _ in range(count)]
    return Work(lambda copy: pairs[copy][1].copy_(pairs[copy][0], non_blocking=True), count)


def storage_cases() -> list[Case]:
    """Reads of 4 KiB to 16 MiB, 1 to 32 of them under way."""
    sizes = powers(2**12, 2**24)[::2]
    return shuffled(
        Case("storage", "read", (size, depth), "direct" if direct_io() else "buffered")
        for size in sizes
        for depth in powers(1, 32)
    )


def direct_io() -> bool:
    """Whether this operating system reads past its cache."""
    return hasattr(os, "O_DIRECT")


@contextmanager
def scratch_file(folder: Path) -> Iterator[Path]:
    """A file of random bytes in a folder on the drive that is measured, removed afterwards.

    Raises:
        OSError: the folder cannot be written, or the drive is full.
    """
    path = folder / ".drive.tmp"
    try:
        with path.open("wb") as file:
            block = os.urandom(2**20)
            for _ in range(FILE_BYTES // len(block)):
                file.write(block)
            file.flush()
            os.fsync(file.fileno())
        yield path
    finally:
        path.unlink(missing_ok=True)


def storage_work(case: Case, path: Path) -> tuple[Work, Callable[[], None]]:
    """Reads at scattered places by `depth` threads; a call is one read of each: bandwidth is bytes · depth / time.

    Gives the work, and what closes the file and ends the threads.
    """
    size, depth = case.size("bytes"), case.size("depth")
    flags = os.O_RDONLY | (os.O_DIRECT if case.variant == "direct" else 0)
    file = os.open(path, flags)
    pool = ThreadPoolExecutor(depth)
    buffers = [mmap.mmap(-1, size) for _ in range(depth)]
    places = FILE_BYTES // max(size, BLOCK)

    def read(lane: int, turn: int) -> None:
        # Strides by a large prime scatter the places over the file without repeating soon.
        place = (turn * depth + lane) * 7919 % places
        os.preadv(file, [buffers[lane]], place * max(size, BLOCK))

    turn = iter(range(2**62))

    def call(_: int) -> None:
        now = next(turn)
        list(pool.map(read, range(depth), [now] * depth))

    def close() -> None:
        pool.shutdown()
        os.close(file)

    return Work(call, wall=True), close
