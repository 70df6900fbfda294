"""`auto`: the algorithm a library that tunes itself would take, for each size.

Of the candidates below that can serve the group, the one with the shortest closed form is taken, as NCCL does from its
own tables of latencies and bandwidths; among equals, the first. Reductions in the switch need switches that add up;
hierarchical ones several nodes of equal size, multi-dimensional ones a grid, halving-doubling a power of two of
devices; direct all-reduces and all-gathers are those of custom kernels and serve a single node of up to 8 devices.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from moesim.fabric.in_switch import can_combine
from moesim.fabric.transfer import FloatArray, Group, IntArray, Operation, Transfer

CANDIDATES: dict[str, tuple[str, ...]] = {
    "all_reduce": ("ring", "double-binary-tree", "hierarchical", "multi-dimensional", "direct", "nvls"),
    "all_gather": ("ring", "hierarchical", "multi-dimensional", "direct", "nvls"),
    "reduce_scatter": ("ring", "hierarchical", "multi-dimensional", "direct", "nvls"),
    "broadcast": ("ring", "tree", "sharp"),
    "all_to_all": ("direct", "hierarchical"),
}

#: Devices of a node up to which custom kernels read from all others at once.
DIRECT_DEVICES = 8


@dataclass(frozen=True, eq=False)
class ChosenTransfer(Transfer):
    """A transfer of many sizes, each by the algorithm that suits it. choice: [*shape] index into `candidates`."""

    candidates: tuple[Transfer, ...] = ()
    choice: IntArray | None = None

    @property
    def algorithms(self) -> NDArray[np.str_]:
        """[*shape] names."""
        return np.array([each.algorithm for each in self.candidates])[self.choice]

    @cached_property
    def picoseconds(self) -> IntArray:
        found: IntArray = np.choose(self._choice, [each.picoseconds for each in self.candidates])
        return found

    @cached_property
    def sent(self) -> FloatArray:
        return self._by_lane([each.sent for each in self.candidates])

    @cached_property
    def received(self) -> FloatArray:
        return self._by_lane([each.received for each in self.candidates])

    @cached_property
    def joules(self) -> FloatArray:
        return self._by_lane([each.joules for each in self.candidates])

    def at(self, index: int | tuple[int, ...]) -> Transfer:
        place = index if isinstance(index, tuple) else (index,)
        chosen = self._choice[place]
        if chosen.ndim:
            return ChosenTransfer(
                self.operation, "auto", self.ports, (), chosen.shape,
                tuple(each.at(place) for each in self.candidates), chosen,
            )  # fmt: skip
        return self.candidates[int(chosen)].at(place)

    @property
    def _choice(self) -> IntArray:
        assert self.choice is not None
        return self.choice

    def _by_lane(self, parts: list[FloatArray]) -> FloatArray:
        found: FloatArray = np.choose(self._choice[..., None], parts)
        return found


def candidates(operation: Operation, group: Group) -> list[str]:
    """Algorithms that `auto` compares for this group."""
    able = {
        "hierarchical": group.several_nodes and group.grid is not None,
        "multi-dimensional": group.lattice is not None and sum(extent > 1 for extent in group.lattice.shape) > 1,
        "nvls": can_combine(group),
        "sharp": can_combine(group),
    }
    if operation != "all_to_all":
        able["direct"] = not group.several_nodes and group.lanes <= DIRECT_DEVICES
    return [name for name in CANDIDATES[operation] if able.get(name, True)]


def choose(operation: Operation, group: Group, make: Callable[[str], Transfer]) -> Transfer:
    """The fastest candidate for each size; `make` gives the transfer by an algorithm's name."""
    transfers = tuple(make(name) for name in candidates(operation, group))
    if group.lanes == 1:
        return transfers[0]
    choice = np.argmin([transfer.picoseconds for transfer in transfers], axis=0)
    if not np.ndim(choice):
        return transfers[int(choice)]
    return ChosenTransfer(operation, "auto", group, (), choice.shape, transfers, choice)
