"""Objectives that no request can meet, because a request alone on the machine takes longer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from moesim.engine.record import Column, RunRecord
from moesim.serving.build import Deployment
from moesim.serving.replica import Replica
from moesim.serving.requests import Requests
from moesim.spec.errors import MoesimError
from moesim.spec.library import did_you_mean
from moesim.spec.serving import ObjectiveSpec, SloSpec
from moesim.step.batch import Batch, Chunk
from moesim.step.graph import PICOSECONDS, IntArray

_NONE = np.zeros(0, dtype=np.int64)


def check_classes(slo: SloSpec, requests: Requests) -> None:
    """Raises MoesimError where an objective is for a class that no request is of."""
    classes = [] if requests.classes is None else sorted(dict.fromkeys(requests.classes.tolist()))
    for name in slo.classes:
        if name not in classes:
            known = f"the classes are {', '.join(classes)}" if classes else "the requests have no classes, remove it"
            fix = did_you_mean(name, classes) or known
            raise MoesimError(f"there are no requests of class {name!r}", key=("slo", "classes", name), fix=fix)


def unreachable(slo: SloSpec, record: RunRecord, deployments: Sequence[Deployment]) -> Iterator[str]:
    """A sentence for each limit that even the shortest request of the run exceeds when it is alone on the machine."""
    requests = record.requests
    served: NDArray[np.bool_] = ~np.isnan(requests["first_token"].astype(np.float64))
    own = requests.get("class")
    others = served if own is None else served & ~np.isin(own, list(slo.classes))
    yield from _unreachable("slo", slo, record, others, deployments)
    for name, objective in slo.classes.items():
        if own is not None:
            yield from _unreachable(f"slo.classes.{name}", objective, record, served & (own == name), deployments)


def _unreachable(
    key: str, objective: ObjectiveSpec, record: RunRecord, among: NDArray[np.bool_], deployments: Sequence[Deployment]
) -> Iterator[str]:
    requests, limits = record.requests, objective.limits
    if not limits or not among.any():
        return
    ttft = (requests["first_token"] - requests["arrival"])[among]
    e2e = (requests["finish"] - requests["arrival"])[among]
    more = requests["output_tokens"][among] - 1
    tpot = (e2e - ttft)[more > 0] / more[more > 0]
    for metric, values in (("ttft", ttft), ("tpot", tpot), ("e2e", e2e)):
        # A limit that somebody met can be met; only else is it worth the price of a step.
        known = values[~np.isnan(values)]
        if metric not in limits or (known <= limits[metric]).any():
            continue
        served = (replica for deployment in deployments for replica in deployment.replicas)
        alone = min(_alone(replica, requests, among)[metric] for replica in served)
        if alone > limits[metric]:
            yield (
                f"no request can meet {key}.{metric}: {1e3 * limits[metric]:g} ms, one request alone takes "
                f"at least {1e3 * alone:.3g} ms"
            )


def _alone(replica: Replica, requests: dict[str, Column], among: NDArray[np.bool_]) -> dict[str, float]:
    """Latencies in seconds of a request that is by itself: of each kind the least that any of the requests asks for."""
    new = (requests["input_tokens"] - requests["cached_tokens"])[among]
    shortest = int(np.argmin(new))
    cached = int(requests["cached_tokens"][among][shortest])
    prompt = min(int(new[shortest]), replica.scheduler.engine.token_budget)
    ttft = _step(replica, _NONE, (Chunk(0, 0, prompt, cached),))
    tpot = _step(replica, np.array([int(requests["input_tokens"][among].min())]), ())
    tpot /= 1 + replica.scheduler.drafts  # all of which may be accepted
    return {"ttft": ttft, "tpot": tpot, "e2e": ttft + tpot * int((requests["output_tokens"][among] - 1).min())}


def _step(replica: Replica, context: IntArray, chunks: tuple[Chunk, ...]) -> float:
    """Seconds of a step of one sequence: it decodes at `context`, or computes a chunk."""
    zeros = np.zeros_like(context)
    batch = Batch(replica.scheduler.ranks, zeros, zeros, context, zeros + 1, chunks)
    return float(replica.pricer.price(batch).durations[0]) / PICOSECONDS
