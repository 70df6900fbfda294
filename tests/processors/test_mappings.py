"""What mappings decide, and what operators then take: closed forms of two rooflines."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import stepping
from hypothesis import given, settings
from hypothesis import strategies as st

from moesim.hardware.machine import assemble
from moesim.kernels.base import Calls
from moesim.kernels.roofline import DatasheetRoofline
from moesim.processors import Loads, make_mapping
from moesim.processors.mapped import MappedKernels
from moesim.spec.errors import MoesimError
from moesim.spec.loading import load_experiment
from moesim.spec.processors import ProcessorsSpec


def duplex():
    tree = stepping.document("mixtral-8x7b", {"duplex": 1})
    spec = load_experiment(tree).spec
    return assemble(spec.machine, spec.library)


MACHINE = duplex()
DEVICE = MACHINE.devices[0]


def loads(here, there, rows=None):
    seconds = np.array([here, there], dtype=np.float64)
    rows = seconds[0] if rows is None else np.array(rows, dtype=np.float64)
    return Loads(rows, rows, np.ones_like(rows), seconds)


def mapping(policy, **options):
    return make_mapping(ProcessorsSpec(policy=policy, **options), MACHINE)


def test_a_device_lists_its_own_arithmetic_first():
    own, pim = DEVICE.processors
    assert own is DEVICE
    assert pim.name == "logic-pim"
    assert pim.peak("fp16") == pytest.approx(5 * 21.3e12)  # five stacks
    assert pim.memory.compute_bandwidth == pytest.approx(4 * DEVICE.memory.bandwidth, rel=1e-3)
    assert pim.memory.capacity == DEVICE.memory.capacity  # the same memory


@settings(max_examples=60, deadline=None)
@given(tokens=st.lists(st.integers(0, 60), min_size=1, max_size=7))
def test_co_processing_ends_as_soon_as_any_division_by_tokens_can(tokens):
    """Against all divisions, where an expert takes a start and a slope on either processor."""
    n = np.array(tokens, dtype=np.float64)
    here, there = np.where(n > 0, np.maximum(4.0, n / 9), 0.0), np.where(n > 0, np.maximum(1.0, n), 0.0)
    assigned = mapping("co-processing").assign(("experts",) * len(n), loads(here, there, n), DEVICE)
    took = max(there[assigned == 1].sum(), here[assigned == 0].sum())
    divisions = (np.array(each) for each in product((0, 1), repeat=len(n)))
    monotone = [d for d in divisions if not (d[:, None] > d[None])[n[:, None] > n[None]].any()]
    assert took == pytest.approx(min(max(there[d == 1].sum(), here[d == 0].sum()) for d in monotone))


def test_intensity_moves_all_experts_or_none():
    few, many = loads([4.0, 4.0], [1.0, 2.0]), loads([4.0, 4.0], [1.0, 9.0])
    policy = mapping("intensity")
    assert policy.assign(("experts",) * 2, few, DEVICE).tolist() == [1, 1]
    assert policy.assign(("experts",) * 2, many, DEVICE).tolist() == [0, 0]
    assert policy.assign(("gemm",), loads([4.0], [1.0]), DEVICE).tolist() == [0]  # nobody said that it may move


def test_a_threshold_counts_operations_per_byte():
    policy = mapping("intensity", threshold=8.0)
    assert policy.assign(("experts",), loads([9.0], [1.0], rows=[8.0]), DEVICE).tolist() == [1]
    assert policy.assign(("experts",), loads([9.0], [1.0], rows=[8.1]), DEVICE).tolist() == [0]


def test_fixed_moves_what_it_names():
    policy = mapping("fixed", assign={"decode_attention": "logic-pim"})
    pieces = ("prefill_attention", "decode_attention")
    assert policy.assign(pieces, loads([1.0, 1.0], [9.0, 9.0]), DEVICE).tolist() == [0, 1]


@pytest.mark.parametrize(
    ("options", "machine", "message"),
    [
        ({"policy": "intensity"}, {"devices": {"h100-sxm": 1}}, "no device of the machine has coprocessors"),
        ({"policy": "intensitty"}, "duplex-4", "there is no processors 'intensitty'"),
        ({"policy": "intensity", "processor": "bank-pim"}, "duplex-4", "no device of the machine has a processor"),
        ({"policy": "fixed"}, "duplex-4", "belong together"),
        ({"policy": "co-processing", "threshold": 3}, "duplex-4", "threshold has no effect"),
    ],
)
def test_what_is_wrong_is_said(options, machine, message):
    tree = stepping.document("mixtral-8x7b", {}, parallelism={"tp": 1}, processors=options) | {"machine": machine}
    with pytest.raises(MoesimError, match=message):
        stepping.deployment(tree)


def test_decoding_attention_runs_at_the_bandwidth_of_the_memory_stacks():
    """Mixtral's groups of four heads have 4 FLOP per byte: bound by bandwidth on both, and it is four times as much."""
    tree = stepping.document("mixtral-8x7b", {}, parallelism={"tp": 4}, dtype="fp16") | {"machine": "duplex-4"}
    tree["engine"] = {"name": "roofline"}
    batch = stepping.batch(1, decodes=20, chunks=0)
    times = []
    for policy in ("own", "intensity"):
        pricer = stepping.pricer(tree | {"processors": policy}, "model.layers=2")
        times.append(pricer.price(batch).attention[0]["full"][0, 0])
    assert times[0] / times[1] == pytest.approx(13.41 / 3.352, rel=1e-6)


def test_joules_are_spent_where_the_operator_runs():
    """Bytes at 4.05 pJ/bit through the interposer, at 3.29 pJ/bit to the logic die (AttAcc's table)."""
    calls = Calls("gemm", "fp16", np.array([1e9, 2e9]), np.array([1e6, 1e6]), np.array([0.0, 5e5]))
    moved = np.array([1e6, 1.5e6]) * 8
    own = MappedKernels(DatasheetRoofline(), None).whole(calls, DEVICE).cost
    there = MappedKernels(DatasheetRoofline(), mapping("fixed", assign={"gemm": "logic-pim"})).whole(calls, DEVICE)
    np.testing.assert_allclose(own.memory_joules, moved * 4.05e-12)
    np.testing.assert_allclose(there.cost.memory_joules, moved * 3.29e-12)
    np.testing.assert_allclose(there.cost.arithmetic_joules, own.arithmetic_joules)
    assert (there.durations[0] == 0).all()  # the device's own arithmetic has nothing to do
    np.testing.assert_array_equal(there.durations[1], there.duration)
