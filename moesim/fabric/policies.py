"""Routing policies by name, with their options."""

from __future__ import annotations

from dataclasses import dataclass

from moesim.fabric.routes import Ties
from moesim.fabric.routing import DimensionOrder, RailLocal, Routing, Shortest, Valiant
from moesim.fabric.single_paths import MinimalSplit
from moesim.registry import Registry


@dataclass(frozen=True)
class RoutingOptions:
    """What a routing policy may be told; each reads what concerns it.

    ties: what happens between equally short ways. seed: of the draws of `hash` and `valiant`. order: dimensions in the
    order in which they are travelled. relays: devices over which valiant routing spreads a pair, 0 for its default.
    """

    ties: Ties = "split"
    seed: int = 0
    order: tuple[int, ...] = ()
    relays: int = 0

    @property
    def shortest(self) -> Shortest:
        return Shortest(self.ties, self.seed)


ROUTINGS: Registry[Routing] = Registry("routing policy", "machine.fabric.routing")


@ROUTINGS.register("shortest")
def _shortest(options: RoutingOptions) -> Routing:
    return options.shortest


@ROUTINGS.register("dimension-order")
def _dimension_order(options: RoutingOptions) -> Routing:
    return DimensionOrder(options.order, options.shortest)


@ROUTINGS.register("rail-local")
def _rail_local(options: RoutingOptions) -> Routing:
    return RailLocal(options.shortest)


@ROUTINGS.register("valiant")
def _valiant(options: RoutingOptions) -> Routing:
    return Valiant(options.relays, options.seed, options.shortest)


@ROUTINGS.register("minimal-split")
def _minimal_split(options: RoutingOptions) -> Routing:
    return MinimalSplit()


def make_routing(name: str, options: RoutingOptions | None = None) -> Routing:
    """The policy of that name. Raises MoesimError where there is none."""
    return ROUTINGS.make(name, options or RoutingOptions())
