"""Factors of kernels and collectives: an engine's, by family, times those drawn for a repeat."""

from __future__ import annotations

import pytest

from moesim.hardware.machine import assemble
from moesim.serving.scales import collective_scales, engine_scales, joint
from moesim.serving.simulate import simulate
from moesim.spec.loading import load_descriptor, load_experiment


def test_an_engine_scales_collectives_of_its_family() -> None:
    spec = load_experiment("quickstart").spec
    machine = assemble(spec.machine, spec.library)
    family = machine.devices[0].spec.family
    engine = load_descriptor("engines", "vllm-0.19").model_copy(update={"scales": {family: {"collective": 0.8}}})
    found = collective_scales(engine, machine, {"all_reduce": 1.5})
    assert found["all_reduce"] == 0.8 * 1.5
    assert found["dispatch"] == found["all_gather"] == 0.8
    assert engine_scales(engine, machine) == {}  # no kernel is called so


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


def unused(*changes: str) -> list[str]:
    """What the notes of a short run say of scales."""
    short = ["requests={mix: chat, arrival: burst, count: 1}", *changes]
    record = simulate(load_experiment("quickstart", short).spec)
    return [note.partition("engine.scales.")[2] for note in record.notes if "no effect of engine.scales" in note]


MEASURED = "blackwell-workstation"  # of the quickstart


def test_scales_by_names_that_were_measured_are_not_noted() -> None:
    assert unused(f"engine.scales.{MEASURED}={{gemm: 1.1, attention_prefill: 0.9, experts: 1.2}}") == []


def test_measured_calls_go_by_the_names_of_their_kernels() -> None:
    """Of latent attention there is none, and of other families no device: an engine's scales serve them, too."""
    changes = "{router: 2, attention: 2, mla_decode: 2, gemm: 2}, hopper: {attention: 2}"
    found = unused(f"engine.scales={{{MEASURED}: {changes}}}")
    assert sorted(found) == [
        f"{MEASURED}.attention: attention of rtx-pro-6000 is priced as attention_prefill and attention_decode",
        f"{MEASURED}.router: router of rtx-pro-6000 is priced as gemm",
    ]


def test_calls_that_were_not_measured_go_by_their_class() -> None:
    found = unused("engine.kernels=[]", f"engine.scales.{MEASURED}={{router: 2, attention: 2, attention_decode: 2}}")
    assert found == [f"{MEASURED}.attention_decode: attention of rtx-pro-6000 is priced as attention"]


@pytest.mark.parametrize(
    ("change", "noted"),
    [("engine.collectives=[nccl]", False), ("engine.collectives=[]", True), ("parallelism={}", False)],
)
def test_scaled_collectives_need_a_measured_library(change: str, noted: bool) -> None:
    """With one device there is nothing to scale, and no note: whoever names no engine of his own chose nothing."""
    found = unused(change, f"engine.scales={{{MEASURED}: {{collective: 0.9}}}}")
    assert found == [f"{MEASURED}.collective: no measured library paces the devices"] * noted
