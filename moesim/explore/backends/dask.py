"""Points on a Dask cluster: one on this machine, or whatever its scheduler leads to (Slurm, Kubernetes)."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from moesim.explore.backends.address import GREET, check_address, nobody
from moesim.explore.points import Job, Outcome, evaluate
from moesim.spec.errors import MoesimError


class DaskBackend:
    """Dask gives the tasks of a worker that dies to others, and a task up when it has seen four of them die."""

    def __init__(self, address: str | None, workers: int) -> None:
        """Raises MoesimError where Dask is not installed, or no scheduler answers."""
        try:
            from distributed import Client, LocalCluster, as_completed
        except ImportError:
            fix = "pip install 'moesim[explore]'"
            raise MoesimError("the backend dask needs the package distributed", fix=fix) from None
        logging.getLogger("distributed").setLevel(logging.CRITICAL)  # what matters is said in outcomes
        self._cluster: Any = None
        if address is None:
            options = {"dashboard_address": None, "silence_logs": logging.CRITICAL}
            self._cluster = LocalCluster(n_workers=workers, threads_per_worker=1, **options)
        else:
            check_address("dask", address)
            _greet(address)
        self._client: Any = Client(self._cluster or address, timeout=GREET, set_as_default=False)
        self._finished: Any = as_completed(loop=self._client.loop)
        self._numbers: dict[str, int] = {}

    @property
    def slots(self) -> int:
        threads: dict[str, int] = self._client.nthreads()
        return 2 * max(1, sum(threads.values()))

    def submit(self, number: int, work: Job) -> None:
        future = self._client.submit(evaluate, work, key=f"moesim-{number}-{id(self)}", pure=False)
        self._numbers[future.key] = number
        self._finished.add(future)

    def finished(self) -> list[tuple[int, Outcome]]:
        futures = [next(self._finished), *self._finished.next_batch(block=False)]
        return [(self._numbers.pop(future.key), _outcome(future)) for future in futures]

    def close(self) -> None:
        self._client.close()
        if self._cluster is not None:
            self._cluster.close()


def _greet(address: str) -> None:
    """Raises MoesimError where whoever listens is no scheduler of Dask."""
    from distributed.core import rpc

    async def identity() -> None:
        async with rpc(address) as scheduler:
            await asyncio.wait_for(scheduler.identity(), GREET)

    try:
        asyncio.run(identity())
    except Exception as error:  # what a stranger answers may be anything
        raise nobody("dask", address, type(error).__name__) from None


def _outcome(future: Any) -> Outcome:
    from distributed import KilledWorker

    try:
        outcome: Outcome = future.result()
        return outcome
    except KilledWorker:
        return Outcome("failed", "its worker processes died (out of memory?)", ())
