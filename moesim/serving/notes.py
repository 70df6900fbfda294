"""What a user should know about how a run was set up, one sentence each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from moesim.hardware.machine import Machine
from moesim.kernels.calibrated import CalibratedKernels, Source, kernel_names
from moesim.serving.requests import Requests, Sender
from moesim.serving.scales import COLLECTIVE, families_of
from moesim.serving.sequences import RequestState
from moesim.spec.experiment import ExperimentSpec
from moesim.spec.serving import EngineSpec


def overlaps_shared_experts(spec: ExperimentSpec) -> bool:
    """Whether something computes beside the routed experts: shared ones, or a dense residual."""
    moe = spec.model.moe
    beside = moe is not None and (moe.shared_width > 0 or spec.model.residual_width is not None)
    return spec.engine.overlap_shared_experts and beside


def shares_memory(spec: ExperimentSpec) -> bool:
    """Whether processors of a device may work side by side on one memory bandwidth."""
    coprocessors = [each for device in spec.library.devices.values() for each in device.coprocessors.values()]
    concurrent = spec.processors.concurrent or spec.processors.policy == "co-processing"
    return concurrent and any(each.shared for each in coprocessors)


def without_effect(spec: ExperimentSpec) -> Iterator[str]:
    """Settings that somebody chose and that the run does not depend on."""
    engine, moe, parallelism = spec.engine, spec.model.moe, spec.parallelism
    chosen = [name for name in ("routing", "placement") if name in spec.model_fields_set]
    if moe is None and chosen:
        yield f"no effect of {' and '.join(chosen)}: {spec.model.name} is dense"
    if moe is not None and parallelism.ep == 1 and "placement" in chosen:
        yield "no effect of placement: with ep 1 every DP rank holds all experts"
    if engine.transport == "alltoall" and (parallelism.ep == 1 or parallelism.dp == 1):
        why = "ep 1 no token travels to its experts" if parallelism.ep == 1 else "dp 1 every rank holds all tokens"
        yield f"no effect of engine.transport: with {why}"
    if engine.transport != "alltoall" and "dispatch" in engine.model_fields_set:
        yield "no effect of engine.dispatch: the engine's transport is no all-to-all"
    if "chunk" in spec.model_fields_set and spec.fabric != "chunk":
        yield f"no effect of chunk: fabric is {spec.fabric}"
    if spec.fabric != "bound" and "fidelity" in spec.model_fields_set:
        yield f"no effect of fidelity: with fabric {spec.fabric} every operation is an event"
    if spec.fabric != "bound" and parallelism.replica_devices // (parallelism.dp if parallelism.ep == 1 else 1) == 1:
        yield "no effect of fabric: each replica is one device"
    if engine.overlap_shared_experts and not overlaps_shared_experts(spec):
        yield f"no effect of engine.overlap_shared_experts: {spec.model.name} has none"
    if engine.overlap is not None and (moe is None or parallelism.dp == 1):
        why = "there are no experts" if moe is None else "with dp 1 nothing is dispatched"
        yield f"no effect of engine.overlap: {why}"
    if engine.token_budget < engine.max_sequences and engine.chunked_prefill:
        yield f"the engine's token_budget {engine.token_budget} bounds its sequences, max_sequences has no effect"
    if "router" in spec.model_fields_set and parallelism.dp * parallelism.replicas == 1:
        yield "no effect of router: there is one rank to send requests to"


def unused_scales(
    engine: EngineSpec, machine: Machine, kernels: CalibratedKernels, communicates: bool, measured: bool
) -> Iterator[str]:
    """After a run: scales of its devices' families whose calls went by another name. Those of calls that a model lacks
    are not named: an engine's scales serve all models.

    Args:
        communicates: whether a replica has several devices. measured: whether a measured library paces them.
    """
    families = families_of(machine)
    notes: dict[str, None] = {}
    priced = kernels.priced()
    for device, sources in kernels.sources().items():
        family = families[device]
        for kind in dict.fromkeys(source.kind for source in sources):
            names = kernel_names(kind)
            used = [name for name in names if (device, name) in priced]
            for name in engine.scales.get(family, {}):
                if name in names and name not in used:
                    note = f"no effect of engine.scales.{family}.{name}: {kind} of {device} is priced as "
                    notes[note + " and ".join(used)] = None
    yield from notes
    for family in dict.fromkeys(families.values()):
        if COLLECTIVE in engine.scales.get(family, {}) and communicates and not measured:
            yield f"no effect of engine.scales.{family}.{COLLECTIVE}: no measured library paces the devices"


def independent_tokens(spec: ExperimentSpec) -> Iterator[str]:
    """A cache of experts, and a routing that gives it nothing to remember."""
    experts, independent = spec.experts, spec.routing.source in ("profile", "uniform")
    if experts is not None and 0 < experts.cache.capacity < 1 and independent:
        yield (
            "the cache of experts finds what popularity makes of it: decoded tokens are drawn independently of those "
            "before (routing.source: documents has requests whose tokens choose alike)"
        )


#: Profiles that stand for no model in particular.
_GENERIC = frozenset({"uniform", "loss-free"})


def borrowed_profile(spec: ExperimentSpec) -> Iterator[str]:
    """A routing profile that the experiment names and that is another model's."""
    name, model = spec.routing.profile, spec.model
    if model.moe is not None and name is not None and name != model.routing_profile and name not in _GENERIC:
        own = f"{model.name} names {model.routing_profile or 'none'} as its own"
        yield f"routing profile {name} was measured on another model ({own})"


def load_notes(requests: Requests, sender: Sender, states: list[RequestState]) -> Iterator[str]:
    """What was sent and is not counted, and what was not sent or not finished."""
    warm = sum(phase.last - phase.first for phase in requests.phases if phase.stage < 0)
    if warm:
        yield f"the warm-up (requests: {warm}) is in the tables, and in no TTFT, TPOT, E2E, throughput or goodput"
    if sender.overdue is not None:
        left = sum(state.finish < 0 for state in states)
        unsent = len(requests) - len(states)
        yield (
            f"ended {sender.overdue.patience:g} s after the last arrival (requests.drain) with {left} requests "
            f"unfinished" + (f", {unsent} of later stages were not sent" if unsent else "")
        )


def kernel_notes(sources: Mapping[str, Sequence[Source]]) -> Iterator[str]:
    """On whose measurements the times of kernels rest, per device, and which sizes lie far outside of them."""
    for device, found in sources.items():
        origins: dict[tuple[str | None, str], dict[str, None]] = {}
        for source in found:
            origins.setdefault((source.device, source.stack), {}).setdefault(source.kind)
        if any(name is not None for name, _ in origins):
            said = (_origin(device, *origin, list(kinds)) for origin, kinds in origins.items())
            yield f"kernels of {device}: {'; '.join(said)}"
        far = {f"{source.kind}: {size}": None for source in found for size in source.far}
        if far:
            yield f"kernels of {device} far outside what was measured: {'; '.join(far)}"


def _origin(device: str, measured: str | None, stack: str, kinds: list[str]) -> str:
    what = ", ".join(kinds)
    if measured is None:
        return f"{what} by the datasheet and its family's defaults"
    where = "" if measured == device else f"on {measured}, scaled by the datasheets, "
    return f"{what} as measured ({where}{stack})"
