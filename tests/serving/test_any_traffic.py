"""Whatever comes, and however the engine is set: nothing is lost, nothing is full beyond its size, and run-ahead
does not show (`ruler.run` compares)."""

from __future__ import annotations

import numpy as np
import pytest
import ruler
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ruler import DENSE, FABRIC, MOE, device

LAYOUTS = (
    (DENSE, {}),
    (DENSE, {"replicas": 2}),
    (DENSE, {"pp": 2}),
    (DENSE, {"pp": 3}),
    (MOE, {"dp": 2, "ep": 2}),
    (MOE, {"dp": 3, "ep": 1}),
    (MOE, {"dp": 2, "ep": 2, "pp": 2}),
)
ROW = st.tuples(
    st.floats(0, 60).map(lambda t: round(t, 1)), st.integers(1, 100), st.integers(1, 25),
    st.sampled_from("abc"), st.sampled_from([0, 16, 40, 64, 96]),
)  # fmt: skip
ENGINE = st.fixed_dictionaries({
    "token_budget": st.sampled_from([8, 32, 64, 200]),
    "max_sequences": st.sampled_from([1, 3, 8]),
    "chunked_prefill": st.booleans(),
    "prefix_caching": st.booleans(),
    "prefill": st.sampled_from(["mixed", "first"]),
    "asynchronous_scheduling": st.booleans(),
    "preemption": st.booleans(),
    "graph_sizes": st.sampled_from([[], [1, 2, 4, 8], [[5, 200, 5]]]),
    "piecewise_graphs": st.booleans(),
    "sequence_overhead": st.sampled_from(["0 s", "125 ms"]),
    "request_overhead": st.sampled_from(["0 s", "250 ms"]),
    "launch_overhead": st.sampled_from(["0 s", "50 ms"]),
    "frontend_latency": st.sampled_from(["0 s", "300 ms"]),
})  # fmt: skip


@given(
    rows=st.lists(ROW, min_size=1, max_size=20), engine=ENGINE, layout=st.sampled_from(LAYOUTS),
    blocks=st.integers(8, 30), router=st.sampled_from(["round-robin", "least-loaded"]),
    family=st.sampled_from(["ideal", "paced"]),
)  # fmt: skip
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_every_token_comes_once(ruler_families, tmp_path_factory, rows, engine, layout, blocks, router, family):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MOESIM_PATH", str(ruler_families))
        model, parallelism = layout
        tree = ruler.document(
            ruler.write_trace(tmp_path_factory.mktemp("traffic") / "trace.csv", sorted(rows)),
            model=model, parallelism=parallelism, engine=engine, router=router,
            machine={"devices": {"unit": 6}, "fabric": "net"},
            library={"devices": {"unit": device(family)}, "fabrics": {"net": FABRIC}},
        )  # fmt: skip
        record = ruler.run(ruler.with_blocks(tree, blocks))
    check_conservation(record, np.array(sorted(rows), dtype=object))
    assert engine["preemption"] or not record.totals.preemptions


def check_conservation(record, rows):
    requests, iterations = record.requests, record.iterations
    outputs = requests["output_tokens"]
    assert sorted(outputs.tolist()) == sorted(rows[:, 2].tolist())
    assert requests["generated_tokens"].tolist() == outputs.tolist()
    assert int(iterations["output_tokens"].sum()) == outputs.sum()
    # Prompts are computed but for what the cache gives; a preempted sequence computes what it knows again.
    computed, asked = int(iterations["prefill_tokens"].sum()), int(requests["input_tokens"].sum())
    assert computed >= asked - record.totals.prefix_hit_tokens
    if not record.totals.preemptions:
        assert computed == asked - int(requests["cached_tokens"].sum())
    # Time: a life in order; the gaps between tokens add up to it.
    arrival, scheduled, first, finish = (requests[c] for c in ("arrival", "first_scheduled", "first_token", "finish"))
    assert (arrival <= scheduled).all()
    assert (scheduled < first).all()
    assert (first <= finish).all()
    assert int(record.itl["count"].sum()) == (outputs - 1).sum()
    gaps = float((record.itl["duration"] * record.itl["count"]).sum())
    assert gaps == pytest.approx(float((finish - first).sum()), abs=1e-6)
    # Capacity: of the cache, of the batch, of time.
    assert iterations["kv_used"].min() >= 0
    assert iterations["kv_used"].max() <= 1
    assert record.devices["compute_busy"].max() <= record.end * (1 + 1e-9)
    assert record.totals.busy <= record.end * len(np.unique(iterations["replica"])) * (1 + 1e-9)
