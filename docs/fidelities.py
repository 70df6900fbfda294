"""Times of the same transfers at every fidelity: the tables of docs/background/fabric.md."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from moesim.fabric.carried import Fidelity, carry
from moesim.fabric.network import TopologyFabric
from moesim.fabric.study import system_fabric
from moesim.fabric.topologies import endpoints, fabric_topology
from moesim.fabric.transfer import Transfer
from moesim.report.text import short_time
from moesim.spec.fabric import FabricSpec

#: Bytes of a device's buffer; seeds of the uneven all-to-alls.
SIZE, SEEDS = 16e6, range(3)
#: Headings and what they are: the fidelity, and bytes of a chunk.
COLUMNS: dict[str, tuple[Fidelity, float]] = {
    "flow": ("flow", np.inf), "chunks of 64 KiB": ("chunk", 65536.0), "chunks of 1 MiB": ("chunk", 1048576.0),
    "whole messages": ("chunk", np.inf),
}  # fmt: skip


@dataclass(frozen=True)
class Machine:
    """A machine of the library, and how many of its devices take part."""

    title: str
    system: str
    devices: int
    overrides: tuple[str, ...] = ()


MACHINES = (
    Machine("NVSwitch, 8 H100", "dgx-h100", 8),
    Machine("full mesh, 8 MI300X", "mi300x-8", 8),
    Machine("PCIe tree, 8 L40S", "l40s-8-switched", 8),
    Machine("2:1 fat tree, 32 H100", "dgx-h100", 32, ("nodes=4", "scale_out=roce400-fat-tree-2to1")),
    Machine("3D torus, 64 TPU v5p", "tpu-v5p-64", 64),
    Machine("wafer with holes", "mozart-wafer", 0),
)


def table() -> str:
    """Per machine and traffic: the bound, and the other times over it."""
    head = "| machine | traffic | bound | " + " | ".join(COLUMNS) + " |\n| --- | --- | --: |" + " --: |" * len(COLUMNS)
    return "\n".join([head, *(line for machine in MACHINES for line in rows(machine))]) + "\n"


def rows(machine: Machine) -> list[str]:
    """The lines of a machine."""
    _, fabric = system_fabric(machine.system, machine.overrides)
    devices = range(machine.devices or fabric.topology.endpoints)
    lines = []
    for label, transfers in traffics(fabric, devices).items():
        bound = np.array([_seconds(each, "bound", np.inf) for each in transfers])
        ratios = [np.mean([_seconds(each, *column) for each in transfers] / bound) for column in COLUMNS.values()]
        cells = " | ".join(f"{ratio:.2f}" for ratio in ratios)
        lines.append(f"| {machine.title} | {label} | {short_time(float(bound.mean()))} | {cells} |")
    return lines


#: Fabrics, ideal and alike, on which random all-to-alls are drawn: title, descriptor, devices.
DRAWN: tuple[tuple[str, dict[str, object], int], ...] = (
    ("switch", {"kind": "switch"}, 16),
    ("4 x 4 mesh", {"kind": "mesh", "shape": [4, 4]}, 16),
    ("4 x 4 torus", {"kind": "torus", "shape": [4, 4]}, 16),
    ("dragonfly", {"kind": "dragonfly", "hosts": 2, "routers": 4, "global_links": 2}, 32),
    ("2:1 fat tree", {"kind": "fat-tree", "leaf": 4, "oversubscription": 2}, 16),
    ("2:1 fat tree", {"kind": "fat-tree", "leaf": 8, "oversubscription": 2}, 32),
)
DRAWS = 30


def drawn_table() -> str:
    """Flow over bound of random all-to-alls: the median, the mean and the largest of DRAWS."""
    lines = ["| fabric | devices | median | mean | largest |", "| --- | --: | --: | --: | --: |"]
    for title, fabric, devices in DRAWN:
        ratios = drawn(fabric, devices)
        lines.append(f"| {title} | {devices} | {np.median(ratios):.2f} | {ratios.mean():.2f} | {ratios.max():.2f} |")
    return "\n".join(lines) + "\n"


def drawn(fabric: dict[str, object], devices: int) -> np.ndarray:
    spec = FabricSpec.model_validate({"name": "fabric", "link": "port", "latency": "0 s"} | fabric)
    links = endpoints(np.full(devices, 1e9 * spec.links_of_port(devices)))
    network, ratios = TopologyFabric(fabric_topology(spec, links)), []
    for seed in range(DRAWS):
        traffic = np.random.default_rng(seed).gamma(0.5, 2e6, (devices, devices))
        moved = network.all_to_all(traffic, range(devices))
        ratios.append(_seconds(moved, "flow", np.inf) / _seconds(moved, "bound", np.inf))
    return np.array(ratios)


PAGE = "docs/background/fabric.md"
TABLES = {"fidelities": table, "draws": drawn_table}


def replaced(page: str, name: str, lines: str) -> str:
    """The text of the page with the table of that name renewed."""
    begin, end = f"<!-- {name}: written by docs/refresh.py -->\n", f"<!-- end of {name} -->"
    before, _, rest = page.partition(begin)
    _, _, after = rest.partition(end)
    return before + begin + "\n" + lines + "\n" + end + after


def traffics(fabric: TopologyFabric, devices: range) -> dict[str, list[Transfer]]:
    n = len(devices)
    even = fabric.all_to_all(np.full((n, n), SIZE / n), devices)
    draws = [np.random.default_rng(seed).gamma(0.5, 2 * SIZE / n, (n, n)) for seed in SEEDS]
    return {
        "all-to-all": [even],
        "uneven all-to-all": [fabric.all_to_all(traffic, devices) for traffic in draws],
        "ring all-reduce": [fabric.all_reduce(SIZE, devices, "ring")],
    }


def _seconds(transfer: Transfer, fidelity: Fidelity, chunk: float) -> float:
    return carry(transfer, fidelity, chunk).picoseconds * 1e-12
