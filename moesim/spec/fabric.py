"""Fabrics: what joins the devices of a node, or the nodes of a system, by its form and its links."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from moesim.spec.base import Descriptor, Schema
from moesim.spec.units import BytesPerSecond, JoulesPerByte, Metres, Seconds

FabricKind = Literal[
    "switch", "host-bridge", "full-mesh", "ring", "line", "mesh", "torus", "wafer", "tree", "nop-tree", "pcie-tree",
    "fat-tree", "rail", "multi-plane", "dragonfly", "unified-bus",
]  # fmt: skip

#: Kinds whose devices are joined to each other without a switch. Their `latency` is that of one hop.
LATTICES = ("full-mesh", "ring", "line", "mesh", "torus", "wafer")
_TREES = ("tree", "nop-tree", "pcie-tree")
_CLOS = ("fat-tree", "rail", "multi-plane")

#: Which kinds take a field; every kind takes those that are not named here.
TAKEN_BY: dict[str, tuple[str, ...]] = {
    "hop_latency": (*_TREES, *_CLOS, "dragonfly"),
    "reduces": ("switch", *_TREES, *_CLOS),
    "ports": LATTICES,
    "shape": ("mesh", "torus", "wafer"),
    "dimensions": ("mesh", "torus"),
    "holes": ("wafer",),
    "defects": ("wafer",),
    "seed": ("wafer",),
    "arity": _TREES,
    "uplink": (*_TREES, "dragonfly"),
    "root": ("nop-tree",),
    "roots": ("pcie-tree",),
    "root_link": ("pcie-tree",),
    "leaf": _CLOS,
    "spines": _CLOS,
    "oversubscription": _CLOS,
    "pod": ("fat-tree",),
    "planes": ("multi-plane", "unified-bus"),
    "striped": ("multi-plane",),
    "hosts": ("dragonfly",),
    "routers": ("dragonfly",),
    "global_links": ("dragonfly",),
    "switches": ("unified-bus",),
    "dies": ("unified-bus",),
    "die_bandwidth": ("unified-bus",),
    "die_latency": ("unified-bus",),
}

#: Fields that a kind cannot do without, with an example of each.
NEEDED_BY: dict[str, dict[str, str]] = {
    "wafer": {"shape": "[5, 5]"},
    "tree": {"arity": "4"},
    "nop-tree": {"arity": "4"},
    "pcie-tree": {"arity": "4"},
    "fat-tree": {"leaf": "32"},
    "rail": {"leaf": "32"},
    "multi-plane": {"leaf": "32", "planes": "8"},
    "dragonfly": {"hosts": "4", "routers": "8", "global_links": "4"},
    "unified-bus": {"planes": "7"},
}

#: Links of a device, where the fabric does not say: per dimension of a grid, or in all.
_PORTS = {"ring": 2, "line": 2, "wafer": 4}

_Number = Annotated[int, Field(gt=0, le=100_000)]


class ChipletSpec(Schema):
    """A die-to-die link from first principles: data wires in one direction x their rate.

    Along `edge` there are `lanes_per_mm` of them; or there is a wire each `pitch`, in `rows` of bumps or, bonded face
    to face, over a strip of `depth`, and `share` of the wires carry data in that direction.
    """

    edge: Metres
    lanes_per_mm: float | None = Field(default=None, gt=0, le=1e6)
    pitch: Metres | None = None
    rows: int = Field(default=1, gt=0, le=1000)
    depth: Metres | None = None
    share: float = Field(default=0.5, gt=0, le=1)
    #: Of one wire.
    rate: BytesPerSecond
    energy: JoulesPerByte | None = None

    @model_validator(mode="after")
    def _one_way_to_count(self) -> ChipletSpec:
        if (self.pitch is None) == (self.lanes_per_mm is None):
            raise ValueError("wires are counted by lanes_per_mm or by their pitch; give one of the two")
        if self.lanes_per_mm is not None and {"rows", "depth", "share"} & self.model_fields_set:
            raise ValueError("lanes_per_mm counts all lanes of one direction; leave rows, depth and share out")
        if self.depth is not None and "rows" in self.model_fields_set:
            raise ValueError("rows and depth both say how many rows of wires there are; keep one")
        return self

    @property
    def lanes(self) -> float:
        """Data wires in one direction."""
        if self.lanes_per_mm is not None:
            return self.edge * 1e3 * self.lanes_per_mm
        assert self.pitch is not None
        rows = self.rows if self.depth is None else self.depth / self.pitch
        return self.edge / self.pitch * rows * self.share

    @property
    def bandwidth(self) -> float:
        """Bytes/s per direction."""
        return self.lanes * self.rate


class FabricSpec(Descriptor):
    """What joins the devices of a node, or the nodes of a system. `link` names the port that devices plug in; where a
    device has several links into the fabric, its port is all of them."""

    kind: FabricKind
    link: str
    #: Caps the port's bandwidth per direction, where the fabric is slower than the device's port.
    bandwidth: BytesPerSecond | None = None
    #: Caps each link between dies instead.
    chiplet: ChipletSpec | None = None
    #: Share of the wire rate that large transfers reach.
    efficiency: float = Field(default=1.0, ge=0.001, le=1)
    #: One message from memory to memory, without queueing: through one switch, or over one hop where there is none.
    latency: Seconds
    #: Each further link between switches.
    hop_latency: Seconds = 0.0
    #: Start of a collective: kernel launch and protocol set-up, once per call.
    overhead: Seconds = 0.0
    energy: JoulesPerByte | None = None
    #: Policy by name, where the kind's own is not wanted; what happens between equally short ways.
    routing: str | None = None
    ties: Literal["split", "lowest", "hash"] = "split"
    #: Switches add up and multicast; NoP trees do unless this says no.
    reduces: bool | None = None
    #: Links that make up a device's port.
    ports: _Number | None = None
    #: Extent of each dimension; without it, the devices are laid out as evenly as they go in `dimensions`.
    shape: tuple[_Number, ...] | None = Field(default=None, min_length=1, max_length=6)
    dimensions: int = Field(default=2, gt=0, le=6)
    #: Sites of a wafer that hold no working device: named, or a share drawn with `seed`.
    holes: tuple[tuple[int, ...], ...] = ()
    defects: float = Field(default=0.0, ge=0, lt=1)
    seed: int = Field(default=0, ge=0)
    #: Devices, or switches of the tier below, on one switch, and the bandwidth of a switch towards the root.
    arity: _Number | None = None
    uplink: BytesPerSecond | None = None
    #: What is at the top of a NoP tree: a switch, or the first device of the node.
    root: Literal["switch", "device"] = "switch"
    #: Root complexes of a PCIe tree, each with its share of the switches, and the bandwidth between two of them.
    roots: _Number = 1
    root_link: BytesPerSecond | None = None
    #: Devices on a leaf switch, on a rail those of so many nodes; switches above; what leaves carry down over up.
    leaf: _Number | None = None
    spines: int | None = Field(default=None, ge=0, le=100_000)
    oversubscription: float = Field(default=1.0, gt=0, le=1000)
    #: Leaf switches per pod; pods are joined by a third tier.
    pod: _Number | None = None
    #: Separate networks: device i of a node is in plane i, or, striped, every device in all with a part of its port.
    planes: _Number | None = None
    striped: bool = False
    #: Devices on a router, routers in a group, links of a router to other groups.
    hosts: _Number | None = None
    routers: _Number | None = None
    global_links: _Number | None = None
    #: Between nodes, switches in each plane; within a node, dies in a package with a link between each two.
    switches: _Number = 1
    dies: _Number = 1
    die_bandwidth: BytesPerSecond | None = None
    die_latency: Seconds = 0.0

    @model_validator(mode="after")
    def _fields_of_the_kind(self) -> FabricSpec:
        for name, kinds in TAKEN_BY.items():
            if name in self.model_fields_set and self.kind not in kinds:
                raise ValueError(f"{name} means nothing to a {self.kind}; it belongs to {', '.join(kinds)}")
        missing = [
            f"{name}: {example}"
            for name, example in NEEDED_BY.get(self.kind, {}).items()
            if getattr(self, name) is None
        ]  # fmt: skip
        if missing:
            raise ValueError(f"a {self.kind} needs more than its kind; add {', '.join(missing)}")
        return self

    @model_validator(mode="after")
    def _fields_agree(self) -> FabricSpec:
        if self.bandwidth is not None and self.chiplet is not None:
            raise ValueError("bandwidth and chiplet both say how fast a link is; keep one")
        if self.kind == "wafer" and self.shape is not None:
            if len(self.shape) != 2:
                raise ValueError(f"shape has {len(self.shape)} dimensions, a wafer has two; write it like [5, 5]")
            off = [hole for hole in self.holes if len(hole) != 2 or not _within(hole, self.shape)]
            if off:
                raise ValueError(f"holes: {list(off[0])} is no site of the wafer; they count from [0, 0]")
        if self.dies > 1 and self.die_bandwidth is None:
            raise ValueError("dies in a package need a link; add die_bandwidth: 270 GB/s")
        if self.kind == "pcie-tree" and self.roots > 1 and self.root_link is None:
            raise ValueError("roots of a PCIe tree need a link between them; add root_link: 40 GB/s")
        if self.spines == 0 and self.kind != "rail":
            raise ValueError(f"spines: a {self.kind} without them is in pieces; give 1 or more")
        return self

    def port_rate(self, rate: float, devices: int) -> float:
        """Bytes/s per direction of a device's port of so much, where its node holds so many devices."""
        if self.chiplet is None:
            return rate if self.bandwidth is None else min(rate, self.bandwidth)
        links = self.links_of_port(devices) if self.kind in LATTICES else 1
        return min(rate, self.chiplet.bandwidth * links)

    def links_of_port(self, devices: int) -> int:
        """How many links a device's port is made of, where its node holds so many devices."""
        if self.ports is not None:
            return self.ports
        if self.kind in ("mesh", "torus"):
            return 2 * (len(self.shape) if self.shape is not None else self.dimensions)
        if self.kind == "full-mesh":
            return max(devices - 1, 1)
        return _PORTS.get(self.kind, 1)

    @property
    def joules_per_byte(self) -> float:
        """Of one message from memory to memory; 0 where the descriptor says nothing."""
        if self.energy is None and self.chiplet is not None:
            return self.chiplet.energy or 0.0
        return self.energy or 0.0


def _within(place: tuple[int, ...], shape: tuple[int, ...]) -> bool:
    return all(0 <= at < extent for at, extent in zip(place, shape, strict=True))


def even_shape(devices: int, dimensions: int) -> tuple[int, ...]:
    """The most even grid of exactly so many sites: 8 in two dimensions are [2, 4], 64 in three [4, 4, 4]."""
    if dimensions == 1:
        return (devices,)
    side = round(devices ** (1 / dimensions))
    first = max(part for part in range(1, side + 1) if devices % part == 0)
    rest = even_shape(devices // first, dimensions - 1)
    return tuple(sorted((first, *rest)))
