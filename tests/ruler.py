"""A machine on which schedules can be counted by hand: kernels take no time unless a test gives them some.

Arithmetic, bandwidth and links are so fast that everything rounds to 0 ps; what remains is what the engine adds to a
step, or what the kernels of the `paced` family take per call. Runs are replays of traces written by the test.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
from stepping import deployment

from moesim.engine.record import RunRecord
from moesim.serving.simulate import simulate
from moesim.spec.experiment import ExperimentSpec
from moesim.spec.loading import load_experiment

_EFFICIENCY = "efficiency: {gemm: 1, attention: 1, experts: 1, memory: 1}"
_ENERGY = """energy: {bf16: 1 pJ/FLOP}
  memory_energy: {hbm: 8 pJ/B}
  link_energy: 1 pJ/B
  idle_fraction: 0"""

#: `ideal` kernels start at once; a `paced` attention kernel takes 1 s, whatever its work, and of the `choosy` ones
#: sampling.
FAMILIES = f"""\
ideal:
  {_EFFICIENCY}
  overhead: {{gemm: 0 s, attention: 0 s, experts: 0 s, elementwise: 0 s, router: 0 s, sampling: 0 s}}
  {_ENERGY}
paced:
  {_EFFICIENCY}
  overhead: {{gemm: 0 s, attention: 1 s, experts: 0 s, elementwise: 0 s, router: 0 s, sampling: 0 s}}
  {_ENERGY}
choosy:
  {_EFFICIENCY}
  overhead: {{gemm: 0 s, attention: 0 s, experts: 0 s, elementwise: 0 s, router: 0 s, sampling: 1 s}}
  {_ENERGY}
"""

DENSE = {
    "name": "dense", "layers": 3, "hidden": 8, "vocabulary": 16, "context": 4096, "dense_width": 16,
    "attention": {"heads": 4, "kv_heads": 4, "head_dim": 2},
}  # fmt: skip
MOE = {
    "name": "moe", "layers": 3, "hidden": 8, "vocabulary": 16, "context": 4096,
    "attention": {"heads": 4, "kv_heads": 4, "head_dim": 2}, "moe": {"experts": 4, "top_k": 2, "width": 16},
}  # fmt: skip

#: A step takes 1 s; KV blocks of 16 tokens; no prefix is looked for.
ENGINE = {
    "name": "ruler", "token_budget": 64, "max_sequences": 8, "block_size": 16, "memory_utilization": 1.0,
    "prefix_caching": False, "step_overhead": "1 s",
}  # fmt: skip


def device(family: str = "ideal", **changes: Any) -> dict[str, Any]:
    """A descriptor of a device that is never the bottleneck."""
    return {
        "kind": "npu",
        "family": family,
        "compute": {"bf16": "1000000 PFLOP/s"},
        "memory": [{"tier": "hbm", "capacity": "1 GB", "bandwidth": "1000 PB/s"}],
        "links": {"wire": "1000 PB/s"},
        "power": {"tdp": "1 W"},
        **changes,
    }


FABRIC = {"kind": "switch", "link": "wire", "latency": "0 s"}


def write_families(folder: Path) -> Path:
    """A folder for MOESIM_PATH with the families of this file."""
    place = folder / "hardware" / "calibrations"
    place.mkdir(parents=True)
    (place / "families.yaml").write_text(FAMILIES)
    return folder


def write_trace(path: Path, rows: Sequence[Sequence[object]]) -> str:
    """(arrival in seconds, input tokens, output tokens[, prefix, its tokens]) as a CSV of moesim's own columns."""
    header = ["arrival_s", "input_tokens", "output_tokens", "prefix_id", "prefix_tokens"][: len(rows[0])]
    with path.open("w", newline="") as stream:
        csv.writer(stream).writerows([header, *rows])
    return str(path)


def document(trace: str, **changes: Any) -> dict[str, Any]:
    """An experiment on one device of the ideal family. `changes` replace its sections, those of `engine` key by key."""
    base: dict[str, Any] = {
        "model": DENSE,
        "machine": {"devices": {"unit": 1}},
        "engine": ENGINE,
        "requests": {"trace": trace},
        "router": "round-robin",
        "library": {"devices": {"unit": device()}, "fabrics": {"net": FABRIC}},
    }
    changes = deepcopy(changes)
    changes["engine"] = {**ENGINE, **changes.get("engine", {})}
    return {**base, **changes}


def spec_of(tree: Mapping[str, Any], *overrides: str) -> ExperimentSpec:
    return load_experiment(tree, overrides).spec


def with_blocks(tree: dict[str, Any], blocks: int) -> dict[str, Any]:
    """The experiment with memory for exactly `blocks` KV blocks per DP rank: on the fullest stage, beside them, weights
    and activations, and the 1 % that the driver keeps of a device that is no GPU."""
    tree = deepcopy(tree)
    (name,) = tree["machine"]["devices"]
    stages = deployment(tree).memory[0].footprints
    size = max(each.weights + each.activations + each.kv * blocks / each.blocks for each in stages)
    tree["library"]["devices"][name]["memory"][0]["capacity"] = f"{(size + 1e-3) / 0.99!r} B"
    assert deployment(tree).memory[0].blocks == blocks
    return tree


def run(tree: Mapping[str, Any]) -> RunRecord:
    """Simulate with and without run-ahead; the records must be the same, and one is returned."""
    record, other = simulate(spec_of(tree)), simulate(spec_of(tree, "run_ahead=false"))
    assert_same(record, other)
    return record


def assert_same(a: RunRecord, b: RunRecord, relative: float = 0.0) -> None:
    """All tables of two records are equal: exactly, or floats to `relative`."""
    for name in ("requests", "iterations", "itl", "devices", "operators", "links"):
        mine, theirs = getattr(a, name), getattr(b, name)
        assert mine.keys() == theirs.keys()
        for column in mine:
            _assert_equal(f"{name}.{column}", mine[column], theirs[column], relative)
    _assert_equal("expert_tokens", a.expert_tokens, b.expert_tokens, relative)
    assert a.end == b.end if relative == 0 else np.isclose(a.end, b.end, rtol=relative, atol=0)


def _assert_equal(what: str, a: np.ndarray, b: np.ndarray, relative: float) -> None:
    if relative and a.dtype.kind == "f":
        np.testing.assert_allclose(a, b, rtol=relative, atol=0, err_msg=what)
    else:
        np.testing.assert_array_equal(a, b, err_msg=what)


def steps(record: RunRecord, *columns: str) -> list[tuple[float, ...]]:
    """Rows of (start, end, *columns) of the iterations."""
    table = record.iterations
    return list(zip(*(table[name].tolist() for name in ("start", "end", *columns)), strict=True))


def times(record: RunRecord, column: str) -> list[float]:
    """A column of the requests."""
    values: list[float] = record.requests[column].tolist()
    return values
