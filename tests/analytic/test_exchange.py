"""How long tokens travel to their experts and back, from routings that are known to the token.

Ports of 100 GB/s, 2 us from memory to memory, 3 us to start a call. Hidden states of 64 features, 2 bytes each.
"""

from __future__ import annotations

import numpy as np
import pytest
import ruler

from moesim.routing.trace import TokenTrace, write_trace
from moesim.serving.simulate import simulate

PORT, LATENCY, START, TOKEN = 100e9, 2e-6, 3e-6, 64 * 2
LAYERS = 3
NET = {"kind": "switch", "link": "wire", "latency": "2 us", "overhead": "3 us"}
OUT = {"kind": "switch", "link": "nic", "latency": "7 us", "overhead": "4 us"}
#: One step: every rank has one prompt, and each prompt one output token.
TOKENS = [40, 8, 24, 16]


def model(experts, top_k):
    return {**ruler.MOE, "hidden": 64, "moe": {"experts": experts, "top_k": top_k, "width": 16}}


@pytest.fixture
def step(ruler_families, tmp_path, monkeypatch):
    """Record of one step of four DP ranks with TOKENS tokens, and its time on dispatch and combine by layer."""
    monkeypatch.setenv("MOESIM_PATH", str(ruler_families))

    def play(transport, moe, ids=None, **machine):
        trace = ruler.write_trace(tmp_path / "trace.csv", [(0, tokens, 1) for tokens in TOKENS])
        changes = {"routing": {"source": "uniform"}}
        if ids is not None:
            write_trace(tmp_path / "routing.parquet", ids)
            changes = {"routing": {"source": "trace", "trace": str(tmp_path / "routing.parquet")}}
        unit = ruler.device(links={"wire": "100 GB/s", "nic": "25 GB/s"})
        record = simulate(ruler.spec_of(ruler.document(
            trace, model=moe, parallelism={"dp": 4, "ep": 4}, engine={"transport": transport},
            machine={"devices": {"unit": 4}, "fabric": "net", **machine},
            library={"devices": {"unit": unit}, "fabrics": {"net": NET, "out": OUT}}, **changes,
        )))  # fmt: skip
        assert record.totals.step_count == 1
        seconds = dict(zip(record.operators["name"].tolist(), record.operators["seconds"].tolist(), strict=True))
        return record, seconds["dispatch"] / LAYERS, seconds["combine"] / LAYERS

    return play


def test_all_gather_of_prompts_is_bound_by_its_busiest_link(step):
    """A ring of 4: each rank's tokens move along 3 of its links. The busiest link carries all 88 but the 8 of the rank
    at its end, in 3 rounds of up to 27, and the others are taken to be as busy. The same backwards."""
    record, dispatch, combine = step("allgather", model(8, 2))
    assert sum(TOKENS) == 88
    ring = START + 3 * (LATENCY + 27 * TOKEN / PORT)
    assert dispatch == pytest.approx(ring, abs=1e-12)
    assert combine == pytest.approx(ring, abs=1e-12)
    assert record.end == pytest.approx(1 + LAYERS * 2 * ring, abs=1e-11)
    assert record.devices["sent_bytes"].tolist() == [2 * LAYERS * 3 * 27 * TOKEN] * 4


def test_all_to_all_where_every_token_takes_every_expert(step):
    """8 experts of 8, two on each rank: a rank with n tokens sends 2 n copies to each of 3 others, and gets 2 for every
    token of the others. Busiest: the egress of the rank with 40 tokens, 240 copies; its ingress takes 2 x 48."""
    record, dispatch, combine = step("alltoall", model(8, 8))
    busiest = START + LATENCY + 240 * TOKEN / PORT
    assert dispatch == pytest.approx(busiest, abs=1e-12)
    assert combine == pytest.approx(busiest, abs=1e-12)
    assert record.end == pytest.approx(1 + LAYERS * 2 * busiest, abs=1e-11)
    # Three of four copies travel, there and back: 6 x 88 tokens a layer and direction.
    assert record.devices["sent_bytes"].sum() == pytest.approx(2 * LAYERS * 6 * 88 * TOKEN)


def traced(choose):
    """A trace of all four prompts, the same experts in every layer: `choose(request, position)`."""
    rows = [(request, position) for request, tokens in enumerate(TOKENS) for position in range(tokens)]
    ids = np.array([[choose(*row)] * LAYERS for row in rows])
    request, position = np.array(rows).T
    return TokenTrace(request, position, ids, 8)


def test_all_to_all_v_of_a_trace(step):
    """Experts 2 r and 2 r + 1 on rank r. Everybody goes to expert 0 (rank 0) and to expert 7 (rank 3).

    Rank 0 sends its 40 to rank 3, rank 3 its 16 to rank 0, ranks 1 and 2 send 2 x 8 and 2 x 24. Busiest: the ingress of
    rank 0 gets 8 + 24 + 16 = 48, that of rank 3 gets 40 + 8 + 24 = 72; no egress has more than 48.
    """
    _, dispatch, combine = step("alltoall", model(8, 2), traced(lambda request, position: [0, 7]))
    expected = START + LATENCY + 72 * TOKEN / PORT
    assert dispatch == pytest.approx(expected, abs=1e-12)
    assert combine == pytest.approx(expected, abs=1e-12)


def test_what_stays_at_home_is_free(step):
    """Every token goes to the two experts of its own rank: the call is made, and nothing moves."""
    own = traced(lambda request, position: [2 * request, 2 * request + 1])
    _, dispatch, combine = step("alltoall", model(8, 2), own)
    assert dispatch == combine == pytest.approx(START + LATENCY, abs=1e-12)


def test_all_to_all_over_two_nodes(step):
    """Ranks 0 and 1 in one node, 2 and 3 in the other, NICs of 25 GB/s and 7 us. Everybody goes to experts 0 and 7.

    Inside: 1 -> 0 and 2 -> 3, 8 and 24 copies. Between: rank 0 sends 40 and rank 1 sends 8 to rank 3 (48 in), ranks 2
    and 3 send 24 and 16 to rank 0 (40 in). Both ways at once; the NIC of rank 3 is the last: 48 copies.
    """
    _, dispatch, combine = step(
        "alltoall", model(8, 2), traced(lambda request, position: [0, 7]), devices={"unit": 2}, nodes=2, scale_out="out"
    )
    expected = 4e-6 + 7e-6 + 48 * TOKEN / 25e9
    assert dispatch == pytest.approx(expected, abs=1e-12)
    assert combine == pytest.approx(expected, abs=1e-12)


def test_tensor_parallel_reductions(ruler_families, tmp_path, monkeypatch):
    """A dense model on TP 4: two all-reduces a layer and one after the embedding, each 2 x 3 rounds of a quarter of 40
    hidden states; then the shards of 16 logits of one sequence are gathered in 3 rounds."""
    monkeypatch.setenv("MOESIM_PATH", str(ruler_families))
    trace = ruler.write_trace(tmp_path / "trace.csv", [(0, 40, 1)])
    record = simulate(ruler.spec_of(ruler.document(
        trace, model={**ruler.DENSE, "hidden": 64}, parallelism={"tp": 4},
        machine={"devices": {"unit": 4}, "fabric": "net"},
        library={"devices": {"unit": ruler.device(links={"wire": "100 GB/s"})}, "fabrics": {"net": NET}},
    )))  # fmt: skip
    seconds = dict(zip(record.operators["name"].tolist(), record.operators["seconds"].tolist(), strict=True))
    reduction = START + 6 * (LATENCY + 40 * TOKEN / 4 / PORT)
    gather = START + 3 * (LATENCY + 16 / 4 * 2 / PORT)
    assert seconds["reduce"] == pytest.approx(7 * reduction, abs=1e-11)
    assert seconds["gather_logits"] == pytest.approx(gather, abs=1e-12)
    assert record.end == pytest.approx(1 + 7 * reduction + gather, abs=1e-11)
