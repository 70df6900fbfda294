"""What every serving run must conserve, checked on its record; a violation is our fault, never the user's."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from moesim.engine.invariants import check_busy, check_conserved, require
from moesim.engine.record import RunRecord
from moesim.serving.build import Deployment

#: Durations are whole picoseconds, what devices are busy is not: half a picosecond of a kernel of a microsecond.
_ROUNDING = 5e-7


def check_record(record: RunRecord, deployments: Sequence[Deployment]) -> None:
    """Tokens in are tokens out, nothing is busy for longer than the run, no cache holds more than it has.

    Raises:
        InvariantError: names what does not balance.
    """
    requests, steps = record.requests, record.iterations
    generated = requests["generated_tokens"]
    finished = ~np.isnan(requests["finish"].astype(np.float64))
    check_conserved("output tokens", float(steps["output_tokens"].sum()), float(generated.sum()))
    check_conserved(
        "inter-token latencies", float(record.itl["count"].sum()), float(np.maximum(generated - 1, 0).sum())
    )
    require(bool((generated[finished] == requests["output_tokens"][finished]).all()), "a finished request lacks tokens")
    if not record.partial and not record.overloaded:
        require(bool(finished.all()), f"{int((~finished).sum())} requests never finished")
        _check_prompts(record)
    if len(deployments) == 1:
        check_pool(record, deployments[0])


def check_pool(record: RunRecord, deployment: Deployment) -> None:
    """The record of one deployment: time, caches and experts.

    Raises:
        InvariantError: names what does not balance.
    """
    # An interrupted run is settled to its last whole step, which may end after the interrupt.
    elapsed = max(record.end, float(record.iterations["end"].max(initial=0.0)))
    beside = any(program.beside for replica in deployment.replicas for program in replica.pricer.programs)
    for name, streams in (("compute_busy", 2.0 if beside else 1.0), ("network_busy", 1.0)):
        check_busy(f"a device's {name.removesuffix('_busy')}", record.devices[name], streams, elapsed * (1 + _ROUNDING))
    for replica in deployment.replicas:
        for cache in replica.scheduler.caches:
            require(0 <= cache.used <= cache.capacity, f"replica {replica.index}: the KV cache holds more than it has")
    _check_experts(record, deployment)


def _check_prompts(record: RunRecord) -> None:
    """Every prompt token was computed or found in the cache; preempted requests compute theirs again."""
    requests = record.requests
    if int(requests["preemptions"].sum()) == 0:
        needed = requests["input_tokens"].sum() - requests["cached_tokens"].sum()
        check_conserved("prompt tokens", float(record.iterations["prefill_tokens"].sum()), float(needed))


def _check_experts(record: RunRecord, deployment: Deployment) -> None:
    """Every forwarded token went to top_k experts in every MoE layer."""
    moe = deployment.context.model.moe
    if moe is None:
        return
    sizes = np.arange(deployment.context.token_limit + 1)
    forwarded = sum(float((r.pricer.accounts.stages[0].tokens @ sizes).sum()) for r in deployment.replicas)
    for layer, tokens in zip(record.moe_layers, record.expert_tokens.sum(axis=1), strict=True):
        check_conserved(f"expert tokens of layer {layer}", float(tokens), forwarded * moe.top_k)
