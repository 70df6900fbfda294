"""Matrix products: limits that a roofline has, and what holds whatever the terms."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moesim.kernels.forms import Rates
from moesim.kernels.forms.gemm import Gemm
from moesim.kernels.shapes import MatrixShape

H100 = Rates(compute=989e12, memory=3.35e12, units=132.0)  # NVIDIA's datasheet, bf16 without sparsity
FITTED = Gemm(
    launch=2.5e-6, compute=0.8, memory=0.85, on_chip=0.05, wave=5e-8, split=2.5e-6, store=0.3, grain=70.0, columns=60.0,
    rounding=0.4, cache=1.5, kept=4e7, kept_weights=5e6, throttle=0.1, quantise=1.2, row=1e-7,
)  # fmt: skip


def seconds(form: Gemm, m: float, n: float, k: float, rates: Rates = H100) -> float:
    return float(form.times(MatrixShape(np.array([m]), n, k, 2.0, 2.0, 2.0), rates).seconds[0])


@st.composite
def forms(draw: st.DrawFn) -> Gemm:
    share, sharp = st.floats(0.1, 1.0), st.floats(1.0, 12.0)
    return Gemm(
        launch=draw(st.floats(1e-7, 2e-5)), compute=draw(share), memory=draw(share), on_chip=draw(st.floats(1e-3, 1.0)),
        wave=draw(st.floats(0.0, 1e-5)), split=draw(st.floats(0.0, 1e-4)), reduce=draw(st.floats(0.0, 10.0)),
        store=draw(st.floats(0.0, 3.0)), grain=draw(st.floats(16.0, 256.0)), columns=draw(st.floats(16.0, 256.0)),
        rounding=draw(st.floats(0.0, 1.0)), cache=draw(st.floats(1.0, 10.0)), kept=draw(st.floats(0.0, 2e8)),
        kept_weights=draw(st.floats(0.0, 1e8)), throttle=draw(st.floats(0.0, 1.0)), quantise=draw(st.floats(0.0, 20.0)),
        row=draw(st.floats(0.0, 1e-5)), sharpness=draw(sharp),
    )  # fmt: skip


sizes = st.integers(1, 70_000)


def test_large_products_take_their_arithmetic() -> None:
    form = Gemm(launch=2e-6, compute=0.8, memory=0.85, on_chip=1.0, wave=0.0, split=2e-6)
    size = 132 * 256.0  # whole waves of every tile
    assert seconds(form, size, size, size) == pytest.approx(2 * size**3 / (0.8 * H100.compute), rel=0.01)


def test_one_row_takes_the_weights_from_memory() -> None:
    form = Gemm(launch=2e-6, compute=0.8, memory=0.85, on_chip=1.0, wave=0.0, split=0.0, reduce=0.0)
    weights = 2.0 * 16384 * 16384
    assert seconds(form, 1, 16384, 16384) == pytest.approx(2e-6 + weights / (0.85 * H100.memory), rel=0.02)


def test_smallest_product_takes_its_launch() -> None:
    assert seconds(FITTED, 1, 32, 32) == pytest.approx(FITTED.launch, rel=0.1)


def test_one_tile_more_than_a_wave_starts_another() -> None:
    """132 SMs and 132 tiles of 256 x 256 fill one wave; with one row more, no tile's waves do. Memory is endless."""
    form = Gemm(launch=0.0, compute=1.0, memory=1.0, on_chip=1.0, wave=0.0, split=1.0, grain=256.0, columns=256.0)
    endless = H100._replace(memory=1e18)
    wave = 2 * 256 * 256 * 8192 / (H100.compute / 132)
    assert seconds(form, 256, 132 * 256, 8192, endless) == pytest.approx(wave, rel=0.02)
    assert seconds(form, 257, 132 * 256, 8192, endless) == pytest.approx(2 * wave, rel=0.02)


def test_weights_left_in_the_cache_are_not_read_again() -> None:
    cold = Gemm(launch=2e-6, compute=0.8, memory=0.8, on_chip=1.0, wave=0.0, split=0.0, cache=4.0)
    warm = Gemm(launch=2e-6, compute=0.8, memory=0.8, on_chip=1.0, wave=0.0, split=0.0, cache=4.0, kept_weights=1e9)
    assert seconds(warm, 1, 4096, 4096) < 0.5 * seconds(cold, 1, 4096, 4096)
    assert seconds(warm, 1, 65536, 65536) == pytest.approx(seconds(cold, 1, 65536, 65536), rel=0.01)


@given(forms(), sizes, sizes, sizes, st.integers(0, 10_000), st.integers(0, 10_000), st.integers(0, 10_000))
def test_time_grows_with_every_size(form: Gemm, m: int, n: int, k: int, rows: int, columns: int, depth: int) -> None:
    small, large = seconds(form, m, n, k), seconds(form, m + rows, n + columns, k + depth)
    assert large >= small * (1 - 1e-9)


@given(forms(), sizes, sizes, sizes)
def test_no_product_beats_the_datasheet(form: Gemm, m: int, n: int, k: int) -> None:
    times = form.times(MatrixShape(np.array([float(m)]), n, k, 2.0, 2.0, 2.0), H100)
    assert times.seconds[0] >= max(times.compute[0], times.memory[0]) * (1 - 1e-9)
    assert times.compute[0] == 2.0 * m * n * k / H100.compute


@given(forms(), sizes, sizes, sizes)
def test_twice_as_fast_a_device_takes_half_the_time(form: Gemm, m: int, n: int, k: int) -> None:
    latencies = ("launch", "wave", "split", "burst", "row")
    terms = {name: getattr(form, name) * (0.5 if name in latencies else 1.0) for name in form.__dataclass_fields__}
    twice = H100._replace(compute=2 * H100.compute, memory=2 * H100.memory)
    assert seconds(Gemm(**terms), m, n, k, twice) == pytest.approx(seconds(form, m, n, k) / 2, rel=1e-9)


def test_columns_broadcast_and_blocks_do_not_show() -> None:
    m = np.arange(1.0, 20_001.0)
    many = FITTED.times(MatrixShape(m, 4096.0, 4096.0, 2.0, 2.0, 2.0), H100).seconds
    assert many.shape == m.shape
    assert many[[0, 19_999]] == pytest.approx([seconds(FITTED, each, 4096, 4096) for each in (1, 20_000)])
