import importlib.util
import sys
from pathlib import Path

import pytest

from moesim import results
from moesim.spec.serving import SloSpec

# The synthetic server of the results' tests, shared by its path: test modules have no package to import it from.
if "synthetic" not in sys.modules:
    _spec = importlib.util.spec_from_file_location("synthetic", Path(__file__).parents[1] / "results" / "synthetic.py")
    sys.modules["synthetic"] = importlib.util.module_from_spec(_spec)
    _spec.loader.exec_module(sys.modules["synthetic"])


@pytest.fixture(scope="session")
def synthetic():
    return sys.modules["synthetic"]


@pytest.fixture(scope="session")
def record(synthetic):
    """300 requests at 10 per second. Shared: do not change it."""
    return synthetic.record()


@pytest.fixture(scope="session")
def as_results():
    """Record -> results with an SLO of 50 ms TTFT and 22 ms TPOT."""

    def convert(run, slo=SloSpec(ttft="50 ms", tpot="22 ms"), **spec):  # noqa: B008
        return results.from_record(run, {"name": "trial", **spec}, results.manifest(seed=1), slo)

    return convert


@pytest.fixture(scope="session")
def trial(record, as_results):
    return as_results(record)
