import importlib.util
import sys
from pathlib import Path

import pytest

# Test modules have no package to import each other from; the synthetic server is shared by its path.
_spec = importlib.util.spec_from_file_location("synthetic", Path(__file__).parent / "synthetic.py")
synthetic_module = importlib.util.module_from_spec(_spec)
sys.modules["synthetic"] = synthetic_module
_spec.loader.exec_module(synthetic_module)


@pytest.fixture(scope="session")
def synthetic():
    return synthetic_module


@pytest.fixture(scope="session")
def record(synthetic):
    """300 requests at 10 per second. Shared: do not change it."""
    return synthetic.record()
