"""Prefill and decode on pools of their own, against schedules counted by hand: steps of 1 s, 96 bytes of KV entries per
token (3 layers, keys and values, 4 heads of 2, bf16), and a network that moves 10 tokens' in a second."""

from __future__ import annotations

import numpy as np
import pytest
import ruler
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ruler import DENSE, FABRIC, MOE, device, steps, times

from moesim.results.metrics import summarise
from moesim.serving.simulate import Simulation, simulate
from moesim.spec.errors import MoesimError

SLOW = {**FABRIC, "bandwidth": "960 B/s"}


def pooled(trace, prefill=None, decode=None, transfer=None, fabric=SLOW, drain=None, **changes):
    """An experiment of a prefill pool and a decode pool on one machine, each a device unless they say otherwise."""
    return ruler.document(
        trace,
        machine={"devices": {"unit": 6}, "fabric": "net"},
        library={"devices": {"unit": device()}, "fabrics": {"net": fabric}},
        pools={"prefill": prefill or {}, "decode": decode or {}, "transfer": transfer or {}},
        requests={"trace": trace} | ({} if drain is None else {"drain": drain}),
        **changes,
    )


@pytest.fixture
def on_pools(ruler_path, tmp_path):
    """`on_pools(rows, ...)`: the record, the same with steps priced ahead and one by one."""
    count = 0

    def play(rows, **options):
        nonlocal count
        count += 1
        return ruler.run(pooled(ruler.write_trace(tmp_path / f"trace{count}.csv", rows), **options))

    return play


def moves(record):
    return list(zip(times(record, "transfer_start"), times(record, "transfer_end"), strict=True))


def test_a_request_moves_on(on_pools):
    """A (10 in, 4 out): prompt 0 to 1, its entries travel from 1 to 2, three more tokens at 3, 4 and 5."""
    record = on_pools([(0, 10, 4)])
    assert steps(record, "replica", "prefill_tokens", "decode_tokens", "output_tokens") == [
        (0, 1, 0, 10, 0, 1), (2, 3, 1, 0, 1, 1), (3, 4, 1, 0, 1, 1), (4, 5, 1, 0, 1, 1),
    ]  # fmt: skip
    assert record.iterations["pool"].tolist() == ["prefill", "decode", "decode", "decode"]
    assert times(record, "first_token") == [1]
    assert moves(record) == [(1, 2)]
    assert record.requests["transfer_bytes"].tolist() == [960]
    assert record.requests["decode_replica"].tolist() == [1]
    assert times(record, "finish") == [5]
    # The second token comes 2 s after the first, the others 1 s after one another.
    assert dict(zip(record.itl["duration"].tolist(), record.itl["count"].tolist(), strict=True)) == {2: 1, 1: 2}
    assert record.devices["pool"].tolist() == ["prefill", "decode", "", "", "", ""]
    assert record.devices["sent_bytes"].tolist() == [960, 0, 0, 0, 0, 0]


def test_one_token_needs_no_transfer(on_pools):
    record = on_pools([(0, 10, 1)])
    assert times(record, "finish") == [1]
    assert record.requests["decode_replica"].tolist() == [-1]
    assert np.isnan(record.requests["transfer_start"]).all()


def test_transfers_share_the_port(on_pools):
    """A and B (10 in, 3 out each) end their prompts in one step; both leave the port of the prefill device at half its
    rate: 1 to 3."""
    record = on_pools([(0, 10, 3), (0, 10, 3)])
    assert moves(record) == [(1, 3), (1, 3)]
    assert times(record, "finish") == [5, 5]


def test_two_prefill_replicas_share_the_decode_port(on_pools):
    """The same from two devices to one; with two decode replicas nothing is shared."""
    both = {"parallelism": {"replicas": 2}}
    assert moves(on_pools([(0, 10, 3), (0, 10, 3)], prefill=both)) == [(1, 3), (1, 3)]
    assert moves(on_pools([(0, 10, 3), (0, 10, 3)], prefill=both, decode=both)) == [(1, 2), (1, 2)]


def test_a_later_transfer_slows_the_first(on_pools):
    """A (20 in) from 1 on alone: 10 tokens by 2. B (10 in, sent at 0.5, prompt 1 to 2) shares from 2 on: 5 tokens each
    a second, both are done at 4."""
    record = on_pools([(0, 20, 3), (0.5, 10, 3)])
    assert moves(record) == [(1, 4), (2, 4)]


def test_lanes_side_by_side(on_pools):
    """With tp 2 in both pools, each device sends the two heads that it keeps: half the time."""
    wide = {"parallelism": {"tp": 2}}
    record = on_pools([(0, 10, 3)], prefill=wide, decode=wide)
    (move,) = moves(record)
    assert move[1] - move[0] == pytest.approx(0.5)


def test_latency_comes_before_each_transfer(on_pools):
    """250 ms of messages, and a network whose messages take 125 ms."""
    record = on_pools([(0, 10, 3)], transfer={"latency": "250 ms"}, fabric={**SLOW, "latency": "125 ms"})
    assert moves(record) == [(1, 2.375)]


def test_decode_waits_for_blocks(on_pools):
    """2 blocks in the decode pool. A (16 in, 3 out) takes one, and a second for its next token; B (16 in, 2 out) waits
    until A has left. A travels 1 to 2.6, computes 2.6 to 4.6; B's prompt is complete at 2, it travels 4.6 to 6.2."""
    record = on_pools([(0, 16, 3), (0.5, 16, 2)], decode={"engine": {"kv_blocks": 2, "preemption": False}})
    assert moves(record) == [pytest.approx((1, 2.6)), pytest.approx((4.6, 6.2))]
    assert times(record, "finish") == pytest.approx([4.6, 7.2])


def test_prefill_keeps_its_blocks_until_the_entries_have_arrived(on_pools):
    """2 blocks in the prefill pool: B (20 in) cannot begin before A's (20 in) have travelled, from 1 to 3."""
    record = on_pools([(0, 20, 2), (0.5, 20, 2)], prefill={"engine": {"kv_blocks": 2}})
    assert times(record, "first_scheduled") == [0, 3]


def test_who_arrives_during_a_step_joins_the_next(on_pools):
    """A decodes from 2 on. B (15 in, sent at 1) computes 1 to 2, travels 2 to 3.5, and decodes from 4 on."""
    record = on_pools([(0, 10, 9), (1, 15, 3)])
    assert moves(record)[1] == (2, 3.5)
    assert times(record, "finish") == [10, 6]
    decodes = [row for row in steps(record, "replica", "decode_tokens") if row[2] == 1]
    assert [row[3] for row in decodes] == [1, 1, 2, 2, 1, 1, 1, 1]


def test_arrival_with_the_beginning_of_a_step(on_pools):
    """B's entries (10 in, sent at 1) arrive at 3, when a step of A begins: it takes part."""
    record = on_pools([(0, 10, 9), (1, 10, 3)])
    assert moves(record)[1] == (2, 3)
    assert times(record, "finish")[1] == 5


def test_blocks_are_given_when_the_engine_decides(on_pools):
    """Steps of the decode pool are decided when the one before begins. A decodes from 2 on. B (5 in, sent at 1.2) has
    its prompt at 2.2, during the step from 2 to 3: at 3, when the engine decides on the step from 4 on, it gets blocks.
    It travels 3 to 3.5, which the engine sees at 4, and decodes from 5 on."""
    decode = {"engine": {"asynchronous_scheduling": True}}
    record = on_pools([(0, 10, 9), (1.2, 5, 3)], decode=decode)
    assert moves(record) == [(1, 2), (3, 3.5)]
    assert times(record, "finish") == [10, 7]


def test_blocks_of_who_ended_are_given_when_the_engine_hears_of_it(on_pools):
    """As above with one sequence at a time. A's last token comes at 4; the engine hears of it when the next step would
    begin, and B, complete at 2.2, travels from 4 on."""
    decode = {"engine": {"asynchronous_scheduling": True, "max_sequences": 1}}
    record = on_pools([(0, 10, 3), (1.2, 5, 3)], decode=decode)
    assert moves(record) == [(1, 2), (4, 4.5)]
    assert times(record, "finish") == [4, 6.5]


def test_cached_blocks_do_not_travel_again(on_pools):
    """B shares the first 16 of its 20 tokens with A: the prefill replica computes 4, and 4 travel."""
    record = on_pools([(0, 20, 2, "a", 16), (8, 20, 2, "a", 16)], engine={"prefix_caching": True})
    assert record.requests["cached_tokens"].tolist() == [0, 16]
    assert record.requests["transfer_bytes"].tolist() == [20 * 96, 4 * 96]


def test_a_preempted_sequence_is_computed_again_where_it_decodes(on_pools):
    """3 blocks in the decode pool. A and B (14 in, 9 out each) travel 1 to 3.8; a third and a fourth block would be
    needed when their 17th token comes: B, admitted last, is preempted, and its prompt computed again by the decode
    replica when A has left."""
    record = on_pools([(0, 14, 9), (0, 14, 9)], decode={"engine": {"kv_blocks": 3}})
    assert record.requests["preemptions"].tolist() == [0, 1]
    again = [row for row in steps(record, "replica", "prefill_tokens") if row[2] == 1 and row[3]]
    assert [row[3] for row in again] == [14 + 3]
    assert times(record, "finish") == pytest.approx([11.8, 17.8])


@pytest.mark.parametrize(
    ("tokens", "rate", "end"),
    [
        # A step of 1 s, 3 layers. Transfer x: ends max(x / 3, x - 2 / 3) after it.
        (10, 10, 1 + 1 / 3),  # x = 1: the last layer's third
        (10, 20, 1 + 1 / 6),  # x = 0.5
        (30, 10, 1 + 3 - 2 / 3),  # x = 3: the links are the bottleneck from the first layer on
    ],
)
def test_layer_by_layer(on_pools, tokens, rate, end):
    record = on_pools(
        [(0, tokens, 3)], transfer={"when": "layerwise"}, fabric={**FABRIC, "bandwidth": f"{96 * rate} B/s"}
    )
    assert times(record, "transfer_end") == pytest.approx([end])
    assert times(record, "transfer_start") == pytest.approx([1 / 3])
    assert times(record, "finish") == pytest.approx([end + 2])


def test_layer_by_layer_over_several_chunks(on_pools):
    """30 tokens in chunks of 10: steps 0 to 3, x = 3 s. Entries travel from 1/3 on: 8/3 s of them before the end, and
    the last chunk's last layer no earlier: max(1/9 x 3, 3 - 8/3) = 1/3 s after it."""
    record = on_pools([(0, 30, 3)], transfer={"when": "layerwise"}, prefill={"engine": {"token_budget": 10}})
    assert times(record, "first_token") == [3]
    assert times(record, "transfer_end") == pytest.approx([3 + 1 / 3])


def test_layer_by_layer_needs_blocks_first(on_pools):
    """As `test_decode_waits_for_blocks`: A ends 1 + 1.6 - 2/3 and computes two tokens; B has nowhere to go until then,
    and travels as a whole, 1.6 s."""
    record = on_pools(
        [(0, 16, 3), (0.5, 16, 2)], transfer={"when": "layerwise"},
        decode={"engine": {"kv_blocks": 2, "preemption": False}},
    )  # fmt: skip
    first = 1 + 1.6 - 2 / 3
    assert moves(record)[1] == pytest.approx((first + 2, first + 3.6))


def test_pools_with_machines_of_their_own(ruler_path, tmp_path):
    """Two machines of other devices on a network of their own; NICs of 960 and 480 B/s: the slower one counts."""
    tree = pooled(
        ruler.write_trace(tmp_path / "trace.csv", [(0, 10, 3)]),
        prefill={"machine": {"devices": {"unit": 1}, "nic": "960 B/s"}},
        decode={"machine": {"devices": {"other": 2}, "fabric": "net", "nic": "480 B/s"}, "parallelism": {"tp": 2}},
        transfer={"fabric": "wide"},
    )
    tree["library"] = {
        "devices": {"unit": device(), "other": device()}, "fabrics": {"net": FABRIC, "wide": FABRIC},
    }  # fmt: skip
    tree.pop("machine")
    record = ruler.run(tree)
    # Each of two lanes takes half: 480 bytes out of one NIC of 960 B/s in all, and into NICs of 480 B/s.
    assert moves(record) == [(1, pytest.approx(2))]
    assert record.devices["name"].tolist() == ["prefill/node0/unit0", "decode/node0/other0", "decode/node0/other1"]
    assert record.devices["device"].tolist() == [0, 1, 2]
    busiest = record.links["level"] == "transfer"
    assert sorted(record.links["bytes"][busiest].tolist()) == [480, 480, 960]


def test_each_pool_has_its_engine(on_pools):
    """The decode pool admits two sequences: the third waits for its slot. The prefill pool takes them all at once."""
    record = on_pools([(0, 10, 3)] * 3, decode={"engine": {"max_sequences": 2}}, fabric=FABRIC)
    assert times(record, "first_token") == [1, 1, 1]
    assert times(record, "finish") == [3, 3, 5]


def test_both_pools_serve_one_model(ruler_path, tmp_path):
    """Its experts are as popular in one pool as in the other; what steps draw differs, as their replicas do."""
    tree = pooled(ruler.write_trace(tmp_path / "trace.csv", [(0, 10, 3)]), model=MOE, routing={"zipf": 1.0})
    prefill, decode = Simulation(ruler.spec_of(tree))._run.service.deployments
    np.testing.assert_array_equal(prefill.routing.popularity, decode.routing.popularity)
    assert np.ptp(prefill.routing.popularity) > 0
    keys = [deployment.replicas[0].pricer.routed.key for deployment in (prefill, decode)]
    assert keys[0] != keys[1]


def test_drafts_in_the_decode_pool(on_pools):
    """Always accepted: the first token from the prefill pool, then 2 in each step."""
    record = on_pools(
        [(0, 10, 6)], fabric=FABRIC, decode={"engine": {"speculation": {"tokens": 1, "acceptance": 1.0}}}
    )
    assert times(record, "finish") == [4]


def test_an_overloaded_run_ends_with_its_books_in_order(on_pools):
    """Transfers of 100 s each: the run ends 30 s after the last arrival, with requests in every place between."""
    record = on_pools([(second, 30, 40) for second in range(10)], fabric={**FABRIC, "bandwidth": "288 B/s"},
                      decode={"engine": {"kv_blocks": 8}}, drain="30 s")  # fmt: skip
    assert record.overloaded
    assert np.isnan(record.requests["finish"]).sum() > 5
    assert int(record.iterations["output_tokens"].sum()) == record.requests["generated_tokens"].sum()


def test_summary_says_what_transfers_cost(on_pools):
    record = on_pools([(0, 10, 3), (0, 10, 3)])
    summary = summarise(record)
    assert summary["transfer"]["bytes"] == 1920
    assert summary["transfer"]["time"]["mean"] == 2
    assert summary["transfer"]["exposed"]["mean"] == 2
    assert summary["pools"]["prefill"]["devices"] == 1
    assert summary["pools"]["decode"]["busy"] == pytest.approx(2 / 5)


ROW = st.tuples(st.floats(0, 30).map(lambda t: round(t, 1)), st.integers(1, 100), st.integers(1, 25),
                st.sampled_from("abc"), st.sampled_from([0, 16, 40, 64]))  # fmt: skip
ENGINE = st.fixed_dictionaries({
    "token_budget": st.sampled_from([8, 64, 200]), "max_sequences": st.sampled_from([1, 3, 8]),
    "chunked_prefill": st.booleans(), "prefix_caching": st.booleans(), "asynchronous_scheduling": st.booleans(),
    "preemption": st.booleans(), "prefill": st.sampled_from(["mixed", "first"]), "kv_blocks": st.integers(12, 30),
})  # fmt: skip


@given(
    rows=st.lists(ROW, min_size=1, max_size=15), prefill=ENGINE, decode=ENGINE,
    degrees=st.tuples(*[st.sampled_from([{}, {"replicas": 2}, {"dp": 2, "ep": 2}, {"pp": 2}, {"tp": 2}])] * 2),
    when=st.sampled_from(["end", "layerwise"]), rate=st.sampled_from(["96 B/s", "960 B/s", "1 TB/s"]),
    drafts=st.sampled_from([None, {"tokens": 2, "acceptance": 0.6}]), model=st.sampled_from([DENSE, MOE]),
)  # fmt: skip
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_every_token_comes_once(
    ruler_families, tmp_path_factory, rows, prefill, decode, degrees, when, rate, drafts, model
):  # fmt: skip
    degrees = [{} if model is DENSE and "ep" in each else each for each in degrees]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MOESIM_PATH", str(ruler_families))
        record = ruler.run(
            pooled(
                ruler.write_trace(tmp_path_factory.mktemp("traffic") / "trace.csv", sorted(rows)),
                prefill={"parallelism": degrees[0], "engine": prefill},
                decode={"parallelism": degrees[1], "engine": {**decode, "speculation": drafts}},
                transfer={"when": when}, fabric={**FABRIC, "bandwidth": rate}, model=model,
            )
        )  # fmt: skip
    requests = record.requests
    outputs = requests["output_tokens"]
    assert requests["generated_tokens"].tolist() == outputs.tolist()
    assert int(record.iterations["output_tokens"].sum()) == outputs.sum()
    assert int(record.itl["count"].sum()) == (outputs - 1).sum()
    gaps = float((record.itl["duration"] * record.itl["count"]).sum())
    assert gaps == pytest.approx(float((requests["finish"] - requests["first_token"]).sum()), abs=1e-6)
    moved = outputs > 1
    assert np.isnan(requests["transfer_end"][~moved]).all()
    assert (requests["transfer_end"][moved] >= requests["first_token"][moved] - 1e-9).all()
    assert (requests["finish"][moved] > requests["transfer_end"][moved]).all()
    assert record.iterations["kv_used"].max() <= 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pools": {"prefill": {"machine": {"devices": {"unit": 1}}}, "decode": {}}},
         "one pool has a machine of its own"),
        ({"pools": {"prefill": {}, "decode": {}, "transfer": {"fabric": "net"}}}, "both pools are on one machine"),
        ({"pools": {"prefill": {"machine": {"devices": {"unit": 1}}}, "decode": {"machine": {"devices": {"unit": 1}}}}},
         "no path leads from the prefill pool to the decode pool: they share no network"),
        ({"pools": {"prefill": {"machine": {"devices": {"unit": 1}}}, "decode": {"machine": {"devices": {"unit": 1}}},
                    "transfer": {"fabric": "ib-ndr400"}}}, "no path leads.*unit has no port on ib-ndr400"),
        ({"pools": {"prefill": {"parallelism": {"replicas": 4}}, "decode": {"parallelism": {"tp": 4}}}},
         "takes 4 devices, the machine has 6, of which others take 4"),
        ({"pools": {"prefill": {}, "decode": {"engine": {"kv_blocks": 1}}}},
         "24 tokens need KV cache, a DP rank of the decode pool has room for 16"),
        ({"pools": {"prefill": {"engine": {"kv_blocks": 1}}, "decode": {}}},
         "20 tokens need KV cache, a DP rank of the prefill pool has room for 16"),
        ({"pools": {"prefill": {}, "decode": {"engine": {"memory_utilization": 1e-9}}}},
         "in the decode pool dense on unit does not fit"),
        ({"fabric": "flow"}, "pools share links at the bound only"),
    ],
)  # fmt: skip
def test_what_cannot_run(ruler_path, tmp_path, changes, message):
    tree = {**pooled(ruler.write_trace(tmp_path / "trace.csv", [(0, 20, 4)])), **changes}
    with pytest.raises(MoesimError, match=message) as error:
        simulate(ruler.spec_of(tree))
    assert "\n" not in str(error.value)
