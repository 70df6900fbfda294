"""Whatever value a key of an experiment is given: it runs, or says in one line why not."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from moesim.spec.loading import load_experiment

from .conftest import Run


def leaves(value: Any, above: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Paths of all values of a specification, given or defaulted, whole sections included."""
    below: Mapping[str, Any] = {}
    if isinstance(value, BaseModel):
        below = {name: getattr(value, name) for name in type(value).model_fields}
    elif isinstance(value, dict):
        below = value
    elif isinstance(value, tuple) and value and len(above) < 6:
        below = {"0": value[0]}
    if above:
        yield above
    for name, inner in below.items():
        if name not in ("sources", "notes", "unverified", "estimated"):
            yield from leaves(inner, (*above, name))


def key(path: tuple[str, ...]) -> str:
    return ".".join(f'"{step}"' if "." in step else step for step in path)


KEYS = [key(path) for path in leaves(load_experiment("quickstart", check_traces=False).spec)]
ODD = [
    "null", "''", "x", "0", "-1", "1", "3", "7", "1.5", ".nan", ".inf", "true", "[]", "{}", "[1]", "{a: 1}", "1e30",
    "1000000000000000000000", "100000", "0 s", "-1 s", "60 s", "5 GB", "5 GB/s", "1 B/s", "1/day", "1e9/s", "fp8",
]  # fmt: skip


@settings(
    max_examples=100, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(name=st.sampled_from(KEYS), value=st.sampled_from(ODD))
def test_no_value_of_any_key_gives_a_traceback(run: Run, name: str, value: str) -> None:
    if name in ("requests.count", "machine.devices.rtx-pro-6000", "engine.overlap_shared_experts"):
        return  # as valid as it is long
    output = f"out-{random.Random(name + value).getrandbits(60):x}"
    result = run("requests.count=2", f"{name}={value}", experiment="quickstart", options=("--output", output))
    assert isinstance(result.exception, SystemExit | None), f"{name}={value}"
    assert result.exit_code in (0, 2)
    if result.exit_code == 2:
        assert len(result.stderr.splitlines()) == 1
        assert not Path(output).exists()
