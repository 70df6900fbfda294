"""What is on a device at one instant, and how it changes: pure functions from state to state."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moesim.memory.experts.caches import CachePolicy, FloatArray, Use

Experts = NDArray[np.bool_]


@dataclass(frozen=True)
class Residency:
    """resident: [layers, experts] what the cache holds. memory: [layers, experts] the policy's numbers. time: steps."""

    resident: Experts
    memory: FloatArray
    time: int = 0

    def after(self, layers: dict[int, tuple[Experts, FloatArray]]) -> Residency:
        """One step later, with new rows for some layers."""
        resident, memory = self.resident.copy(), self.memory.copy()
        for layer, (kept, numbers) in layers.items():
            resident[layer], memory[layer] = kept, numbers
        return replace(self, resident=resident, memory=memory, time=self.time + 1)


def initial(popularity: FloatArray, slots: int) -> Residency:
    """A cache filled with the most popular experts. popularity: [layers, experts]."""
    return Residency(best(popularity, np.ones(popularity.shape, dtype=bool), slots), np.zeros(popularity.shape))


def best(numbers: FloatArray, among: Experts, slots: int) -> Experts:
    """The `slots` largest numbers of those `among` on the last axis; ties to the lower index."""
    kept = np.zeros(numbers.shape, dtype=bool)
    if slots == 0:
        return kept
    order = np.argsort(np.where(among, -numbers, np.inf), axis=-1, kind="stable")[..., :slots]
    np.put_along_axis(kept, order, True, axis=-1)
    return kept & among


def admit(policy: CachePolicy, resident: Experts, memory: FloatArray, use: Use, fetched: Experts, slots: int) -> tuple[
    Experts, FloatArray
]:  # fmt: skip
    """A layer's cache after a use: of what it held and what was fetched, the policy's favourites stay.

    Args: resident, memory, fetched: [experts].
    """
    numbers = policy.observe(memory, use)
    return best(numbers, resident | fetched, slots), numbers


def replay(
    policy: CachePolicy, uses: NDArray[Any], slots: int, scores: NDArray[Any] | None = None
) -> NDArray[np.int64]:
    """Requests that a cache of one layer meets when every miss is fetched: [steps] distinct experts found.

    Args:
        uses: [steps, experts] tokens. scores: [steps, experts] of one token each.
    """
    popularity = uses.sum(axis=0).astype(np.float64)
    state = initial(popularity[None] * 0, slots)
    resident, memory = state.resident[0], state.memory[0]
    hits = np.zeros(len(uses), dtype=np.int64)
    for time, tokens in enumerate(uses):
        used = tokens > 0
        hits[time] = np.count_nonzero(used & resident)
        use = Use(tokens, None if scores is None else scores[time][None], time, popularity)
        resident, memory = admit(policy, resident, memory, use, used & ~resident, slots)
    return hits


def belady(uses: NDArray[Any], slots: int) -> NDArray[np.int64]:
    """As `replay` of the policy that knows the future and keeps what is used soonest (Belady, 1966): no policy hits
    more often."""
    used = uses > 0
    steps, experts = used.shape
    following = np.full((steps + 1, experts), steps, dtype=np.int64)  # when each is used next, from each step on
    for time in reversed(range(steps)):
        following[time] = np.where(used[time], time, following[time + 1])
    resident = np.arange(experts) < slots
    hits = np.zeros(steps, dtype=np.int64)
    for time in range(steps):
        hits[time] = np.count_nonzero(used[time] & resident)
        resident = best(-following[time + 1].astype(np.float64), resident | used[time], slots)
    return hits
