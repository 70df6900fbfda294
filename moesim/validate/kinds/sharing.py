"""Links that flows share max-min fair: rates and finish times that can be counted by hand."""

from __future__ import annotations

import ast
import csv
from collections.abc import Mapping, Sequence
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from moesim.fabric.flow import coflow, simulate
from moesim.fabric.maxmin import max_min_rates
from moesim.fabric.transfer import PICOSECONDS
from moesim.validate.cases import Found, Setting, case

Paths = Mapping[str, Sequence[str]]


@case("max_min_rates")
def rates(
    setting: Setting,
    *,
    capacities: dict[str, str | float],
    flows: dict[str, tuple[str, ...]],
    rates: dict[str, str | float],
) -> Found:
    """The largest relative difference between the rates of flows and the max-min fair ones.

    Args:
        capacities: per link, any unit. flows: the links of each. rates: as fractions ("35/4") in the same unit.
    """
    return _compared(capacities, flows, rates)


@case("max_min_rates_of_file")
def rates_of_file(setting: Setting, *, file: str) -> Found:
    """As `max_min_rates`, over the cases of a CSV file with the columns capacities, flows and rates (mappings)."""
    found = []
    with setting.file(file).open(newline="", encoding="utf-8") as stream:
        for row in csv.DictReader(stream):
            capacities, flows, wanted = (ast.literal_eval(row[name]) for name in ("capacities", "flows", "rates"))
            found.append(_compared(capacities, flows, wanted))
    return Found(error=max(abs(each.error or 0.0) for each in found), rows=sum(each.rows for each in found))


@case("flow_finish_times")
def finish_times(
    setting: Setting,
    *,
    capacities: dict[str, float],
    flows: dict[str, tuple[str, ...]],
    sizes: dict[str, float],
    finish: dict[str, str | float],
) -> Found:
    """The largest relative difference between the finish times of flows that start together and the known ones.

    Args:
        capacities: bytes per second of each link. sizes: bytes of each flow. finish: seconds, as fractions.
    """
    names = list(flows)
    paths, bandwidth = _paths({name: flows[name] for name in names}, capacities)
    arrivals = simulate(coflow(paths, [sizes[name] for name in names]), bandwidth)
    expected = np.array([float(Fraction(str(finish[name]))) for name in names])
    return Found(error=float(np.abs(arrivals.flow / PICOSECONDS / expected - 1).max()), rows=len(names))


def _compared(
    capacities: Mapping[str, str | float], flows: Paths, wanted: Mapping[str, str | float]
) -> Found:  # fmt: skip
    paths, capacity = _paths(flows, {name: float(Fraction(str(each))) for name, each in capacities.items()})
    pointer = np.concatenate([[0], np.cumsum([len(path) for path in paths])]).astype(np.int64)
    link = np.concatenate(paths).astype(np.int64)
    found = max_min_rates(pointer, link, np.ones(len(link)), capacity)
    expected = np.array([float(Fraction(str(wanted[name]))) for name in flows])
    return Found(error=float(np.abs(found / expected - 1).max()), rows=len(paths))


def _paths(flows: Paths, capacities: Mapping[str, float]) -> tuple[list[list[int]], NDArray[np.float64]]:
    """The links of each flow by number, and the capacity of each link."""
    number = {name: index for index, name in enumerate(capacities)}
    paths = [[number[link] for link in links] for links in flows.values()]
    return paths, np.array([float(each) for each in capacities.values()])
