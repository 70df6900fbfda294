from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from moesim.spec import units


@pytest.mark.parametrize(
    ("text", "unit", "value"),
    [
        ("80 GB", "byte", 80e9),
        ("80 GiB", "byte", 80 * 2**30),
        ("1 TiB", "byte", 2**40),
        ("50 MB", "byte", 5e7),
        ("3.35 TB/s", "byte/second", 3.35e12),
        ("400 Gb/s", "byte/second", 50e9),
        ("989 TFLOP/s", "FLOP/second", 9.89e14),
        ("1979 TOP/s", "FLOP/second", 1.979e15),
        ("1.98 GHz", "1/second", 1.98e9),
        ("10/s", "1/second", 10.0),
        ("600/min", "1/second", 10.0),
        ("2 us", "second", 2e-6),
        ("2 µs", "second", 2e-6),
        ("60 ms", "second", 0.06),
        ("1 h", "second", 3600.0),
        ("700 W", "watt", 700.0),
        ("3.6 pJ/bit", "joule/byte", 28.8e-12),
        ("0.6 pJ/FLOP", "joule/FLOP", 0.6e-12),
        ("3.6 $/h", "dollar/second", 0.001),
        ("1e3 us", "second", 1e-3),
        ("$ 3.6/h", "dollar/second", 0.001),
    ],
)
def test_quantities_of_datasheets(text: str, unit: str, value: float) -> None:
    assert units.parse(text, unit) == pytest.approx(value, rel=1e-12)


@pytest.mark.parametrize(
    "text", ["80 GBps", "80 W", "GB", "", "80 80 GB", "__import__('os')", "80 GB +", "80", "80 GB 3", "8 . 0 GB"]
)
def test_what_is_no_number_of_bytes(text: str) -> None:
    with pytest.raises(ValueError, match=r"quantity|unknown unit"):
        units.parse(text, "byte")


@given(st.floats(min_value=1e-3, max_value=1e6))
def test_decimal_and_binary_prefixes(number: float) -> None:
    assert units.parse(f"{number!r} GB", "byte") == pytest.approx(number * 1e9, rel=1e-12)
    assert units.parse(f"{number!r} GiB", "byte") == pytest.approx(number * 1073741824, rel=1e-12)


@pytest.mark.parametrize("value", [80, 80.0, "0 GB", "-1 GB", "nan GB", "inf GB", True, None, [80]])
def test_a_capacity_is_a_positive_finite_quantity_with_its_unit(value: object) -> None:
    with pytest.raises(ValidationError):
        TypeAdapter(units.Bytes).validate_python(value)


@pytest.mark.parametrize("value", [0, "0 s", "0 us"])
def test_a_latency_may_be_zero(value: object) -> None:
    assert TypeAdapter(units.Seconds).validate_python(value) == 0.0


@pytest.mark.parametrize("value", ["-1 us", "nan s", 1, math.nan])
def test_a_latency_is_never_negative_or_bare(value: object) -> None:
    with pytest.raises(ValidationError):
        TypeAdapter(units.Seconds).validate_python(value)
