"""What a call takes whatever its size, as a number of its own."""

from __future__ import annotations

import numpy as np
import pytest

from moesim.hardware.device import make_device
from moesim.kernels.calibrated import CalibratedKernels
from moesim.model.parameters import all_operators
from moesim.spec.experiment import DtypeSpec
from moesim.spec.hardware import DeviceSpec
from moesim.spec.loading import load_descriptor
from moesim.step.sharding import operator_calls

SIZES = np.array([1.0, 64.0, 4096.0])


def calls():
    """Products of a model's QKV projection."""
    model = load_descriptor("models", "llama-3.1-8b")
    operator = next(each for each in all_operators(model) if each.name == "qkv")
    return operator_calls(operator, SIZES, model, 1, DtypeSpec())


def device(name: str, **changes: object):
    spec: DeviceSpec = load_descriptor("devices", name)
    return make_device(spec.model_copy(update=changes), index=0, name=name, node=0)


@pytest.mark.parametrize("stacks", [("vllm",), ()], ids=["measured", "datasheet"])
def test_launches_are_scaled_and_nothing_else(stacks):
    """Twice the launches add one launch, whatever the size of the call."""
    unit = device("h100-sxm")
    plain, twice = CalibratedKernels(stacks), CalibratedKernels(stacks, launches={"h100-sxm": 2.0, "other": 7.0})
    added = twice.cost(calls(), unit).seconds - plain.cost(calls(), unit).seconds
    launch = unit.family.overhead.gemm
    if stacks:
        (_, fit) = plain.priced()["h100-sxm", "gemm"]
        launch = fit.terms["launch"]
    np.testing.assert_allclose(added, launch, rtol=1e-6)


def test_products_that_memory_bounds_follow_its_rate():
    """Of a product of one row, what is not launch takes its bytes over the bandwidth, in measured kernels too."""
    unit = device("h100-sxm")
    memory = unit.spec.memory[0]
    faster = device("h100-sxm", memory=(memory.model_copy(update={"bandwidth": memory.bandwidth * 1.1}),))
    kernels = CalibratedKernels(("vllm",))
    before, after = (kernels.cost(calls(), each) for each in (unit, faster))
    np.testing.assert_allclose(after.memory, before.memory / 1.1, rtol=1e-9)
    moving = before.seconds[0] - before.overhead[0], after.seconds[0] - after.overhead[0]
    assert moving[1] / moving[0] == pytest.approx(1 / 1.1, rel=1e-6)


def test_other_rates_leave_a_device_its_relative():
    """Where nothing was measured, the nearest relative in FLOP per byte speaks, unless a descriptor is named for it."""
    unit = device("h100-pcie")
    memory = unit.spec.memory[0]
    others = device("h100-pcie", memory=(memory.model_copy(update={"bandwidth": memory.bandwidth * 4}),))
    found = {}
    for name, relatives in (("own", {}), ("named", {"h100-pcie": unit.spec})):
        kernels = CalibratedKernels(("vllm",), relatives=relatives)
        kernels.seconds(calls(), others)
        found[name] = kernels.priced()["h100-pcie", "gemm"][0].device
    kernels = CalibratedKernels(("vllm",))
    kernels.seconds(calls(), unit)
    assert found["named"] == kernels.priced()["h100-pcie", "gemm"][0].device
    assert found["own"] != found["named"]
