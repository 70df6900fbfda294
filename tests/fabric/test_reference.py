"""Collectives against ASTRA-sim's congestion-aware backend, where its results are at hand (MOESIM_DATA)."""

import csv
import os
from pathlib import Path

import numpy as np
import pytest

from moesim.fabric import collectives
from moesim.fabric.transfer import GroupPorts

REFERENCE = Path(os.environ.get("MOESIM_DATA", "")) / "network" / "astrasim_reference_core.csv"


def rows(topology: str, collective: str, algorithm: str) -> list[dict[str, str]]:
    if not os.environ.get("MOESIM_DATA") or not REFERENCE.exists():
        pytest.skip("set MOESIM_DATA to the folder of reference results")
    with REFERENCE.open() as file:
        found = list(csv.DictReader(file))
    kept = [row for row in found if (row["backend"], row["topology"]) == ("aware", topology)]
    kept = [row for row in kept if (row["collective"], row["algorithm"]) == (collective, algorithm)]
    assert kept
    return kept


def ports(row: dict[str, str], hops: int) -> GroupPorts:
    lanes, bandwidth = int(row["n_npus"]), float(row["bw_decimal_GBps_per_dim"]) * 1e9
    latency = hops * float(row["latency_ns_per_dim"]) * 1e-9
    return GroupPorts(np.zeros(lanes, dtype=np.int64), np.full(lanes, bandwidth), np.zeros(lanes), latency)


def test_ring_all_reduce_over_neighbouring_links() -> None:
    """The reference counts whole nanoseconds, one more per round."""
    for row in rows("Ring", "all_reduce", "ring"):
        simulated = int(collectives.all_reduce(float(row["message_bytes"]), ports(row, 1)).picoseconds) / 1000
        rounds = 2 * (int(row["n_npus"]) - 1)
        assert simulated == pytest.approx(float(row["simulated_ns"]), rel=2e-4, abs=rounds)


@pytest.mark.parametrize(("collective", "passes"), [("all_to_all", 1), ("all_reduce", 2)])
def test_direct_collectives_on_a_switch(collective: str, passes: int) -> None:
    """The reference's switch stores each message before it forwards it, which adds one message's time per pass."""
    for row in rows("Switch", collective, "direct"):
        lanes, size, link = int(row["n_npus"]), float(row["message_bytes"]), ports(row, 2)
        if collective == "all_to_all":
            transfer = collectives.all_to_all(np.full((lanes, lanes), size / lanes), link)
        else:
            transfer = collectives.all_reduce(size, link, "direct")
        forwarding = passes * size / lanes / link.up_bandwidth[0] * 1e9
        assert int(transfer.picoseconds) / 1000 + forwarding == pytest.approx(float(row["simulated_ns"]), rel=1e-3)
