"""Admission, preemption and prefix sharing against schedules counted by hand: blocks of 16 tokens, steps of 1 s."""

from __future__ import annotations

import numpy as np
import pytest
from ruler import steps, times


def test_admission_waits_for_blocks(on_ruler):
    """4 blocks. A (40 in, 9 out) takes 3 and never more (40 + 8 tokens = 48); B (20, 2) needs 2 and waits for A's end
    at 9, although the budget would admit it at once."""
    record = on_ruler([(0, 40, 9), (0, 20, 2)], blocks=4)
    assert record.devices["kv_bytes"].tolist() == [4 * 16 * 3 * 2 * 4 * 2 * 2]  # 3 layers, keys and values, 4 x 2, bf16
    assert times(record, "first_scheduled") == [0, 9]
    assert times(record, "finish") == [9, 11]
    assert record.totals.preemptions == 0
    assert record.iterations["waiting"].tolist() == [1] * 9 + [0, 0]


def test_the_queue_waits_behind_its_head(on_ruler):
    """First come first served: C (1 block) would fit beside A, but B is before it."""
    record = on_ruler([(0, 40, 9), (0, 20, 2), (0, 4, 2)], blocks=4)
    assert times(record, "first_scheduled") == [0, 9, 9]


def test_only_the_chunk_needs_blocks(on_ruler):
    """Budget 16, 3 blocks. A (16 in, 10 out) holds 1 block, from its 2nd token on 2. B (32 in, 1 out) is admitted at 1
    with a chunk of 15 tokens (1 block), waits for blocks, and goes on when A leaves at 10: 16 tokens, then 1."""
    record = on_ruler([(0, 16, 10), (0.5, 32, 1)], blocks=3, engine={"token_budget": 16})
    assert steps(record, "prefill_tokens", "decode_tokens")[:4] == [
        (0, 1, 16, 0), (1, 2, 15, 1), (2, 3, 1, 1), (3, 4, 0, 1),
    ]  # fmt: skip
    assert steps(record, "prefill_tokens")[-1] == (10, 11, 16)
    assert times(record, "first_scheduled") == [0, 1]
    assert times(record, "finish") == [10, 11]
    assert record.totals.preemptions == 0


@pytest.mark.parametrize("caching", [False, True])
def test_preemption_by_recomputation(on_ruler, caching):
    """4 blocks. A (40 in, 9 out) holds 3, B (16 in, 2 out) 1. At 1, B's second token finds no block: B, the last one
    admitted, is preempted, and its 17 known tokens are computed again when A has left at 9.

    With prefix caching B's own full block is still there, because A took no other: 1 token is left to compute.
    """
    record = on_ruler([(0, 40, 9), (0, 16, 2)], blocks=4, engine={"prefix_caching": caching})
    assert times(record, "first_token") == [1, 1]
    assert times(record, "finish") == [9, 10]
    assert record.requests["preemptions"].tolist() == [0, 1]
    assert record.totals.preemptions == 1
    again = 1 if caching else 17
    assert steps(record, "prefill_tokens", "decode_tokens", "output_tokens") == [
        (0, 1, 56, 0, 2),
        *((t, t + 1, 0, 1, 1) for t in range(1, 9)),
        (9, 10, again, 0, 1),
    ]
    # B's tokens came at 1 and at 10.
    assert dict(zip(record.itl["duration"].tolist(), record.itl["count"].tolist(), strict=True)) == {1: 8, 9: 1}
    assert record.totals.prefix_hit_tokens == (16 if caching else 0)
    assert record.requests["cached_tokens"].tolist() == [0, 0]


def test_the_last_admitted_is_preempted(on_ruler):
    """3 blocks. A (16 in, 20 out) holds 1, B (30 in, 10 out) 2. At 1 A's second token needs a block: B goes, A stays.

    A's last token comes at 20. It holds 16 + 19 = 35 tokens at the end: 3 blocks from its 18th decode (at 18) on. B (31
    known, 2 blocks) cannot start beside 2 or 3 blocks of A, and is computed again from 20 to 21; 8 more tokens: 29.
    """
    record = on_ruler([(0, 16, 20), (0, 30, 10)], blocks=3)
    assert record.requests["preemptions"].tolist() == [0, 1]
    assert times(record, "first_token") == [1, 1]
    assert times(record, "finish") == [20, 29]
    assert int(record.iterations["prefill_tokens"].sum()) == 16 + 30 + 31


def test_preempted_first_in_the_queue(on_ruler):
    """As above with C (16 in, 1 out) waiting since 0.5: B was first admitted and comes before it."""
    record = on_ruler([(0, 16, 20), (0, 30, 10), (0.5, 16, 1)], blocks=3)
    assert record.requests["preemptions"].tolist() == [0, 1, 0]
    # 20: B 31 tokens (2 blocks) and C 16 (1 block).
    assert times(record, "first_scheduled") == [0, 0, 20]
    assert times(record, "finish") == [20, 29, 21]


def test_no_token_is_lost_under_pressure(on_ruler):
    """Dozens of sequences in a cache for a few: every output token comes exactly once, whatever is preempted."""
    rng = np.random.default_rng(5)
    rows = [(float(t), int(i), int(o)) for t, i, o in zip(
        np.sort(rng.uniform(0, 200, 60)), rng.integers(1, 90, 60), rng.integers(1, 60, 60), strict=True)]  # fmt: skip
    for caching in (False, True):
        record = on_ruler(rows, blocks=12, engine={"prefix_caching": caching})
        outputs = np.array([row[2] for row in rows])
        assert record.totals.preemptions > 5
        assert record.requests["generated_tokens"].tolist() == outputs.tolist()
        assert int(record.iterations["output_tokens"].sum()) == outputs.sum()
        assert int(record.itl["count"].sum()) == (outputs - 1).sum()
        assert float((record.itl["duration"] * record.itl["count"]).sum()) == pytest.approx(
            float((record.requests["finish"] - record.requests["first_token"]).sum())
        )
        assert record.iterations["kv_used"].max() <= 1


def test_twins_share_what_they_have_in_common(on_ruler):
    """A and B (40 in) share a prefix of 32 tokens. B, admitted in the same step, computes the other 8."""
    rows = [(0, 40, 2, "s", 32), (0, 40, 2, "s", 32)]
    record = on_ruler(rows, engine={"prefix_caching": True})
    assert steps(record, "prefill_tokens", "decode_tokens") == [(0, 1, 48, 0), (1, 2, 0, 2)]
    assert record.requests["cached_tokens"].tolist() == [0, 32]
    assert record.totals.prefix_hit_tokens == 32
    without = on_ruler(rows, engine={"prefix_caching": False})
    assert steps(without, "prefill_tokens") == [(0, 1, 64), (1, 2, 16), (2, 3, 0)]


def test_the_last_token_is_computed_again(on_ruler):
    """The whole prompt of 32 tokens is known, but a step gives the next token only for what it computes: of the last
    block nothing is taken from the cache, and 16 tokens are computed."""
    record = on_ruler([(0, 32, 1, "s", 32), (5, 32, 1, "s", 32)], engine={"prefix_caching": True})
    assert record.requests["cached_tokens"].tolist() == [0, 16]
    assert record.iterations["prefill_tokens"].tolist() == [32, 16]


def test_a_prefix_outlives_its_request(on_ruler):
    """A has left when B comes: its blocks are free, and still hold the prefix."""
    record = on_ruler([(0, 40, 2, "s", 32), (10, 40, 2, "s", 32)], engine={"prefix_caching": True})
    assert record.requests["cached_tokens"].tolist() == [0, 32]


def test_a_prefix_is_overwritten(on_ruler):
    """4 blocks. A leaves 2 shared and 1 private block; C (64 in, 1 out) takes all 4, and B finds nothing."""
    rows = [(0, 40, 2, "s", 32), (10, 63, 1, "other", 0), (20, 40, 2, "s", 32)]
    record = on_ruler(rows, blocks=4, engine={"prefix_caching": True})
    assert record.requests["cached_tokens"].tolist() == [0, 0, 0]
    # With a block more than C needs, the one freed last survives: the head of the prefix.
    more = on_ruler(rows, blocks=5, engine={"prefix_caching": True})
    assert more.requests["cached_tokens"].tolist() == [0, 0, 16]


def test_sharing_makes_room(on_ruler):
    """5 blocks. A and B (48 in, 2 out; 4 blocks each with the second token) share 32 tokens. Together they hold
    2 + 2 x 2 = 6 blocks one too many; with outputs of 1 they hold 2 + 2 x 1 = 4 and run side by side."""
    rows = [(0, 48, 1, "s", 32), (0, 48, 1, "s", 32)]
    together = on_ruler(rows, blocks=5, engine={"prefix_caching": True})
    assert times(together, "finish") == [1, 1]
    assert together.iterations["kv_used"].tolist() == [pytest.approx(64 / 80)]
    apart = on_ruler(rows, blocks=5, engine={"prefix_caching": False})
    assert times(apart, "finish") == [1, 2]


def test_a_shared_block_counts_once(on_ruler):
    """10 blocks. A, B, C (40 in; 3, 5, 9 out) share 32 tokens, D (8 in, 7 out) nothing. At the end of step t (0, 1, ..)
    each holds its own 8 + t tokens, the three together the 32, until the last of them leaves."""
    rows = [(0, 40, n, "s", 32) for n in (3, 5, 9)] + [(0, 8, 7, "none", 0)]
    record = on_ruler(rows, blocks=10, engine={"prefix_caching": True})
    outputs = np.array([3, 5, 9, 7])
    expected = [32 + sum(8 + t for n in outputs if n > t) for t in range(9)]
    assert (record.iterations["kv_used"] * 160).tolist() == pytest.approx(expected)
