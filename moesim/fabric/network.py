"""The fabric of a topology: collectives over any of its devices, priced on its links."""

from __future__ import annotations

from collections.abc import Sequence

from numpy.typing import ArrayLike

from moesim.fabric import collectives
from moesim.fabric.links import GroupLinks, group_links
from moesim.fabric.policies import RoutingOptions, make_routing
from moesim.fabric.routing import Routing
from moesim.fabric.topology import Topology
from moesim.fabric.transfer import Transfer
from moesim.spec.errors import MoesimError


class TopologyFabric:
    """Collectives between devices of a topology; see switch.Fabric. Routes and link loads are kept per group.

    Args:
        routing: a policy, or the name of one; the topology's own where None. algorithm: of reductions and gathers;
            `rings` takes hierarchical ones for several equal nodes, as ports do.
    """

    def __init__(
        self,
        topology: Topology,
        routing: Routing | str | None = None,
        *,
        options: RoutingOptions | None = None,
        algorithm: str = "auto",
    ) -> None:
        chosen = topology.routing if routing is None else routing
        self.topology, self.algorithm = topology, algorithm
        self.routing: Routing = make_routing(chosen, options) if isinstance(chosen, str) else chosen
        self._groups: dict[tuple[int, ...], GroupLinks] = {}

    def ports(self, devices: Sequence[int]) -> GroupLinks:
        """The group of these devices. Raises MoesimError where one is named twice or is not there."""
        key = tuple(int(device) for device in devices)
        if key not in self._groups:
            self._groups[key] = group_links(self.topology, key, self.routing)
        return self._groups[key]

    def all_reduce(self, size: ArrayLike, devices: Sequence[int], algorithm: str | None = None) -> Transfer:
        group = self._several(devices)
        return collectives.all_reduce(size, group, algorithm or self._algorithm(group))

    def all_gather(self, chunks: ArrayLike, devices: Sequence[int], algorithm: str | None = None) -> Transfer:
        group = self._several(devices)
        return collectives.all_gather(chunks, group, algorithm or self._algorithm(group))

    def reduce_scatter(self, chunks: ArrayLike, devices: Sequence[int], algorithm: str | None = None) -> Transfer:
        group = self._several(devices)
        return collectives.reduce_scatter(chunks, group, algorithm or self._algorithm(group))

    def broadcast(
        self, size: ArrayLike, devices: Sequence[int], root: int = 0, algorithm: str | None = None
    ) -> Transfer:
        group = self._several(devices)
        return collectives.broadcast(size, group, root, algorithm or self._algorithm(group))

    def multicast(
        self, size: ArrayLike, source: int, destinations: Sequence[int], algorithm: str = "direct"
    ) -> Transfer:
        group = self._several([source, *destinations])
        return collectives.multicast(size, group, 0, range(1, group.lanes), algorithm)

    def gather(self, chunks: ArrayLike, devices: Sequence[int], root: int = 0) -> Transfer:
        return collectives.gather(chunks, self._several(devices), root)

    def all_to_all(self, traffic: ArrayLike, devices: Sequence[int], algorithm: str = "direct") -> Transfer:
        return collectives.all_to_all(traffic, self._several(devices), algorithm)

    def send(self, size: ArrayLike, source: int, destination: int) -> Transfer:
        return collectives.send(size, self.ports((source, destination)))

    def pace(self, transfer: Transfer) -> Transfer:
        return transfer

    def _algorithm(self, group: GroupLinks) -> str:
        if self.algorithm != "rings":
            return self.algorithm
        return "hierarchical" if group.several_nodes and group.grid is not None else "ring"

    def _several(self, devices: Sequence[int]) -> GroupLinks:
        group = self.ports(devices)
        if group.lanes == 1:
            raise MoesimError(
                f"a collective over {group.name(0)} alone moves nothing", fix="add devices, or leave it out"
            )
        return group
