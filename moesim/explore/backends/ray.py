"""Points on a Ray cluster: one on this machine, or that of an address."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from moesim.explore.backends.address import GREET, check_address, nobody, within
from moesim.explore.points import Job, Outcome, evaluate
from moesim.spec.errors import MoesimError

#: Workers that may die over one point.
_RETRIES = 2


@contextmanager
def _silence() -> Iterator[None]:
    """Nothing reaches standard error within, not even from compiled code."""
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


class RayBackend:
    """Ray computes the tasks of a worker that dies again."""

    def __init__(self, address: str | None, workers: int) -> None:
        """Raises MoesimError where Ray is not installed, or no cluster answers."""
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        try:
            import ray
        except ImportError:
            raise MoesimError("the backend ray needs the package ray", fix="pip install 'moesim[ray]'") from None
        self._ray: Any = ray
        quiet = {"logging_level": logging.CRITICAL, "log_to_driver": False}
        if address is None:
            path = os.pathsep.join(each for each in sys.path if each)
            ray.init(
                "local", num_cpus=workers, include_dashboard=False,
                runtime_env={"env_vars": {"PYTHONPATH": path}}, **quiet,
            )  # fmt: skip
        else:
            check_address("ray", address)
            try:
                with _silence():  # its client reports every attempt
                    within(GREET, lambda: ray.init(address, **quiet))
            except (OSError, RuntimeError, ValueError) as error:  # TimeoutError is an OSError
                raise nobody("ray", address, str(error).splitlines()[0]) from None
        self._evaluate = ray.remote(num_cpus=1, max_retries=_RETRIES)(evaluate)
        self._numbers: dict[Any, int] = {}

    @property
    def slots(self) -> int:
        return 2 * max(1, int(self._ray.cluster_resources().get("CPU", 1)))

    def submit(self, number: int, work: Job) -> None:
        self._numbers[self._evaluate.remote(work)] = number

    def finished(self) -> list[tuple[int, Outcome]]:
        ready, _ = self._ray.wait(list(self._numbers), num_returns=1)
        return [(self._numbers.pop(each), self._outcome(each)) for each in ready]

    def _outcome(self, reference: Any) -> Outcome:
        try:
            outcome: Outcome = self._ray.get(reference)
            return outcome
        except self._ray.exceptions.RayTaskError as error:
            raise error.cause if isinstance(error.cause, MoesimError) else error from None
        except self._ray.exceptions.RayError:
            return Outcome("failed", "its worker processes died (out of memory?)", ())

    def close(self) -> None:
        self._ray.shutdown()
