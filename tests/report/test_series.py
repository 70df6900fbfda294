import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from moesim.report.series import rate, thin, time_edges

INTERVALS = st.lists(
    st.tuples(st.floats(0, 90), st.floats(0.01, 10), st.floats(0, 100)), min_size=1, max_size=20
).map(lambda rows: np.array(rows).T)  # fmt: skip


@given(INTERVALS)
def test_rate_is_the_overlap_of_intervals_and_bins(columns):
    start, length, amount = columns
    end, edges = start + length, np.linspace(0, 100, 17)
    overlap = np.minimum(end[:, None], edges[1:]) - np.maximum(start[:, None], edges[:-1])
    expected = (amount[:, None] * np.clip(overlap, 0, None) / (end - start)[:, None]).sum(axis=0) / np.diff(edges)
    np.testing.assert_allclose(rate(start, end, amount, edges), expected, rtol=1e-6, atol=1e-6)


def test_nothing_is_lost_between_the_edges():
    start = np.arange(0.0, 50.0, 0.5)
    edges = time_edges(60.0, len(start))
    assert np.sum(rate(start, start + 0.4, np.full(100, 7.0), edges) * np.diff(edges)).round(6) == 700


def test_bins_hold_several_steps_and_are_bounded():
    assert len(time_edges(10.0, 1)) == 2
    assert len(time_edges(10.0, 200_000)) == 241


def test_thinning_keeps_both_ends():
    kept = thin(np.arange(1000.0), 10)
    assert (kept[0], kept[-1]) == (0, 999)
    assert len(kept) == 10
    assert thin(np.arange(5.0), 10).tolist() == [0, 1, 2, 3, 4]
