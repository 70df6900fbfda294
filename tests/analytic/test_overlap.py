"""Shared experts on a second stream change when things happen, not what is done."""

from __future__ import annotations

import pytest
from stepping import document

from moesim.serving.simulate import simulate
from moesim.spec.loading import load_experiment


def totals(overlap: bool):
    tree = document(
        "qwen1.5-moe-a2.7b", {"h100-sxm": 1}, requests={"mix": "fixed-512-128", "rate": "1000/s", "count": 4}
    )
    overrides = ["model.layers=4", f"engine.overlap_shared_experts={str(overlap).lower()}"]
    record = simulate(load_experiment(tree, overrides).spec)
    device = {name: float(record.devices[name].sum()) for name in ("flops", "memory_bytes", "energy_compute")}
    return record, device | {"sparse_flops": record.totals.sparse_flops, "sparse_bytes": record.totals.sparse_bytes}


def test_work_does_not_depend_on_the_stream():
    (in_turn, one), (beside, two) = totals(False), totals(True)
    # Steps fall together differently, so that weights are read in slightly different steps; FLOPs are the tokens'.
    assert two["flops"] == pytest.approx(one["flops"], rel=1e-6)
    assert two["sparse_flops"] == pytest.approx(one["sparse_flops"], rel=1e-6)
    for name in ("memory_bytes", "sparse_bytes", "energy_compute"):
        assert two[name] == pytest.approx(one[name], rel=0.02), name
    assert beside.end < in_turn.end
    for record in (in_turn, beside):
        assert float(record.operators["seconds"].sum()) == pytest.approx(record.totals.busy, rel=1e-6)
