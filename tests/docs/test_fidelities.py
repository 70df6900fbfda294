"""The tables of fidelities against the page that shows them."""

import re

import examples
import fidelities
import pytest

PAGE = (examples.ROOT / fidelities.PAGE).read_text(encoding="utf-8")
_NUMBER = re.compile(r"\d+\.?\d*")


def agree(line: str) -> bool:
    """Whether the page has this row, its numbers within a unit of their last digit."""
    words = _NUMBER.sub("#", line)
    for shown in PAGE.splitlines():
        if _NUMBER.sub("#", shown) == words:
            pairs = zip(_NUMBER.findall(shown), _NUMBER.findall(line), strict=True)
            if all(abs(float(a) - float(b)) <= 0.011 * max(float(a), 1) for a, b in pairs):
                return True
    return False


@pytest.mark.parametrize("machine", fidelities.MACHINES[:3], ids=lambda machine: machine.title)
def test_rows_are_as_computed_now(machine: fidelities.Machine) -> None:
    for line in fidelities.rows(machine):
        assert agree(line), f"{line}; run python docs/refresh.py"


def test_random_draws_are_as_computed_now() -> None:
    title, fabric, devices = fidelities.DRAWN[1]
    ratios = fidelities.drawn(fabric, devices)
    assert agree(f"| {title} | {devices} | {sorted(ratios)[14]:.2f} | {ratios.mean():.2f} | {ratios.max():.2f} |")
    assert ratios.min() >= 1 - 1e-9
