"""Peaks and energies of a whole run's devices."""

from __future__ import annotations

import pytest

from moesim.results.metrics import summarise
from moesim.serving.simulate import simulate
from moesim.spec.loading import load_experiment

MACHINE = {
    "model": "olmoe-1b-7b",
    "machine": {"devices": {"l40s": 2}, "fabric": "pcie4-host"},
    "parallelism": {"dp": 2, "ep": 2},
    "engine": "vllm-0.19",
    "requests": {"mix": "chat", "rate": "10/s", "count": 3},
}


def record(*overrides: str):
    return simulate(load_experiment(MACHINE, ["model.layers=2", *overrides]).spec)


def test_devices_that_take_no_part_do_not_count():
    two, four = (summarise(record(f"machine.devices={{l40s: {count}}}"))["utilisation"] for count in (2, 4))
    assert four == pytest.approx(two)


@pytest.mark.parametrize(
    ("dtype", "peak"),
    [
        ("bf16", 362e12),  # NVIDIA L40S datasheet, dense: 362 TFLOP/s in 16 bits, 733 in 8 bits
        ("fp8", 733e12),
        ("int4", 362e12),  # multiplies in bf16
        ("{weights: bf16, activations: fp8}", 362e12),
    ],
)
def test_peak_is_that_of_the_matrix_products(dtype, peak):
    run = record(f"dtype={dtype}")
    assert run.devices["peak_flops"] == pytest.approx([peak, peak], rel=1e-3)
    assert run.totals.peak_flops == pytest.approx(2 * peak, rel=1e-3)
    shares = summarise(run)["utilisation"]
    assert shares["s_mfu"] == pytest.approx(run.totals.sparse_flops / (run.totals.busy * 2 * peak), rel=1e-3)


@pytest.mark.parametrize(("given", "energy"), [("2 pJ/bit", 2.0), ("0 pJ/bit", 0.0), ("null", 5.5)])
def test_what_a_fabric_does_not_say_of_energy_its_devices_family_does(given, energy):
    devices = record(f"library.fabrics.pcie4-host.energy={given}").devices
    assert devices["energy_link"] == pytest.approx(devices["sent_bytes"] * energy * 8e-12)
    assert (devices["sent_bytes"] > 0).all()
