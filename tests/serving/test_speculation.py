"""Drafts that are verified: schedules counted by hand, the mean against its closed form, and what a step computes."""

from __future__ import annotations

import numpy as np
import pytest
import stepping
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ruler import assert_same, document, spec_of, steps, times, write_trace
from stepping import MACHINES

from moesim.model.attention import attention_work
from moesim.model.operators import attention_operators, feed_forward_operators, layer_types
from moesim.serving.simulate import simulate
from moesim.serving.speculation import Acceptance
from moesim.spec.errors import MoesimError
from moesim.spec.loading import load_descriptor
from moesim.spec.speculation import SpeculationSpec
from moesim.step.attention import FullAttention

ONE = {"speculation": {"tokens": 1, "acceptance": 1.0}}


def test_a_draft_that_is_always_accepted(on_ruler):
    """A (8 in, 6 out): its prompt's step gives 1 token, the next two 2 each, of the last only one is wanted."""
    record = on_ruler([(0, 8, 6)], engine=ONE)
    assert steps(record, "prefill_tokens", "decode_tokens", "sequences", "output_tokens") == [
        (0, 1, 8, 0, 1, 1), (1, 2, 0, 2, 1, 2), (2, 3, 0, 2, 1, 2), (3, 4, 0, 2, 1, 1),
    ]  # fmt: skip
    assert times(record, "finish") == [4]
    # Tokens of one step come at once: gaps of 1 s between three steps, and two of none.
    assert dict(zip(record.itl["duration"].tolist(), record.itl["count"].tolist(), strict=True)) == {0: 2, 1: 3}


@pytest.mark.parametrize(("acceptance", "finish"), [(0.0, 9), ([1.0, 0.0], 5), ([0.0, 1.0], 9), (1.0, 4)])
def test_drafts_are_accepted_up_to_the_first_that_is_not(on_ruler, acceptance, finish):
    """9 tokens, one of them at 1; then 1, 2, 1 or 3 in each step."""
    record = on_ruler([(0, 8, 9)], engine={"speculation": {"tokens": 2, "acceptance": acceptance}})
    assert times(record, "finish") == [finish]
    assert set(record.iterations["decode_tokens"].tolist()[1:]) == {3}


def test_drafts_take_their_part_of_the_budget(on_ruler):
    """Budget 8, A (2 in, 9 out) with 3 drafts: its decode takes 4 tokens of each step, B's prompt of 8 the others."""
    record = on_ruler(
        [(0, 2, 9), (0.5, 8, 1)], engine={"token_budget": 8, "speculation": {"tokens": 3, "acceptance": 0.0}}
    )
    assert steps(record, "prefill_tokens", "decode_tokens")[:4] == [
        (0, 1, 2, 0), (1, 2, 4, 4), (2, 3, 4, 4), (3, 4, 0, 4),
    ]  # fmt: skip


def test_drafts_have_slots_in_the_cache(on_ruler):
    """3 blocks of 16. A (14 in, 9 out), no draft accepted: with 14 tokens its first decode has slots for 2, one block;
    its next, with 15, needs another for the draft. B (16 in, 9 out) holds one and, for its first decode, another: at 2
    A finds no block and B, admitted last, is preempted, computed again when A leaves at 9."""
    record = on_ruler(
        [(0, 14, 9), (0, 16, 9)], blocks=3, engine={"speculation": {"tokens": 1, "acceptance": 0.0}}
    )
    assert record.requests["preemptions"].tolist() == [0, 1]
    assert times(record, "finish") == [9, 16]
    assert steps(record, "prefill_tokens", "output_tokens")[:3] == [(0, 1, 30, 2), (1, 2, 0, 2), (2, 3, 0, 1)]


def test_a_request_needs_slots_for_its_drafts_too(on_ruler):
    """16 tokens fit into a block, the draft behind them does not."""
    with pytest.raises(MoesimError, match="17 tokens need KV cache, a DP rank has room for 16"):
        on_ruler([(0, 8, 8)], blocks=1, engine=ONE)


@given(
    rows=st.lists(
        st.tuples(st.floats(0, 30).map(lambda t: round(t, 1)), st.integers(1, 60), st.integers(1, 40)),
        min_size=1, max_size=12,
    ),
    tokens=st.integers(1, 4), acceptance=st.floats(0, 1), blocks=st.integers(8, 20),
    engine=st.fixed_dictionaries({
        "token_budget": st.sampled_from([16, 64]), "max_sequences": st.sampled_from([2, 8]),
        "asynchronous_scheduling": st.booleans(), "preemption": st.booleans(),
        "prefill": st.sampled_from(["mixed", "first"]), "prefix_caching": st.booleans(),
    }),
    parallelism=st.sampled_from([{}, {"pp": 2}, {"dp": 2}]),
)  # fmt: skip
@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_is_accepted(on_ruler, rows, tokens, acceptance, blocks, engine, parallelism):
    """Every token comes once, and steps priced ahead do not show (`on_ruler` compares)."""
    record = on_ruler(
        sorted(rows), blocks=blocks, engine={**engine, "speculation": {"tokens": tokens, "acceptance": acceptance}},
        parallelism=parallelism, machine={"devices": {"unit": 2}, "fabric": "net"},
    )  # fmt: skip
    outputs = record.requests["output_tokens"]
    assert record.requests["generated_tokens"].tolist() == outputs.tolist()
    assert int(record.iterations["output_tokens"].sum()) == outputs.sum()
    assert int(record.itl["count"].sum()) == (outputs - 1).sum()
    gaps = float((record.itl["duration"] * record.itl["count"]).sum())
    assert gaps == pytest.approx(float((record.requests["finish"] - record.requests["first_token"]).sum()), abs=1e-6)
    assert record.iterations["kv_used"].max() <= 1


@pytest.mark.parametrize(("tokens", "rate"), [(1, 0.7), (1, 0.9), (3, 0.8), (5, 0.5)])
def test_the_mean_is_the_geometric_sum(tokens, rate):
    """(1 - p^(k+1)) / (1 - p) tokens a step (Leviathan et al., ICML 2023, equation 1); 1 + p for one draft."""
    spec = SpeculationSpec(tokens=tokens, acceptance=rate)
    expected = (1 - rate ** (tokens + 1)) / (1 - rate)
    assert spec.emitted == pytest.approx(expected)
    length, count = 4000, 0
    acceptance = Acceptance(spec, np.random.SeedSequence(7))
    for request in range(50):
        progress = acceptance.progress(request, 0, length)
        assert progress[0] == 0
        assert progress[1] == 1
        assert progress[-1] == length
        assert set(np.diff(progress[1:-1]).tolist()) <= set(range(1, tokens + 2))
        count += len(progress) - 2
    # Standard deviation of a step's tokens is below k; of the mean of some 1e5 steps, below 0.02.
    assert 50 * length / count == pytest.approx(expected, abs=0.02)


def test_tpot_follows_the_mean(ruler_path, tmp_path):
    """Steps of 1 s, 40 requests of 400 tokens, one draft at 0.7: a token each 1/1.7 s."""
    tree = document(
        write_trace(tmp_path / "trace.csv", [(0, 8, 400)] * 40),
        engine={"max_sequences": 64, "token_budget": 512, "speculation": {"tokens": 1, "acceptance": 0.7}},
    )
    requests = simulate(spec_of(tree)).requests
    tpot = (requests["finish"] - requests["first_token"]) / (requests["output_tokens"] - 1)
    assert float(tpot.mean()) == pytest.approx(1 / 1.7, rel=0.01)
    other = simulate(spec_of(tree, "seed=1")).requests
    assert (other["finish"] != requests["finish"]).any()


def test_one_draft_is_one_more_layer_and_head():
    """Operators, weights and cache of DeepSeek-V3's layer for multi-token prediction (arXiv 2412.19437, section 2.2):
    a layer like the last, the projection of two states, embedding and head of the model."""
    tree, _ = MACHINES["MLA, TP 2, DP 2, EP 4"]
    plain, drafting = (
        stepping.deployment(tree, "model.layers=3", *more)
        for more in ((), ("engine.speculation={tokens: 1, acceptance: 0.7}",))
    )
    before, after = (each.replicas[0].pricer.programs[0] for each in (plain, drafting))
    names, more = ([row.name for row in program.rows] for program in (before, after))
    layer = [row.name for row in before.rows if row.layer == 2]
    head = ["final_norm", "lm_head", "logits_gather", "sampling"]
    start = ["embedding", "embedding_reduce", "draft_embedding_norm", "draft_norm", "draft_projection"]
    assert more == names + start + layer + head
    assert after.moe_layers == (1, 2, 3)
    model = drafting.context.model
    kind = layer_types(model)[-1]
    operators = [*attention_operators(model, kind), *feed_forward_operators(model, kind)]
    hidden, shards = model.hidden, {"column": 2, "row": 2, "heads": 2, "experts": 4}
    weights = sum(op.weights / shards.get(op.shard, 1) for op in operators) + 2 * hidden * hidden + 2 * hidden
    assert drafting.memory[0].footprints[0].weights - plain.memory[0].footprints[0].weights == 2 * weights
    per_token = [each.memory[0].footprints[0].kv / each.memory[0].blocks for each in (plain, drafting)]
    assert per_token[1] / per_token[0] == pytest.approx(4 / 3)


@given(context=st.integers(1, 9000), drafts=st.integers(1, 7))
@settings(max_examples=30, deadline=None)
def test_attention_of_verified_tokens(context, drafts):
    """As single tokens one after the other, but for the keys, which are read once."""
    for name in ("qwen3-30b-a3b", "deepseek-v3"):
        model = load_descriptor("models", name)
        one, none = np.ones((1, 1)), np.ones((1, 1), dtype=np.int64)
        keys = context + 1.0
        extra = np.array([drafts * one, (drafts * keys + drafts * (drafts + 1) / 2) * one])
        found = FullAttention(model).decode(keys * one, none, extra)[:, 0, 0]
        singles = [attention_work(model, "full", 1, context + n) for n in range(1 + drafts)]
        last = singles[-1]
        written = sum(float(each.kv_written) for each in singles)
        assert found[0] == pytest.approx(sum(float(each.flops) for each in singles))
        assert found[1] == pytest.approx(float(last.kv_read) + written)
        assert found[2] == pytest.approx(sum(float(each.query_elements) for each in singles))
        assert found[3:5].tolist() == [1, context + 1 + drafts]


DRAFTING = [
    "GQA, DP 4, EP 4, all-gather", "MLA, TP 2, DP 2, EP 2, all-to-all", "PP 2, DP 2, EP 2", "PP 3, TP 2",
    "sliding window, TP 2, DP 2, EP 4", "different devices in different DP ranks", "experts split by TP alone",
]  # fmt: skip


def drafting_batch(ranks, steps, seed=4):
    """Decoding sequences with two drafts each that leave at different steps."""
    rng = np.random.default_rng(seed)
    whole = stepping.batch(ranks, 9, 0, seed=seed)
    left = np.array([3, 12, 1, 12, 7, 5, 5, 20, 2])
    gained = np.concatenate([np.zeros((9, 1), dtype=np.int64), rng.integers(1, 4, (9, steps)).cumsum(axis=1)], axis=1)
    return whole, left, gained


@pytest.mark.parametrize("name", DRAFTING)
def test_a_block_is_its_steps_and_plan_is_op(name):
    """Steps priced together, alone, swept as a graph and executed operation by operation take the same time."""
    from dataclasses import replace

    tree, layers = MACHINES[name]
    pricer = stepping.pricer(tree, f"model.layers={layers}", "engine.speculation={tokens: 2, acceptance: 0.5}")
    count = 12 if pricer.layout.pp == 1 else 1
    whole, left, gained = drafting_batch(pricer.layout.dp, count)
    block = pricer.price(replace(whole, left=left, steps=count, queries=3, gained=gained))
    for step in range(count):
        stays = left > step
        alone = replace(
            whole, rank=whole.rank[stays], request=whole.request[stays],
            context=whole.context[stays] + gained[stays, step], left=left[stays] - step, queries=3,
            gained=gained[stays, step : step + 2] - gained[stays, step : step + 1], first_step=whole.first_step + step,
        )  # fmt: skip
        price = pricer.price(alone)
        assert price.stages[:, 0].tolist() == block.stages[:, step].tolist()
        _, plan, op = stepping.executed(pricer, price)
        assert int(price.stages.sum()) == plan.makespan == op.makespan


def test_a_run_by_plan_is_that_by_operations(ruler_path, tmp_path):
    tree = stepping.document(
        "deepseek-v2-lite", {"h100-sxm": 2}, "nvlink4-switch", parallelism={"dp": 2, "ep": 2},
        requests={"trace": write_trace(tmp_path / "trace.csv", [(0, 300, 20), (0, 100, 30), (0.1, 700, 10)])},
    )  # fmt: skip
    options = ("model.layers=3", "engine.speculation={tokens: 2, acceptance: 0.6}")
    plan, op = (simulate(spec_of(tree, *options, f"fidelity={each}")) for each in ("plan", "op"))
    for name in ("first_token", "finish"):
        np.testing.assert_array_equal(plan.requests[name], op.requests[name])
    assert_same(plan, simulate(spec_of(tree, *options)))


def test_as_many_rates_as_drafts():
    with pytest.raises(ValueError, match="acceptance has 2 values for 3 drafts"):
        SpeculationSpec(tokens=3, acceptance=(0.9, 0.8))
