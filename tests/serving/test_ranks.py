"""DP ranks that step together, replicas that do not, and the routers in front of them; a step takes 1 s."""

from __future__ import annotations

import pytest
from ruler import FABRIC, MOE, device, steps, times

LIBRARY = {"devices": {"unit": device()}, "fabrics": {"net": FABRIC}}
TWO = {"machine": {"devices": {"unit": 2}, "fabric": "net"}, "library": LIBRARY}
GROUP = {**TWO, "model": MOE, "parallelism": {"dp": 2, "ep": 2}}


def test_an_idle_rank_computes_a_dummy_token(on_ruler):
    """One request on rank 0: 4 + 1 + 1 tokens, and 3 dummies on rank 1, each for 2 of the experts in 3 layers."""
    record = on_ruler([(0, 4, 3)], **GROUP)
    assert record.expert_tokens.sum() == pytest.approx((6 + 3) * 2 * 3)
    assert steps(record, "prefill_tokens", "decode_tokens", "sequences") == [
        (0, 1, 4, 0, 1), (1, 2, 0, 1, 1), (2, 3, 0, 1, 1),
    ]  # fmt: skip


def test_no_dummy_where_every_rank_has_work(on_ruler):
    record = on_ruler([(0, 4, 3), (0, 9, 3)], **GROUP)
    assert record.requests["rank"].tolist() == [0, 1]
    assert record.expert_tokens.sum() == pytest.approx((6 + 11) * 2 * 3)


def test_ranks_step_together(on_ruler):
    """0.25 s a sequence, of the rank that has most of them. A, C on rank 0 (2 and 3 out), B on rank 1 (4 out).

    0: A C | B   1.5 s    1.5: A C | B   1.5 s, A leaves    3: C | B  1.25 s, C leaves    4.25: - | B  1.25 s
    """
    record = on_ruler([(0, 4, 2), (0, 4, 4), (0, 4, 3)], engine={"sequence_overhead": "0.25 s"}, **GROUP)
    assert record.requests["rank"].tolist() == [0, 1, 0]
    assert steps(record, "sequences") == [(0, 1.5, 3), (1.5, 3, 3), (3, 4.25, 2), (4.25, 5.5, 1)]
    assert times(record, "finish") == [3, 5.5, 4.25]


def test_each_rank_has_its_own_budget_and_cache(on_ruler):
    """Budget 16: both ranks compute 16 of their 20 tokens in the first step, then 4. Blocks: 2 for each rank, which
    holds a request of 20 + 8 tokens; a third request waits for its rank's end."""
    rows = [(0, 20, 9), (0, 20, 3), (0, 4, 2)]
    record = on_ruler(rows, blocks=2, engine={"token_budget": 16}, **GROUP)
    assert record.iterations["prefill_tokens"].tolist()[:2] == [32, 8]
    assert times(record, "first_token") == [2, 2, 11]
    assert times(record, "finish") == [10, 4, 12]


def test_a_rank_waits_for_the_prompt_of_another(on_ruler):
    """All ranks take the time of the slowest: with 1 s per attention call of the paced family (3 layers), a step takes
    1 + 3 s, whichever rank it is that has the longer work."""
    library = {"devices": {"unit": device("paced")}, "fabrics": {"net": FABRIC}}
    record = on_ruler([(0, 4, 2), (1, 60, 1)], **{**GROUP, "library": library})
    assert steps(record, "prefill_tokens", "decode_tokens") == [(0, 4, 4, 0), (4, 8, 60, 1)]


def test_ep_one_makes_each_rank_a_replica(on_ruler):
    """DP ranks that hold all experts never meet: A ends at 2 with its own steps, B arrives and ends on its own."""
    record = on_ruler([(0, 4, 2), (0.5, 4, 2)], **{**GROUP, "parallelism": {"dp": 2, "ep": 1}})
    assert record.requests["replica"].tolist() == [0, 1]
    assert steps(record, "replica") == [(0, 1, 0), (0.5, 1.5, 1), (1, 2, 0), (1.5, 2.5, 1)]
    assert record.iterations["step"].tolist() == [0, 0, 1, 1]


def test_replicas_divide_the_work(on_ruler):
    """Four requests at once, one at a time on each of two replicas, two steps each."""
    record = on_ruler(
        [(0, 4, 2)] * 4, **TWO, parallelism={"replicas": 2}, engine={"max_sequences": 1}
    )
    assert record.requests["replica"].tolist() == [0, 1, 0, 1]
    assert times(record, "finish") == [2, 2, 4, 4]


def test_round_robin_counts_requests_not_work(on_ruler):
    record = on_ruler([(0, 4, 50), (1, 4, 1), (5, 4, 1), (9, 4, 1)], **TWO, parallelism={"replicas": 2})
    assert record.requests["replica"].tolist() == [0, 1, 0, 1]


@pytest.mark.parametrize("parallelism", [{"replicas": 2}, {"dp": 2, "ep": 2}])
def test_least_loaded_takes_the_fewest_unfinished(on_ruler, parallelism):
    """A (50 out) goes to 0, B (1 out) to 1 and is done at 2; C at 5 finds loads 1, 0 and takes 1 (until 7); D at 6.5
    finds 1, 1 and takes the one after the last choice, 0; E at 8.5 finds 2, 0 (or 1, 0)."""
    changes = {**TWO, "model": MOE, "parallelism": parallelism, "router": "least-loaded"}
    record = on_ruler([(0, 4, 50), (1, 4, 1), (5, 4, 2), (6.5, 4, 9), (8.5, 4, 1)], **changes)
    targets = record.requests["replica" if "replicas" in parallelism else "rank"]
    assert targets.tolist() == [0, 1, 1, 0, 1]


def test_least_loaded_sees_who_has_left_in_the_middle_of_a_block(on_ruler):
    """A and B decode ahead on ranks 0 and 1, A until 3, B until 30. C at 10 finds rank 0 empty, and so do D and E,
    which come when C is done."""
    record = on_ruler([(0, 4, 3), (0, 4, 30), (10.5, 4, 2), (15, 4, 1), (20, 4, 1)], router="least-loaded", **GROUP)
    assert record.requests["rank"].tolist() == [0, 1, 0, 0, 0]


def test_least_loaded_counts_who_waits(on_ruler):
    """One at a time: the queue counts. Loads before each arrival: 00, 10, 11, 21."""
    record = on_ruler(
        [(0, 4, 9)] * 4, **TWO, parallelism={"replicas": 2}, engine={"max_sequences": 1}, router="least-loaded"
    )
    assert record.requests["replica"].tolist() == [0, 1, 0, 1]
