"""All replicas of a run: who sees a request first, and what they leave behind."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from moesim.engine.clock import Clock
from moesim.engine.record import RunRecord
from moesim.serving.build import Deployment, deploy, redeploy
from moesim.serving.outcome import run_record
from moesim.serving.replica import Replica
from moesim.serving.requests import Requests
from moesim.serving.scales import Scales
from moesim.serving.sequences import RequestState
from moesim.spec.experiment import ExperimentSpec


class Service:
    """Replicas that serve their requests from the first token to the last.

    Args:
        before: a service without pools whose replicas are taken over, see build.redeploy.

    Raises:
        MoesimError: the experiment cannot run.
    """

    def __init__(
        self,
        spec: ExperimentSpec,
        requests: Requests,
        clock: Clock,
        streams: dict[str, np.random.SeedSequence],
        on_finish: Callable[[RequestState], None],
        scales: Scales,
        before: Service | None = None,
    ) -> None:
        self._spec = spec
        if before is None:
            self._deploy(requests, clock, streams, on_finish, scales)
        else:
            self.deployments = [redeploy(before.entry, spec, requests, clock, streams, on_finish)]

    def _deploy(
        self,
        requests: Requests,
        clock: Clock,
        streams: dict[str, np.random.SeedSequence],
        on_finish: Callable[[RequestState], None],
        scales: Scales,
    ) -> None:
        self.deployments = [deploy(self._spec, requests, clock, streams, on_finish, scales)]

    @property
    def entry(self) -> Deployment:
        """The replicas that see a request first."""
        return self.deployments[0]

    @property
    def replicas(self) -> list[Replica]:
        return [replica for deployment in self.deployments for replica in deployment.replicas]

    def record(self, requests: Requests, states: list[RequestState], end: int, partial: bool) -> RunRecord:
        """Settle all accounts. `end` in picoseconds."""
        return run_record(self._spec, requests, states, self.entry, end, partial)
