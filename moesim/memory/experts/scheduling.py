"""Who computes the experts of a layer: the device, after copies where needed, or the host."""

from __future__ import annotations

from typing import NamedTuple, Protocol

import numpy as np

from moesim.memory.experts.caches import FloatArray, IntArray
from moesim.memory.experts.residency import Experts
from moesim.registry import Registry


class Times(NamedTuple):
    """Seconds of every expert of a layer with the tokens it has, [experts]: on the device, on the host; and of one
    copy to the device."""

    device: FloatArray
    host: FloatArray
    copy: float


class Split(NamedTuple):
    """Experts of the device and of the host, in order; those of the device that are not there are copied in order."""

    device: tuple[int, ...]
    host: tuple[int, ...]


class ExpertScheduling(Protocol):
    """Divides a layer's experts. `uses_host`: whether it ever gives the host any."""

    @property
    def uses_host(self) -> bool: ...

    def split(self, tokens: IntArray, available: Experts, times: Times) -> Split:
        """Args: tokens: [experts]. available: [experts], on the device or on their way to it."""
        ...


#: Policies by name; other packages add theirs under `moesim.expert-scheduling`.
SCHEDULINGS: Registry[ExpertScheduling] = Registry("expert-scheduling", "experts.scheduling")


def _order(tokens: IntArray, available: Experts) -> list[int]:
    """Active experts: those at hand first, then those with more tokens."""
    active = np.flatnonzero(tokens)
    order: list[int] = active[np.lexsort((active, -tokens[active], ~available[active]))].tolist()
    return order


@SCHEDULINGS.register("device")
class OnDemand:
    """The device computes all; what it lacks is copied first."""

    uses_host = False

    def split(self, tokens: IntArray, available: Experts, times: Times) -> Split:
        return Split(tuple(_order(tokens, available)), ())


@SCHEDULINGS.register("host")
class MissesToHost:
    """What is not on the device, the host computes (kTransformers, Fiddler)."""

    uses_host = True

    def split(self, tokens: IntArray, available: Experts, times: Times) -> Split:
        order = _order(tokens, available)
        return Split(tuple(e for e in order if available[e]), tuple(e for e in order if not available[e]))


@SCHEDULINGS.register("greedy")
class Greedy:
    """From both ends of the list (at hand first, then by tokens) the device and the host take an expert each, whichever
    would be done with its one sooner (HybriMoE, arXiv 2504.05897, section IV-B)."""

    uses_host = True

    def split(self, tokens: IntArray, available: Experts, times: Times) -> Split:
        order = _order(tokens, available)
        device: list[int] = []
        host: list[int] = []
        on_device = on_host = copied = 0.0
        first, last = 0, len(order) - 1
        while first <= last:
            mine, its = order[first], order[last]
            begin = on_device if available[mine] else max(on_device, copied + times.copy)
            if begin + times.device[mine] <= on_host + times.host[its]:
                device.append(mine)
                on_device = begin + float(times.device[mine])
                copied += 0.0 if available[mine] else times.copy
                first += 1
            else:
                host.append(its)
                on_host += float(times.host[its])
                last -= 1
        return Split(tuple(device), tuple(host))


def makespan(split: Split, available: Experts, times: Times) -> tuple[float, float]:
    """Seconds until all experts are computed, and of copies among them."""
    on_device = copied = 0.0
    for expert in split.device:
        if not available[expert]:
            copied += times.copy
            on_device = max(on_device, copied)
        on_device += float(times.device[expert])
    return max(on_device, float(times.host[list(split.host)].sum())), copied
