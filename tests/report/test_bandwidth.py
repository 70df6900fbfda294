"""The figure of bus bandwidth shows the values that it is given."""

from pathlib import Path

import numpy as np
import pytest

from moesim.report.bandwidth import SizeCurve, bus_bandwidth, draw_bus_bandwidth
from moesim.report.style import styled
from moesim.spec.errors import MoesimError

SIZE = np.array([1e3, 1e6, 1e9])
CURVE = SizeCurve("flow", SIZE, np.array([1e-5, 2e-5, 3e-3]), np.array([1e8, 5e10, 3e11]))
BOUND = SizeCurve("lower bound", SIZE, np.array([1e-6, 4e-6, 2e-3]), np.array([1e9, 2e11, 4e11]))


def test_both_panels_hold_both_curves() -> None:
    with styled():
        figure = bus_bandwidth("a", "b", [CURVE], bound=BOUND, peak=4.5e11)
    time, rate = figure.axes
    for line, curve in zip(time.lines, (CURVE, BOUND), strict=True):
        np.testing.assert_array_equal(line.get_xydata(), np.stack([curve.size, curve.seconds], axis=1))
    np.testing.assert_array_equal(rate.lines[0].get_ydata(), CURVE.bus_bandwidth)
    assert {each.get_text() for each in rate.texts} == {"450 GB/s of each port"}
    assert [each.get_text() for each in time.get_legend().get_texts()] == ["flow", "lower bound"]


@pytest.mark.parametrize("suffix", ["pdf", "png", "svg"])
def test_the_suffix_is_the_format(tmp_path: Path, suffix: str) -> None:
    target = draw_bus_bandwidth(tmp_path / f"x.{suffix}", "a", "b", [CURVE])
    start = {"pdf": b"%PDF", "png": b"\x89PNG", "svg": b"<?xml"}[suffix]
    assert target.read_bytes().startswith(start)


@pytest.mark.parametrize("name", ["x.gif", "nowhere/x.pdf"])
def test_what_cannot_be_written_is_said(tmp_path: Path, name: str) -> None:
    with pytest.raises(MoesimError, match=name.rpartition("/")[2]):
        draw_bus_bandwidth(tmp_path / name, "a", "b", [CURVE])
