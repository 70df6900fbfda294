"""The whole hardware library, loaded once."""

from __future__ import annotations

import pytest

from moesim.spec.hardware import DeviceSpec, FabricSpec
from moesim.spec.loading import list_descriptors, load_descriptor


@pytest.fixture(scope="session")
def devices() -> dict[str, DeviceSpec]:
    return {name: load_descriptor("devices", name) for name in list_descriptors("devices")}


@pytest.fixture(scope="session")
def fabrics() -> dict[str, FabricSpec]:
    return {name: load_descriptor("fabrics", name) for name in list_descriptors("fabrics")}
