"""Whole training steps: both fidelities agree, bubbles and FLOPs are those of closed forms, memory is enforced."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from moesim.engine.operations import execute
from moesim.engine.sweep import sweep
from moesim.engine.trained import TrainingRecord
from moesim.model.parameters import parameters
from moesim.results.training import training_columns, training_summary
from moesim.spec.errors import MoesimError
from moesim.spec.loading import load_experiment
from moesim.step.graph import Schedule, StepGraph
from moesim.training.compile import compile_training
from moesim.training.outcome import training_record
from moesim.training.passes import Passes
from moesim.training.pieces import Move, Piece, Share
from moesim.training.plan import make_plan
from moesim.training.simulate import TrainedStep, simulate_step

#: Sixteen equal layers, and next to nothing before and after them.
UNIFORM = {"extends": "llama-2-7b", "name": "uniform", "layers": 16, "vocabulary": 1, "context": 4096}
#: So fast that sending takes picoseconds.
FREE = {"name": "free", "kind": "switch", "link": "nvlink4", "latency": "0 us", "overhead": "0 us"}
SMALL_MOE = {"extends": "olmoe-1b-7b", "name": "small", "layers": 2, "vocabulary": 1000, "routing_profile": None}


def document(**changes: Any) -> dict[str, Any]:
    training = {"batch": 8, "sequence": 128, "micro_batches": 8, **changes.pop("training", {})}
    return {
        "name": "step",
        "model": "llama-3.1-8b",
        "machine": {"devices": {"h100-sxm": 4}, "fabric": "nvlink4-switch"},
        "parallelism": {"pp": 4},
        "dtype": "bf16",
        "engine": {"name": "plain"},
        **changes,
        "training": training,
    }


def step(tree: dict[str, Any], *overrides: str) -> TrainedStep:
    return simulate_step(load_experiment(tree, overrides).spec)


def record(tree: dict[str, Any], *overrides: str) -> TrainingRecord:
    return training_record(step(tree, *overrides))


def agree(tree: dict[str, Any], *overrides: str) -> float:
    """Seconds of a step, which both fidelities find."""
    plan, op = (step(tree, *overrides, f"fidelity={name}").schedule for name in ("plan", "op"))
    assert op.makespan == pytest.approx(plan.makespan, rel=1e-9)
    assert (plan.start == op.start).all()
    return plan.makespan / 1e12


class EqualParts(Passes):
    """Every chunk takes as long as any other: forwards a picosecond times 12e9 over their number, twice that back."""

    def forward(self, part: int, micro_batch: int) -> list[Piece | Move]:
        return [self._piece(part, 1)]

    def backward(self, part: int, micro_batch: int) -> list[Piece | Move]:
        return [self._piece(part, 2)]

    def _piece(self, part: int, times: int) -> Piece:
        lanes = self.plan.layout.dense[:, part % self.plan.layout.stages].ravel()
        took = np.full(len(lanes), times * 12_000_000_000 // self.plan.layout.chunks)
        share = Share("work", "gemm", np.array([1.0, 0.0, 0.0, 0.0]))
        return Piece("work", 0, lanes, took, np.zeros((4, len(lanes))), (share,))


@pytest.mark.parametrize(
    ("schedule", "chunks"), [("gpipe", 1), ("1f1b", 1), ("interleaved-1f1b", 2), ("interleaved-1f1b", 4)]
)
@pytest.mark.parametrize("run", [execute, sweep])
def test_bubbles_of_executed_steps(schedule: str, chunks: int, run: Callable[[StepGraph], Schedule]) -> None:
    """(p - 1) / (v m + p - 1) of the step, of equal stages that send for free (Narayanan et al., arXiv 2104.04473)."""
    tree = document(
        model=UNIFORM,
        machine={"devices": {"fast": 4}, "fabric": "free"},
        library={
            "fabrics": {"free": FREE},
            "devices": {"fast": {"extends": "h100-sxm", "links": {"nvlink4": "1e18 B/s"}}},
        },
        training={"schedule": schedule, "chunks": chunks},
    )
    plan = make_plan(load_experiment(tree).spec)
    compiled = compile_training(plan, EqualParts(plan), None)
    found = run(compiled.graph)
    last = max(int(found.finish[span.first : span.last].max()) for span in compiled.spans)
    assert last == pytest.approx(12e9 * 3 * (8 + 3 / chunks), rel=1e-9)


def test_fidelities_agree_with_everything_at_once() -> None:
    """Tensor, data, pipeline and expert parallelism, recomputation, a sharded optimizer."""
    tree = document(
        model=SMALL_MOE,
        machine={"devices": {"h100-sxm": 8}, "fabric": "nvlink4-switch"},
        parallelism={"tp": 2, "dp": 2, "pp": 2, "ep": 4},
        training={"batch": 16, "micro_batches": 4, "recompute": "full", "sharded_optimizer": True},
    )
    base = agree(tree)
    assert agree(tree, "training.recompute=none") < agree(tree, "training.recompute=attention") < base
    assert agree(tree, "training.overlap=true") <= base


def test_fidelities_agree_with_streamed_weights() -> None:
    tree = streamed(ahead=0)
    serial = agree(tree)
    assert agree(tree, "training.stream.ahead=1", "training.stream.pieces=2", "training.overlap=true") < serial


def streamed(ahead: int) -> dict[str, Any]:
    """Experts on four chiplets of their own below one switch, one attention chiplet, a stack for all four."""
    chiplet = {
        "extends": "mozart-chiplet",
        "memory": [
            {"tier": "sram", "capacity": "1 GB", "bandwidth": "16 TB/s"},
            {"tier": "hbm", "capacity": "64 GB", "bandwidth": "256 GB/s", "shared_by": 4},
        ],
    }
    return document(
        model=SMALL_MOE,
        machine={"devices": {"root": 1, "leaf": 4}, "fabric": "nop-tree"},
        parallelism={},
        dtype="fp16",
        library={"devices": {"root": {**chiplet, "name": "root"}, "leaf": {**chiplet, "name": "leaf"}}},
        training={
            "batch": 4,
            "micro_batches": 2,
            "schedule": "breadth-first",
            "chunks": 2,
            "optimizer": "sgd",
            "gradients": "fp16",
            "expert_devices": 4,
            "stream": {"tier": "hbm", "ahead": ahead},
        },
    )


def test_streamed_experts_come_at_the_bandwidth_of_their_stack() -> None:
    """A layer's experts, 64 x 3 x 2048 x 1024 weights in fp16, over 256 GB/s that four chiplets share."""
    found = step(streamed(ahead=0))
    loads = [row for row, name in enumerate(found.compiled.graph.name) if name == "load_experts"]
    took = found.compiled.graph.duration[loads[0]]
    assert took[1:] / 1e12 == pytest.approx(64 * 3 * 2048 * 1024 * 2 / 256e9, rel=1e-9)
    assert took[0] == -1


def test_model_flops_are_six_per_parameter_and_token() -> None:
    """6 N D (Kaplan et al., arXiv 2001.08361, section 2.1) and 12 s h per token and layer of attention, causal half."""
    found = record(document(model=UNIFORM))
    tokens, hidden = 8 * 128, 4096
    weights = parameters(load_experiment(document(model=UNIFORM)).spec.model).active - 4096
    expected = 6 * weights * tokens + 16 * 6 * hidden * (128 + 1) * tokens
    assert found.model_flops == pytest.approx(expected, rel=3e-3)
    assert record(document(model=UNIFORM), "training.recompute=full").hardware_flops == pytest.approx(
        found.model_flops * 4 / 3, rel=2e-3
    )


def test_memory_by_hand() -> None:
    """Llama-3.1-8B in bf16 with Adam and fp32 gradients: 2 + 4 + 12 bytes per parameter over four stages."""
    summary = summarised(document())
    devices = training_columns(record(document()))["devices"]
    total = sum(float(devices[f"{part}_bytes"].sum()) for part in ("weight", "gradient", "optimizer"))
    assert total == pytest.approx(18 * 8.03e9, rel=0.01)
    assert summary["memory"]["total"] < summary["memory"]["capacity"]
    assert summary["training"]["tokens_per_second"] == pytest.approx(8 * 128 / summary["duration"])


ONE_DEVICE: dict[str, Any] = {"machine": {"devices": {"h100-sxm": 1}}, "parallelism": {}}


@pytest.mark.parametrize(
    ("model", "layers", "after", "layer"),
    [
        # Both norms, QKV, rotation of queries and keys, attention's Q, K and V, output, up: 10 h; SwiGLU: 3 x 11,008.
        (UNIFORM, 16, 2 * 4096 + 1, 10 * 4096 + 3 * 11008),
        # Keys and values of 1,024; a router; two of the experts, whose input counts for each.
        (
            {"extends": "mixtral-8x7b", "name": "small", "layers": 2, "vocabulary": 1000, "routing_profile": None},
            2,
            2 * 4096 + 1000,
            5 * 4096 + (4096 + 1024) + (4096 + 2048) + 2 * (4096 + 3 * 14336),
        ),
    ],
)
def test_recomputed_layers_by_hand(model: dict[str, Any], layers: int, after: int, layer: int) -> None:
    """Of recomputed layers the inputs are kept, beside them all of the one layer whose backward pass runs."""
    tree = document(model=model, **ONE_DEVICE, training={"micro_batches": 1})
    kept, recomputed = (
        training_columns(record(tree, f"training.recompute={how}"))["devices"]["activation_bytes"][0] / (2 * 8 * 128)
        for how in ("none", "full")
    )
    assert kept == pytest.approx(layers * layer + after)
    assert recomputed == pytest.approx(layers * 4096 + (layer - 4096) + after)


@pytest.mark.parametrize(
    ("dtype", "gradients", "size"), [("fp32", "fp32", 28), ("bf16", "fp32", 30), ("bf16", "bf16", 28)]
)
def test_optimizer_traffic_by_hand(dtype: str, gradients: str, size: int) -> None:
    """Per parameter: a gradient read, Adam's moments read and written, and the weight of fp32 too; a narrower one is
    written from its master copy, which is read and written."""
    model = {**UNIFORM, "layers": 2}
    tree = document(model=model, **ONE_DEVICE, dtype=dtype, training={"micro_batches": 1, "gradients": gradients})
    pieces = step(tree).compiled.pieces.values()
    traffic = next(piece.use[1] for piece in pieces if piece.name == "optimizer")
    weights = parameters(load_experiment(tree).spec.model).total
    assert traffic == pytest.approx([size * weights], rel=1e-3)


def summarised(tree: dict[str, Any]) -> dict[str, Any]:
    found = record(tree)
    return training_summary(found, training_columns(found))


def test_schedules_differ_in_activations() -> None:
    gpipe, interleaved = (
        training_columns(record(document(training={"schedule": name})))["devices"]["activation_bytes"][0]
        for name in ("gpipe", "1f1b")
    )
    assert gpipe == pytest.approx(2 * interleaved)  # 8 micro-batches in flight against 4


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"training": {"batch": 9}}, "9 sequences does not divide into 8 micro-batches"),
        ({"training": {"sequence": 200000}}, "exceed the context"),
        ({"parallelism": {}, "machine": {"devices": {"h100-sxm": 1}}}, "does not fit on node0/h100-sxm0: weights"),
        ({"training": {"chunks": 9, "schedule": "breadth-first"}}, "4 stages of 9 chunks exceed the 32 layers"),
        ({"training": {"expert_devices": 4}}, "is dense and has no experts for 4 devices"),
        ({"training": {"stream": {"tier": "hbm"}}}, "has no tiers before 'hbm'"),
        ({"fabric": "flow"}, "not simulated with fabric: flow"),
        ({"engine": {"name": "plain", "overlap": {"pieces": 2}}}, "engine.overlap has no effect on a training"),
        (
            {"engine": {"name": "plain", "micro_batches": 2}},
            "engine.micro_batches has no effect.*training.micro_batches",
        ),
        (
            {"engine": {"name": "plain", "speculation": {"tokens": 1, "acceptance": 0.8}}},
            "engine.speculation has no effect on a training",
        ),
        ({"placement": "llep"}, "placement llep moves tokens of serving steps"),
        ({"requests": {"mix": "chat", "rate": "1/s", "count": 1}}, "two kinds of run; remove one"),
        ({"slo": {"ttft": "1 s"}}, "slo has no effect on a training step"),
        ({"training": {"stream": {"pieces": 3, "ahead": 1}}}, "raise ahead to 2 or more"),
        ({"training": {"schedule": "listed"}}, "order and schedule: listed belong together"),
    ],
)
def test_mistakes_are_one_line(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(MoesimError, match=says) as caught:
        step(document(**changes))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("sharded", "rounds"), [(False, 6), (True, 3)])
def test_gradients_are_reduced_around_a_ring(sharded: bool, rounds: int) -> None:
    """2 (n - 1) / n of the gradients leave each of n = 4 ranks, half of it where they are scattered only."""
    tree = document(model=UNIFORM, parallelism={"dp": 4}, training={"micro_batches": 2, "sharded_optimizer": sharded})
    found = step(tree).compiled
    name = "scatter_dense_gradients" if sharded else "reduce_dense_gradients"
    row = found.graph.name.index(name)
    parameter_count = parameters(load_experiment(tree).spec.model).total
    sent = found.moves[row].transfers[0].sent
    assert sent == pytest.approx(np.full(4, rounds / 4 * parameter_count * 4), rel=1e-6)
