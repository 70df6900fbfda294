import pytest

from moesim.report.text import count, ends, memory_size, percent, short_quantity, short_time, significant


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0213, "21.3 ms"), (1.25, "1.25 s"), (0.9999, "1.00 s"), (0.0009999, "1.00 ms"), (2.5e-6, "2.50 µs"),
        (12345.6, "12,300 s"), (0.0, "0 s"), (None, "–"), (float("nan"), "–"),
    ],
)  # fmt: skip
def test_short_times(seconds, text):
    assert short_time(seconds) == text


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (31e9, "B", "31.0 GB"), (0.594, "J", "594 mJ"), (999.9, "W", "1.00 kW"), (2.5e-7, "J", "0.250 µJ"),
        (0, "J", "0 J"), (None, "J", "–"),
    ],
)  # fmt: skip
def test_short_quantities(value, unit, text):
    assert short_quantity(value, unit) == text


def test_memory_is_binary():
    assert memory_size(24 * 2**30) == "24.0 GiB"
    assert memory_size(1.5 * 2**40) == "1.50 TiB"
    assert (memory_size(512), memory_size(0), memory_size(None)) == ("512 B", "0 B", "–")


def test_other_numbers():
    assert significant(9.999) == "10.0"
    assert significant(0.0123) == "0.0123"
    assert percent(1.0) == "100 %"
    assert percent(0.0731) == "7.3 %"
    assert percent(0.9998) == "> 99.9 %"
    assert percent(None) == "–"
    assert (count(1, "step"), count(4412, "step")) == ("1 step", "4,412 steps")


@pytest.mark.parametrize(
    ("value", "low", "high", "form", "text"),
    [
        (0.089, 0.0591, 1.081, short_time, "59.1–1,080"), (2.0, 0.9, 3.0, short_time, "0.900–3.00"),
        (0.9996, 0.861, 1.0, percent, "86.1–100"), (1.0, 0.5, 1.0, percent, "50.0–100"),
        (24.9e3, 23e3, 27.04e3, lambda joules: short_quantity(joules, "J"), "23.0–27.0"),
        (3.4, 3.4001, 3.4002, significant, ""), (1e-5, 0.0, 0.02, percent, "0 %–2 %"),
        (1.5, 1.2, 2000.0, lambda dollars: f"${significant(dollars)}", "1.20–2,000"),
    ],
)  # fmt: skip
def test_intervals_are_in_the_unit_of_their_value(value, low, high, form, text):
    assert ends(value, low, high, form) == text
