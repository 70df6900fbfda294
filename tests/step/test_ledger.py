"""What the accounts say of executed steps against the graphs of these steps, lane by lane."""

from __future__ import annotations

import numpy as np
import pytest
import stepping
from stepping import BATCHES, MACHINES

from moesim.placement import LeastLoaded
from moesim.step.graph import COMPUTE, COPROCESSORS, PICOSECONDS
from moesim.step.ledger import settle

STEPS = 12


def accounted(name, kind, *overrides):
    """Ledger and summed graphs of some steps: [lanes] bytes sent, joules of links, kernel seconds; seconds in all."""
    tree, layers = MACHINES[name]
    pricer = stepping.pricer(tree, f"model.layers={layers}", *overrides)
    lanes = pricer.layout.pp * pricer.layout.stage_lanes
    sent, joules, busy, seconds = np.zeros(lanes), np.zeros(lanes), np.zeros(lanes), 0.0
    for step in range(STEPS):
        block = pricer.price(stepping.batch(pricer.layout.dp, seed=step, step=step, **BATCHES[kind]))
        pricer.accounts.record(block, 1, int(block.durations[0]))
        seconds += float(block.durations[0]) / PICOSECONDS
        graph = stepping.compiled(pricer, block)
        busy += kernel_picoseconds(graph, pricer.context.mapped.concurrent) / PICOSECONDS
        for collective in graph.collectives.values():
            sent += collective.sent(lanes)
            for group, transfer in zip(collective.members, collective.transfers, strict=True):
                joules[list(group)] += transfer.joules
    return settle(pricer.accounts, pricer.communication, pricer.experts), sent, joules, busy, seconds


def kernel_picoseconds(graph, concurrent):
    """[lanes] of all operators; where processors work side by side on the pieces of one, of the slowest piece."""
    rows = {}
    for row in np.flatnonzero(np.isin(graph.resource, (COMPUTE, *COPROCESSORS))):
        rows.setdefault((graph.layer[row], graph.name[row]), []).append(np.maximum(graph.duration[row], 0))
    together = np.max if concurrent else np.sum
    return np.sum([together(pieces, axis=0) for pieces in rows.values()], axis=0)


def by_lane(ledger, column):
    return np.concatenate([getattr(use, column).ravel() for use in ledger.lanes])


@pytest.mark.parametrize("kind", ["prefill", "mixed"])
@pytest.mark.parametrize("name", MACHINES)
def test_lanes_did_what_the_graphs_say(name, kind):
    ledger, sent, joules, busy, seconds = accounted(name, kind)
    # Which copies of an all-to-all go where is known to the account as an average over the run.
    exact = "all-to-all" not in name and "tokens stay" not in name
    np.testing.assert_allclose(by_lane(ledger, "sent_bytes"), sent, rtol=1e-9 if exact else 0.1)
    np.testing.assert_allclose(by_lane(ledger, "energy_link"), joules, rtol=1e-9 if exact else 0.1)
    assert by_lane(ledger, "sent_bytes").sum() == pytest.approx(sent.sum(), rel=1e-9 if exact else 0.01)
    np.testing.assert_allclose(by_lane(ledger, "compute_busy"), busy, rtol=1e-6)
    # Critical path: the slowest rank of each stage; where others are slower in some part, a little is missing.
    assert sum(bounds.sum() for _, bounds in ledger.critical.values()) == pytest.approx(seconds, rel=0.02)
    assert (by_lane(ledger, "network_busy") <= seconds).all()
    # What the operators did is what the devices did.
    work = sum(ledger.work.values())
    for total, column in zip(work, ("compute_busy", "flops", "memory_bytes"), strict=True):
        assert total == pytest.approx(by_lane(ledger, column).sum(), rel=1e-9)


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


@pytest.mark.parametrize("name", [name for name in MACHINES if "tokens moved" in name])
def test_weights_that_are_sent_are_network(name):
    """A sent expert is its three matrices of 2048 x 768 in 16 bits; they leave and reach devices over their ports."""
    tree, layers = MACHINES[name]
    pricer = stepping.pricer(tree, f"model.layers={layers}")
    block = pricer.price(stepping.batch(4, **BATCHES["prefill"]))
    pricer.accounts.record(block, 1, int(block.durations[0]))
    ledger = settle(pricer.accounts, pricer.communication, pricer.experts)
    counts = pricer.routed.drawn(block.batch, 0).totals
    policy = LeastLoaded(trigger=1, least=1)
    experts = int(policy.relieve(counts, policy.owner(layers, 128, 4), 4).weights.sum())
    size = experts * 3 * 2048 * 768 * 2
    assert experts >= layers  # one expert of each layer has most of the tokens
    out, into = ledger.traffic["send_weights"].load.reshape(2, 2, -1).sum(axis=0)
    assert (out.sum(), into.sum()) == pytest.approx((size, size))
    kind, bounds = ledger.critical["send_weights"]
    assert kind == "collective"
    assert bounds[:3].tolist() == [0, 0, bounds.sum()]
    # The same step without relief: what else travels is as much where tokens are gathered.
    plain = stepping.pricer({**tree, "placement": "contiguous"}, f"model.layers={layers}")
    plain.accounts.record(plain.price(block.batch), 1, int(block.durations[0]))
    before = settle(plain.accounts, plain.communication, plain.experts)
    assert "send_weights" not in before.critical
    if "all-gather" in name:
        more = by_lane(ledger, "sent_bytes").sum() - by_lane(before, "sent_bytes").sum()
        energy = by_lane(ledger, "energy_link").sum() - by_lane(before, "energy_link").sum()
        per_byte = pricer.communication.fabric.ports(range(4)).up_energy
        assert (more, energy) == pytest.approx((size, size * per_byte))


SWITCHED = ["GQA, DP 4, EP 4, all-gather", "GQA, DP 16, EP 16, all-to-all over two nodes", "PP 2, DP 2, EP 2"]


@pytest.mark.parametrize("name", SWITCHED)
def test_ports_carry_what_lanes_send(name):
    ledger, sent, _, _, _ = accounted(name, "mixed", "engine.collectives=[]")
    load = sum(traffic.load for traffic in ledger.traffic.values())
    out, into = load.reshape(2, 2, -1).sum(axis=0)
    np.testing.assert_allclose(out[: len(sent)], by_lane(ledger, "sent_bytes"), rtol=1e-9)
    assert into.sum() == pytest.approx(out.sum(), rel=1e-9)
    assert ledger.links.name[0] == ("node0/h200-sxm0 -> nvlink4-switch" if "DP 4" in name else ledger.links.name[0])


@pytest.mark.parametrize("name", ["torus, DP 8, EP 8, all-to-all", "full mesh, TP 8"])
def test_links_carry_what_the_transfers_put_on_them(name):
    ledger, sent, _, _, _ = accounted(name, "prefill")
    topology = ledger.links.topology
    load = sum(traffic.load for traffic in ledger.traffic.values())
    # What leaves a device leaves it over its own links; on a torus it also passes on what is meant for others.
    out = np.bincount(topology.source, load, topology.vertices)[: len(sent)]
    assert (out >= by_lane(ledger, "sent_bytes") * (1 - 1e-9)).all()
    if "mesh" in name:
        np.testing.assert_allclose(out, by_lane(ledger, "sent_bytes"), rtol=1e-9)


@pytest.mark.parametrize("name", MACHINES)
def test_no_transfer_takes_less_than_its_busiest_link_needs(name):
    ledger, *_ = accounted(name, "mixed")
    for row in ledger.traffic:
        took = float(ledger.critical[row][1].sum())
        assert 0 < ledger.least(row) <= took * (1 + 1e-9)
        assert ledger.traffic[row].seconds <= took * (1 + 1e-6)


def test_least_time_by_hand():
    """Ring all-reduces of two devices: a call of nothing takes its overhead and two latencies, and bytes their time, so
    that the least time is the time where all calls are alike on both devices."""
    ledger, *_ = accounted("experts split by TP alone", "decode", "engine.collectives=[]", "parallelism.tp=2")
    assert ledger.least("reduce") == pytest.approx(float(ledger.critical["reduce"][1].sum()), rel=1e-6)
