"""The functions behind the documentation's pages can be imported; what an example registers is gone after it."""

import sys
from pathlib import Path

import pytest

from moesim.placement.base import PLACEMENTS
from moesim.processors.base import PROCESSORS

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "docs"))


@pytest.fixture(autouse=True)
def _own_policies(monkeypatch: pytest.MonkeyPatch) -> None:
    for registry in (PLACEMENTS, PROCESSORS):
        monkeypatch.setattr(registry, "_factories", dict(registry._factories))
