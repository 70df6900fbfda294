"""What an engine, its load and its network do, each in a schedule counted by hand: a step takes 1 s unless a test says
so. The modules beside this one have more of them: batching, KV blocks, ranks, graphs, overlap, loads, drafts, pools."""

from __future__ import annotations

import numpy as np
import pytest
import ruler
from loads import SINGLE, load, mix
from ruler import FABRIC, MOE, device, steps, times

#: Engines of the library, but for what they cost: a step takes 1 s.
FREE = {
    "step_overhead": "1 s", "token_budget": 16,
    **dict.fromkeys(("sequence_overhead", "exposed_overhead", "launch_overhead", "frontend_latency"), "0 s"),
}  # fmt: skip


# Engines


@pytest.mark.parametrize(("name", "schedule", "first", "finish"), [
    # A decodes beside chunks of B's prompt, which are cut to what A's token leaves of the budget.
    ("vllm-0.15", [(8, 0), (0, 1), (15, 1), (15, 1), (10, 0), (0, 1)], [1, 5], [4, 6]),
    ("vllm-0.19", [(8, 0), (0, 1), (15, 1), (15, 1), (10, 0), (0, 1)], [1, 5], [4, 6]),
    # B's prompt is cut to the budget, and A waits for its end.
    ("sglang-0.5", [(8, 0), (0, 1), (16, 0), (16, 0), (8, 0), (0, 2), (0, 1)], [1, 5], [7, 6]),
    # B's prompt is not cut.
    ("trtllm-1", [(8, 0), (0, 1), (40, 1), (0, 2)], [1, 3], [4, 4]),
])  # fmt: skip
def test_one_load_on_four_engines(ruler_path, tmp_path, name, schedule, first, finish):
    """A (8 in, 4 out) at 0, B (40 in, 2 out) at 0.5, 16 tokens a step. All of them decide on a step when the one before
    begins: B is not seen before the step from 2 on."""
    trace = ruler.write_trace(tmp_path / "trace.csv", [(0, 8, 4), (0.5, 40, 2)])
    record = ruler.run(ruler.document(trace) | {"engine": {"extends": name, **FREE}})
    assert steps(record, "prefill_tokens", "decode_tokens") == [(t, t + 1, *row) for t, row in enumerate(schedule)]
    assert times(record, "first_token") == first
    assert times(record, "finish") == finish


@pytest.mark.parametrize(("block", "scheduled"), [(4, [0, 0]), (8, [0, 1])])
def test_a_block_belongs_to_one_sequence(on_ruler, block, scheduled):
    """Room for 8 tokens, two prompts of 3: in two blocks of 4 side by side, in a block of 8 one after the other."""
    record = on_ruler([(0, 3, 1), (0, 3, 1)], engine={"block_size": block, "kv_blocks": 8 // block})
    assert times(record, "first_scheduled") == scheduled


def test_each_step_samples(on_ruler):
    """Sampling takes 1 s, the host nothing: a step of prompts, and one of decodes, whatever their number."""
    library = {"devices": {"unit": device("choosy")}, "fabrics": {"net": FABRIC}}
    record = on_ruler([(0, 4, 3), (0, 4, 2)], engine={"step_overhead": "0 s"}, library=library)
    assert steps(record, "sequences") == [(0, 1, 2), (1, 2, 2), (2, 3, 1)]


# Networks


ALL = {**MOE, "moe": {"experts": 4, "top_k": 4, "width": 16}}


@pytest.mark.parametrize(("engine", "copies"), [
    ({"transport": "allgather"}, 1), ({"transport": "alltoall"}, 2),
    ({"transport": "alltoall", "dispatch": {"form": "per-device"}}, 1),
])  # fmt: skip
def test_how_tokens_travel(on_ruler, engine, copies):
    """Two ranks, links of 192 B/s. A token is 8 values in bf16 and goes to all four experts, of which each rank holds
    two. A prompt of 4 on one rank, whose other one computes a dummy: 4 x 16 bytes, once where ranks gather tokens and
    scatter sums or send a copy to a device, twice where they send one to each expert; there and back, in 3 layers."""
    library = {"devices": {"unit": device()}, "fabrics": {"net": {**FABRIC, "bandwidth": "192 B/s"}}}
    record = on_ruler(
        [(0, 4, 2)], engine={**engine, "step_overhead": "0 s"}, model=ALL, library=library,
        machine={"devices": {"unit": 2}, "fabric": "net"}, parallelism={"dp": 2, "ep": 2},
    )  # fmt: skip
    prompt, token = 3 * 2 * copies * 4 * 16 / 192, 3 * 2 * copies * 16 / 192
    assert steps(record) == [(0, pytest.approx(prompt)), (pytest.approx(prompt), pytest.approx(prompt + token))]


def test_the_rank_with_most_tokens_paces_a_gathering(on_ruler):
    """As above with prompts of 4 and 12 tokens on the ranks: 12 x 16 bytes leave the fuller one."""
    library = {"devices": {"unit": device()}, "fabrics": {"net": {**FABRIC, "bandwidth": "192 B/s"}}}
    record = on_ruler(
        [(0, 4, 1), (0, 12, 1)], engine={"step_overhead": "0 s"}, model=ALL, library=library,
        machine={"devices": {"unit": 2}, "fabric": "net"}, parallelism={"dp": 2, "ep": 2},
    )  # fmt: skip
    assert steps(record) == [(0, pytest.approx(6))]


# Loads


def test_rates_that_change(ruler_path):
    """One in 2 s until 4 s, then two a second; a request takes a step of its own, which it waits for from 4.5 on."""
    rates = [["0 s", "0.5/s"], ["4 s", "2/s"]]
    requests = {"mix": "one", "arrival": "deterministic", "rates": rates, "count": 5}
    record = load(requests, {"one": mix(outputs=1)}, engine=SINGLE)
    assert times(record, "arrival") == pytest.approx([0, 2, 4, 4.5, 5])
    assert times(record, "finish") == pytest.approx([1, 3, 5, 6, 7])


def test_a_replay_at_twice_the_rate(ruler_path, tmp_path):
    """Arrivals at 0, 2 and 5 s of the trace; steps are as long as ever."""
    trace = ruler.write_trace(tmp_path / "trace.csv", [(0, 4, 2), (2, 4, 2), (5, 4, 1)])
    record = ruler.run(ruler.document("") | {"requests": {"trace": trace, "scale": 2}})
    assert times(record, "arrival") == [0, 1, 2.5]
    assert times(record, "finish") == [2, 3, 4]


# Pools


def test_pools_of_different_devices(ruler_path, tmp_path):
    """Prompts on a device that takes 3 s a step beside the host's 1 s, decodes on one that takes none. B waits for the
    first device from 1 on; 10 tokens travel in 1 s."""
    tree = ruler.document(
        ruler.write_trace(tmp_path / "trace.csv", [(0, 10, 3), (1, 10, 2)]),
        library={"devices": {"slow": device("paced"), "fast": device()}, "fabrics": {"wide": FABRIC}},
        pools={
            "prefill": {"machine": {"devices": {"slow": 1}, "nic": "960 B/s"}},
            "decode": {"machine": {"devices": {"fast": 1}, "nic": "960 B/s"}},
            "transfer": {"fabric": "wide"},
        },
    )  # fmt: skip
    del tree["machine"]
    record = ruler.run(tree)
    assert times(record, "first_token") == [4, 8]
    assert times(record, "transfer_end") == pytest.approx([5, 9])
    assert times(record, "finish") == pytest.approx([7, 10])
    assert np.unique(record.iterations["pool"]).tolist() == ["decode", "prefill"]
