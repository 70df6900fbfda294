"""Whole steps from kernels alone, on a machine whose kernels take exactly what known terms say."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from moesim.calibrate.benchmarks.cases import COLUMNS, Case, plan
from moesim.calibrate.benchmarks.store import Store
from moesim.calibrate.own import own_groups, shape_of
from moesim.calibrate.whole_steps import Step, error_percentiles, step_calls, whole_steps
from moesim.hardware.device import Device, make_device
from moesim.kernels.calibrated import device_rates
from moesim.kernels.forms.plain import Plain, work_of
from moesim.model.parameters import parameters
from moesim.spec.errors import MoesimError
from moesim.spec.loading import load_descriptor

MOE, DENSE = "granite-3.0-1b-a400m", "qwen3-0.6b"
TRUTH = {
    "gemm": Plain(2e-5, 0.8, 0.7, 3.0, 8.0), "moe": Plain(5e-5, 0.7, 0.5, 2.0, 16.0, 5e-5),
    "attention_prefill": Plain(3e-5, 0.5, 0.3, 2.0), "attention_decode": Plain(2e-5, 0.6, 0.1, 2.0),
    "activation": Plain(4e-6, 0.4), "add_norm": Plain(2e-5, 0.2), "rope": Plain(1e-5, 0.2),
    "qk_norm": Plain(3e-5, 0.15), "sampling": Plain(2e-6, 0.03), "embedding": Plain(3e-6, 0.9),
}  # fmt: skip
STEPS = [
    Step(MOE, "moe layer", 1, 4, 1, 513, 21.0), Step(MOE, "model", 24, 1, 128, 128, 31.5),
    Step(MOE, "model", 24, 16, 1, 129, 31.9), Step(DENSE, "dense layer", 1, 2, 64, 64, 0.0),
    Step(DENSE, "model", 28, 8, 1, 1025, 0.0),
]  # fmt: skip
COMMON = {"device": "xeon-amx-core", "dtype": "bfloat16", "impl": "eager", "source": "moesim:torch-2.13.0"}


@pytest.fixture(scope="module")
def device() -> Device:
    return make_device(load_descriptor("devices", "xeon-amx-core"), index=0, name="core", node=0)


def write_machine(folder: Path, device: Device, kernels: set[str]) -> Path:
    """Tables of a machine that follows TRUTH."""
    store, rates = Store(folder), device_rates(device, "bf16")
    store.open({"device": "xeon-amx-core", "dtype": "bfloat16"})
    models = [load_descriptor("models", name) for name in (MOE, DENSE)]
    for table, cases in plan(models, device, "bf16", COLUMNS).items():
        count: Counter[str] = Counter()
        for case in cases:
            kernel = case.kernel if table == "elementwise" else table
            count[kernel] += 1
            if kernel in kernels and count[kernel] <= 60:
                sizes = {name: np.array([float(case.size(name))]) for name in COLUMNS[table]}
                seconds = TRUTH[kernel].times(shape_of(table, kernel, sizes, "bf16"), rates).seconds
                store.append(case, {**COMMON, "latency_us": f"{seconds[0] * 1e6:.6g}"})
    for step in STEPS:
        calls = step_calls(load_descriptor("models", step.model), step, "bf16")
        seconds = sum(float(TRUTH[name].times(call.shape, rates).seconds) * times for name, call, times in calls)
        sizes = (step.model, step.part, step.layers, step.batch, step.new, step.keys)
        store.append(Case("steps", "step", sizes), {**COMMON, "latency_us": seconds * 1e6, "touched": step.touched})
    return folder


@pytest.fixture(scope="module")
def machine(device: Device, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_machine(tmp_path_factory.mktemp("machine") / "tables", device, set(TRUTH))


def test_a_machine_that_follows_the_form_is_predicted(machine: Path) -> None:
    report = whole_steps(machine)
    for name, fit in report.fits.items():
        assert fit.errors[1] < 3.0, name
    assert [each.step for each in report.steps] == STEPS
    assert max(abs(each.error) for each in report.steps) < 0.03
    assert error_percentiles(report.steps)[1] < 3.0
    assert set(report.groups()) == {
        "dense layer, prefill", "moe layer, decode", "model, decode", "model, prefill", "all",
    }  # fmt: skip


def test_a_kernel_that_was_not_measured_is_named(device: Device, tmp_path: Path) -> None:
    folder = write_machine(tmp_path / "tables", device, set(TRUTH) - {"qk_norm"})
    with pytest.raises(MoesimError, match="qk_norm was not measured; run `moesim calibrate run` again"):
        whole_steps(folder)


def test_tables_of_another_device_are_refused(machine: Path, tmp_path: Path) -> None:
    for path in machine.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "environment.yaml").write_text("device: epyc-9654\ndtype: bfloat16\n")
    with pytest.raises(MoesimError, match="was measured on xeon-amx-core, not on epyc-9654"):
        whole_steps(tmp_path)


def test_a_folder_without_measurements_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MoesimError, match="holds no measurements with their environment"):
        whole_steps(tmp_path)


@pytest.mark.parametrize("name", [MOE, DENSE])
def test_a_step_reads_every_weight_of_the_model_once(name: str) -> None:
    """2 bytes per parameter; tied embeddings are read at the head, and looked up at the beginning."""
    model = load_descriptor("models", name)
    touched = float(model.moe.experts if model.moe else 0)
    calls = list(step_calls(model, Step(name, "model", model.layers, 1, 64, 64, touched), "bf16"))
    weights = sum(float(np.sum(call.weight_bytes)) * times for _, call, times in calls)
    assert weights == pytest.approx(2 * parameters(model).total, rel=1e-6)


def test_a_layer_has_the_work_of_a_model_with_one_layer_less_its_ends() -> None:
    model = load_descriptor("models", MOE)
    step = Step(MOE, "model", 1, 2, 32, 32, 30.0)

    def flops(each: Step) -> float:
        return sum(float(np.sum(call.flops)) * times for _, call, times in step_calls(model, each, "bf16"))

    ends = 2.0 * 2 * model.hidden * model.vocabulary + 2.0 * 2 * model.vocabulary + 5.0 * 64 * model.hidden
    assert flops(step) - flops(replace(step, part="moe layer")) == pytest.approx(ends)


def test_the_plain_form_counts_what_shapes_compute_and_move() -> None:
    """A product of 4 x 8 x 16 in bf16; 6 pairs on 3 experts of 8 x 4 with a gate; 2 decodes that see 10 keys each."""
    product = shape_of("gemm", "gemm", _columns(m=4, n=8, k=16), "bf16")
    assert work_of(product).flops == 2 * 4 * 8 * 16
    assert work_of(product).bytes == 2 * (4 * 16 + 8 * 16 + 4 * 8)
    experts = shape_of("moe", "moe", _columns(num_tokens=3, hidden=8, inter=4, num_experts=4, topk=2), "bf16")
    assert work_of(experts).flops == 6 * 6 * 8 * 4
    assert work_of(experts).experts == 4
    sizes = _columns(batch=2, q_len=1, kv_len=10, q_heads=4, kv_heads=2, head_dim=8)
    decode = shape_of("attention_decode", "attention_decode", sizes, "bf16")
    assert work_of(decode).flops == 4 * 4 * 8 * 20
    assert work_of(decode).bytes == 2 * (2 * 2 * 8 * 20) + 2 * (2 * 2 * 4 * 8)


def _columns(**sizes: float) -> dict[str, np.ndarray]:
    return {name: np.array([float(size)]) for name, size in sizes.items()}


def test_a_gpus_kernels_have_the_forms_of_their_classes(tmp_path: Path) -> None:
    """Calls launched one by one are another stack, and stay out of it."""
    gpu = make_device(load_descriptor("devices", "h100-sxm"), index=0, name="h100", node=0)
    store, count = Store(tmp_path / "tables"), 150
    store.open({"device": "h100-sxm", "dtype": "bfloat16"})
    beside = {"moe": {"distribution": "balanced"}, "attention_decode": {"kv_dtype": "bfloat16", "window": 0}}
    models = [load_descriptor("models", name) for name in ("olmoe-1b-7b", "qwen3-8b")]
    for table, cases in plan(models, gpu, "bf16", ["gemm", "moe", "attention_decode"]).items():
        for case in cases[:count]:
            for way in ("eager", "graph"):
                row = {"impl": way, "source": f"moesim:torch-{way}-2.13.0", "latency_us": 1e6, **beside.get(table, {})}
                store.append(case, {**COMMON, **row, "device": "h100-sxm"})
    groups = own_groups(store.folder, gpu, "graph")
    assert {name: group.kernel for name, group in groups.items()} == {
        "gemm": "gemm", "moe": "experts", "attention_decode": "attention_decode",
    }  # fmt: skip
    assert {group.stack for group in groups.values()} == {"torch-graph-2.13.0"}
    assert all(len(group.seconds) == count for group in groups.values())
