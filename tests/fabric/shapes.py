"""Small topologies, built link by link, for tests that count their loads by hand."""

from itertools import product

import numpy as np

from moesim.fabric.topology import Topology, from_cables


def grid(*extent: int, ring: bool = False, bandwidth: float = 1e9, latency: float = 0.0) -> Topology:
    """Devices on a grid, closed to rings where asked for."""
    places = list(product(*map(range, extent)))
    index = {place: number for number, place in enumerate(places)}
    cables = set()
    for place, (dimension, size) in product(places, enumerate(extent)):
        beside = list(place)
        beside[dimension] = (place[dimension] + 1) % size
        if (beside[dimension] or ring) and index[tuple(beside)] != index[place]:
            cables.add((index[place], index[tuple(beside)]))
    names = ["gpu" + "-".join(map(str, place)) for place in places]
    return from_cables(
        "grid", len(places), names, sorted(cables), bandwidth=bandwidth, latency=latency, coordinates=np.array(places)
    )


def leaf_spine(leaves: int, hosts: int, spines: int, *, host: float = 1e9, uplink: float = 1e9) -> Topology:
    """`hosts` devices under each leaf switch, each leaf joined to all spines."""
    devices = leaves * hosts
    names = (
        [f"gpu{i}" for i in range(devices)] + [f"leaf{i}" for i in range(leaves)] + [f"spine{i}" for i in range(spines)]
    )
    down = [(leaf * hosts + i, devices + leaf) for leaf in range(leaves) for i in range(hosts)]
    up = [(devices + leaf, devices + leaves + spine) for leaf in range(leaves) for spine in range(spines)]
    bandwidth = [host] * len(down) + [uplink] * len(up)
    forwards = np.arange(len(names)) >= devices
    return from_cables("leaf-spine", devices, names, down + up, bandwidth=bandwidth, forwards=forwards)


def all_pairs(devices: int) -> np.ndarray:
    """[devices^2, 2], in the order of a traffic matrix."""
    ends = np.meshgrid(np.arange(devices), np.arange(devices), indexing="ij")
    return np.stack(ends, axis=-1).reshape(-1, 2)
