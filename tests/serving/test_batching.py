"""Continuous batching against schedules counted by hand; a step takes 1 s."""

from __future__ import annotations

import numpy as np
import pytest
from ruler import steps, times


def test_decodes_then_begun_prompts_then_the_queue(on_ruler):
    """A budget of 16 tokens; A (8 in, 5 out) at 0, B (40, 2) at 0.5, C (4, 1) at 0.6.

    0: A 8            -> A's 1st token at 1
    1: A + B 15       the decode takes 1 of 16, B what is left, C nothing although it would be small
    2: A + B 15
    3: A + B 10 + C 4 B's prompt is done, 5 of the budget are left for C -> B 1st, C only token at 4
    4: A + B          A's 5th, B's 2nd
    """
    record = on_ruler([(0, 8, 5), (0.5, 40, 2), (0.6, 4, 1)], engine={"token_budget": 16})
    assert steps(record, "prefill_tokens", "decode_tokens", "prefill_sequences", "output_tokens", "waiting") == [
        (0, 1, 8, 0, 1, 1, 0),
        (1, 2, 15, 1, 1, 1, 1),
        (2, 3, 15, 1, 1, 1, 1),
        (3, 4, 14, 1, 2, 3, 0),
        (4, 5, 0, 2, 0, 2, 0),
    ]
    assert times(record, "first_scheduled") == [0, 1, 3]
    assert times(record, "first_token") == [1, 4, 4]
    assert times(record, "finish") == [5, 5, 4]


def test_a_prompt_in_chunks_of_the_budget(on_ruler):
    """100 tokens under a budget of 64: 64, then 36 with room for 10 of the next request."""
    record = on_ruler([(0, 100, 3), (0.5, 10, 2)])
    assert steps(record, "prefill_tokens", "decode_tokens") == [
        (0, 1, 64, 0), (1, 2, 46, 0), (2, 3, 0, 2), (3, 4, 0, 1),
    ]  # fmt: skip
    assert times(record, "first_token") == [2, 2]
    assert times(record, "finish") == [4, 3]


def test_without_chunks_a_prompt_is_computed_whole(on_ruler):
    """Budget 16. B (40 in) exceeds what A's decode leaves, but is the first prompt of its step and runs whole; C waits.

    0: A 8    1: A + B 40    2: A (3rd, last) + B (2nd, last) + C 4
    """
    record = on_ruler(
        [(0, 8, 3), (0.5, 40, 2), (0.6, 4, 1)], engine={"token_budget": 16, "chunked_prefill": False}
    )
    assert steps(record, "prefill_tokens", "decode_tokens") == [(0, 1, 8, 0), (1, 2, 40, 1), (2, 3, 4, 2)]
    assert times(record, "finish") == [3, 3, 3]


def test_without_chunks_a_large_prompt_waits_behind_a_small_one(on_ruler):
    """The same, C before B. 1: A + C 4, and B's 40 do not fit beside them. 2: A + B 40. 3: B."""
    record = on_ruler(
        [(0, 8, 3), (0.5, 4, 1), (0.6, 40, 2)], engine={"token_budget": 16, "chunked_prefill": False}
    )
    assert steps(record, "prefill_tokens", "decode_tokens") == [
        (0, 1, 8, 0), (1, 2, 4, 1), (2, 3, 40, 1), (3, 4, 0, 1),
    ]  # fmt: skip


def test_without_chunks_the_longest_prompt_beside_many_decodes(on_ruler):
    """7 decoding sequences, and a prompt that fills the model's context of 4096 tokens but for one: 4102 tokens."""
    record = on_ruler([(0, 4, 9)] * 7 + [(2, 4095, 1)], engine={"chunked_prefill": False})
    assert steps(record, "prefill_tokens", "decode_tokens")[2] == (2, 3, 4095, 7)
    assert times(record, "finish") == [9] * 7 + [3]


def test_at_most_so_many_sequences(on_ruler):
    """Two at once: the third starts when both have left."""
    record = on_ruler([(0, 4, 2)] * 3, engine={"max_sequences": 2})
    assert steps(record, "sequences", "waiting") == [(0, 1, 2, 1), (1, 2, 2, 1), (2, 3, 1, 0), (3, 4, 1, 0)]
    assert times(record, "finish") == [2, 2, 4]


def test_a_place_in_the_batch_is_taken_when_it_becomes_free(on_ruler):
    """A (2 out) and B (5 out) run; C takes A's place at 2, whatever was priced ahead."""
    record = on_ruler([(0, 4, 2), (0, 4, 5), (0, 4, 3)], engine={"max_sequences": 2})
    assert times(record, "first_scheduled") == [0, 0, 2]
    assert times(record, "finish") == [2, 5, 5]


def test_more_decodes_than_the_budget(on_ruler):
    """Budget 4, eight sequences. Four single-token prompts fit a step; four decodes then leave no room for others."""
    record = on_ruler([(0, 1, 3)] * 8, engine={"token_budget": 4})
    assert steps(record, "prefill_tokens", "decode_tokens") == [
        (0, 1, 4, 0), (1, 2, 0, 4), (2, 3, 0, 4), (3, 4, 4, 0), (4, 5, 0, 4), (5, 6, 0, 4),
    ]  # fmt: skip


def test_one_output_token(on_ruler):
    """The prompt's step gives the only token: it finishes with it, and there is no time between tokens."""
    record = on_ruler([(0, 4, 1), (3, 64, 1), (3, 64, 1)])
    assert times(record, "first_token") == times(record, "finish") == [1, 4, 5]
    assert len(record.itl["count"]) == 0
    assert steps(record, "decode_tokens") == [(0, 1, 0), (3, 4, 0), (4, 5, 0)]


@pytest.mark.parametrize(("arrival", "scheduled"), [(2.0, 2), (2.000000000001, 3), (1.999999999999, 2)])
def test_arrival_at_a_step_boundary(on_ruler, arrival, scheduled):
    """Who arrives in the instant in which a step begins takes part in it; a picosecond later is a step later."""
    record = on_ruler([(0, 4, 50), (arrival, 4, 2)])
    assert times(record, "first_scheduled")[1] == scheduled
    assert times(record, "finish") == [50, scheduled + 2]


def test_arrivals_in_one_instant_share_a_step(on_ruler):
    record = on_ruler([(1, 4, 2)] * 3)
    assert steps(record, "prefill_tokens", "decode_tokens") == [(1, 2, 12, 0), (2, 3, 0, 3)]


def test_the_engine_idles_between_requests(on_ruler):
    record = on_ruler([(0, 4, 2), (10.25, 4, 2)])
    assert steps(record) == [(0, 1), (1, 2), (10.25, 11.25), (11.25, 12.25)]


def test_host_time_grows_with_the_sequences(on_ruler):
    """1 s a step and 0.25 s a scheduled sequence: 1.5, then 1.5, then 1.25 (one has left)."""
    record = on_ruler([(0, 4, 2), (0, 4, 3)], engine={"sequence_overhead": "0.25 s"})
    assert steps(record) == [(0, 1.5), (1.5, 3), (3, 4.25)]


def test_times_between_tokens(on_ruler):
    """A decodes from 1 to 5 with 1.25 s a step, and 1.5 s in the two steps in which B takes part (2.25 to 5.25).

    A: tokens at 1.25, 2.5, 4, 5.5, 6.75;  B arrives at 2: prompt in the step from 2.5 to 4, token at 5.5.
    """
    record = on_ruler([(0, 4, 5), (2, 4, 2)], engine={"sequence_overhead": "0.25 s"})
    assert steps(record) == [(0, 1.25), (1.25, 2.5), (2.5, 4), (4, 5.5), (5.5, 6.75)]
    assert dict(zip(record.itl["duration"].tolist(), record.itl["count"].tolist(), strict=True)) == {1.25: 2, 1.5: 3}


def test_long_decodes_in_blocks(on_ruler):
    """A thousand tokens, priced in blocks that arrivals cut: run-ahead changes nothing, and every step is counted."""
    rows = [(0, 4, 1000), *((n * 37.3, 5 + n, 3 * n + 1) for n in range(1, 20))]
    record = on_ruler(rows, engine={"sequence_overhead": "1 ms"})
    assert record.requests["generated_tokens"].tolist() == [row[2] for row in rows]
    assert int(record.iterations["output_tokens"].sum()) == sum(row[2] for row in rows)
    assert int(record.itl["count"].sum()) == sum(row[2] - 1 for row in rows)
    assert (np.diff(record.iterations["start"]) > 0).all()
