"""Published times of expert exchanges and gathers on real machines."""

from math import ceil

import numpy as np
import pytest

from moesim.fabric import collectives
from moesim.fabric.dispatch import dispatch, expert_load, payload
from moesim.fabric.expert_protocol import ExpertTerms
from moesim.fabric.network import TopologyFabric
from moesim.fabric.tokens import ExpectedTokens
from moesim.fabric.topologies import machine_routing, machine_topology
from moesim.fabric.transfer import GroupPorts
from moesim.hardware.machine import assemble
from moesim.spec.loading import load_system


def fabric(system: str) -> TopologyFabric:
    machine = assemble(*load_system(system))
    topology = machine_topology(machine)
    return TopologyFabric(topology, machine_routing(machine, topology))


def one_per_rank(ranks: int, tokens: int = 128, top_k: int = 8) -> ExpectedTokens:
    return ExpectedTokens(np.full((ranks, ranks), tokens * top_k / ranks), np.arange(ranks), ranks, top_k)


def die_ports(ranks: int) -> GroupPorts:
    """Dies of CloudMatrix384: 196 GB/s each way, sixteen to a node."""
    node = np.arange(ranks) // 16
    return GroupPorts(node, np.full(ranks, 196e9), np.full(ranks, 196e9 if ranks > 16 else 0.0))


#: A 910C die writes at 137 GB/s inside its node and at 136 GB/s to others; a signal takes 0.7 and 2.1 us.
WRITES, SIGNAL = {8: 137e9, 256: 136e9}, {8: 0.7e-6, 256: 2.1e-6}
#: Vector cores of a die, which write to remote memories themselves.
CORES = 48


@pytest.mark.parametrize(
    ("signals", "element", "measured"), [(2, 1, {8: 116e-6, 256: 152e-6}), (1, 2, {8: 118e-6, 256: 149e-6})]
)
def test_cloudmatrix_expert_exchange(signals: int, element: int, measured: dict[int, float]) -> None:
    """CloudMatrix384 (arXiv 2506.12708): 128 tokens per die, 8 of them to each of as many experts as dies; INT8 with
    512 bytes of scale and address there, BF16 back. Dispatch exchanges counts, then flags; combine flags. What a call
    takes besides is fitted to 8 dies; 256 are a prediction."""

    def seconds(ranks: int, launch: float) -> float:
        load = expert_load(one_per_rank(ranks), die_ports(ranks), "per-expert")
        per_peer = signals * SIGNAL[ranks] * ceil(ranks / CORES) / ranks
        share = WRITES[ranks] / 196e9
        terms = ExpertTerms(launch, share, expert=per_peer, out_efficiency=share, sharpness=64.0)
        size = payload(7168, element, header=512 if element == 1 else 0)
        parts = {"units": 16, "port": 196e9, "nic": 196e9, "experts": ranks}
        return float(np.squeeze(terms.seconds(load, size, **parts)))

    launch = measured[8] - seconds(8, 0.0)
    assert launch > 0
    assert seconds(256, launch) == pytest.approx(measured[256], rel=0.10)


def test_a_full_mesh_gathers_as_fast_as_it_has_partners() -> None:
    """MI300X (arXiv 2511.17127): a group of n reaches n - 1 links, 1 : 3 : 7 over 2, 4 and 8."""
    mesh = fabric("mi300x-8")
    rates = []
    for n in (2, 4, 8):
        gathered = mesh.all_gather(np.full(n, 4e9), range(n))
        rates.append((n - 1) * 4e9 / (float(gathered.picoseconds) / 1e12))
    assert [rate / rates[0] for rate in rates] == pytest.approx([1, 3, 7], rel=0.05)


def test_experts_of_2048_devices_on_rails() -> None:
    """32 groups of 64 devices of H800 on a rail-optimised tree: by way of the own node, no link above the leaves is
    needed where a group lies under the same leaves, and a NIC carries what goes to the other seven nodes."""
    rails = fabric("h800-rail-2048")
    group = rails.ports(range(2048))
    block = 32 * 8 * 7168 / 64
    moved = collectives.all_to_alls(np.full((32, 64, 64), block), group, np.arange(2048).reshape(32, 64))
    topology = rails.topology
    load = dict(zip(moved.phases[0].links.tolist(), moved.phases[0].load.tolist(), strict=True))
    loads = np.zeros(topology.links)
    loads[list(load)] = list(load.values())
    spine = np.array(["spine" in topology.link_name(link) for link in range(topology.links)])
    assert spine.any()
    assert loads[spine].max() == 0
    out = np.array(topology.level) == "scale_out"
    assert loads[out & ~spine].max() == pytest.approx(56 * block)
    assert loads[out & ~spine & (loads > 0)].min() == pytest.approx(56 * block)


def test_one_copy_per_node_needs_less_of_the_rails() -> None:
    """DeepSeek-V3 (arXiv 2412.19437): 8 experts of 256, at most 4 of 8 nodes; a node is reached by fewer copies than
    its experts are."""
    rails = fabric("h800-rail-2048")
    group = rails.ports(range(64))
    counts = np.full((64, 256), 4096 * 8 / 256)
    owner = np.arange(256) // 4
    tokens = ExpectedTokens(counts, owner, 64, 8, group=np.arange(64) // 8, limit=4)
    size = payload(7168, 1, block=128)
    per_node, per_expert = (dispatch(tokens, size, group, form) for form in ("per-node", "per-expert"))
    nodes = tokens.visits(np.arange(64)[None, :] // 8 == np.arange(8)[:, None])[0]
    bandwidth = rails.topology.bandwidth[np.array(rails.topology.level) == "scale_out"].min()
    expected = nodes[1:].sum() * size / bandwidth
    assert float(per_node.picoseconds) / 1e12 == pytest.approx(expected, rel=0.05)
    assert per_expert.picoseconds > 1.8 * per_node.picoseconds
