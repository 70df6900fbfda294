"""The functions behind the documentation's pages can be imported; what an example registers is gone after it."""

import sys
from pathlib import Path

import pytest

from moesim.placement.base import PLACEMENTS

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "docs"))


@pytest.fixture(autouse=True)
def _own_policies(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PLACEMENTS, "_factories", dict(PLACEMENTS._factories))
