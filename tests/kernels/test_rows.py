"""Streaming kernels: a launch, then bytes; waves of rows where an SM takes whole ones."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moesim.kernels.forms import FORMS, Rates
from moesim.kernels.forms.rows import Rows
from moesim.kernels.shapes import RowShape

A100 = Rates(compute=312e12, memory=2.039e12, units=108.0)  # NVIDIA's datasheet, 80 GB SXM


def seconds(form: Rows, rows: float, width: float, rates: Rates = A100) -> float:
    """A norm of `width` bf16 numbers per row."""
    shape = RowShape(np.array([rows]), np.array(2 * width), np.array(2 * width), np.array(2 * width))
    return float(form.times(shape, rates).seconds[0])


forms = st.builds(
    Rows, launch=st.floats(1e-7, 1e-4), memory=st.floats(0.02, 1.0), sharpness=st.floats(1.0, 12.0),
    kept=st.floats(0.0, 3e8), cache=st.floats(1.0, 10.0), resident=st.floats(1.0, 32.0), wave=st.floats(0.0, 1e-5),
    flow=st.floats(0.1, 100.0), rounding=st.floats(0.0, 1.0),
)  # fmt: skip


def test_many_rows_take_their_bytes() -> None:
    form = Rows(launch=4e-6, memory=0.8, sharpness=3.0, flow=10.0)
    assert seconds(form, 1e6, 4096) == pytest.approx(4e-6 + 1e6 * 4 * 4096 / (0.8 * A100.memory), rel=0.01)


def test_few_rows_take_the_launch() -> None:
    assert seconds(Rows(launch=4e-6, memory=0.8, sharpness=3.0, flow=10.0), 1, 512) == pytest.approx(4e-6, rel=0.1)


def test_rows_beyond_a_wave_wait_for_the_next() -> None:
    """Vidur's norms on an H100 step at 264 and 528 rows: two rows on each of 132 SMs."""
    form = Rows(launch=1e-6, memory=1.0, sharpness=12.0, wave=3e-6, flow=100.0, rounding=1.0)
    h100 = A100._replace(memory=3.35e12, units=132.0)
    steps = [seconds(form, rows, 512, h100) for rows in (1, 264, 265, 528, 529)]
    assert steps == pytest.approx([4e-6, 4e-6, 7e-6, 7e-6, 10e-6], rel=0.05)


def test_rows_in_the_cache_are_faster() -> None:
    form = Rows(launch=1e-6, memory=0.9, sharpness=3.0, kept=4e7, cache=3.0, flow=100.0)
    small, large = seconds(form, 1000, 4096), seconds(form, 100_000, 4096)
    assert large / small > 150


def test_every_streaming_kernel_has_the_form() -> None:
    assert {name for name, form in FORMS.items() if form is Rows} == {
        "norm", "elementwise", "embedding", "sampling", "router",
    }  # fmt: skip


@given(forms, st.integers(1, 100_000), st.integers(1, 100_000), st.integers(0, 10_000), st.integers(0, 10_000))
def test_time_grows_with_rows_and_width(form: Rows, rows: int, width: int, more: int, wider: int) -> None:
    assert seconds(form, rows + more, width + wider) >= seconds(form, rows, width) * (1 - 1e-9)


@given(forms, st.integers(1, 100_000), st.integers(1, 100_000))
def test_no_kernel_beats_the_memory(form: Rows, rows: int, width: int) -> None:
    times = form.times(RowShape(*(np.array([float(each)]) for each in (rows, width, width, width))), A100)
    assert times.seconds[0] >= times.memory[0] * (1 - 1e-9)


@given(forms, st.integers(1, 100_000), st.integers(1, 100_000))
def test_twice_as_fast_a_device_takes_half_the_time(form: Rows, rows: int, width: int) -> None:
    terms = {name: getattr(form, name) / (2 if name in ("launch", "wave") else 1) for name in form.__dataclass_fields__}
    twice = A100._replace(memory=2 * A100.memory)
    assert seconds(Rows(**terms), rows, width, twice) == pytest.approx(seconds(form, rows, width) / 2, rel=1e-9)
