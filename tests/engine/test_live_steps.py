"""Steps of several replicas on links that they share, max-min fair or stored and forwarded, by hand arithmetic."""

import numpy as np
import pytest
from engine_graphs import graph

from moesim.engine.analysis import hidden_communication
from moesim.engine.clock import Clock
from moesim.engine.operations import start
from moesim.engine.sweep import sweep
from moesim.engine.wires import SharedWires
from moesim.fabric import collectives
from moesim.fabric.calibrated import paced
from moesim.fabric.links import group_links
from moesim.fabric.live import LiveFlows
from moesim.fabric.live_chunk import LiveChunks
from moesim.fabric.topology import from_cables, star
from moesim.fabric.transfer import collective
from moesim.step.graph import COMPUTE, NETWORK

US = 1_000_000  # picoseconds
MB = 1e6

#: Two pairs across one trunk: a - left, b - left, left - right, right - c, right - d; 1 GB/s, 1 us a link.
TRUNK = from_cables(
    "trunk", 4, [*"abcd", "left", "right"], [(0, 4), (1, 4), (2, 5), (3, 5), (4, 5)], bandwidth=1e9, latency=1e-6
)


def sending(topology, ends, size, before=0):
    """A step of two lanes: `before` picoseconds of computation, then a send from the first to the second."""
    moved = collectives.send(size, group_links(topology, ends))
    took = [[before, before], [int(moved.picoseconds)] * 2]
    return graph(
        took, [COMPUTE, NETWORK], [[], [0]], [False, True], [0, 1], collectives={1: collective([[0, 1]], [moved])}
    )


def run(topology, steps, chunk=None):
    """Schedules of steps that begin together, and the bytes over each link."""
    clock = Clock()
    network = LiveFlows(clock, topology.bandwidth) if chunk is None else LiveChunks(clock, topology, chunk)
    wires = SharedWires(clock, network)
    processes = [start(step, clock, wires) for step in steps]
    clock.run()
    return [process.value for process in processes], network.carried


def ends(schedules):
    return [schedule.makespan for schedule in schedules]


def test_a_step_alone_takes_what_the_bound_says():
    step = sending(TRUNK, [0, 2], MB, before=5 * US)
    assert sweep(step).makespan == 1008 * US
    assert ends(run(TRUNK, [step])[0]) == [1008 * US]


def test_two_replicas_share_a_trunk():
    """1 MB each at half of 1 GB/s: 2 ms and 3 links; alone 1 ms. Bytes in are bytes out on every link."""
    schedules, carried = run(TRUNK, [sending(TRUNK, [0, 2], MB), sending(TRUNK, [1, 3], MB)])
    assert ends(schedules) == [2003 * US, 2003 * US]
    by_link = {TRUNK.link_name(link): bytes_ for link, bytes_ in enumerate(carried) if bytes_}
    assert by_link == pytest.approx(
        {"a -> left": MB, "b -> left": MB, "left -> right": 2 * MB, "right -> c": MB, "right -> d": MB}
    )


def test_the_later_one_shares_only_while_both_are_there():
    """The first has 0.6 MB left when the second begins: both run at half speed for 1.2 ms, then the second alone."""
    schedules, _ = run(TRUNK, [sending(TRUNK, [0, 2], MB), sending(TRUNK, [1, 3], MB, before=400 * US)])
    assert ends(schedules) == [(400 + 1200 + 3) * US, (400 + 1200 + 400 + 3) * US]


def test_opposite_directions_do_not_meet():
    schedules, _ = run(TRUNK, [sending(TRUNK, [0, 2], MB), sending(TRUNK, [3, 1], MB)])
    assert ends(schedules) == [1003 * US, 1003 * US]


def test_whole_messages_are_stored_and_forwarded():
    """Three links of 1 ms and 1 us each; over the trunk one after the other. Cut in ten, nine tenths overlap."""
    alone = sending(TRUNK, [0, 2], MB)
    assert ends(run(TRUNK, [alone], chunk=np.inf)[0]) == [3003 * US]
    assert ends(run(TRUNK, [alone], chunk=MB / 10)[0]) == [(100 * 12 + 3) * US]
    both = [alone, sending(TRUNK, [1, 3], MB)]
    assert ends(run(TRUNK, both, chunk=np.inf)[0]) == [3003 * US, 4003 * US]
    assert run(TRUNK, both, chunk=np.inf)[1].sum() == pytest.approx(6 * MB)


def test_chunks_come_close_to_flows_as_they_shrink():
    both = [sending(TRUNK, [0, 2], MB), sending(TRUNK, [1, 3], MB)]
    flows = max(ends(run(TRUNK, both)[0]))
    late = [max(ends(run(TRUNK, both, chunk=MB / parts)[0])) / flows for parts in (1, 10, 100)]
    assert late[0] > late[1] > late[2] >= 1
    assert late[2] == pytest.approx(1, abs=0.02)


def collectives_of(topology, devices):
    group = group_links(topology, devices)
    traffic = np.random.default_rng(len(devices)).uniform(0, MB, (group.lanes, group.lanes))
    return [
        *(collectives.all_reduce(MB, group, name) for name in ("ring", "direct", "tree", "halving-doubling")),
        collectives.all_gather(np.full(group.lanes, MB), group, "ring"),
        collectives.all_to_all(traffic, group),
        collectives.all_to_all(traffic, group, "pairwise"),
    ]


def one_row(transfer):
    lanes = list(range(transfer.ports.lanes))
    took = [[int(transfer.picoseconds)] * len(lanes)]
    return graph(took, [NETWORK], [[]], [True], [1], collectives={0: collective([lanes], [transfer])})


@pytest.mark.parametrize("chunk", [None, np.inf, 1e5])
def test_no_fidelity_beats_the_bound(chunk):
    for transfer in collectives_of(TRUNK, range(4)):
        step = one_row(transfer)
        (schedule,), _ = run(TRUNK, [step], chunk)
        assert schedule.makespan >= sweep(step).makespan


def test_even_traffic_on_a_switch_takes_what_the_bound_says():
    switch = star(4, 1e9, 2e-6, overhead=3e-6)
    for transfer in collectives_of(switch, range(4))[:5]:
        (schedule,), _ = run(switch, [one_row(transfer)])
        assert schedule.makespan == int(transfer.picoseconds)


def test_what_switches_add_up_shares_links_too():
    """In-switch all-reduces of two pairs of a switch with a common device take its port in turns of half the rate."""
    switch = star(3, 1e9, reduces=True)
    moved = [collectives.all_reduce(MB, group_links(switch, pair), "sharp") for pair in ([0, 1], [0, 2])]
    assert [int(each.picoseconds) for each in moved] == [1000 * US] * 2
    assert ends(run(switch, [one_row(each) for each in moved])[0]) == [2000 * US] * 2


def test_a_measured_call_keeps_its_time_and_shares_its_bytes():
    """Measured 5 ms for 1 MB that the links move in 1 ms: alone 5 ms; two of them overlap without loss, six do not."""
    wide = from_cables("wide", 12, [*map(str, range(12)), "left", "right"],
                       [(i, 12 + i % 2) for i in range(12)] + [(12, 13)], bandwidth=1e9)  # fmt: skip
    steps = [
        one_row(paced(collectives.send(MB, group_links(wide, [2 * i, 2 * i + 1])), np.array(5e-3), "library"))
        for i in range(6)
    ]
    assert ends(run(wide, steps[:1])[0]) == [5000 * US]
    assert ends(run(wide, steps[:2])[0]) == [5000 * US] * 2
    assert ends(run(wide, steps)[0]) == [6000 * US] * 6


def test_hidden_communication_is_what_overlaps_computation():
    """A transfer of 10 beside a kernel of 4; the kernels that wait for it hide nothing of it."""
    took = [[4, 4], [10, 10], [8, 8], [3, 3]]
    step = graph(took, [COMPUTE, NETWORK, COMPUTE, COMPUTE], [[], [], [1], [2]], [False] * 4, [0] * 4)
    executed = sweep(step)
    assert executed.start[:, 0].tolist() == [0, 0, 10, 18]
    assert hidden_communication(step, executed) == 4
