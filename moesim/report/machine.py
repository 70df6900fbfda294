"""A machine's graph, as a tree on the console and as a drawing."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from moesim.hardware.device import Device
from moesim.report.style import BLUE, GREEN, GREY, ORANGE, PURPLE, SKY, VERMILION, canvas, styled
from moesim.spec.errors import MoesimError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from networkx import Graph
    from rich.tree import Tree

    from moesim.hardware.machine import Machine

#: A vertex's kind and what it is an instance of: vertices of one group look alike.
_Group: TypeAlias = tuple[str, str]

#: Rows of the drawing from the bottom: memory hangs below its device, hosts below the fabric that joins the devices.
_HEIGHT = {"storage": 0.0, "host": 1.0, "host-bridge": 2.0, "memory": 2.6, "device": 3.2, "switch": 4.2, "nic": 5.0}
_OUTSIDE = 6.0
_COLOUR = {
    "device": VERMILION, "memory": SKY, "switch": GREEN, "host-bridge": GREEN, "host": BLUE, "nic": PURPLE,
    "storage": ORANGE,
}  # fmt: skip

#: Nodes drawn; further ones are alike.
_DRAWN = 2


def machine_tree(machine: Machine) -> Tree:
    """The machine's parts and what joins them, for a rich console. Nodes are identical, so that one stands for all."""
    from rich.text import Text
    from rich.tree import Tree

    spec = machine.spec
    tree = Tree(Text(f"{spec.name}: {machine.nodes} x node" if machine.nodes > 1 else spec.name, style="bold"))
    graph = machine.graph
    parts: dict[_Group, list[str]] = {}
    for name, data in graph.nodes(data=True):
        if data["node"] in (0, None) and data["kind"] not in ("memory", "nic"):
            parts.setdefault(_group(data), []).append(name)
    for (kind, label), names in parts.items():
        branch = tree.add(Text(f"{len(names)} x {label}") + Text(f"  {kind}", style="dim"))
        subject = graph.nodes[names[0]]["subject"]
        for tier in subject.tiers if isinstance(subject, Device) else ():
            branch.add(Text(f"{tier.tier}: {_capacity(tier.capacity)}, {_si(tier.bandwidth)}B/s"))
        for text in _connections(machine, names, here=graph.nodes[names[0]]["node"]):
            branch.add(Text(text, style="cyan"))
    return tree


def _connections(machine: Machine, names: list[str], here: int | None) -> list[str]:
    """What the vertices of a group are joined to; "8 x nvlink4, 432 GB/s each way, to nvlink4-switch"."""
    graph = machine.graph
    found: Counter[tuple[str, float, _Group]] = Counter()
    for name in names:
        for _, other, link in graph.out_edges(name, data=True):
            data = graph.nodes[other]
            # Seen from what lies between nodes, the first node stands for all of them.
            if data["kind"] != "memory" and (here is not None or data["node"] in (0, None)):
                found[link["name"], link["bandwidth"], _group(data)] += 1
    per_node = " per node" if here is None and machine.nodes > 1 else ""
    own = _group(graph.nodes[names[0]])
    return [
        # A link between two of one group was met from both ends.
        f"{count // 2 if to == own else count}{per_node} x {port}, {_si(rate)}B/s each way, to {to[1]}"
        for (port, rate, to), count in found.items()
    ]


def _group(data: dict[str, Any]) -> _Group:
    """The kind of a vertex and the name of its descriptor."""
    subject = data["subject"]
    if isinstance(subject, Device):
        return data["kind"], subject.spec.name
    return data["kind"], getattr(subject, "name", None) or getattr(subject, "tier", None) or data["kind"]


def _si(value: float) -> str:
    """A number of bytes with a decimal prefix: 4.8e12 is "4.8 T"."""
    for power, prefix in ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= power:
            return f"{value / power:.4g} {prefix}"
    return f"{value:.4g} "


def _capacity(size: float) -> str:
    """Bytes as the descriptor has them: binary where that gives a round number ("24 GiB"), else decimal ("141 GB")."""
    for power, prefix in ((40, "Ti"), (30, "Gi"), (20, "Mi")):
        count = round(size / 2**power, 1)
        if 1 <= count < 1024 and math.isclose(count * 2**power, size, rel_tol=1e-9):
            return f"{count:g} {prefix}B"
    return f"{_si(size)}B"


def draw_machine(machine: Machine, target: Path) -> Path:
    """Draws the graph into `target`, in the format of its suffix.

    Raises:
        MoesimError: the suffix is no image format that can be written, or the file cannot be written.
    """
    if target.suffix.lower() not in (".pdf", ".png", ".svg"):
        raise MoesimError(f"{target} is no PDF, PNG or SVG file", fix="name a file such as machine.pdf")
    drawn = min(machine.nodes, _DRAWN)
    hidden = f", alike; {drawn} are drawn" if drawn < machine.nodes else ""
    about = "one node" if machine.nodes == 1 else f"{machine.nodes} nodes{hidden}"
    placed = machine_places(machine)
    across = [x for x, _ in placed.places.values()]
    widest = max(across) - min(across)
    width, height = min(max(6.0, 1.2 + 0.9 * widest), 40.0), 6.0
    with styled():
        figure = canvas(width, height, machine.spec.name, about)
        axes = figure.add_axes((0.02, 0.1, 0.96, 0.78))
        axes.set_axis_off()
        _draw_graph(axes, machine, placed)
        try:
            figure.savefig(target)
        except OSError as error:
            raise MoesimError(f"cannot write {target}: {error.strerror}") from None
    return target


def _places(machine: Machine, nodes: int) -> dict[str, tuple[float, float]]:
    """Where each vertex of the first `nodes` nodes goes: nodes side by side, kinds in rows."""
    per_node = max(len(machine.devices_of(0)), len(machine.hosts) // machine.nodes, 2)
    places: dict[str, tuple[float, float]] = {}
    outside: list[str] = []
    rows: dict[tuple[int, str], list[str]] = {}
    for name, data in machine.graph.nodes(data=True):
        if data["node"] is None:
            outside.append(name)
        elif data["node"] < nodes and data["kind"] not in ("memory", "nic"):
            rows.setdefault((data["node"], data["kind"]), []).append(name)
    for (node, kind), names in rows.items():
        left = node * (per_node + 1)
        for position, name in enumerate(names):
            places[name] = (left + per_node * (position + 0.5) / len(names), _HEIGHT[kind])
    for name, data in machine.graph.nodes(data=True):
        owner = name.rpartition("/")[0]
        if data["kind"] in ("memory", "nic") and owner in places:
            places[name] = _beside(machine, name, places[owner])
    middle = (nodes * (per_node + 1) - 1) / 2
    places |= {name: (middle, _OUTSIDE + 0.6 * level) for level, name in enumerate(outside)}
    return places


def _beside(machine: Machine, name: str, owner: tuple[float, float]) -> tuple[float, float]:
    """A NIC above its device, its memory tiers below, several side by side."""
    if machine.graph.nodes[name]["kind"] == "nic":
        return owner[0], _HEIGHT["nic"]
    device = machine.graph.nodes[name.rpartition("/")[0]]["subject"]
    tiers = [tier.tier for tier in device.tiers]
    shift = tiers.index(name.rpartition("/")[2]) - (len(tiers) - 1) / 2
    return owner[0] + 0.4 * shift + 0.12, owner[1] - 0.45


@dataclass(frozen=True)
class Placed:
    """The part of a machine that is drawn, and where its vertices go."""

    graph: Graph[Any]
    places: dict[str, tuple[float, float]]

    def draw_vertices(self, axes: Axes, scale: float = 1.0, crowd: int = 10**6) -> None:
        """Vertices by kind, with their names; of more than `crowd` in a row, the first one's and then numbers."""
        import networkx as nx

        for kind, colour in _COLOUR.items():
            names = [name for name, data in self.graph.nodes(data=True) if data["kind"] == kind]
            size = scale * (60 if kind in ("memory", "nic") else 260)
            nx.draw_networkx_nodes(
                self.graph, self.places, names, node_size=size, node_color=colour, label=kind, ax=axes
            )
        paper: dict[str, Any] = {"bbox": {"facecolor": "white", "edgecolor": "none", "pad": 0.8, "alpha": 0.85}}
        rows = Counter((data["node"], data["kind"]) for _, data in self.graph.nodes(data=True))
        seen: Counter[tuple[int | None, str]] = Counter()
        for name, data in self.graph.nodes(data=True):
            row, text, side = (data["node"], data["kind"]), name.rpartition("/")[2], "center"
            if rows[row] > crowd:
                text, side = (text, "right") if not seen[row] else (str(seen[row]), "center")
            seen[row] += 1
            if data["kind"] not in ("memory", "nic"):
                axes.annotate(
                    text, self.places[name], (0, 10 * scale**0.5), textcoords="offset points", ha=side, fontsize=6.5,
                    color=GREY, **paper,
                )  # fmt: skip


def machine_places(machine: Machine) -> Placed:
    """The first nodes of a machine, laid out as `draw_machine` does."""
    places = _places(machine, min(machine.nodes, _DRAWN))
    return Placed(machine.graph.subgraph(places).to_undirected(), places)


def link_widths(placed: Placed, thickest: float = 3.6) -> list[float]:
    """Of the lines that stand for links, by their bandwidth."""
    rates = [float(link["bandwidth"]) for _, _, link in placed.graph.edges(data=True)]
    most = max(rates, default=1.0)
    return [thickest * (1 / 6 + 5 / 6 * (rate / most) ** 0.5) for rate in rates]


def _draw_graph(axes: Axes, machine: Machine, placed: Placed) -> None:
    import networkx as nx

    nx.draw_networkx_edges(placed.graph, placed.places, ax=axes, width=link_widths(placed), edge_color="#C4C4C4")
    placed.draw_vertices(axes)
    _legend(axes, machine)


def _legend(axes: Axes, machine: Machine) -> None:
    """Kinds by colour, and below them the rate of each kind of link."""
    shown = {data["kind"] for _, data in machine.graph.nodes(data=True)}
    handles, labels = axes.get_legend_handles_labels()
    kept = [(handle, label) for handle, label in zip(handles, labels, strict=True) if label in shown]
    axes.legend(
        *zip(*kept, strict=True), loc="upper center", bbox_to_anchor=(0.5, 0.02), ncols=len(kept), fontsize=7,
        markerscale=0.4,
    )  # fmt: skip
    rates = {f"{link.name} {_si(link.bandwidth)}B/s": None for link in machine.links}
    axes.text(0.5, -0.07, "   ".join(rates), transform=axes.transAxes, ha="center", fontsize=7, color=GREY)
