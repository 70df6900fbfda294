"""Devices joined to each other without a switch: who is whose neighbour on a ring, a grid, a wafer."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from moesim.spec.errors import MoesimError
from moesim.spec.fabric import FabricSpec, even_shape

IntArray = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Lattice:
    """Sites and cables between them. The first ones hold the devices; the others, of a wafer, only pass traffic on.

    cables: [E, 2] sites. places: [sites, dimensions], None where there is no grid.
    """

    sites: int
    cables: IntArray
    places: IntArray | None = None


def lattice(spec: FabricSpec, devices: int) -> Lattice:
    """The neighbours of so many devices on a fabric without switches.

    Raises:
        MoesimError: the devices do not fill its shape, or do not fit on the wafer.
    """
    if spec.kind == "full-mesh":
        if spec.links_of_port(devices) < devices - 1:
            raise MoesimError(
                f"{spec.name}: each of {devices} devices has {spec.ports} links, too few to reach all others",
                fix=f"use at most {spec.links_of_port(devices) + 1} devices, or another kind of fabric",
            )
        return Lattice(devices, np.array(list(combinations(range(devices), 2)), dtype=np.int64).reshape(-1, 2))
    if spec.kind in ("ring", "line"):
        return Lattice(devices, _grid((devices,), closed=spec.kind == "ring"))
    if spec.kind == "wafer":
        return _wafer(spec, devices)
    shape = spec.shape or even_shape(devices, spec.dimensions)
    if int(np.prod(shape)) != devices:
        extent = " x ".join(map(str, shape))
        raise MoesimError(
            f"{spec.name}: a {spec.kind} of {extent} has {np.prod(shape)} sites for {devices} devices",
            fix="change the shape or the number of devices, or leave the shape out",
        )
    return Lattice(devices, _grid(shape, closed=spec.kind == "torus"), _places(shape))


def _places(shape: tuple[int, ...]) -> IntArray:
    """[sites, dimensions] coordinates, the last dimension running fastest."""
    return np.stack(np.unravel_index(np.arange(int(np.prod(shape))), shape), axis=1).astype(np.int64)


def _grid(shape: tuple[int, ...], closed: bool) -> IntArray:
    """[E, 2] cables from each site to the next of each dimension; around, where closed. Around two sites there are two
    cables, around one there is none."""
    sites = np.arange(int(np.prod(shape))).reshape(shape)
    cables = []
    for dimension, extent in enumerate(shape):
        if extent == 1:
            continue
        following = np.roll(sites, -1, axis=dimension)
        ends = np.stack([sites, following], axis=-1)
        kept = ends if closed else np.take(ends, range(extent - 1), axis=dimension)
        cables.append(kept.reshape(-1, 2))
    return np.concatenate(cables) if cables else np.empty((0, 2), dtype=np.int64)


def _wafer(spec: FabricSpec, devices: int) -> Lattice:
    """The grid without its holes; devices on the first sites that work, row by row."""
    assert spec.shape is not None
    works = np.ones(spec.shape, dtype=bool)
    for hole in spec.holes:
        works[hole] = False
    drawn = np.random.default_rng(spec.seed).random(spec.shape) if spec.defects else np.ones(spec.shape)
    works &= drawn >= spec.defects
    if works.sum() < devices:
        raise MoesimError(
            f"{spec.name}: {works.sum()} of the {works.size} sites of the wafer work, too few for {devices} devices",
            fix="enlarge the shape, or use fewer devices",
        )
    number = np.cumsum(works.ravel()) - 1
    cables = _grid(spec.shape, closed=False)
    kept = cables[works.ravel()[cables].all(axis=1)]
    return Lattice(int(works.sum()), number[kept], _places(spec.shape)[works.ravel()])
