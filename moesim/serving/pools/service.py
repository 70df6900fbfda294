"""Two pools: prompts are computed in one, and answered from the other."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np

from moesim.engine.clock import Clock
from moesim.engine.record import RunRecord
from moesim.serving.conservation import check_pool
from moesim.serving.outcome import request_columns, run_record
from moesim.serving.pools.build import deploy_pools
from moesim.serving.pools.record import pooled_record
from moesim.serving.requests import Requests
from moesim.serving.scales import Scales
from moesim.serving.sequences import RequestState
from moesim.serving.service import Service

POOLS: tuple[Literal["prefill", "decode"], ...] = ("prefill", "decode")


class PooledService(Service):
    """Replicas that compute prompts, and others that go on from there."""

    def _deploy(
        self,
        requests: Requests,
        clock: Clock,
        streams: dict[str, np.random.SeedSequence],
        on_finish: Callable[[RequestState], None],
        scales: Scales,
    ) -> None:
        prefill, decode, self._handover = deploy_pools(self._spec, requests, clock, streams, on_finish, scales)
        self.deployments = [prefill, decode]

    def record(self, requests: Requests, states: list[RequestState], end: int, partial: bool) -> RunRecord:
        assert self._spec.pools is not None
        self._handover.settle()
        prefill, decode = (
            run_record(self._spec.pool(name), requests, states, deployment, end, partial)
            for name, deployment in zip(POOLS, self.deployments, strict=True)
        )
        for record, deployment in zip((prefill, decode), self.deployments, strict=True):
            check_pool(record, deployment)
        columns = request_columns(states, self.replicas)
        return pooled_record(prefill, decode, self._handover, columns, self._spec.pools.shares_machine)
