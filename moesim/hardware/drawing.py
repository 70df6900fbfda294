"""A machine as a picture and as a tree on the console."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

from moesim.hardware.device import Device
from moesim.hardware.machine import Machine
from moesim.hardware.wiring import vertex_kind
from moesim.spec.hardware import FabricSpec

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from rich.tree import Tree

#: Equal parts of a node beyond this number are folded into one entry.
MANY = 8

_PREFIXES = ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))
_FILL = {
    "device": "#d9ead3", "host": "#cfe2f3", "storage": "#eadfd3", "switch": "#fff2cc", "host-bridge": "#fff2cc",
    "nic": "#f4cccc", "more": "#f3f3f3",
}  # fmt: skip
_LINES = ("#1b6ca8", "#c1440e", "#5b8c2a", "#7b4ea3", "#8a6d1f", "#3c3c3c", "#c2185b")
#: Distance of boxes and of frames, height of boxes and of bars, in units of the width of a device.
_GAP, _FRAME, _HIGH, _BAR = 0.25, 0.35, 0.78, 0.4


def quantity(value: float, unit: str) -> str:
    """`value` with an SI prefix and three digits: 3.35e12, "B/s" -> "3.35 TB/s"."""
    for factor, prefix in _PREFIXES:
        if value >= factor:
            return f"{value / factor:.3g} {prefix}{unit}"
    return f"{value:.3g} {unit}"


def facts(device: Device) -> list[str]:
    """What a reader wants to know of a device: arithmetic, tiers, power."""
    lines = []
    if "bf16" in device.peaks:
        lines.append(f"{quantity(device.peaks['bf16'], 'FLOP/s')} {device.runs_as['bf16']}")
    for tier in device.tiers:
        lines.append(f"{tier.tier} {quantity(tier.capacity, 'B')}, {quantity(tier.bandwidth, 'B/s')}")
    if device.tdp is not None:
        lines.append(f"{device.tdp:g} W")
    return lines


def tree(machine: Machine) -> Tree:
    """The machine for the console: one node in full (all are alike), then what joins the nodes."""
    from rich.tree import Tree

    root = Tree(f"[bold]{machine.spec.name}[/bold]  {machine.spec.description}".rstrip())
    nodes = machine.nodes
    node = root.add("1 node" if nodes == 1 else f"{nodes} nodes, each with")
    fabric = machine.scale_up(0)
    branch = node if fabric is None else node.add(_fabric_line(fabric, "scale-up"))
    _add_parts(branch, machine.devices_of(0))
    for title, parts in (("hosts", machine.hosts), ("storage", machine.storage)):
        if parts:
            _add_parts(node.add(title), [part for part in parts if part.node == 0])
    if machine.scale_out is not None:
        root.add(_fabric_line(machine.scale_out, "scale-out"))
    return root


def _add_parts(branch: Tree, parts: Sequence[Device]) -> None:
    for name, group in _kinds(parts):
        detail = ", ".join(facts(group[0]))
        if len(group) > MANY // 2:
            branch.add(f"{len(group)} x [bold]{name}[/bold]  {detail}")
        else:
            for part in group:
                branch.add(f"[bold]{part.name.split('/')[-1]}[/bold]  {detail}")


def _fabric_line(fabric: FabricSpec, role: str) -> str:
    limit = fabric.bandwidth if fabric.chiplet is None else fabric.chiplet.bandwidth
    cap = f", at most {quantity(limit, 'B/s')}" if limit is not None else ""
    reach = f"{fabric.efficiency:.0%} of the rate, {fabric.latency * 1e6:g} us"
    return f"[bold]{fabric.name}[/bold]  {role} {fabric.kind} on {fabric.link}{cap}, {reach}"


def _kinds(parts: Iterable[Device]) -> list[tuple[str, list[Device]]]:
    """Neighbours of one descriptor together."""
    return [(name, list(group)) for name, group in groupby(parts, key=lambda part: part.spec.name)]


@dataclass(frozen=True)
class _Box:
    """A rectangle that stands for one vertex, or for several of a kind."""

    x: float
    y: float
    width: float
    height: float
    kind: str
    title: str
    lines: tuple[str, ...] = ()

    @property
    def centre(self) -> float:
        return self.x + self.width / 2


def draw_machine(machine: Machine, path: str | Path) -> None:
    """Writes a picture of the machine's graph to `path` (PNG, PDF or SVG by its suffix).

    Memory tiers are written into their device. Many equal parts are drawn as the first few and one box for the rest;
    of several nodes the first is drawn, of two small ones both.
    """
    from matplotlib.figure import Figure

    canvas = _Canvas()
    shown = 2 if machine.nodes == 2 and len(machine.devices) <= MANY else 1
    right = -2 * _FRAME
    for node in range(shown):
        right = canvas.add_node(machine, node, right + 2 * _FRAME)
    if shown < machine.nodes:
        names = [v.name for v in machine.vertices.values() if v.node is not None and v.node >= shown]
        rest = machine.nodes - shown
        title = f"{rest} more node{'s' if rest > 1 else ''}"
        canvas.add(_Box(right + 2 * _FRAME, 0.0, 1.2, _HIGH, "more", title, ("as node 0",)), names)
        right += 2 * _FRAME + 1.2
    if machine.scale_out is not None and machine.scale_out.name in machine.vertices:
        fabric = machine.scale_out
        canvas.add(_Box(0.0, -2.4, right, _BAR, vertex_kind(fabric), _fabric_title(fabric)), [fabric.name])
    width, height = canvas.size()
    figure = Figure(figsize=(1.45 * width + 2.0, 1.45 * height + 1.0))
    axes = figure.add_axes((0.0, 0.0, 1.0, 1.0))
    canvas.paint(axes, machine)
    axes.set_title(machine.spec.name, loc="left", fontsize=12, fontweight="bold")
    figure.savefig(path, dpi=130, bbox_inches="tight")


def _fabric_title(fabric: FabricSpec) -> str:
    return f"{fabric.name}   {fabric.latency * 1e6:g} us"


class _Canvas:
    """Boxes placed row by row, and which box stands for which vertex."""

    def __init__(self) -> None:
        self.boxes: list[_Box] = []
        self.frames: list[tuple[float, float, float, float, str]] = []
        self.place: dict[str, _Box] = {}

    def add(self, box: _Box, vertices: Iterable[str]) -> None:
        self.boxes.append(box)
        self.place.update(dict.fromkeys(vertices, box))

    def add_node(self, machine: Machine, node: int, left: float) -> float:
        """Draws one node from `left` on; returns where it ends. Storage above hosts above devices above the switch."""
        fabric = machine.scale_up(node)
        bridge = fabric is not None and vertex_kind(fabric) == "host-bridge"
        hosts = [part for part in machine.hosts if part.node == node]
        storage = [part for part in machine.storage if part.node == node]
        rows = [("device", machine.devices_of(node), 0.0), ("host", hosts, 2.2 if bridge else 1.5)]
        rows.append(("storage", storage, rows[1][2] + 1.35 if hosts else 2.2))
        width = max(len(_slots(parts)) for _, parts, _ in rows) * (1 + _GAP) - _GAP
        width = max(width, 2.2)
        top = _HIGH
        for kind, parts, y in rows:
            self._row(machine, kind, parts, left, width, y)
            top = max(top, y + _HIGH) if parts else top
        bottom = -0.55 if machine.scale_out is not None else 0.0
        if fabric is not None:
            y = 1.3 if bridge else -1.3
            bottom, top = min(bottom, y), max(top, y + _BAR)
            bar = _Box(left, y, width, _BAR, vertex_kind(fabric), _fabric_title(fabric))
            hub = f"node{node}/{fabric.name}"
            self.add(bar, [name for name in machine.vertices if name == hub or name.startswith(f"{hub}/")])
        name = f"node {node}"
        self.frames.append((left - _FRAME / 2, bottom - 0.2, width + _FRAME, top - bottom + 0.55, name))
        return left + width

    def _row(self, machine: Machine, kind: str, parts: Sequence[Device], left: float, width: float, y: float) -> None:
        slots = _slots(parts)
        step = width / max(len(slots), 1)
        for number, slot in enumerate(slots):
            x = left + (number + 0.5) * step - 0.5
            title = slot[0].name.split("/")[-1] if len(slot) == 1 else f"{len(slot)} more {slot[0].spec.name}"
            lines = tuple(facts(slot[0])) if len(slot) == 1 else ("alike",)
            names = [f"{part.name}{tail}" for part in slot for tail in ("", *(f"/{t.tier}" for t in part.tiers))]
            self.add(_Box(x, y, 1.0, _HIGH, kind if len(slot) == 1 else "more", title, lines), names)
            nics = [f"{part.name}/nic" for part in slot if f"{part.name}/nic" in machine.vertices]
            if nics:
                self.add(_Box(x + 0.55, y - 0.42, 0.45, 0.22, "nic", "NIC"), nics)

    def size(self) -> tuple[float, float]:
        right = max(box.x + box.width for box in self.boxes) - min(box.x for box in self.boxes)
        return right, max(box.y + box.height for box in self.boxes) - min(box.y for box in self.boxes)

    def paint(self, axes: Axes, machine: Machine) -> None:
        from matplotlib.patches import FancyBboxPatch, Rectangle

        for x, y, width, height, name in self.frames:
            axes.add_patch(Rectangle((x, y), width, height, fill=False, edgecolor="#bbbbbb", linestyle="--", zorder=0))
            axes.text(x + 0.06, y + height - 0.06, name, fontsize=8, color="#777777", va="top")
        for box in self.boxes:
            axes.add_patch(
                FancyBboxPatch(
                    (box.x, box.y), box.width, box.height, boxstyle="round,pad=0,rounding_size=0.06",
                    facecolor=_FILL[box.kind], edgecolor="#666666", linewidth=0.8, zorder=2,
                )
            )  # fmt: skip
            _write(axes, box)
        self._paint_links(axes, machine)
        axes.set_aspect("equal")
        axes.autoscale_view()
        axes.axis("off")

    def _paint_links(self, axes: Axes, machine: Machine) -> None:
        """One line per pair of boxes and kind of link; a colour per kind, explained in the legend."""
        colours: dict[str, str] = {}
        drawn: set[tuple[int, int, str]] = set()
        for link in machine.links:
            ends = self.place[link.u], self.place[link.v]
            key = (min(map(id, ends)), max(map(id, ends)), link.name)
            if ends[0] is ends[1] or key in drawn:
                continue
            drawn.add(key)
            label = f"{link.name}  {quantity(link.bandwidth, 'B/s')}"
            first = label not in colours
            colour = colours.setdefault(label, _LINES[len(colours) % len(_LINES)])
            outward = any(end.kind == "nic" for end in ends)  # passes over the node's own switch
            axes.plot(
                *_ends(*ends), color=colour, linewidth=1.1, linestyle="--" if outward else "-",
                zorder=2.5 if outward else 1, label=label if first else None,
            )  # fmt: skip
        if colours:
            axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), fontsize=7, frameon=False,
                        title="per direction", title_fontsize=7)  # fmt: skip


def _write(axes: Axes, box: _Box) -> None:
    """The text of a box: the title above its lines, or alone in the middle."""
    if not box.lines:
        size = 5.5 if box.kind == "nic" else 8.0
        ground = {"facecolor": _FILL[box.kind], "edgecolor": "none", "pad": 1.5}  # keeps lines off the letters
        y = box.y + box.height / 2
        axes.text(box.centre, y, box.title, ha="center", va="center", fontsize=size, zorder=3, bbox=ground)
        return
    size = min(7.5, 7.5 * 13 / len(box.title))
    top = box.y + box.height - 0.07
    axes.text(box.centre, top, box.title, ha="center", va="top", fontsize=size, fontweight="bold", zorder=3)
    text = "\n".join(box.lines)
    axes.text(box.centre, top - 0.2, text, ha="center", va="top", fontsize=6.0, linespacing=1.35, zorder=3)


def _slots(parts: Sequence[Device]) -> list[list[Device]]:
    """What is drawn as one box each: every part, or of many alike the first few and all the rest."""
    slots: list[list[Device]] = []
    for _, group in _kinds(parts):
        keep = len(group) if len(group) <= MANY else MANY - 1
        slots += [[part] for part in group[:keep]]
        if group[keep:]:
            slots.append(group[keep:])
    return slots


def _ends(one: _Box, other: _Box) -> tuple[tuple[float, float], tuple[float, float]]:
    """Where a line meets two boxes: straight down into the wider one, side by side in a row."""
    if one.y == other.y:
        first, second = sorted((one, other), key=lambda box: box.x)
        middle = first.y + first.height / 2
        return (first.x + first.width, second.x), (middle, middle)
    upper, lower = sorted((one, other), key=lambda box: -box.y)
    narrow, wide = sorted((one, other), key=lambda box: box.width)
    x = narrow.centre
    inside = min(max(x, wide.x + 0.05), wide.x + wide.width - 0.05)
    xs = (x, inside) if narrow is upper else (inside, x)
    return xs, (upper.y, lower.y + lower.height)
