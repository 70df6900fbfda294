"""Fused experts: their limits in closed form, monotone in every size, never above the device's peaks."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moesim.kernels.forms import FORMS, Rates
from moesim.kernels.forms.experts import Experts
from moesim.kernels.shapes import ExpertShape

#: H200 in bf16 (NVIDIA datasheet, dense).
H200 = Rates(compute=989e12, memory=4.8e12, units=132.0)

BARE = Experts(launch=0.0, sorting=0.0, expert=0.0, pipeline=0.0, compute=0.6, memory=0.8, overlap=1.5, local=0.0,
               everywhere=0.0, fringe=0.0, tile=0.0)  # fmt: skip
TRITON = Experts(launch=4e-6, sorting=2e-6, expert=4e-9, pipeline=3e-9, compute=0.35, memory=0.78, overlap=1.5,
                 local=0.1, everywhere=2.5, fringe=1.0, tile=32.0)  # fmt: skip


def shape(pairs: float, touched: float, hidden: float = 4096, width: float = 1536, beyond: float = 0.0) -> ExpertShape:
    """Gated bf16 experts. beyond: pairs of other ranks' experts that the kernel is handed."""
    sizes = pairs, pairs + beyond, touched, 128.0, hidden, width, 3.0
    return ExpertShape(*(np.asarray(float(each)) for each in sizes), 2.0, 2.0)


def seconds(form: Experts, one: ExpertShape, rates: Rates = H200) -> float:
    return float(form.times(one, rates).seconds)


def test_the_form_goes_by_the_name_of_its_kernels() -> None:
    assert FORMS["experts"] is Experts


def test_many_pairs_take_their_arithmetic() -> None:
    pairs, hidden, width = 1e8, 4096.0, 1536.0
    expected = 6 * pairs * hidden * width / (0.6 * H200.compute)
    assert seconds(BARE, shape(pairs, 128.0, hidden, width)) == pytest.approx(expected, rel=1e-3)
    assert seconds(replace(BARE, tile=128.0), shape(pairs, 128.0, hidden, width)) == pytest.approx(expected, rel=1e-3)


def test_one_token_takes_the_weights_of_its_experts() -> None:
    topk, hidden, width = 8.0, 4096.0, 1536.0
    expected = topk * 3 * hidden * width * 2.0 / (0.8 * H200.memory)
    assert seconds(replace(BARE, overlap=12.0), shape(topk, topk, hidden, width)) == pytest.approx(expected, rel=1e-6)


def test_tiles_at_most_double_the_rows() -> None:
    few, many = shape(64.0, 64.0), shape(64e6, 64.0)
    wide = replace(BARE, tile=256.0, memory=1.0, overlap=12.0)
    slow = H200._replace(compute=1e9)
    assert seconds(wide, few, slow) == pytest.approx(2 * seconds(BARE, few, slow), rel=1e-4)
    assert seconds(wide, many, slow) == pytest.approx(seconds(BARE, many, slow), rel=1e-3)


def test_pairs_of_other_ranks_cost_their_rows() -> None:
    walk = replace(BARE, everywhere=2.0)
    extra = seconds(walk, shape(1e4, 16.0, beyond=3e4)) - seconds(walk, shape(1e4, 16.0))
    assert extra == pytest.approx(2.0 * 3e4 * 2 * (4096 + 1536) * 2.0 / H200.memory)


def test_a_rank_without_pairs_takes_the_overhead_alone() -> None:
    idle = TRITON.times(shape(0.0, 0.0), H200)
    assert float(idle.seconds) == pytest.approx(4e-6 + 3e-9 * (4096 + 1536))
    assert float(idle.compute) == float(idle.memory) == 0.0


def test_columns_broadcast() -> None:
    pairs = np.array([8.0, 64.0, 4096.0])
    column = TRITON.times(shape(8.0, 8.0)._replace(pairs=pairs, all_pairs=pairs), H200)
    assert column.seconds.shape == (3,)
    single = [seconds(TRITON, shape(8.0, 8.0)._replace(pairs=each, all_pairs=each)) for each in pairs]
    assert column.seconds.tolist() == single


share = st.floats(0.05, 1.0)
forms = st.builds(
    Experts,
    launch=st.floats(0.0, 1e-4), sorting=st.floats(0.0, 1e-5), expert=st.floats(0.0, 1e-6),
    pipeline=st.floats(0.0, 1e-8), compute=share, memory=share, overlap=st.floats(1.0, 12.0),
    local=st.floats(0.0, 20.0), everywhere=st.floats(0.0, 20.0), fringe=st.floats(0.0, 512.0),
    tile=st.floats(0.0, 512.0),
)  # fmt: skip
counts = st.integers(0, 10**6).map(float)
tiles = st.integers(1, 128).map(lambda number: 128.0 * number)
shapes = st.builds(shape, counts, st.integers(0, 512).map(float), tiles, tiles, counts)


@given(forms, shapes)
def test_no_call_beats_the_peaks(form: Experts, one: ExpertShape) -> None:
    times = form.times(one, H200)
    assert float(times.compute) == pytest.approx(6 * float(one.pairs * one.hidden * one.width) / H200.compute)
    assert times.seconds >= np.maximum(times.compute, times.memory) * (1 - 1e-12)


@given(forms, shapes, st.sampled_from(("pairs", "all_pairs", "touched", "hidden", "width")), st.integers(1, 100))
def test_time_grows_with_every_size(form: Experts, one: ExpertShape, size: str, more: int) -> None:
    step = 128.0 if size in ("hidden", "width") else 1.0
    larger = one._replace(**{size: getattr(one, size) + more * step})
    assert seconds(form, larger) >= seconds(form, one) * (1 - 1e-12)


@given(forms, shapes, st.integers(-20, 20).map(lambda power: 2.0**power))
def test_units_scale_exactly(form: Experts, one: ExpertShape, unit: float) -> None:
    scaled = replace(
        form, **{name: getattr(form, name) * unit for name in ("launch", "sorting", "expert", "pipeline")}
    )  # fmt: skip
    rates = H200._replace(compute=H200.compute / unit, memory=H200.memory / unit)
    assert seconds(scaled, one, rates) == seconds(form, one) * unit
