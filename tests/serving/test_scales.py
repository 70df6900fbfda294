"""Factors of kernels and collectives: an engine's, by family, times those drawn for a repeat."""

from moesim.hardware.machine import assemble
from moesim.serving.scales import collective_scales, engine_scales, joint
from moesim.spec.loading import load_descriptor, load_experiment


def test_an_engine_scales_collectives_of_its_family() -> None:
    spec = load_experiment("quickstart").spec
    machine = assemble(spec.machine, spec.library)
    family = machine.devices[0].spec.family
    engine = load_descriptor("engines", "vllm-0.19").model_copy(update={"scales": {family: {"collective": 0.8}}})
    found = collective_scales(engine, machine, {"all_reduce": 1.5})
    assert found["all_reduce"] == 0.8 * 1.5
    assert found["dispatch"] == found["all_gather"] == 0.8


def test_other_families_take_their_time() -> None:
    spec = load_experiment("quickstart").spec
    machine = assemble(spec.machine, spec.library)
    engine = load_descriptor("engines", "vllm-0.19").model_copy(update={"scales": {"mars": {"collective": 0.8}}})
    assert collective_scales(engine, machine, {"all_reduce": 1.5}) == {"all_reduce": 1.5}
    assert engine_scales(engine, machine) == {}


def test_factors_multiply() -> None:
    assert joint({("a", "gemm"): 0.5}, {("a", "gemm"): 3.0, ("b", "norm"): 2.0}) == {
        ("a", "gemm"): 1.5,
        ("b", "norm"): 2.0,
    }
