"""What the accounts say of executed steps against the graphs of these steps, lane by lane."""

from __future__ import annotations

import numpy as np
import pytest
import stepping
from stepping import BATCHES, MACHINES

from moesim.step.graph import COMPUTE, PICOSECONDS
from moesim.step.ledger import settle

STEPS = 12


def accounted(name, kind):
    """Ledger and summed graphs of some steps: [lanes] bytes sent, joules of links, kernel seconds; seconds in all."""
    tree, layers = MACHINES[name]
    pricer = stepping.pricer(tree, f"model.layers={layers}")
    lanes = pricer.layout.pp * pricer.layout.stage_lanes
    sent, joules, busy, seconds = np.zeros(lanes), np.zeros(lanes), np.zeros(lanes), 0.0
    for step in range(STEPS):
        block = pricer.price(stepping.batch(pricer.layout.dp, seed=step, step=step, **BATCHES[kind]))
        pricer.accounts.record(block, 1, int(block.durations[0]))
        seconds += float(block.durations[0]) / PICOSECONDS
        graph = stepping.compiled(pricer, block)
        kernels = np.maximum(graph.duration, 0) * (graph.resource == COMPUTE)[:, None]
        busy += kernels.sum(axis=0) / PICOSECONDS
        for collective in graph.collectives.values():
            sent += collective.sent(lanes)
            for group, transfer in zip(collective.members, collective.transfers, strict=True):
                joules[list(group)] += transfer.joules
    return settle(pricer.accounts, pricer.communication, pricer.experts), sent, joules, busy, seconds


def by_lane(ledger, column):
    return np.concatenate([getattr(use, column).ravel() for use in ledger.lanes])


@pytest.mark.parametrize("kind", ["prefill", "mixed"])
@pytest.mark.parametrize("name", MACHINES)
def test_lanes_did_what_the_graphs_say(name, kind):
    ledger, sent, joules, busy, seconds = accounted(name, kind)
    # Which copies of an all-to-all go where is known to the account as an average over the run.
    exact = "all-to-all" not in name
    np.testing.assert_allclose(by_lane(ledger, "sent_bytes"), sent, rtol=1e-9 if exact else 0.1)
    np.testing.assert_allclose(by_lane(ledger, "energy_link"), joules, rtol=1e-9 if exact else 0.1)
    assert by_lane(ledger, "sent_bytes").sum() == pytest.approx(sent.sum(), rel=1e-9 if exact else 0.01)
    np.testing.assert_allclose(by_lane(ledger, "compute_busy"), busy, rtol=1e-6)
    # Critical path: the slowest rank of each stage; where others are slower in some part, a little is missing.
    assert sum(bounds.sum() for _, bounds in ledger.critical.values()) == pytest.approx(seconds, rel=0.02)
    assert (by_lane(ledger, "network_busy") <= seconds).all()


def test_bytes_between_nodes_cost_what_their_links_cost():
    """All-to-all over two nodes of 8: of the copies of a lane, 8 of 16 parts leave the node, over links of another
    energy per byte than those inside, which take 7 of 16."""
    name = "GQA, DP 16, EP 16, all-to-all over two nodes"
    ledger, sent, _, _, _ = accounted(name, "decode")
    tree, layers = MACHINES[name]
    ports = stepping.pricer(tree, f"model.layers={layers}").communication.fabric.ports(range(16))
    assert ports.up_energy != ports.out_energy
    mean = (7 * ports.up_energy + 8 * ports.out_energy) / 15
    assert by_lane(ledger, "energy_link").sum() == pytest.approx(sent.sum() * mean, rel=0.05)
