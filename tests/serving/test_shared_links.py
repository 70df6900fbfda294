"""Runs whose transfers share links: two pipelines on a line of four devices, whose sends cross the link in the middle.

Stage 0 of replica A is device 0, of B device 1; stage 1 devices 2 and 3. A token is 16 bytes and every link carries 64
bytes/s, so that a prompt of four tokens takes 1 s to the next stage; the host takes 1 s a step, kernels nothing.
"""

from __future__ import annotations

import numpy as np
import pytest
from ruler import FABRIC, assert_same, device, times
from stepping import deployment, document

from moesim.serving.simulate import simulate
from moesim.spec.loading import load_experiment

LINE = {
    "machine": {"devices": {"unit": 4}, "fabric": "net"},
    "parallelism": {"pp": 2, "dp": 2},
    "library": {
        "devices": {"unit": device(links={"wire": "128 B/s"})},  # half of the port each way along the line
        "fabrics": {"net": {**FABRIC, "kind": "line"}},
    },
}


def test_each_has_the_links_to_itself_at_the_bound(on_ruler):
    record = on_ruler([(0, 4, 1), (0, 4, 1)], **LINE)
    assert times(record, "finish") == [2, 2]
    assert record.totals.sharing == 0


def test_two_replicas_halve_the_link_that_they_share(on_ruler):
    record = on_ruler([(0, 4, 1), (0, 4, 1)], **LINE, fabric="flow")
    assert times(record, "finish") == [3, 3]
    # A second of waiting in each; bytes are those of the bound.
    assert record.totals.sharing == pytest.approx(2)
    by_link = dict(zip(record.links["name"].tolist(), record.links["bytes"].tolist(), strict=True))
    assert sorted(by_link.values()) == [0, 0, 0, 64, 64, 128]
    utilisation = max(record.links["bytes"] / record.links["bandwidth"]) / record.end
    assert utilisation == pytest.approx(2 / 3)


def test_the_later_one_shares_only_while_both_are_there(on_ruler):
    """B comes half a second later. A has half of its bytes left and takes a second for them; then B has half left."""
    record = on_ruler([(0, 4, 1), (0.5, 4, 1)], **LINE, fabric="flow")
    assert times(record, "finish") == [1.5 + 1, 2 + 1]


def test_a_batch_enters_a_stage_when_the_one_before_has_left_it(on_ruler):
    """Two requests of one replica: the second is sent from 1 s on, when the first has arrived."""
    record = on_ruler([(0, 4, 1), (0, 9, 1), (0.25, 4, 1)], **LINE, fabric="flow", router="round-robin")
    first, other, second = times(record, "finish")
    # 64 bytes of A beside 144 of B: both at 32 B/s to 2 s; A's second has its turn then, beside B's last 80 bytes.
    assert (first, second) == (3, 5)
    assert other == pytest.approx(2 + 2 + 16 / 64 + 1)


def test_whole_messages_are_stored_on_their_way(on_ruler):
    """B's bytes cross the middle while A's cross the first link, then A's do."""
    record = on_ruler([(0, 4, 1), (0, 4, 1)], **LINE, fabric="chunk", chunk="1 kB")
    assert times(record, "finish") == [3, 3]
    record = on_ruler([(0, 4, 1), (1, 4, 1)], **LINE, fabric="chunk", chunk="1 kB")
    # At 1 s both want the middle. A's chunk came there first; B's waits for it.
    assert times(record, "finish") == [3, 1 + 3 + 1]
    record = on_ruler([(0, 4, 1)], **LINE, fabric="chunk", chunk="16 B")  # the second link a chunk later than the first
    assert times(record, "finish") == [1.25 + 1]


def test_pipelines_alone_take_what_they_take_at_the_bound(on_ruler):
    rows = [(0, 4, 3), (2.75, 7, 2), (11, 4, 5)]
    machine = {**LINE, "parallelism": {"pp": 2}, "machine": {"devices": {"unit": 2}, "fabric": "net"}}
    assert_same(on_ruler(rows, **machine), on_ruler(rows, **machine, fabric="flow"), 1e-9)


TWO_NODES = {"devices": {"h100-sxm": 2}, "fabric": "nvlink4-switch", "nodes": 2, "scale_out": "ib-ndr400"}
MACHINES = {
    "tensor parallel, measured calls": document(
        "mixtral-8x7b", {"h100-sxm": 2}, "nvlink4-switch", parallelism={"tp": 2}
    ),
    "all-to-all over two nodes": document("qwen3-30b-a3b", {}, parallelism={"dp": 4, "ep": 4}, engine="alltoall")
    | {"machine": {**TWO_NODES, "nic": "50 GB/s"}},
    "measured kernels": document(
        "qwen3-30b-a3b", {"h200-sxm": 2}, "nvlink4-switch", parallelism={"dp": 2, "ep": 2}, engine="deepep"
    ),
    "shared experts beside": document(
        "deepseek-v2-lite", {"h100-sxm": 2}, "nvlink4-switch", parallelism={"dp": 2, "ep": 2}
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", MACHINES)
def test_flows_on_a_switch_never_beat_the_bound(name):
    """Even traffic takes as long; of uneven one, flows that meet on two ports may take longer, by a little."""
    tree = MACHINES[name] | {"requests": {"mix": "fixed-512-128", "count": 2, "arrival": "burst"}}
    cut = ["model.layers=3"]
    if "beside" in name:
        cut.append("engine.overlap_shared_experts=true")
    bound, flow = (simulate(load_experiment(tree, [*cut, f"fabric={f}"]).spec) for f in ("bound", "flow"))
    took = [record.iterations["end"] - record.iterations["start"] for record in (bound, flow)]
    assert (took[1] >= took[0] * (1 - 1e-12)).all()
    np.testing.assert_allclose(took[1], took[0], rtol=0.02 if "all-to-all" in name else 1e-6)
    np.testing.assert_allclose(bound.links["bytes"].sum(), flow.links["bytes"].sum(), rtol=0.01)
    assert flow.totals.hidden >= 0
    assert (flow.totals.hidden > 0) == ("beside" in name)


@pytest.mark.parametrize(
    ("parallelism", "nodes", "said"),
    [
        ({"tp": 2}, 1, "measured on h100-sxm"),
        ({"pp": 2}, 1, "measured on h100-sxm"),
        ({"dp": 2, "ep": 2}, 1, "measured on h100-sxm"),
        ({"tp": 2, "dp": 2, "ep": 4}, 2, "measured on h100-sxm; closed forms between nodes"),
        ({"dp": 4, "ep": 4}, 2, "closed forms, as all groups span several nodes"),
    ],
)
def test_a_run_says_what_paces_its_collectives(parallelism, nodes, said):
    machine = {**TWO_NODES, "nic": "50 GB/s", "nodes": nodes}
    machine = machine if nodes > 1 else {"devices": {"h100-sxm": 2}, "fabric": "nvlink4-switch"}
    tree = document("qwen3-30b-a3b", {}, parallelism=parallelism) | {"machine": machine}
    (note,) = [note for note in deployment(tree, "model.layers=2").notes if note.startswith("collectives")]
    assert note.endswith(said)
